//! Karlo from the command line: both pipelines, stages, plans, and what is refused.

use super::{Folder, copy, error_of, generate, golden, refused, stderr, succeeds};
use crate::token_prior;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const PROMPT: &str = "a red fox stands near the river";

fn draw(place: &Folder, model: &Path, file: &str, args: &[&str]) -> (Vec<u8>, Output) {
    let all = ["--model", model.to_str().unwrap(), "--seed", "4", "--output", file];
    let output = succeeds(place, &[args, &all].concat());
    (fs::read(place.0.join(file)).unwrap(), output)
}

/// A picture file in `place`.
fn picture(place: &Folder, name: &str, width: u32, height: u32) -> String {
    let colour = |x: u32, y: u32| image::Rgb([(x * 7) as u8, (y * 5) as u8, 90]);
    let path = place.0.join(name);
    image::RgbImage::from_fn(width, height, colour).save(&path).unwrap();
    path.to_str().unwrap().to_string()
}

fn change(folder: &Folder, file: &str, key: &str, value: Value) {
    let path = folder.0.join(file);
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json[key] = value;
    fs::remove_file(&path).unwrap();
    fs::write(&path, json.to_string()).unwrap();
}

#[test]
fn prompts() {
    let (place, model) = (Folder::new(), golden("unclip"));
    let few = [PROMPT, "--steps", "3,3,2"];
    let (one, output) = draw(&place, &model, "one.png", &few);
    let large = image::open(place.0.join("one.png")).unwrap();
    assert_eq!((large.width(), large.height()), (32, 32), "{}", stderr(&output));
    assert_eq!(draw(&place, &model, "again.png", &few).0, one);
    for (i, other) in [
        ["--negative-prompt", "a boat"],
        ["--guidance-scale", "3"],
        ["--guidance-scale", "4,1"],
        ["--sampler", "ddim"],
        ["--size", "64x32"],
    ]
    .iter()
    .enumerate()
    {
        let file = format!("other-{i}.png");
        assert_ne!(draw(&place, &model, &file, &[&few[..], other].concat()).0, one, "{other:?}");
    }
    // The decoder's picture alone; super-resolution alone goes on from it.
    draw(&place, &model, "small.png", &[PROMPT, "--steps", "3,3", "--stages", "2"]);
    let small = image::open(place.0.join("small.png")).unwrap();
    assert_eq!((small.width(), small.height()), (16, 16));
    draw(&place, &model, "large.png", &[PROMPT, "--steps", "3,3,2", "--from", "small.png"]);
    assert_eq!(image::open(place.0.join("large.png")).unwrap().width(), 32);
}

#[test]
fn pictures() {
    let (place, model) = (Folder::new(), golden("unclip_variation"));
    let (tall, other) = (picture(&place, "tall.png", 37, 50), picture(&place, "other.png", 20, 20));
    let few = ["--steps", "3,2", "--image", &tall];
    let (one, _) = draw(&place, &model, "one.png", &few);
    assert_eq!(image::open(place.0.join("one.png")).unwrap().width(), 32);
    assert_ne!(draw(&place, &model, "two.png", &["--steps", "3,2", "--image", &other]).0, one);
    // A prompt changes nothing, and that is said.
    let (same, output) = draw(&place, &model, "same.png", &[&["a boat"], &few[..]].concat());
    assert!(same == one && stderr(&output).contains("without a prompt"), "{}", stderr(&output));
    let name = model.to_str().unwrap();
    let asked = |args: &[&str], parts: &[&str]| refused(&[&["--model", name], args].concat(), parts);
    asked(&[], &["varies a picture", "--image"]);
    asked(&["--image", &tall, "--image", &other, "--count", "3"], &["2 pictures to vary for 3"]);
    asked(&["--image", "nowhere.png"], &["nowhere.png"]);
    let (karlo, imagen) = (golden("unclip"), golden("if_stage1"));
    for other in [karlo, imagen] {
        let name = other.to_str().unwrap();
        refused(&[PROMPT, "--model", name, "--image", &tall], &["leave `--image` out"]);
    }
}

#[test]
fn both_pipelines_at_once() {
    let (place, karlo, variation) = (Folder::new(), golden("unclip"), golden("unclip_variation"));
    let picture = picture(&place, "tall.png", 37, 50);
    let other = variation.to_str().unwrap();
    // The one's prior, and the other's encoder of pictures.
    let steps = ["--steps", "3,3,2"];
    let (alone, _) = draw(&place, &karlo, "alone.png", &[&[PROMPT], &steps[..]].concat());
    let (both, _) = draw(&place, &karlo, "both.png", &[&[PROMPT, "--model", other], &steps[..]].concat());
    assert!(alone == both);
    let few = ["--steps", "3,2", "--image", &picture];
    let (varied, _) = draw(&place, &variation, "varied.png", &few);
    let (of_both, _) = draw(&place, &karlo, "of_both.png", &[&["--model", other], &few[..]].concat());
    assert!(varied == of_both);
}

#[test]
fn one_network_for_all_steps_of_super_resolution() {
    let folder = copy("unclip");
    fs::remove_dir_all(folder.0.join("super_res_last")).unwrap();
    let index = folder.0.join("model_index.json");
    let mut parts: serde_json::Map<String, Value> =
        serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    parts.remove("super_res_last").unwrap();
    // Defaults by the names of the pipeline's settings.
    parts.insert("super_res_num_inference_steps".into(), json!(2));
    fs::write(&index, serde_json::to_vec(&parts).unwrap()).unwrap();
    let place = Folder::new();
    let (_, output) = draw(&place, &folder.0, "one.png", &[PROMPT, "--steps", "3,3"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let plan = ancestral(&["plan", folder.0.to_str().unwrap(), "--device", "webgpu"]);
    let text = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(text.contains("upscaler: 32x32, batch 1, 2 steps") && !text.contains("last step"), "{text}");
}

#[test]
fn requests_and_files_that_make_no_sense() {
    let model = golden("unclip");
    let name = model.to_str().unwrap();
    let asked = |args: &[&str], parts: &[&str]| refused(&[&[PROMPT, "--model", name], args].concat(), parts);
    asked(&["--stages", "1"], &["prior", "give 2 or more"]);
    asked(&["--steps", "3,1"], &["at least 2"]);
    asked(&["--steps", "3,3,2,2"], &["4 numbers of steps", "3 stages"]);
    asked(&["--size", "20x32"], &["20x32", "multiples"]);
    refused(&[PROMPT, "--model", name, "--model", name], &["adds neither a prior"]);
    let imagen = golden("if_stage1");
    refused(&[PROMPT, "--model", name, "--model", imagen.to_str().unwrap()], &["`IFPipeline`", "an unCLIP"]);
    refused(&["--model", name], &["draws what a prompt says"]);
    for (file, key, value, part) in [
        ("prior/config.json", "num_attention_heads", json!(0), "0 is out of range"),
        ("prior/config.json", "embedding_dim", json!(40), "expected shape"),
        ("prior/config.json", "added_emb_type", json!(null), "`prd` is"),
        ("prior/config.json", "additional_embeddings", json!(3), "4 are supported"),
        ("text_proj/config.json", "clip_extra_context_tokens", json!(5), "expected shape"),
        ("decoder/config.json", "class_embed_type", json!(null), "identity"),
        ("decoder/config.json", "cross_attention_dim", json!(32), "expected shape"),
        ("super_res_last/config.json", "in_channels", json!(3), "takes 6"),
        ("super_res_first/config.json", "block_out_channels", json!([16, 32]), "expected shape"),
        ("text_encoder/config.json", "vocab_size", json!(100), "expected shape"),
        ("decoder_scheduler/scheduler_config.json", "variance_type", json!("learned"), "not supported"),
    ] {
        let folder = copy("unclip");
        change(&folder, file, key, value);
        refused(&[PROMPT, "--model", folder.0.to_str().unwrap()], &[part]);
    }
    for part in ["prior", "text_proj", "super_res_last", "tokenizer", "decoder_scheduler"] {
        let folder = copy("unclip");
        fs::remove_dir_all(folder.0.join(part)).unwrap();
        refused(&[PROMPT, "--model", folder.0.to_str().unwrap()], &[part]);
    }
    let folder = copy("unclip_variation");
    change(&folder, "feature_extractor/preprocessor_config.json", "crop_size", json!(64));
    refused(&["--model", folder.0.to_str().unwrap(), "--image", "x.png"], &["64 pixels", "sees 32"]);
    // A stage of IF is no decoder, nor is a decoder a stage of IF.
    let folder = copy("if_stage1");
    change(&folder, "unet/config.json", "class_embed_type", json!("identity"));
    refused(&[PROMPT, "--model", folder.0.to_str().unwrap()], &["unCLIP's decoder"]);
}

#[test]
fn priors() {
    let model = copy("unclip");
    token_prior::add_to(&model.0);
    let place = Folder::new();
    let few = [PROMPT, "--steps", "3,3,2"];
    let drawn = |file: &str, args: &[&str]| draw(&place, &model.0, file, &[&few[..], args].concat()).0;
    let (usual, tokens) = (drawn("one.png", &[]), drawn("two.png", &["--prior", "autoregressive"]));
    assert_eq!(drawn("three.png", &["--prior", "diffusion", "--candidates", "1"]), usual);
    assert_eq!(drawn("four.png", &["--prior", "autoregressive"]), tokens);
    assert_ne!(usual, tokens);
    // Which candidate is kept is said to whom it may concern.
    let name = model.0.to_str().unwrap();
    let args = [
        "--device",
        "cpu",
        "--model",
        name,
        "--prior",
        "autoregressive",
        "--candidates",
        "16",
        "--seed",
        "5",
    ];
    let output = generate(&place).env("RUST_LOG", "info").args(few).args(args).output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success() && said.contains("dot product with the prompt's is"), "{said}");
    let kept = said.split(", candidate ").nth(1).and_then(|rest| rest.split(" of 16").next());
    assert!(kept.is_some_and(|kept| kept != "1"), "{said}");
    let output =
        ancestral(&["plan", name, "--device", "webgpu", "--prior", "autoregressive", "--candidates", "2"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let part = format!("autoregressive prior: batch 4 (guided), {} tokens", token_prior::COMPONENTS);
    assert!(text.contains(&part) && text.contains("it all fits"), "{text}{}", stderr(&output));
    let output = ancestral(&["bisect", "--model", name, "--device", "llvmpipe"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("prior_ar: agrees") || !output.status.success(), "{text}{}", stderr(&output));

    let karlo = golden("unclip");
    refused(
        &[PROMPT, "--model", karlo.to_str().unwrap(), "--prior", "autoregressive"],
        &["no autoregressive prior"],
    );
    refused(&[PROMPT, "--model", name, "--candidates", "0"], &["0 candidates", "1 to"]);
    refused(&[PROMPT, "--model", name, "--candidates", "65"], &["65 candidates", "1 to"]);
    refused(&[PROMPT, "--model", name, "--candidates", "64", "--count", "64"], &["give fewer"]);
    let imagen = golden("if_stage1");
    for option in [["--prior", "diffusion"], ["--candidates", "2"]] {
        let args = [&[PROMPT, "--model", imagen.to_str().unwrap()], &option[..]].concat();
        refused(&args, &["only an unCLIP", &format!("leave `{}` out", option[0])]);
    }
}

#[test]
fn priors_that_make_no_sense() {
    let with_tokens = || {
        let folder = copy("unclip");
        token_prior::add_to(&folder.0);
        folder
    };
    for (file, key, value, part) in [
        ("prior_ar/config.json", "num_layers", json!(0), "0 is out of range"),
        ("prior_ar/config.json", "num_components", json!(49), "2 to embedding_dim"),
        ("prior_ar/config.json", "dot_default", json!(8), "there are 8"),
        ("prior_ar/config.json", "num_buckets", json!(25), "expected shape"),
        ("prior_ar/config.json", "num_buckets", json!(-1), "expected usize"),
        ("prior_ar/config.json", "max_text_len", json!(76), "expected shape"),
        ("prior_ar/config.json", "attention_head_dim", json!(4_000_000_000_u64), "out of range"),
        ("model_index.json", "prior_ar_guidance_scale", json!(-1), "prior_ar_guidance_scale"),
        ("model_index.json", "prior_ar_temperature", json!(0), "0 is out of range"),
    ] {
        let folder = with_tokens();
        change(&folder, file, key, value);
        refused(&[PROMPT, "--model", folder.0.to_str().unwrap()], &[part]);
    }
    let folder = with_tokens();
    fs::remove_dir_all(folder.0.join("prior_ar")).unwrap();
    refused(&[PROMPT, "--model", folder.0.to_str().unwrap()], &["prior_ar"]);
    // Another prior's tokens: as many components, of a space that nothing here has.
    let folder = with_tokens();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/ar_prior/small/prior_ar");
    fs::remove_dir_all(folder.0.join("prior_ar")).unwrap();
    super::copy_tree(&golden, &folder.0.join("prior_ar"));
    refused(&[PROMPT, "--model", folder.0.to_str().unwrap()], &["embedding_dim", "12, but text_proj has 48"]);
    // Tables that are no tables.
    for (name, value, part) in [
        ("bucket_width", 0.0, "a bucket 0 wide"),
        ("bucket_low", f32::INFINITY, "bucket_low"),
        ("dot_width", f32::NAN, "a bucket NaN wide"),
        ("pca_components", 0.5, "not orthonormal"),
    ] {
        let folder = with_tokens();
        let path = folder.0.join("prior_ar/diffusion_pytorch_model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
        let first = 8 + header + json[name]["data_offsets"][0].as_u64().unwrap() as usize;
        bytes[first..first + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        refused(&[PROMPT, "--model", folder.0.to_str().unwrap()], &[name, part]);
    }
}

fn ancestral(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ancestral")).args(args).env_remove("RUST_LOG").output().unwrap()
}

#[test]
fn plans_and_devices() {
    for (case, parts) in [
        ("unclip", ["text encoder", "prior: 1x1, batch 2 (guided), 25 steps"]),
        ("unclip_variation", ["text encoder", "picture encoder"]),
    ] {
        let model = golden(case);
        let output = ancestral(&["plan", model.to_str().unwrap(), "--device", "webgpu"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let all = [
            "text projection",
            "decoder: 16x16, batch 2 (guided), 25 steps",
            "upscaler: 32x32, batch 1, 6 steps",
        ];
        for part in
            parts.iter().chain(&all).chain(&["upscaler, last step: 32x32, batch 1, 1 steps", "it all fits"])
        {
            assert!(text.contains(part), "`{part}` is not in: {text}{}", stderr(&output));
        }
    }
    let layouts = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/layouts");
    let of = |part: &str| {
        let name = if part.contains('.') { part.to_string() } else { format!("karlo.{part}") };
        layouts.join(format!("{name}.config.json")).to_str().unwrap().to_string()
    };
    for (part, says) in [
        ("prior", "prior: 1x1, batch 2 (guided)"),
        ("dalle2.prior_ar", "autoregressive prior: batch 2 (guided), 319 tokens"),
        ("decoder", "64x64, batch 2 (guided)"),
        ("super_res", "256x256, batch 1"),
    ] {
        let output = ancestral(&["plan", "--config", &of(part), "--device", "webgpu", "--precision", "f16"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(says), "{text}{}", stderr(&output));
    }
    error_of(&ancestral(&["plan", "--config", &of("prior"), "--size", "64x64"]), &["--size"]);
}
