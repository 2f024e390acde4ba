//! Files of LoRA: every spelling gives the same weights, those that the definition says; what is no LoRA, or of another
//! model, is refused by name. That diffusers draws the same picture with one is the golden `if_lora`'s.

use ancestral::internals::graph::{Pass, Repack, WeightPart};
use ancestral::internals::weights::{Adapters, Checkpoint, Kind, Lora};
use ancestral::{DeviceChoice, Engine, LoadOptions, Settings};
use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

fn goldens(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens").join(name)
}

fn file() -> PathBuf {
    goldens("if_lora/lora.safetensors")
}

fn model(part: &str, stem: &str) -> Checkpoint {
    Checkpoint::open(&goldens("if_stage1/pipeline").join(part), stem, None).expect("the golden's weights")
}

fn unet() -> Checkpoint {
    model("unet", "diffusion_pytorch_model")
}

/// Shape and values.
type Tensor = (Vec<usize>, Vec<f32>);
type Tensors = BTreeMap<String, Tensor>;

fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).expect("a file");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let values =
        |view: &TensorView<'_>| view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    file.iter().map(|(name, view)| (name.to_string(), (view.shape().to_vec(), values(&view)))).collect()
}

/// A file of tensors among the temporary ones, in a folder of its own.
struct File(PathBuf);

impl File {
    fn new(name: &str, tensors: &Tensors, metadata: Option<HashMap<String, String>>) -> File {
        let folder = std::env::temp_dir().join(format!("ancestral-lora-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("adapter_model.safetensors");
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let owned: Vec<_> = tensors.iter().map(|(name, (shape, v))| (name, shape, bytes(v))).collect();
        let views = owned.iter().map(|(name, shape, bytes)| {
            (name.as_str(), TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
        });
        serialize_to_file(views, metadata, &path).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // Best effort: it lies among the temporary files.
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
    }
}

/// The layers of the golden's file: network, module, down, up, and alpha as its maker set it.
fn layers() -> Vec<(&'static str, String, [Tensor; 2], f32)> {
    let tensors = read(&file());
    let layer = |(name, down): (&String, &Tensor)| {
        let name = name.strip_suffix(".lora_A.weight")?;
        let up = tensors[&format!("{name}.lora_B.weight")].clone();
        let (network, module) = name.split_once('.')?;
        let last = module.rsplit('.').next()?;
        let (network, alpha) = match (network, last) {
            ("text_encoder", _) => ("text_encoder", 6.0),
            (_, "conv1") => ("unet", 1.0),
            (_, "add_k_proj") => ("unet", 9.0),
            _ => ("unet", 5.0),
        };
        Some((network, module.to_string(), [down.clone(), up], alpha))
    };
    tensors.iter().filter_map(layer).collect()
}

/// A file of the layers of these networks, named by `name(network, module, is up)`, with alphas' tensors where `alpha`
/// names them.
fn spelled(
    networks: &[&str],
    name: impl Fn(&str, &str, bool) -> String,
    alpha: impl Fn(&str, &str) -> Option<String>,
) -> Tensors {
    let mut tensors = Tensors::new();
    for (network, module, [down, up], value) in layers() {
        if networks.contains(&network) {
            tensors.insert(name(network, &module, false), down);
            tensors.insert(name(network, &module, true), up);
            tensors.extend(alpha(network, &module).map(|name| (name, (vec![], vec![value]))));
        }
    }
    tensors
}

/// A model's tensors with the parts of these kinds merged.
fn merge(model: &Checkpoint, path: &Path, kinds: &[Kind], scale: f32) -> ancestral::Result<()> {
    let lora = Lora::open(path)?;
    let mut adapters = Adapters::default();
    for layer in kinds.iter().flat_map(|kind| lora.layers(*kind)) {
        adapters.add(lora.weight(layer, model)?, 1, lora.change(layer, scale)?);
    }
    assert!(model.adapt(adapters), "merged once");
    Ok(())
}

fn values(model: &Checkpoint) -> Tensors {
    let of = |name: &str| (model.shape(name).unwrap().to_vec(), model.read(name, Repack::None).unwrap());
    model.names().map(|name| (name.to_string(), of(name))).collect()
}

fn merged(path: &Path, kinds: &[Kind], scale: f32) -> Tensors {
    let model = unet();
    merge(&model, path, kinds, scale).unwrap_or_else(|error| panic!("{error}"));
    values(&model)
}

#[test]
fn weights_are_those_of_the_definition() {
    const SCALE: f32 = 0.75;
    let (before, after) = (values(&unet()), merged(&file(), &[Kind::Unet], SCALE));
    let mut most = 0.0_f64;
    let mut changed = 0;
    let mut expected = before.clone();
    for (_, module, [(down_shape, down), (up_shape, up)], alpha) in
        layers().into_iter().filter(|l| l.0 == "unet")
    {
        let (rank, rows) = (down_shape[0], up_shape[0]);
        let columns = down.len() / rank;
        let (_, weight) = expected.get_mut(&format!("{module}.weight")).expect("a weight");
        for (i, value) in weight.iter_mut().enumerate() {
            let (row, column) = (i / columns, i % columns);
            assert!(row < rows);
            let product = |r: usize| f64::from(up[row * rank + r]) * f64::from(down[r * columns + column]);
            let sum: f64 = (0..rank).map(product).sum();
            *value = (f64::from(*value) + f64::from(SCALE * alpha) / rank as f64 * sum) as f32;
        }
        changed += 1;
    }
    for (name, (_, expected)) in &expected {
        let found = &after[name].1;
        for (a, b) in found.iter().zip(expected) {
            most = most.max(f64::from((a - b).abs()));
        }
        let same = before[name].1 == *found;
        assert_eq!(same, before[name].1 == *expected, "{name}");
    }
    println!("{changed} layers changed; largest difference from f64: {most:e}");
    assert!(changed > 60 && most < 1e-6, "{changed} {most}");
}

/// Whatever the layout and the type that a kernel wants: as of a file that holds the merged values.
#[test]
fn merged_weights_are_laid_out_as_others() {
    let model = unet();
    merge(&model, &file(), &[Kind::Unet], 1.0).unwrap();
    let whole = File::new("merged", &values(&model), None);
    let plain = Checkpoint::open_file(&whole.0).unwrap();
    let (mut convolutions, mut matrices) = (0, 0);
    for name in model.names().filter(|name| name.ends_with(".weight")) {
        let shape = model.shape(name).unwrap();
        let repacks: &[Repack] = match shape {
            [_, _, 3, 3] => {
                &[Repack::Conv(Pass::Forward), Repack::Conv(Pass::Backward), Repack::Winograd(Pass::Forward)]
            }
            [_, _] => &[Repack::Transpose],
            _ => continue,
        };
        *(if shape.len() == 4 { &mut convolutions } else { &mut matrices }) += 1;
        for repack in repacks {
            let parts = [WeightPart::rows(name, 1..shape[0] - 1), WeightPart::rows(name, 0..1)];
            let halves = |of: &Checkpoint| {
                let halves = Mutex::new(BTreeMap::new());
                of.stream::<f16>(&parts, *repack, &|first, piece| {
                    halves.lock().unwrap().insert(first, piece.to_vec());
                    Ok(())
                })
                .unwrap();
                halves.into_inner().unwrap()
            };
            assert_eq!(
                model.read_parts(&parts, *repack).unwrap(),
                plain.read_parts(&parts, *repack).unwrap(),
                "{name}"
            );
            assert_eq!(halves(&model), halves(&plain), "{name}");
        }
    }
    assert!(convolutions > 20 && matrices > 60, "{convolutions} {matrices}");
}

#[test]
fn every_spelling_gives_the_same_weights() {
    let wanted = merged(&file(), &[Kind::Unet], 1.0);
    let none = |_: &str, _: &str| None;
    let same = |name: &str, tensors: &Tensors, metadata: Option<HashMap<String, String>>, kind: Kind| {
        let file = File::new(name, tensors, metadata);
        assert!(merged(&file.0, &[kind], 1.0) == wanted, "{name}");
    };
    let joined = |module: &str| format!("lora_unet_{}", module.replace('.', "_"));
    let kohya = |_: &str, module: &str, up: bool| {
        format!("{}.lora_{}.weight", joined(module), if up { "up" } else { "down" })
    };
    let alpha = |_: &str, module: &str| Some(format!("{}.alpha", joined(module)));
    same("kohya", &spelled(&["unet"], kohya, alpha), None, Kind::Unet);
    // Attention processors of diffusers before 0.18; other layers as `LoRACompatibleConv` saved them.
    let old = |module: &str| {
        let (block, layer) = module.rsplit_once('.').unwrap();
        match layer {
            "to_q" | "to_k" | "to_v" | "add_k_proj" | "add_v_proj" => {
                format!("{block}.processor.{layer}_lora")
            }
            "0" => format!("{}.processor.to_out_lora", block.strip_suffix(".to_out").unwrap()),
            _ => format!("{module}.lora"),
        }
    };
    let end = |up: bool| if up { "up" } else { "down" };
    let processors = |_: &str, module: &str, up: bool| format!("unet.{}.{}.weight", old(module), end(up));
    let alpha = |_: &str, module: &str| Some(format!("unet.{module}.alpha"));
    same("processors", &spelled(&["unet"], processors, alpha), None, Kind::Unet);
    // The same without a network's name, alphas in the header.
    let bare = |_: &str, module: &str, up: bool| format!("{}.{}.weight", old(module), end(up));
    let unet_layers = || layers().into_iter().filter(|layer| layer.0 == "unet");
    let alphas: Value =
        unet_layers().map(|(_, module, _, alpha)| (format!("{module}.alpha"), json!(alpha))).collect();
    let header = HashMap::from([("network_alphas".to_string(), alphas.to_string())]);
    same("bare", &spelled(&["unet"], bare, none), Some(header), Kind::Unsaid);
    // peft's own, with its config beside it.
    let peft = |_: &str, module: &str, up: bool| {
        format!("base_model.model.{module}.lora_{}.default.weight", if up { "B" } else { "A" })
    };
    let file = File::new("peft", &spelled(&["unet"], peft, none), None);
    let config =
        json!({ "peft_type": "LORA", "lora_alpha": 5, "alpha_pattern": { "conv1": 1, "add_k_proj": 9 } });
    std::fs::write(file.0.with_file_name("adapter_config.json"), config.to_string()).unwrap();
    assert!(merged(&file.0, &[Kind::Unsaid], 1.0) == wanted);
    // Without any alpha it is the rank.
    let bare = File::new("rank", &spelled(&["unet"], bare, none), None);
    let ranked = merged(&bare.0, &[Kind::Unsaid], 1.0);
    let before = values(&unet());
    let change = |of: &Tensors| of["conv_in.weight"].1 == before["conv_in.weight"].1;
    assert!(change(&ranked) && ranked != wanted);
    let q = "mid_block.attentions.0.to_q.weight";
    let by = |of: &Tensors, i: usize| f64::from(of[q].1[i] - before[q].1[i]);
    assert!((0..64).all(|i| (by(&wanted, i) - by(&ranked, i) * 5.0 / 3.0).abs() < 1e-5));
}

fn engine(loras: Vec<(PathBuf, f32)>) -> ancestral::Result<Engine> {
    let options = LoadOptions { device: DeviceChoice::Cpu, loras, ..LoadOptions::default() };
    Engine::load(goldens("if_stage1/pipeline"), &options)
}

fn draw(loras: Vec<(PathBuf, f32)>) -> Vec<f32> {
    let engine = engine(loras).unwrap_or_else(|error| panic!("{error}"));
    let settings = Settings::new().seed(3).steps(2).size(16, 16);
    engine.generate("a red circle", settings).unwrap().remove(0).values
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn several_files_add_up() {
    let name = |network: &str, module: &str, up: bool| {
        format!("{network}.{module}.lora_{}.weight", if up { "B" } else { "A" })
    };
    let alpha = |network: &str, module: &str| Some(format!("{network}.{module}.alpha"));
    let part = |network: &str| File::new(network, &spelled(&[network], name, alpha), None);
    let (unet, text) = (part("unet"), part("text_encoder"));
    let (plain, all) = (draw(vec![]), draw(vec![(file(), 1.0)]));
    assert_eq!(draw(vec![(file(), 0.0)]), plain, "nothing at a scale of 0");
    assert_eq!(draw(vec![(unet.0.clone(), 1.0), (text.0.clone(), 1.0)]), all, "in two files");
    let halves = apart(&draw(vec![(file(), 0.5), (file(), 0.5)]), &all);
    let only = draw(vec![(text.0.clone(), 1.0)]);
    println!("halves: {halves:e}; of both {}, of the text {}", apart(&all, &plain), apart(&only, &plain));
    assert!(halves < 1e-3 && apart(&all, &plain) > 0.05 && apart(&only, &plain) > 0.005 && only != all);
}

/// What is no LoRA or of another model, and the words that say so.
#[test]
fn what_does_not_fit_is_refused_by_name() {
    let one = |names: &[(&str, &[usize])]| -> Tensors {
        names
            .iter()
            .map(|(name, shape)| (name.to_string(), (shape.to_vec(), vec![0.5; shape.iter().product()])))
            .collect()
    };
    let q = "unet.mid_block.attentions.0.to_q";
    let (a, b) = (format!("{q}.lora_A.weight"), format!("{q}.lora_B.weight"));
    let (dora, alpha, bias) =
        (format!("{q}.lora_magnitude_vector"), format!("{q}.alpha"), format!("{q}.lora_B.bias"));
    let factors: [(&str, &[usize]); 2] = [(&a, &[2, 32]), (&b, &[32, 2])];
    let with = |more: &[(&str, &[usize])]| one(&[&factors[..], more].concat());
    let cases: [(&str, Tensors, &[&str]); 11] = [
        ("dora", with(&[(&dora, &[32])]), &[&dora, "DoRA"]),
        ("kohyas-dora", one(&[("lora_unet_conv_in.dora_scale", &[1])]), &["DoRA"]),
        ("loha", one(&[("lora_unet_conv_in.hada_w1_a", &[2, 2])]), &["lora_unet_conv_in.hada_w1_a", "LoHa"]),
        ("lokr", one(&[("lora_unet_conv_in.lokr_w1", &[2, 2])]), &["LoKr"]),
        ("bias", with(&[(&bias, &[32])]), &[&bias, "no part of a LoRA"]),
        ("half", one(&factors[..1]), &[&a, "no counterpart"]),
        ("alone", with(&[("unet.conv_in.alpha", &[])]), &["unet.conv_in.alpha", "without factors"]),
        ("wide", with(&[(&alpha, &[3])]), &[&alpha, "3 values"]),
        (
            "shape",
            one(&[(&a, &[2, 31]), factors[1]]),
            &[&a, "[2, 31]", "mid_block.attentions.0.to_q.weight", "[32, 32]"],
        ),
        (
            "unknown",
            with(&[("unet.to_z.lora_A.weight", &[2, 32]), ("unet.to_z.lora_B.weight", &[32, 2])]),
            &["unet.to_z.lora_A.weight", "fits nothing in", "if_stage1"],
        ),
        ("empty", Tensors::new(), &["holds no tensors"]),
    ];
    for (name, tensors, words) in cases {
        let file = File::new(name, &tensors, None);
        let error = match engine(vec![(file.0.clone(), 1.0)]) {
            Ok(_) => panic!("{name} was taken"),
            Err(error) => error.to_string(),
        };
        assert!(words.iter().all(|word| error.contains(word)), "{name}: {error}");
    }
    let file = File::new("fine", &one(&factors), None);
    assert!(engine(vec![(file.0.clone(), 1.0)]).is_ok(), "what was broken was the rest");
    let refused = |scale: f32| engine(vec![(file.0.clone(), scale)]).err().map(|error| error.to_string());
    assert!(refused(f32::NAN).is_some_and(|error| error.contains("a scale of NaN")));
    let text = one(&[
        ("lora_te_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight", &[2, 48]),
        ("lora_te_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight", &[48, 2]),
    ]);
    let file = File::new("te", &text, None);
    assert!(engine(vec![(file.0.clone(), 1.0)]).is_ok());
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        loras: vec![(file.0.clone(), 1.0)],
        ..LoadOptions::default()
    };
    let error = Engine::load(goldens("ddpm/pipeline"), &options).err().expect("it reads no text").to_string();
    assert!(error.contains("text encoder") && error.contains("has none"), "{error}");
}
