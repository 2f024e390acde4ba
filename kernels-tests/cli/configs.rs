//! Broken JSON files and tokenizers, and configs that ask for the impossible.

use super::{Folder, copy, golden, refused, refused_model};
use ancestral::{DeviceChoice, Engine, LoadOptions, Settings};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const CONFIGS: [&str; 4] =
    ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", "text_encoder/config.json"];

fn write(path: &Path, edit: impl Fn(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, serde_json::to_vec_pretty(&value).unwrap()).unwrap();
}

#[test]
fn missing_and_malformed() {
    for file in CONFIGS {
        let folder = copy("if_stage1");
        let (path, name) = (folder.0.join(file), file.rsplit('/').next().unwrap());
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        refused_model(&folder.0, &[name]);
        for (text, part) in [
            (&b""[..], "empty"),
            (&whole[..whole.len() / 2], "line"),
            (b"[1, 2]", "line 1"),
            (b"\xff\xfe{}", "line 1"),
            (b"{}", ""),
            (b"null", ""),
        ] {
            fs::write(&path, text).unwrap();
            let line = if text == b"{}" && file == "unet/config.json" {
                refused_model(&folder.0, &["config.json", "entries for"])
            } else {
                refused_model(&folder.0, &[name, part])
            };
            assert!(line.contains(&*folder.0.to_string_lossy()), "{line}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refused_model(&folder.0, &[name, "is a folder"]);
    }
}

/// Sets one key of a golden's file and expects its name and `part` in the message.
#[track_caller]
fn key(pipeline: &str, file: &str, key: &str, value: Value, part: &str) {
    let folder = copy(pipeline);
    write(&folder.0.join(file), |config| config[key] = value.clone());
    let name = file.rsplit('/').next().unwrap();
    refused_model(&folder.0, &[name, part]);
}

#[test]
fn unet_values() {
    let set = |name: &str, value: Value, part: &str| key("if_stage1", "unet/config.json", name, value, part);
    let cross = "SimpleCrossAttnDownBlock2D";
    set(
        "down_block_types",
        json!([cross, "CrossAttnDownBlock3D", cross]),
        "`CrossAttnDownBlock3D` is unknown",
    );
    set("up_block_types", json!(["UpBlock2D"]), "1 entries for 3 levels");
    set("mid_block_type", json!("MidBlock"), "`MidBlock` is unknown");
    set("block_out_channels", json!([]), "0 levels");
    set("block_out_channels", json!([16, 24, 0]), "0 is out of range");
    set("block_out_channels", json!([16, 24, 1_000_000_000_000u64]), "1000000000000 is out of range");
    set("block_out_channels", json!([16, 24, 65536]), "expected shape");
    set("block_out_channels", json!([16, 24, 30]), "30 channels do not divide");
    set("block_out_channels", json!([16, 24, -8]), "invalid value");
    set("block_out_channels", json!(vec![8; 100]), "100 levels");
    set("norm_num_groups", json!(0), "at least 1");
    set("norm_num_groups", json!(null), "null");
    set("layers_per_block", json!([2, 2]), "each of the 3 levels");
    set("layers_per_block", json!(1_000_000_000), "1000000000 is out of range");
    set("layers_per_block", json!(0), "0 is out of range");
    set("layers_per_block", json!(64), "not found");
    set("attention_head_dim", json!([8]), "each of the 3 levels");
    set("attention_head_dim", json!(0), "heads of 0");
    set("attention_head_dim", json!(5), "heads of 5");
    set("only_cross_attention", json!([true]), "each of the 3 levels");
    set("cross_attention_dim", json!(33), "multiple of 32");
    set("cross_attention_norm", json!("batch_norm"), "`batch_norm` is not supported");
    set("encoder_hid_dim", json!(null), "text_proj");
    set("encoder_hid_dim", json!(64), "expected shape");
    set("addition_embed_type", json!("image"), "`image` is not supported");
    set("addition_embed_type_num_heads", json!(0), "0 heads");
    set("class_embed_type", json!("timestep"), "takes 6");
    set("act_fn", json!("tanhshrink"), "`tanhshrink` is unknown");
    set("in_channels", json!(6), "takes 3");
    set("out_channels", json!(4), "3 are supported");
    set("out_channels", json!(3), "expected shape");
    set("conv_in_kernel", json!(4), "must be odd");
    set("time_embedding_dim", json!(0), "0 is out of range");
    set("sample_size", json!(1_000_000_000), "out of range");
    set("sample_size", json!(18), "multiple of 4");
    set("freq_shift", json!(8), "out of range");
    set("norm_eps", json!(-1.0), "out of range");
    set("resnet_out_scale_factor", json!(0), "give a number other than 0");
    set("center_input_sample", json!(true), "not supported");
}

#[test]
fn other_values() {
    let t5 = |name: &str, value: Value, part: &str| {
        key("if_stage1", "text_encoder/config.json", name, value, part)
    };
    t5("num_layers", json!(1_000_000_000), "out of range");
    t5("num_layers", json!(200), "not found");
    t5("vocab_size", json!(10), "tokenizer has ids up to");
    t5("d_model", json!(0), "out of range");
    t5("num_heads", json!(0), "out of range");
    t5("relative_attention_num_buckets", json!(2), "out of range");
    t5("relative_attention_max_distance", json!(8), "must exceed");
    t5("feed_forward_proj", json!("relu"), "`relu` is not supported");
    t5("layer_norm_epsilon", json!(-1), "out of range");
    let unet = |name: &str, value: Value, part: &str| key("ddpm", "unet/config.json", name, value, part);
    unet("up_block_types", json!(["AttnUpBlock2D", "UpBlock2D", "Up"]), "`Up` is unknown");
    unet("attention_head_dim", json!(0), "heads of 0");
    unet("in_channels", json!(2), "pictures of 3");
    unet("layers_per_block", json!([1, 1, 1]), "invalid type");
    unet("attn_norm_num_groups", json!(5), "does not divide");
    let scheduler = "scheduler/scheduler_config.json";
    let set = |name: &str, value: Value, part: &str| key("if_stage1", scheduler, name, value, part);
    set("_class_name", json!("MagicScheduler"), "supported: DDPMScheduler");
    set("num_train_timesteps", json!(0), "expected a whole number from 1");
    set("num_train_timesteps", json!(1_000_000_000_000u64), "expected a whole number from 1");
    set("trained_betas", json!([0.1, 0.2]), "2 betas");
    set("beta_schedule", json!("zigzag"), "supported: linear");
    set("dynamic_thresholding_ratio", json!(2), "quantile from 0 to 1");
    set("timestep_spacing", json!("random"), "supported: leading");
    let folder = copy("ddpm");
    write(&folder.0.join(scheduler), |config| config["variance_type"] = json!("learned_range"));
    refused_model(&folder.0, &["unet/config.json", "learned variance needs 6"]);
}

#[test]
fn super_resolution_values() {
    let base = golden("if_stage1");
    for (file, name, value, part) in [
        ("unet/config.json", "layers_per_block", json!([1, 2]), "each of the 3 levels"),
        ("unet/config.json", "in_channels", json!(3), "takes 6"),
        ("unet/config.json", "encoder_hid_dim", json!(96), "expected shape"),
        (
            "image_noising_scheduler/scheduler_config.json",
            "num_train_timesteps",
            json!(100),
            "noise level 250",
        ),
        ("image_noising_scheduler/scheduler_config.json", "beta_schedule", json!(7), "7 is not supported"),
    ] {
        let folder = copy("if_stage2");
        write(&folder.0.join(file), |config| config[name] = value.clone());
        let models = [base.to_str().unwrap(), folder.0.to_str().unwrap()];
        refused(&["x", "--model", models[0], "--model", models[1], "--steps", "2,2"], &[part]);
    }
}

#[test]
fn tokenizers() {
    let folder = copy("if_stage1");
    let path = folder.0.join("tokenizer/spiece.model");
    let whole = fs::read(&path).unwrap();
    for length in [1, 2, 1_000, whole.len() / 2] {
        fs::write(&path, &whole[..length]).unwrap();
        refused_model(&folder.0, &["spiece.model"]);
    }
    fs::write(&path, b"").unwrap();
    refused_model(&folder.0, &["spiece.model", "download"]);
    fs::remove_file(&path).unwrap();
    refused_model(&folder.0, &["spiece.model", "download"]);
    fs::write(&path, &whole).unwrap();
    fs::write(folder.0.join("tokenizer/tokenizer_config.json"), "{\"a\":").unwrap();
    refused_model(&folder.0, &["tokenizer_config.json"]);
}

/// A pipe nobody writes to, in the place of each file: refused, not waited for.
#[test]
#[cfg(unix)]
fn pipes() {
    let more = [
        "tokenizer/tokenizer_config.json",
        "tokenizer/special_tokens_map.json",
        "tokenizer/added_tokens.json",
        "tokenizer/spiece.model",
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
    ];
    for file in CONFIGS.iter().chain(&more) {
        let folder = copy("if_stage1");
        let path = folder.0.join(file);
        // special_tokens_map.json is read only where tokenizer_config.json does not say it all.
        write(&folder.0.join("tokenizer/tokenizer_config.json"), |config| {
            config.as_object_mut().unwrap().remove("added_tokens_decoder");
        });
        // The goldens may lack the optional ones.
        let _ = fs::remove_file(&path);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let mut command = super::generate(&folder);
        command.args(["x", "--device", "cpu", "--steps", "1", "--model", "."]);
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let started = std::time::Instant::now();
        while child.try_wait().unwrap().is_none() {
            if started.elapsed().as_secs() > 30 {
                child.kill().unwrap();
                panic!("{file}: waits for a pipe");
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        super::error_of(&child.wait_with_output().unwrap(), &["not a"]);
    }
}

#[test]
fn cascades() {
    let folder = Folder::new();
    copy_stage(&folder);
    let path = folder.0.join("cascade.json");
    let one = |more: &str| format!(r#"{{"stages": [{{"path": "one"{more}}}]}}"#);
    for (text, part) in [
        ("", "the file is empty"),
        ("{\"stages\": [", "line 1"),
        ("{}", "missing field `stages`"),
        (r#"{"stages": []}"#, "0 stages"),
        (r#"{"stages": [{}]}"#, "missing field `path`"),
        (r#"{"stages": [{"path": "../../one"}]}"#, "neither inside the model's folder nor beside it"),
        (r#"{"stages": [{"path": "/etc"}]}"#, "neither inside the model's folder nor beside it"),
        (r#"{"stages": [{"path": "../one"}]}"#, "does not exist"),
        (r#"{"stages": [{"path": "two"}]}"#, "does not exist"),
        (r#"{"stages": [{"path": "one"}, {"path": "one"}]}"#, "only super-resolution stages may follow"),
        (&one(r#", "sampler": "fastest""#), "euler-ancestral"),
        (&one(r#", "sampler": "ddim", "eta": -1"#), "give 0 to 1"),
        (&one(r#", "optional": true"#), "only upsamplers are optional"),
        (&one(r#", "steps": -4"#), "invalid value"),
        (&one(r#", "steps": 0"#), "0 steps"),
        (&one(r#", "guidance_scale": 1e9"#), "give 0 to 10000"),
        (&format!("{{\"stages\": [{}]}}", vec![r#"{"path": "one"}"#; 1_000].join(",")), "1000 stages"),
    ] {
        fs::write(&path, text).unwrap();
        refused_model(&folder.0, &[part]);
    }
    fs::write(&path, one("")).unwrap();
    let output = super::succeeds(&folder, &["x", "--model", ".", "--steps", "1"]);
    assert!(super::stderr(&output).contains("took"));
}

fn copy_stage(folder: &Folder) {
    super::copy_tree(&golden("if_stage1"), &folder.0.join("one"));
}

/// Random bytes of random JSON files and of the tokenizer: loading and drawing give a result or an error.
#[test]
fn damaged_files_never_panic() {
    let folder = copy("if_stage1");
    let more = [
        "tokenizer/tokenizer_config.json",
        "tokenizer/spiece.model",
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
    ];
    let files = [&CONFIGS[..], &more].concat();
    let mut state = 11u64;
    let mut draw = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let (mut refused, mut drawn) = (0, 0);
    let options = LoadOptions { device: DeviceChoice::Cpu, ..Default::default() };
    for _ in 0..300 {
        let path = folder.0.join(files[draw(files.len())]);
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        for _ in 0..1 + draw(2) {
            // Headers come first.
            let at = draw(bytes.len().min(4_000));
            bytes[at] = b"0123456789-.,\"[]{}eE nft\0\xff"[draw(26)];
        }
        fs::write(&path, bytes).unwrap();
        let request = Settings::new().size(16, 16).steps([1]);
        match Engine::load(&folder.0, &options).and_then(|engine| engine.generate("a red circle", request)) {
            Ok(_) => drawn += 1,
            Err(_) => refused += 1,
        }
        fs::write(&path, whole).unwrap();
    }
    assert!(refused > 50 && drawn > 10, "{refused} refused, {drawn} drawn");
}
