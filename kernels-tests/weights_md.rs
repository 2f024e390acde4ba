//! weights.md against the code: every tensor a network reads is in its tables, with that shape; every pattern there is
//! read; every command there is one the program takes. And the recorded names and shapes against those of the
//! published models (`goldens/layouts`).

use ancestral::internals::graph::Graph;
use ancestral::internals::kernels::epilogue::Activation;
use ancestral::internals::models::adm::flags::Flags;
use ancestral::internals::models::adm::{self, presets};
use ancestral::internals::models::clip::detect::{self, GlideFile, TransformersFile};
use ancestral::internals::models::network::DenoisingNetwork;
use ancestral::internals::models::text_unet::TextUNet;
use ancestral::internals::models::{
    ar_prior, clip, efficient_unet, glide, prior, t5, text_proj, unet, unet2d,
};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

type Weights = BTreeMap<String, Vec<usize>>;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What a graph wants of its checkpoint; a tensor read in several places counts once.
fn weights(graph: &Graph) -> Weights {
    let mut all = Weights::new();
    for (name, shape) in graph.weights() {
        let before = all.insert(name.to_string(), shape.to_vec());
        assert!(before.is_none_or(|before| before == shape), "{name} is read in two shapes");
    }
    all
}

fn golden_config<T: DeserializeOwned>(path: &str) -> T {
    serde_json::from_str(&read(&format!("kernels-tests/goldens/{path}/config.json"))).unwrap()
}

/// The config of a published network, whose file lies beside the lists of tensors.
fn published_config<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_str(&read(&format!("kernels-tests/goldens/layouts/{name}.config.json"))).unwrap()
}

fn diffusion_prior(config: &prior::Config) -> Weights {
    config.validate(Path::new("prior")).unwrap();
    weights(&config.smallest())
}

fn token_prior(config: &ar_prior::Config) -> Weights {
    config.validate(Path::new("prior_ar")).unwrap();
    weights(&config.whole())
}

fn projection(config: &text_proj::Config) -> Weights {
    config.validate(Path::new("text_proj")).unwrap();
    weights(&config.graph(1, true, 1))
}

fn conditional(config: &unet::Config) -> Weights {
    config.validate(Path::new("unet")).unwrap();
    weights(&TextUNet::new(config.clone()).smallest())
}

fn unconditional(config: &unet2d::Config) -> Weights {
    config.validate(Path::new("unet")).unwrap();
    weights(&config.smallest())
}

/// A published checkpoint of OpenAI's, by its flags.
fn openai(name: &str) -> Weights {
    if let Some(preset) = glide::PRESETS.iter().find(|preset| preset.name == name) {
        return weights(&preset.flags::<glide::Config>().graph());
    }
    if presets::CLASSIFIERS.iter().any(|preset| preset.name == name) {
        return weights(&presets::by_name(name).unwrap().flags::<adm::classifier::Config>().graph());
    }
    weights(&presets::by_name(name).unwrap().flags::<adm::Config>().graph())
}

fn encoder(config: &t5::Config) -> Weights {
    config.validate(Path::new("text_encoder")).unwrap();
    weights(&t5::graph(config, 1, 2))
}

/// DeepFloyd IF stage I with so many channels at the first level (conformance notes: from memory of the published
/// configs; the parameter counts agree with the model cards).
fn if_stage_one(first: usize) -> unet::Config {
    let (down, up) = ("SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D");
    let config = json!({
        "sample_size": 64, "in_channels": 3, "out_channels": 6, "layers_per_block": 3,
        "block_out_channels": [first, 2 * first, 3 * first, 4 * first],
        "down_block_types": ["ResnetDownsampleBlock2D", down, down, down],
        "up_block_types": [up, up, up, "ResnetUpsampleBlock2D"],
        "attention_head_dim": 64, "cross_attention_dim": 4 * first, "cross_attention_norm": "group_norm",
        "encoder_hid_dim": 4096, "encoder_hid_dim_type": "text_proj", "addition_embed_type": "text",
        "addition_embed_type_num_heads": 64, "act_fn": "gelu", "resnet_time_scale_shift": "scale_shift",
        "only_cross_attention": false
    });
    serde_json::from_value(config).unwrap()
}

fn t5_xxl() -> t5::Config {
    let config = json!({
        "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64
    });
    serde_json::from_value(config).unwrap()
}

fn ddpm_cifar10() -> unet2d::Config {
    let config = json!({
        "sample_size": 32, "block_out_channels": [128, 256, 256, 256], "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], "attention_head_dim": null,
        "downsample_padding": 0, "flip_sin_to_cos": false, "freq_shift": 1, "norm_eps": 1e-6
    });
    serde_json::from_value(config).unwrap()
}

/// Column `column` of a layout: `name 3x4 ..`.
fn layout(file: &str, column: usize) -> Weights {
    let text = read(&format!("kernels-tests/goldens/layouts/{file}.txt"));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next().unwrap().to_string();
        let shape = words.nth(column).unwrap_or_else(|| panic!("{file}: {line}"));
        (name, shape.split('x').map(|n| n.parse().unwrap()).collect())
    };
    lines.map(parse).collect()
}

/// A network of GLIDE's CLIP, by its published shapes alone.
fn published<T>(find: fn(&Weights, &GlideFile) -> Option<Result<T, String>>, file: &str) -> T {
    find(&layout(file, 0), &GlideFile::default()).unwrap().unwrap()
}

fn transformer(layout: clip::Layout, width: usize, layers: usize) -> clip::Transformer {
    let (heads, feed_forward, act) = (width / 64, 4 * width, Activation::QuickGelu);
    clip::Transformer { layout, width, layers, heads, feed_forward, act, eps: 1e-5 }
}

fn openai_text(width: usize, embed: usize) -> clip::text::Config {
    let transformer = transformer(clip::Layout::OpenAi, width, 12);
    clip::text::Config { transformer, vocab_size: 49408, context: 77, embed, end: clip::text::End::Largest }
}

fn with_text(image: clip::ImageEncoder, text: &clip::text::Config) -> Weights {
    let mut all = weights(&image.graph());
    all.extend(weights(&text.graph(1, &[0])));
    all
}

fn vit_b_32() -> Weights {
    let transformer = transformer(clip::Layout::OpenAi, 768, 12);
    let (image_size, patch_size, embed, timesteps) = (224, 32, 512, None);
    let image = clip::vision::Config { transformer, image_size, patch_size, embed, timesteps };
    with_text(clip::ImageEncoder::Transformer(image), &openai_text(512, embed))
}

fn rn50() -> Weights {
    let (image_size, width, layers, embed, time) = (224, 64, [3, 4, 6, 3], 1024, None);
    let image = clip::resnet::Config { image_size, width, layers, embed, time };
    with_text(clip::ImageEncoder::ResNet(image), &openai_text(512, embed))
}

fn rn50x16_told_the_time() -> Weights {
    let time = Some(clip::resnet::Time { channels: 128, embed: 512 });
    let (image_size, width, layers, embed) = (256, 96, [6, 8, 18, 8], 768);
    weights(
        &clip::ImageEncoder::ResNet(clip::resnet::Config { image_size, width, layers, embed, time }).graph(),
    )
}

/// openai/clip-vit-large-patch14's `config.json` of one of its encoders (conformance notes: from memory).
fn clip_l(of: serde_json::Value) -> TransformersFile {
    let mut config = json!({ "projection_dim": 768, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5 });
    config.as_object_mut().unwrap().extend(of.as_object().unwrap().clone());
    serde_json::from_value(config).unwrap()
}

fn clip_l_text() -> Weights {
    let config = clip_l(json!({
        "architectures": ["CLIPTextModelWithProjection"], "model_type": "clip_text_model", "hidden_size": 768,
        "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 49408,
        "max_position_embeddings": 77
    }));
    weights(&config.text().unwrap().unwrap().graph(1, &[0]))
}

fn clip_l_vision() -> Weights {
    let config = clip_l(json!({
        "architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model", "hidden_size": 1024,
        "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 224, "patch_size": 14
    }));
    weights(&config.image().unwrap().unwrap().graph())
}

/// Trained numbers: without batch norms' statistics.
fn parameters(weights: &Weights) -> usize {
    let trained = weights.iter().filter(|(name, _)| !name.contains(".running_"));
    trained.map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

#[track_caller]
fn same(recorded: &Weights, published: &Weights, parameters: usize) {
    for (name, shape) in published {
        assert_eq!(recorded.get(name), Some(shape), "{name}");
    }
    let extra: Vec<_> = recorded.keys().filter(|name| !published.contains_key(*name)).collect();
    assert!(extra.is_empty(), "not in the published layout: {extra:?}");
    let count: usize = recorded.values().map(|shape| shape.iter().product::<usize>()).sum();
    assert_eq!(count, parameters);
}

#[test]
fn published_layouts() {
    for (column, (first, parameters)) in
        [(704, 4_304_695_110), (320, 935_365_830), (192, 371_605_830)].into_iter().enumerate()
    {
        same(&conditional(&if_stage_one(first)), &layout("IF-I.unet", column), parameters);
    }
    let mut published = layout("t5-v1_1-xxl.encoder", 0);
    // The same tensor under its second name.
    let tied = published.remove("encoder.embed_tokens.weight");
    assert_eq!(tied.as_ref(), published.get("shared.weight"));
    same(&encoder(&t5_xxl()), &published, 4_762_310_656);
    same(&unconditional(&ddpm_cifar10()), &layout("ddpm-cifar10-32.unet", 0), 35_746_307);
    let karlo = |part: &str| (format!("karlo.{part}"), layout(&format!("karlo.{part}"), 0));
    let (name, published) = karlo("prior");
    same(&diffusion_prior(&published_config(&name)), &published, 1_022_030_080);
    let (name, published) = karlo("text_proj");
    same(&projection(&published_config(&name)), &published, 7_878_400);
    let (name, published) = karlo("decoder");
    same(&conditional(&published_config(&name)), &published, 885_439_686);
    let (name, published) = karlo("super_res");
    same(&unconditional(&published_config(&name)), &published, 691_579_523);
    for (name, parameters) in [
        ("64x64_diffusion", 295_904_454),
        ("64x64_classifier", 65_438_568),
        ("256x256_diffusion", 553_838_086),
    ] {
        same(&openai(name), &layout(&format!("adm.{name}"), 0), parameters);
    }
    for (name, column, parameters) in [
        ("base", 0, 385_030_726),
        ("base", 1, 385_037_638),
        ("upsample", 0, 398_361_286),
        ("upsample", 1, 398_368_198),
    ] {
        let network = openai(&format!("{name}{}", ["", "_inpaint"][column]));
        same(&network, &layout(&format!("glide.{name}"), column), parameters);
    }
}

#[test]
fn published_layouts_of_clip() {
    let image = published(detect::glide_image, "glide.clip_image_enc");
    same(&weights(&image.graph()), &layout("glide.clip_image_enc", 0), 86_443_776);
    let text = published(detect::glide_text, "glide.clip_text_enc");
    same(&weights(&text.graph(1, &[0])), &layout("glide.clip_text_enc", 0), 71_679_488);
    same(&clip_l_text(), &layout("clip-vit-large-patch14.text", 0), 123_650_304);
    same(&clip_l_vision(), &layout("clip-vit-large-patch14.vision", 0), 303_966_208);
    // What the CLIP package's notebook prints of its archives, less the logit scale.
    assert_eq!(parameters(&vit_b_32()) + 1, 151_277_313);
    assert_eq!(parameters(&rn50()) + 1, 102_007_137);
    // Twice the channels that SDG's code lists: three of the first convolutions, then three of each bottleneck.
    let levels = [(6, 96), (8, 192), (18, 384), (8, 768)];
    let modulated = 48 + 48 + 96 + levels.iter().map(|(blocks, planes)| blocks * 6 * planes).sum::<usize>();
    assert_eq!(rn50x16_told_the_time()["emb_layers.1.weight"], [2 * modulated, 512]);
}

/// Every preset has a row with its number of parameters.
#[test]
fn every_preset_is_listed() {
    let text = read("weights.md");
    for preset in presets::UNETS.iter().chain(presets::CLASSIFIERS).chain(glide::PRESETS) {
        let count: usize = openai(preset.name).values().map(|shape| shape.iter().product::<usize>()).sum();
        let cell = format!("`{}.pt`", preset.name);
        let row = text.lines().find(|line| {
            line.strip_prefix("| ").is_some_and(|line| line.split(" | ").next().unwrap().contains(&cell))
        });
        let row =
            row.unwrap_or_else(|| panic!("weights.md has no row of {cell}: {:.1} M", count as f64 / 1e6));
        let millions = format!("| {:.1} M |", count as f64 / 1e6);
        assert!(row.contains(&millions), "weights.md: {cell} has {millions}: {row}");
    }
}

/// Every network of a section of weights.md.
fn networks(section: &str) -> Vec<Weights> {
    match section {
        "T5 v1.1 encoder" => {
            vec![encoder(&t5_xxl()), encoder(&golden_config("if_stage1/pipeline/text_encoder"))]
        }
        "DeepFloyd IF U-Net" => vec![
            conditional(&if_stage_one(704)),
            conditional(&if_stage_one(192)),
            conditional(&golden_config("if_stage1/pipeline/unet")),
            conditional(&golden_config("if_stage2/pipeline/unet")),
            conditional(&published_config("karlo.decoder")),
            conditional(&golden_config("unclip/pipeline/decoder")),
            conditional(&efficient_unet::super_resolution_256()),
            conditional(&efficient_unet::super_resolution_1024()),
        ],
        "UNet2DModel" => vec![
            unconditional(&ddpm_cifar10()),
            unconditional(&golden_config("ddpm/pipeline/unet")),
            unconditional(&golden_config("ddpm_resnet/pipeline/unet")),
            unconditional(&published_config("karlo.super_res")),
            unconditional(&golden_config("unclip/pipeline/super_res_first")),
            unconditional(&golden_config("upsampler/pipeline")),
            unconditional(&published_config("dalle2.upsampler")),
        ],
        "PriorTransformer" => vec![
            diffusion_prior(&published_config("karlo.prior")),
            diffusion_prior(&golden_config("unclip/pipeline/prior")),
        ],
        "AutoregressivePrior" => vec![
            token_prior(&published_config("dalle2.prior_ar")),
            token_prior(&golden_config("ar_prior/odd/prior_ar")),
        ],
        "UnCLIPTextProjModel" => vec![
            projection(&published_config("karlo.text_proj")),
            projection(&golden_config("unclip/pipeline/text_proj")),
        ],
        "guided-diffusion and improved-diffusion" => {
            let config = adm::classifier::Config {
                classifier_pool: adm::classifier::Pool::Adaptive,
                ..adm::classifier::Config::default()
            };
            let mut all = vec![weights(&config.graph())];
            all.extend(presets::UNETS.iter().chain(presets::CLASSIFIERS).map(|preset| openai(preset.name)));
            all
        }
        "CLIP of GLIDE" => vec![
            weights(&published(detect::glide_image, "glide.clip_image_enc").graph()),
            weights(&published(detect::glide_text, "glide.clip_text_enc").graph(1, &[0])),
        ],
        "CLIP of OpenAI" => vec![vit_b_32(), rn50()],
        "CLIP of transformers" => vec![clip_l_text(), clip_l_vision()],
        "CLIP of Semantic Diffusion Guidance" => vec![rn50x16_told_the_time()],
        "GLIDE" => glide::PRESETS.iter().map(|preset| openai(preset.name)).collect(),
        other => panic!("weights.md has a table of tensors under `{other}`, which this test does not know"),
    }
}

/// A row of a table: names, and the shapes they may have.
struct Row {
    pattern: String,
    /// Name with `{i}` for numbers, and its shape; several where the row stands for several.
    forms: Vec<(String, Vec<Vec<String>>)>,
}

/// Writes out `{block}`, `{resnet}`, `{part}` and `{weight,bias}`.
fn expand(pattern: &str) -> Vec<String> {
    let places = |key: &str, values: &[&str], list: Vec<String>| -> Vec<String> {
        list.iter().flat_map(|p| values.iter().map(|v| p.replacen(key, v, 1)).collect::<Vec<_>>()).collect()
    };
    let mut list = vec![pattern.to_string()];
    if pattern.contains("{resnet}") {
        let values = ["{block}.resnets.{j}", "down_blocks.{i}.downsamplers.0", "up_blocks.{i}.upsamplers.0"];
        list = places("{resnet}", &values, list);
    }
    if pattern.contains("{part}") {
        let values = ["input_blocks.{i}.{j}", "middle_block.{j}", "output_blocks.{i}.{j}"];
        list = places("{part}", &values, list);
    }
    if list.iter().any(|p| p.contains("{block}")) {
        list = places("{block}", &["down_blocks.{i}", "mid_block", "up_blocks.{i}"], list);
    }
    // Words in braces, a name each.
    while let Some((key, words)) = list.iter().find_map(|p| {
        let braces = p.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
        braces
            .map(|(words, _)| words.to_string())
            .find(|words| words.contains(','))
            .map(|w| (format!("{{{w}}}"), w))
    }) {
        list = places(&key, &words.split(',').collect::<Vec<_>>(), list);
    }
    list
}

/// `[C, 3], [C] or [2C, 3], [2C]`: alternatives of lists of shapes.
fn shapes(text: &str) -> Vec<Vec<Vec<String>>> {
    let shape = |text: &str| text.split(',').map(|d| d.trim().to_string()).collect();
    let one = |text: &str| text.split('[').skip(1).map(|s| shape(s.split(']').next().unwrap())).collect();
    text.split(" or ").map(one).collect()
}

fn rows(text: &str) -> BTreeMap<String, Vec<Row>> {
    let mut sections: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    let (mut section, mut inside) = (String::new(), false);
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            inside = title.contains("Every tensor");
        } else if let Some(title) = line.strip_prefix("### ") {
            section = title.to_string();
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if !inside || cells.len() < 4 || !cells[1].starts_with('`') {
            continue;
        }
        let (pattern, alternatives) = (cells[1].trim_matches('`'), shapes(&cells[2].replace('`', "")));
        let endings: &[&str] = if pattern.ends_with("{weight,bias}") { &["weight", "bias"] } else { &[""] };
        let mut forms = Vec::new();
        for (n, ending) in endings.iter().enumerate() {
            let allowed: Vec<Vec<String>> = alternatives.iter().map(|list| list[n].clone()).collect();
            for form in expand(&pattern.replace("{weight,bias}", ending)) {
                forms.push((form, allowed.clone()));
            }
        }
        sections.entry(section.clone()).or_default().push(Row { pattern: pattern.into(), forms });
    }
    sections
}

/// Whether a name fits a form: `{i}` and `{j}` are numbers.
fn fits(form: &str, name: &str) -> bool {
    let (form, name): (Vec<&str>, Vec<&str>) = (form.split('.').collect(), name.split('.').collect());
    let number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
    let part = |f: &str, n: &str| match f.split_once('{') {
        Some((before, _)) => n.strip_prefix(before).is_some_and(number),
        None => f == n,
    };
    form.len() == name.len() && form.iter().zip(&name).all(|(f, n)| part(f, n))
}

/// Whether a shape is as written: numbers, letters (`C`, `C_in`: of this tensor; others: of the whole network), `2C`.
fn is_shape(written: &[String], shape: &[usize], network: &mut HashMap<String, usize>) -> bool {
    let (mut own, mut found) = (HashMap::new(), network.clone());
    let dimension = |(text, size): (&String, &usize)| {
        let letters = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let factor: usize = text[..text.len() - letters.len()].parse().unwrap_or(1);
        if letters.is_empty() || size % factor != 0 {
            return factor == *size && letters.is_empty();
        }
        let known = if letters.starts_with('C') && letters != "C0" { &mut own } else { &mut found };
        *known.entry(letters.to_string()).or_insert(size / factor) == size / factor
    };
    let holds = written.len() == shape.len() && written.iter().zip(shape).all(dimension);
    if holds {
        *network = found;
    }
    holds
}

#[test]
fn every_tensor_is_described() {
    let sections = rows(&read("weights.md"));
    assert_eq!(sections.len(), 12, "{:?}", sections.keys());
    for (section, rows) in &sections {
        let mut used = vec![0; rows.len()];
        for network in networks(section) {
            let mut letters = HashMap::new();
            for (name, shape) in &network {
                let of =
                    |row: &Row| row.forms.iter().find(|(form, _)| fits(form, name)).map(|(_, s)| s.clone());
                let found: Vec<_> =
                    rows.iter().enumerate().filter_map(|(i, row)| Some((i, of(row)?))).collect();
                let [(i, allowed)] = &found[..] else {
                    panic!("weights.md, {section}: {} rows describe `{name}` {shape:?}", found.len());
                };
                used[*i] += 1;
                let holds = allowed.iter().any(|written| is_shape(written, shape, &mut letters));
                assert!(holds, "weights.md, {section}: `{name}` is {shape:?}, not {allowed:?} ({letters:?})");
            }
        }
        for (row, used) in rows.iter().zip(used) {
            assert!(used > 0, "weights.md, {section}: no network reads `{}`", row.pattern);
        }
    }
}

/// The words of a command line, quotes heeded.
fn words(line: &str) -> Vec<String> {
    let pieces = line.split('"').enumerate();
    pieces
        .flat_map(|(i, piece)| match i % 2 {
            1 => vec![piece.to_string()],
            _ => piece.split_whitespace().map(str::to_string).collect(),
        })
        .collect()
}

#[test]
fn commands_are_taken() {
    let text = format!("{}\n{}", read("weights.md"), read("README.md")).replace("\\\n", " ");
    let command = |line: &'static str| {
        let line = line.trim();
        line.strip_prefix("ancestral ").or_else(|| line.strip_prefix("cargo run --release -- "))
    };
    let text: &'static str = text.leak();
    let commands: Vec<_> = text.lines().filter_map(command).collect();
    assert!(commands.len() > 6, "{commands:?}");
    for command in commands {
        // An argument it does not know stops the program before it gets to the help.
        let args = words(command.split(" #").next().unwrap());
        let output = Command::new(env!("CARGO_BIN_EXE_ancestral")).args(args).arg("--help").output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The checks above turn red where they should.
#[test]
fn controls() {
    let tables = rows(
        "## Every tensor\n### T5 v1.1 encoder\n| `a.{i}.x.{weight,bias}` | `[C, 2E], [C]` or `[3, E], [3]` | use |",
    );
    let row = &tables["T5 v1.1 encoder"][0];
    let shape_of = |name: &str| row.forms.iter().find(|(form, _)| fits(form, name)).map(|(_, s)| s.clone());
    assert!(shape_of("a.12.x.weight").is_some() && shape_of("a.12.x.bias").is_some());
    assert!(shape_of("a.b.x.weight").is_none() && shape_of("a.1.x.scale").is_none());
    let allowed = shape_of("a.0.x.weight").unwrap();
    let mut letters = HashMap::new();
    assert!(is_shape(&allowed[0], &[7, 10], &mut letters) && letters["E"] == 5);
    assert!(is_shape(&allowed[1], &[3, 5], &mut letters) && !is_shape(&allowed[1], &[3, 6], &mut letters));
    assert!(!is_shape(&allowed[0], &[7, 11], &mut letters) && !is_shape(&allowed[0], &[7], &mut letters));
    assert!(!words("generate \"a b\" --x").contains(&"\"a".to_string()));
}
