//! What a step costs before it runs: dispatches, and activation memory against its lower bound, of published layouts
//! and of the bundled model. The configs are in `goldens/layouts` (IF-II's widths are from memory: its shape counts
//! here, not its numbers).

use ancestral::cost::{NodeCost, PartCost, RunCost, Target, plan_network};
use ancestral::internals::device::{Device, DeviceLimits, ProgramOptions};
use ancestral::internals::graph::fuse::fuse;
use ancestral::internals::graph::plan::{Limits, Plan};
use ancestral::internals::graph::{Graph, Source, Storage, TensorId};
use ancestral::internals::kernels::Precision;
use ancestral::internals::models::adm::{self, presets};
use ancestral::internals::models::network::{DenoisingNetwork, Shape};
use ancestral::internals::models::text_unet::TextUNet;
use ancestral::internals::models::{ar_prior, glide, prior, unet, unet2d};
use ancestral::internals::pipeline::denoiser::Parts;
use ancestral::internals::pipeline::imagen::load_stage;
use ancestral::internals::pipeline::stage::At;
use ancestral::{DeviceChoice, Engine, LoadOptions, Settings};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Most dispatches of a guided step of IF-I-M.
const MOST_DISPATCHES: usize = 450;
/// Most memory of a plan, in lower bounds.
const MOST_MEMORY: f64 = 1.15;

fn config(path: &str) -> unet::Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let config: unet::Config = serde_json::from_str(&text).expect("a config");
    config.validate(&path).expect("a valid config");
    config
}

pub fn layout(name: &str) -> unet::Config {
    config(&format!("kernels-tests/goldens/layouts/{name}.config.json"))
}

/// A part of Karlo, or another network of unCLIP's by its layout's name, with its sizes, guided where it reads a caption.
pub fn parts_of_karlo(part: &str, steps: usize) -> Parts {
    let name = if part.contains('.') { part.to_string() } else { format!("karlo.{part}") };
    let text = fs::read_to_string(layout_file(&format!("{name}.config.json"))).expect("a config");
    let (network, tokens): (Box<dyn DenoisingNetwork>, _) = match part {
        "prior" => {
            let config: prior::Config = serde_json::from_str(&text).expect("a config");
            let tokens = config.num_embeddings;
            (Box::new(config), tokens)
        }
        "decoder" => (Box::new(TextUNet::new(layout("karlo.decoder"))), 81),
        _ => (Box::new(serde_json::from_str::<unet2d::Config>(&text).expect("a config")), 0),
    };
    let shape = Shape { pictures: 1, tokens, guided: tokens > 0, ..Shape::default() };
    fused(&*network, shape, steps)
}

/// The fused parts of a network at the size it was trained for, of pictures a quarter as large where it enlarges any.
fn fused(network: &dyn DenoisingNetwork, shape: Shape, steps: usize) -> Parts {
    let side = network.sides().side;
    let (height, width, channels) = (side, side, network.sample_channels());
    let enlarges = network.enlarges().then_some((side / 4, side / 4));
    let mut parts = Parts::record(Shape { height, width, channels, enlarges, ..shape }, steps, network);
    for graph in [&mut parts.once, &mut parts.times, &mut parts.step] {
        fuse(graph);
    }
    parts
}

/// Nodes of equal cost are counted once, and all of them together are the part.
#[test]
fn nodes_are_the_parts() {
    let target = Target { precision: Precision::F16, limits: DeviceLimits::webgpu() };
    let config = layout_file("IF-I-M.config.json");
    let cost = plan_network(&config, None, &Settings::new().steps([10]), &target).expect("a plan");
    for part in cost.networks.iter().flat_map(|network| &network.parts) {
        let sum = |of: fn(&NodeCost) -> f64| part.nodes.iter().map(|n| n.count as f64 * of(n)).sum::<f64>();
        assert_eq!(sum(|_| 1.0), part.dispatches as f64, "{}", part.name);
        assert!((sum(|n| n.flops) / part.flops - 1.0).abs() < 1e-9, "{}", part.name);
        assert!((sum(|n| n.moved) / part.moved - 1.0).abs() < 1e-9, "{}", part.name);
    }
}

/// The prior is causal: a caption goes through it once a prompt, and a step is its last three tokens.
#[test]
fn a_step_of_the_prior_is_three_tokens() {
    let parts = parts_of_karlo("prior", 25);
    let counts = [&parts.once, &parts.times, &parts.step].map(|graph| graph.nodes.len());
    println!("prior: {} once, {} times, {} a step", counts[0], counts[1], counts[2]);
    let tokens = |graph: &Graph| {
        let rows = graph.nodes.iter().filter(|node| node.label.ends_with("ff.net.2"));
        rows.map(|node| graph.info(node.output()).shape[1]).collect::<Vec<_>>()
    };
    assert_eq!((tokens(&parts.once), tokens(&parts.step)), (vec![78; 19], vec![3; 20]));
    for node in &parts.step.nodes {
        let early =
            ["encoder_hidden_states_proj", "embedding_proj", "time_embedding", "positional_embedding"];
        assert!(!early.iter().any(|name| node.label.contains(name)), "{} is in the step", node.label);
    }
    // All times in one pass.
    assert_eq!(parts.steps_at_once, 25);
}

/// DALL·E 2's autoregressive prior at the paper's size.
fn paper_s_tokens() -> ar_prior::Config {
    let path = "kernels-tests/goldens/layouts/dalle2.prior_ar.config.json";
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a config");
    let config: ar_prior::Config = serde_json::from_str(&text).expect("a config");
    config.validate(Path::new(path)).expect("a valid config");
    config
}

/// A caption goes through the autoregressive prior once; a step is one token, whatever came before it.
#[test]
fn a_step_of_the_autoregressive_prior_is_one_token() {
    let config = paper_s_tokens();
    let parameters: usize = config
        .whole()
        .tensors
        .iter()
        .filter_map(|t| match &t.source {
            Source::Weight { parts, .. } => Some((parts.clone(), t.len())),
            _ => None,
        })
        .collect::<BTreeMap<_, _>>()
        .values()
        .sum();
    // "1B parameters" (table 6 of the paper).
    assert!((1.1e9..1.3e9).contains(&(parameters as f64)), "{parameters} parameters");
    let [mut prefix, mut step] = [config.prefix_graph(2), config.step_graph(2)];
    fuse(&mut prefix);
    fuse(&mut step);
    println!(
        "{:.2} B parameters; {} dispatches once, {:.0} GFLOP; {} a token, {:.1} GFLOP",
        parameters as f64 / 1e9,
        prefix.nodes.len(),
        prefix.cost().flops / 1e9,
        step.nodes.len(),
        step.cost().flops / 1e9
    );
    let tokens = |graph: &Graph| {
        let rows = graph.nodes.iter().filter(|node| node.label.ends_with("ff.proj_out"));
        rows.map(|node| graph.info(node.output()).shape[1]).collect::<Vec<_>>()
    };
    let mut once = vec![config.prefix_tokens(); 23];
    once.push(1);
    assert_eq!((tokens(&prefix), tokens(&step)), (once, vec![1; 24]));
    // Two multiply-adds for every weight of the blocks and of the logits, and attention; no more.
    let blocks = 24.0 * 12.0 * 2048f64.powi(2) + 2048.0 * 1024.0;
    assert!(step.cost().flops < 1.1 * 2.0 * 2.0 * blocks, "{}", step.cost().flops);
    let target = Target { precision: Precision::F32, limits: DeviceLimits::webgpu() };
    let target16 = Target { precision: Precision::F16, ..target.clone() };
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("kernels-tests/goldens/layouts/dalle2.prior_ar.config.json");
    for on in [target, target16] {
        let cost = plan_network(&path, None, &Settings::new(), &on).expect("a plan");
        println!("{cost:?}");
        assert_eq!(cost.networks[0].parts.iter().map(|part| part.runs).collect::<Vec<_>>(), [1, 318]);
        assert!(cost.fits(), "{cost:?}");
    }
}

/// Neither caption nor time is computed again by the decoder.
#[test]
fn a_step_of_karlos_decoder_has_no_text() {
    let parts = parts_of_karlo("decoder", 25);
    let counts = [&parts.once, &parts.times, &parts.step].map(|graph| graph.nodes.len());
    println!("decoder: {} once, {} times, {} a step", counts[0], counts[1], counts[2]);
    for node in &parts.step.nodes {
        let early = ["add_kv_proj", "class_labels", "time_"];
        assert!(!early.iter().any(|name| node.label.contains(name)), "{} is in the step", node.label);
    }
}

pub fn parts(config: &unet::Config, pictures: usize, guided: bool, steps: usize) -> Parts {
    let shape = Shape { pictures, tokens: 77, guided, dynamic: true, ..Shape::default() };
    fused(&TextUNet::new(config.clone()), shape, steps)
}

#[test]
fn a_step_of_if_i_m_takes_few_dispatches() {
    let parts = parts(&layout("IF-I-M"), 1, true, 100);
    let count = |g: &Graph| g.nodes.len();
    println!(
        "IF-I-M: {} once, {} times, {} a step",
        count(&parts.once),
        count(&parts.times),
        count(&parts.step)
    );
    assert!(count(&parts.step) <= MOST_DISPATCHES, "{} dispatches", count(&parts.step));
    // What depends on the text or on the time alone is not in the step.
    for node in &parts.step.nodes {
        let early = ["norm_cross", "add_kv_proj", "encoder_hid_proj", "add_embedding", "time_"];
        assert!(!early.iter().any(|name| node.label.contains(name)), "{} is in the step", node.label);
    }
    // All steps in one pass, if its rows fit.
    assert_eq!(parts.steps_at_once, 100);
}

/// A published network of GLIDE.
fn parts_of_glide(name: &str, guided: bool, steps: usize) -> Parts {
    let preset = glide::PRESETS.iter().find(|preset| preset.name == name).expect("a published network");
    let config: glide::Config = preset.flags();
    let shape = Shape { pictures: 1, tokens: config.text.text_ctx, guided, ..Shape::default() };
    fused(&config, shape, steps)
}

/// GLIDE's text goes through its transformer once a run, and into keys and values once.
#[test]
fn a_step_of_glide_has_no_text() {
    for (name, guided, steps) in [("base", true, 100), ("upsample_inpaint", false, 27)] {
        let parts = parts_of_glide(name, guided, steps);
        let counts = [&parts.once, &parts.times, &parts.step].map(|graph| graph.nodes.len());
        println!("{name}: {} once, {} times, {} a step", counts[0], counts[1], counts[2]);
        for node in parts.times.nodes.iter().chain(&parts.step.nodes) {
            let early =
                ["transformer", "encoder_kv", "token_embedding", "final_ln", "keep", "known", "beside"];
            assert!(!early.iter().any(|name| node.label.contains(name)), "{} comes again", node.label);
        }
        for node in &parts.step.nodes {
            let early = ["time_embed", "emb_layers"];
            assert!(!early.iter().any(|name| node.label.contains(name)), "{} is in the step", node.label);
        }
    }
}

/// `Engine::plan` against the programs of a run, on the CPU device: a GPU may compute some nodes in another way.
#[test]
fn plans_say_what_programs_take() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/if_stage1/pipeline");
    let options = LoadOptions { device: DeviceChoice::Cpu, ..Default::default() };
    let engine = Engine::load(&folder, &options).expect("it loads");
    let target = Target::of(&Device::Cpu);
    let cost = engine.plan("a fox", &Settings::new().steps([1]), &target).expect("it plans");
    let planned = &cost.networks[1];
    let stage = load_stage(&folder, None, 0).expect("it loads");
    let side = stage.network().sides().side;
    let (channels, enlarges) = (3, None);
    let shape = Shape {
        pictures: 1,
        height: side,
        width: side,
        channels,
        enlarges,
        tokens: 77,
        guided: true,
        dynamic: true,
    };
    let at = At { device: &Device::Cpu, options: &ProgramOptions::default() };
    let mut denoiser = stage.networks[0].denoiser(at, shape, 1).expect("it fits");
    let network = |part: &&PartCost| ["once", "times", "step"].contains(&part.name);
    let least: u64 = planned.parts.iter().filter(network).map(|p| p.activations_least).sum();
    assert_eq!(least, denoiser.memory().1);
    let step = planned.parts.iter().find(|p| p.name == "step").expect("a step");
    assert_eq!(step.dispatches, denoiser.program().graph().nodes.len());
    assert!(cost.fits() && planned.weights > 0 && step.moved > step.fewest && cost.peak > least);
}

/// What a stock card of so many bytes allows in f16: its drivers bind and allot 2 GiB at once.
fn card(memory: u64) -> Target {
    let most = Some((1 << 31) - 4);
    let limits = DeviceLimits {
        name: "a stock card".into(),
        binding: most,
        buffer: most,
        align: 256,
        memory: Some(memory),
        budget: Some(memory),
    };
    Target { precision: Precision::F16, limits }
}

/// What every adapter allows, with so many bytes of memory, in f16.
fn any_adapter(memory: u64) -> Target {
    let limits = DeviceLimits { memory: Some(memory), ..DeviceLimits::webgpu() };
    Target { precision: Precision::F16, limits }
}

#[track_caller]
fn fits(what: &str, cost: &RunCost, most: u64) {
    println!("{what}: {} bytes\n{cost:?}", cost.peak);
    assert!(cost.fits() && cost.peak <= most, "{what} takes {} bytes:\n{cost:?}", cost.peak);
}

/// From a repository's `goldens/layouts`.
fn layout_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/layouts").join(name)
}

/// A file of f16 tensors of a layout's names and shapes. It has holes for numbers, which no plan reads.
fn write_hollow(layout: &str, path: &Path) {
    write_hollow_of(&fs::read_to_string(layout_file(&format!("{layout}.txt"))).expect("a layout"), path);
}

fn write_hollow_of(layout: &str, path: &Path) {
    let (mut header, mut end) = (serde_json::Map::new(), 0u64);
    for line in layout.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let shape: Vec<u64> = words[1].split('x').map(|n| n.parse().expect("a number")).collect();
        let begin = end;
        end += 2 * shape.iter().product::<u64>();
        let about = json!({ "dtype": "F16", "shape": shape, "data_offsets": [begin, end] });
        header.insert(words[0].into(), about);
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
    fs::write(path, &bytes).expect("it can be written");
    let file = fs::OpenOptions::new().write(true).open(path).expect("it is there");
    file.set_len(bytes.len() as u64 + end).expect("a file with a hole");
}

/// Karlo's folder at its full size without its numbers: published names, shapes and configs, the golden's schedulers and
/// tokenizer.
fn write_karlo(folder: &Path) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/unclip/pipeline");
    let copy = |name: &str| {
        let to = folder.join(name);
        fs::create_dir_all(to.parent().expect("a folder")).expect("it can be made");
        fs::copy(golden.join(name), to).expect("it is there");
    };
    copy("model_index.json");
    for part in ["prior", "decoder", "super_res"] {
        copy(&format!("{part}_scheduler/scheduler_config.json"));
    }
    for name in ["merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"] {
        copy(&format!("tokenizer/{name}"));
    }
    for part in ["prior", "text_proj", "decoder", "super_res_first", "super_res_last"] {
        let name = format!("karlo.{}", if part.starts_with("super_res") { "super_res" } else { part });
        write_hollow(&name, &folder.join(part).join("diffusion_pytorch_model.safetensors"));
        let config = layout_file(&format!("{name}.config.json"));
        fs::copy(config, folder.join(part).join("config.json")).expect("it is there");
    }
    let text = folder.join("text_encoder");
    write_hollow("clip-vit-large-patch14.text", &text.join("model.safetensors"));
    // CLIP ViT-L/14's.
    let config = json!({
        "architectures": ["CLIPTextModelWithProjection"], "model_type": "clip_text_model", "hidden_act": "quick_gelu",
        "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
        "max_position_embeddings": 77, "projection_dim": 768, "vocab_size": 49408, "layer_norm_eps": 1e-5,
        "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1
    });
    fs::write(text.join("config.json"), config.to_string()).expect("it can be written");
}

/// A folder that goes when it is done with.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // Best effort: a folder left behind in the temporary files harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Prompt to 256×256 by full-size Karlo takes less than 3 GB of a card's 8 and no more than every adapter binds; with
/// DALL·E 2's second upsampler after it, to 1024×1024, less than 4 GiB.
#[test]
fn full_size_karlo_fits_a_stock_card_of_8_gb() {
    let folder = Folder(std::env::temp_dir().join(format!("ancestral-karlo-{}", std::process::id())));
    let (karlo, upsampler) = (folder.0.join("karlo"), folder.0.join("upsampler"));
    write_karlo(&karlo);
    let options = LoadOptions { device: DeviceChoice::Cpu, ..Default::default() };
    let engine = Engine::load(&karlo, &options).expect("it loads");
    let plan = |engine: &Engine, on: &Target| engine.plan("a fox", &Settings::new(), on).expect("it plans");
    let cost = plan(&engine, &any_adapter(8_000_000_000));
    fits("Karlo", &cost, 3_000_000_000);
    assert!(cost.networks.iter().map(|network| network.weights).sum::<u64>() > 6_000_000_000);

    fs::create_dir_all(upsampler.join("scheduler")).expect("it can be made");
    let config = layout_file("dalle2.upsampler.config.json");
    fs::copy(&config, upsampler.join("config.json")).expect("it is there");
    fs::copy(
        karlo.join("super_res_scheduler/scheduler_config.json"),
        upsampler.join("scheduler/scheduler_config.json"),
    )
    .expect("it is there");
    let unet: unet2d::Config =
        serde_json::from_slice(&fs::read(&config).expect("a config")).expect("a config");
    let graph = unet.smallest();
    let listed = graph.weights().map(|(name, shape)| {
        let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
        format!("{name} {}", shape.join("x"))
    });
    let layout = listed.collect::<Vec<_>>().join("\n");
    write_hollow_of(&layout, &upsampler.join("diffusion_pytorch_model.safetensors"));
    let index = json!({ "_class_name": "ancestral.Upsampler" });
    fs::write(upsampler.join("model_index.json"), index.to_string()).expect("it can be written");
    let engine = Engine::load_cascade(&[karlo, upsampler], &options).expect("it loads");
    let cost = plan(&engine, &card(8_000_000_000));
    let last = cost.networks.last().expect("networks");
    assert_eq!((last.name.as_str(), last.sizes.as_str()), ("upscaler-2", "1024x1024, batch 1, 15 steps"));
    fits("Karlo and DALL·E 2's second upsampler", &cost, 4 << 30);
}

/// The largest layouts on what every adapter allows: tensors of theirs that it does not bind are split.
#[test]
fn the_largest_layouts_fit_every_adapter() {
    for (name, most) in [("IF-I-XL", 20), ("dalle2.upsampler", 12)] {
        let path = layout_file(&format!("{name}.config.json"));
        for (precision, most) in [(Precision::F32, 2 * most), (Precision::F16, most)] {
            let on = |binding: Option<u64>| {
                let limits =
                    DeviceLimits { binding, buffer: binding.map(|most| 2 * most), ..DeviceLimits::webgpu() };
                let target = Target { precision, limits };
                plan_network(&path, None, &Settings::new(), &target).expect("it plans")
            };
            let (split, whole) = (on(Some(128 << 20)), on(None));
            let is_step = |part: &&PartCost| part.name == "step";
            let step = |cost: &RunCost| cost.networks[0].parts.iter().find(is_step).expect("a step").clone();
            let (pieces, nodes) = (step(&split), step(&whole));
            println!(
                "{name}, {precision:?}: {} dispatches as {}, {:.2} GB of activations as {:.2}, {:.1} GB moved as {:.1}",
                nodes.dispatches,
                pieces.dispatches,
                nodes.activations as f64 / 1e9,
                pieces.activations as f64 / 1e9,
                nodes.moved / 1e9,
                pieces.moved / 1e9
            );
            fits(name, &split, most << 30);
            assert!(split.networks[0].largest.1 <= 128 << 20, "{:?}", split.networks[0].largest);
            assert!(pieces.dispatches > nodes.dispatches);
            // Weights are the same, in pieces.
            assert_eq!(split.networks[0].weights, whole.networks[0].weights);
            // A strip is copied for what lies around it, and a norm in strips reads its input twice.
            assert!(pieces.flops < 1.01 * nodes.flops && pieces.moved < 3.0 * nodes.moved);
        }
    }
}

/// 1024×1024 in f16 within 4 GiB: DALL·E 2's second upsampler on cards that bind 2 GiB, the recipe's on every adapter.
#[test]
fn a_megapixel_fits_four_gigabytes() {
    const MOST: u64 = 4 << 30;
    let cfg = Settings::new().steps([15]).size(1024, 1024);
    let path = layout_file("dalle2.upsampler.config.json");
    fits("DALL·E 2's", &plan_network(&path, None, &cfg, &card(MOST)).expect("it plans"), MOST);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("a config")).expect("JSON");
    for (key, value) in [
        ("block_out_channels", json!([16, 16, 32])),
        ("layers_per_block", json!(1)),
        ("norm_num_groups", json!(8)),
        ("down_block_types", json!(vec!["ResnetDownsampleBlock2D"; 3])),
        ("up_block_types", json!(vec!["ResnetUpsampleBlock2D"; 3])),
    ] {
        config[key] = value;
    }
    let folder = Folder(std::env::temp_dir().join(format!("ancestral-upsampler-{}", std::process::id())));
    fs::create_dir_all(&folder.0).expect("it can be made");
    let path = folder.0.join("config.json");
    fs::write(&path, config.to_string()).expect("it can be written");
    // Samples of 12.6 MB in f32: x, its noise, x̂₀ and what the network says of it have memory of their own.
    fits("the recipe's", &plan_network(&path, None, &cfg, &any_adapter(MOST)).expect("it plans"), 258 << 20);
}

/// A network's graphs, fused, by their parts' names and batch.
type Recorded = Vec<(String, Graph)>;

fn of_imagen(config: &unet::Config) -> Recorded {
    let mut all = Vec::new();
    for (pictures, guided) in [(1, false), (1, true), (2, true)] {
        let parts = parts(config, pictures, guided, 50);
        let batch = if guided { 2 * pictures } else { pictures };
        for (part, graph) in [("once", parts.once), ("times", parts.times), ("step", parts.step)] {
            all.push((format!("{part}, batch {batch}"), graph));
        }
    }
    all
}

fn of_glide(name: &str, guided: bool) -> Recorded {
    let parts = parts_of_glide(name, guided, 50);
    [("once", parts.once), ("times", parts.times), ("step", parts.step)]
        .map(|(part, graph)| (part.to_string(), graph))
        .into()
}

fn of_karlo(part: &str) -> Recorded {
    let parts = parts_of_karlo(part, 25);
    [("once", parts.once), ("times", parts.times), ("step", parts.step)]
        .map(|(part, graph)| (part.to_string(), graph))
        .into()
}

/// A published U-Net of guided-diffusion as one graph.
fn of_adm(name: &str) -> Recorded {
    let config: adm::Config = presets::by_name(name).expect("a published checkpoint").flags();
    let record = |batch: usize| {
        let mut g = Graph::new();
        let x = g.input("x", &[batch, config.image_size, config.image_size, 3], Storage::Elem);
        let (t, y) = (g.input("t", &[batch], Storage::F32), g.input("y", &[batch], Storage::F32));
        let out = config.forward(&mut g, &adm::Inputs { x: &x, low_res: None, t: &t, y: Some(&y) });
        g.output("out", &out);
        fuse(&mut g);
        (format!("batch {batch}"), g)
    };
    [1, 2].map(record).into()
}

fn of_tokens() -> Vec<(String, Graph)> {
    let config = paper_s_tokens();
    let mut parts =
        vec![("once".to_string(), config.prefix_graph(2)), ("token".into(), config.step_graph(4))];
    parts.iter_mut().for_each(|(_, graph)| fuse(graph));
    parts
}

#[test]
fn plans_are_close_to_their_lower_bounds() {
    let networks = [
        ("IF-I-XL", of_imagen(&layout("IF-I-XL"))),
        ("IF-I-M", of_imagen(&layout("IF-I-M"))),
        ("IF-II", of_imagen(&layout("IF-II"))),
        ("bundled base", of_imagen(&config("models/scenes/stage_1/unet/config.json"))),
        ("bundled super-resolution", of_imagen(&config("models/scenes/stage_2/unet/config.json"))),
        ("64x64_diffusion", of_adm("64x64_diffusion")),
        ("256x256_diffusion", of_adm("256x256_diffusion")),
        ("GLIDE's base", of_glide("base", true)),
        ("GLIDE's upsampler", of_glide("upsample", false)),
        ("Karlo's prior", of_karlo("prior")),
        ("DALL·E 2's autoregressive prior", of_tokens()),
        ("Karlo's decoder", of_karlo("decoder")),
        ("Karlo's super-resolution", of_karlo("super_res")),
        ("DALL·E 2's second upsampler", of_karlo("dalle2.upsampler")),
    ];
    let mut above = Vec::new();
    for (name, parts) in &networks {
        for (half, (part, graph)) in [false, true].into_iter().flat_map(|h| parts.iter().map(move |p| (h, p)))
        {
            let bytes = |id: TensorId| {
                let info = graph.info(id);
                info.len() as u64 * if half && info.storage != Storage::F32 { 2 } else { 4 }
            };
            // One buffer, and as many as the largest tensor forces.
            let largest = graph.nodes.iter().map(|n| bytes(n.output())).max().unwrap_or(1);
            let ratio = |max_buffer: u64| {
                let limits = Limits { align: 256, max_buffer: max_buffer.next_multiple_of(256) };
                let plan = Plan::new(graph, limits, bytes, &[]).expect("no tensor is larger than a buffer");
                plan.bytes() as f64 / plan.lower_bound.max(1) as f64
            };
            let (ratio, split) = (ratio(1 << 31), ratio(largest));
            let what = format!("{name}, {part}, {}", if half { "f16" } else { "f32" });
            println!("{what}: {ratio:.3}, in the smallest buffers {split:.3}");
            if ratio.max(split) > MOST_MEMORY {
                above.push(format!("{what}: {ratio:.3}, {split:.3}"));
            }
        }
    }
    assert!(above.is_empty(), "{above:#?}");
}
