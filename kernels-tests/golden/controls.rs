//! Planted errors: a runner that does not see them would see nothing.

use crate::golden::case::{Case, Checked, own_goldens};
use crate::golden::check;
use crate::golden::report::Report;
use crate::golden::scratch::Scratch;
use ancestral::internals::device::Device;
use ancestral::internals::files::finite;
use safetensors::{SafeTensors, serialize_to_file};
use serde_json::{Value, json};
use std::path::Path;

const DDPM: &str = "ddpm";
const STAGE1: &str = "if_stage1";
const STAGE2: &str = "if_stage2";
const UNCLIP: &str = "unclip";
const AR_PRIOR: &str = "ar_prior";
const VARIATION: &str = "unclip_variation";
const UPSAMPLER: &str = "upsampler";
const SAMPLERS: &str = "samplers";
const MORE_SAMPLERS: &str = "samplers_more";

/// A copy of one of the project's own cases, to spoil.
fn copy(name: &str) -> Scratch {
    let scratch = Scratch::new(&format!("planted {name}")).expect("a temporary folder");
    scratch.copy(&own_goldens().join(name)).expect("the case copies");
    scratch
}

fn failures(dir: &Path) -> Vec<String> {
    let run = || -> Checked<(Report, Checked)> {
        let case = Case::open(dir)?;
        let mut report = Report::new(case.name.clone());
        let checked = check(&case, &Device::Cpu, &mut report);
        Ok((report, checked))
    };
    match run() {
        Ok((report, checked)) => report.finish(checked).2,
        Err(why) => vec![why],
    }
}

fn change(path: &Path, key: &str, value: Value) {
    let text = std::fs::read(path).expect("the file is there");
    let mut json: Value = serde_json::from_slice(&text).expect("the file is JSON");
    assert_ne!(json[key], value, "{key}: nothing would change");
    json[key] = value;
    std::fs::write(path, json.to_string()).expect("the file is writable");
}

/// Another number in a config is another network or sampler.
#[test]
fn golden_wrong_configs_are_seen() {
    let unet = "pipeline/unet/config.json";
    let scheduler = "pipeline/scheduler/scheduler_config.json";
    let planted = [
        (DDPM, unet, "norm_eps", json!(1e-4)),
        (DDPM, unet, "flip_sin_to_cos", json!(true)),
        (DDPM, unet, "act_fn", json!("gelu")),
        (DDPM, scheduler, "beta_end", json!(0.0201)),
        (DDPM, scheduler, "clip_sample", json!(false)),
        (DDPM, scheduler, "variance_type", json!("learned")),
        (STAGE1, unet, "norm_eps", json!(2e-4)),
        (STAGE1, unet, "attention_head_dim", json!(4)),
        (STAGE1, unet, "addition_embed_type_num_heads", json!(2)),
        (STAGE1, scheduler, "sample_max_value", json!(1.2)),
        (STAGE1, "pipeline/text_encoder/config.json", "relative_attention_max_distance", json!(64)),
        (STAGE2, unet, "resnet_out_scale_factor", json!(1.0)),
        (STAGE2, "pipeline/image_noising_scheduler/scheduler_config.json", "beta_schedule", json!("linear")),
        (UNCLIP, "pipeline/prior_scheduler/scheduler_config.json", "prediction_type", json!("epsilon")),
        (UNCLIP, "pipeline/prior_scheduler/scheduler_config.json", "clip_sample_range", json!(1.0)),
        (UNCLIP, "pipeline/decoder/config.json", "norm_eps", json!(1e-4)),
        (UNCLIP, "pipeline/super_res_last/config.json", "norm_eps", json!(1e-4)),
        (UNCLIP, "pipeline/super_res_scheduler/scheduler_config.json", "clip_sample_range", json!(0.9)),
        (AR_PRIOR, "small/prior_ar/config.json", "dot_default", json!(2)),
        (UPSAMPLER, "pipeline/config.json", "norm_eps", json!(1e-4)),
        (UPSAMPLER, "pipeline/config.json", "flip_sin_to_cos", json!(false)),
        (UPSAMPLER, scheduler, "prediction_type", json!("epsilon")),
        (UPSAMPLER, scheduler, "timestep_spacing", json!("leading")),
        (VARIATION, "pipeline/image_encoder/config.json", "num_attention_heads", json!(2)),
        (
            VARIATION,
            "pipeline/feature_extractor/preprocessor_config.json",
            "size",
            json!({"shortest_edge": 33}),
        ),
    ];
    for (case, file, key, value) in planted {
        let scratch = copy(case);
        change(&scratch.path().join(file), key, value.clone());
        let found = failures(scratch.path());
        assert!(!found.is_empty(), "{case}: `{key}` = {value} passes");
        println!("{case}: `{key}` = {value}: {} failures, first: {}", found.len(), found[0]);
    }
}

/// Another setting of a sampler is another sampler.
#[test]
fn golden_wrong_samplers_are_seen() {
    for (case, entry, key, value) in [
        (SAMPLERS, 0, "solver_order", json!(1)),
        (SAMPLERS, 1, "solver_order", json!(2)),
        (SAMPLERS, 2, "solver_type", json!("midpoint")),
        (SAMPLERS, 3, "algorithm_type", json!("dpmsolver++")),
        (SAMPLERS, 4, "sample_max_value", json!(1.49)),
        (SAMPLERS, 5, "use_karras_sigmas", json!(false)),
        (SAMPLERS, 6, "solver_type", json!("bh1")),
        (SAMPLERS, 6, "disable_corrector", json!([3])),
        (SAMPLERS, 7, "prediction_type", json!("epsilon")),
        (SAMPLERS, 8, "timestep_spacing", json!("trailing")),
        (SAMPLERS, 9, "sigma_max", json!(14.0)),
        (SAMPLERS, 10, "steps_offset", json!(0)),
        (SAMPLERS, 11, "beta_end", json!(0.0201)),
        (SAMPLERS, 12, "skip_prk_steps", json!(false)),
        (SAMPLERS, 13, "set_alpha_to_one", json!(true)),
        (SAMPLERS, 14, "solver_order", json!(3)),
        (MORE_SAMPLERS, 1, "prediction_type", json!("epsilon")),
        (MORE_SAMPLERS, 4, "final_sigmas_type", json!("zero")),
        (MORE_SAMPLERS, 12, "lambda_min_clipped", json!(null)),
    ] {
        let scratch = copy(case);
        let path = scratch.path().join("manifest.json");
        let manifest = finite(std::fs::read(&path).expect("a manifest"));
        let mut manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        let config = &mut manifest["entries"][entry]["config"];
        assert_ne!(config[key], value, "{case} {entry}: nothing would change");
        config[key] = value.clone();
        std::fs::write(&path, manifest.to_string()).expect("the file is writable");
        assert!(!failures(scratch.path()).is_empty(), "{case} {entry}: `{key}` = {value} passes");
    }
}

/// A run told to be guided otherwise, or noised otherwise, is another run.
#[test]
fn golden_wrong_runs_are_seen() {
    for (case, key, value) in [
        (STAGE1, "guidance_scale", json!(7.01)),
        (STAGE2, "noise_level", json!(251)),
        ("adm", "classifier_scale", json!(1.001)),
        (UNCLIP, "prior_guidance_scale", json!(4.01)),
        (UNCLIP, "decoder_guidance_scale", json!(8.1)),
    ] {
        let scratch = copy(case);
        let path = scratch.path().join("manifest.json");
        let manifest = std::fs::read(&path).expect("a manifest");
        let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        let mut run = manifest["run"].clone();
        run[key] = value.clone();
        change(&path, "run", run);
        assert!(!failures(scratch.path()).is_empty(), "{case}: {key} {value} passes");
    }
}

/// Other weights of Semantic Diffusion Guidance's terms are another score, and another weight of all another run.
#[test]
fn golden_wrong_weights_are_seen() {
    for (key, value) in [
        ("mix", json!({"text": 1.5, "content": 0.75, "structure": 0.5, "style": 0.2501})),
        ("run_weight", json!(0.1001)),
    ] {
        let scratch = copy("sdg");
        // The case reads GLIDE's encoder from its neighbour.
        let encoders = std::fs::read_to_string(scratch.path().join("manifest.json")).expect("a manifest");
        let glide = own_goldens().join("glide").to_string_lossy().into_owned();
        let encoders = encoders.replace("../glide", &glide);
        std::fs::write(scratch.path().join("manifest.json"), encoders).expect("writable");
        assert!(failures(scratch.path()).is_empty(), "{:?}", failures(scratch.path()));
        change(&scratch.path().join("manifest.json"), key, value.clone());
        assert!(!failures(scratch.path()).is_empty(), "{key} {value} passes");
    }
}

/// Every comparison fails where its golden is moved just beyond the limit.
#[test]
fn golden_every_check_can_fail() {
    for name in [DDPM, STAGE1, STAGE2, "sdg", AR_PRIOR, UNCLIP, VARIATION] {
        let case = Case::open(&own_goldens().join(name)).expect("a case");
        let mut report = Report::new(case.name.clone());
        report.planted = true;
        check(&case, &Device::Cpu, &mut report).expect("the checks run");
        let (checks, failures) = report.counts();
        assert!(checks > 20, "{name}: only {checks} checks");
        assert_eq!(failures, checks, "{name}: checks that passed moved goldens");
    }
}

/// Takes tensors out of a case's goldens, and its manifest, by their files' names and their own.
fn drop_goldens(dir: &Path, goes: impl Fn(&str, &str) -> bool) {
    let path = dir.join("manifest.json");
    let manifest = std::fs::read(&path).expect("a manifest");
    let mut manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let goldens = manifest["goldens"].as_object_mut().expect("goldens");
    goldens.retain(|file, about| {
        let Some(named) = about["tensors"].as_object_mut() else { return true };
        named.retain(|tensor, _| !goes(file, tensor));
        let bytes = std::fs::read(dir.join(file)).expect("a golden");
        let mut kept = SafeTensors::deserialize(&bytes).expect("a sound file").tensors();
        kept.retain(|(tensor, _)| !goes(file, tensor));
        std::fs::remove_file(dir.join(file)).expect("writable");
        if !kept.is_empty() {
            serialize_to_file(kept.clone(), None, &dir.join(file)).expect("writable");
        }
        !kept.is_empty()
    });
    std::fs::write(&path, manifest.to_string()).expect("writable");
}

/// A case is checked as far as it goes, and says what it lacks; what its manifest names must be there.
#[test]
fn golden_lean_cases_pass() {
    const TRACES: [&str; 3] = ["pred_x0", "model_output", "net_out"];
    let trace = |tensor: &str| TRACES.contains(&tensor.rsplit('.').next().unwrap_or_default());
    let lean = |file: &str, tensor: &str| {
        trace(tensor)
            || tensor.starts_with("block.")
            || ["upsampler_forward.safetensors", "fp16.safetensors"].contains(&file)
            || ["upsample_inpaint.out", "upscaled", "upscaled_noised", "image_upscaled"].contains(&tensor)
    };
    for (name, least) in
        [(DDPM, 40), ("adm", 41), ("glide", 20), (STAGE1, 20), (STAGE2, 12), (UNCLIP, 20), (UPSAMPLER, 1)]
    {
        let scratch = copy(name);
        drop_goldens(scratch.path(), lean);
        let case = Case::open(scratch.path()).expect("a case");
        let mut report = Report::new(name.into());
        let checked = check(&case, &Device::Cpu, &mut report);
        let (skips, counts) = (report.skips(), report.counts());
        let (_, summary, failures) = report.finish(checked);
        println!("{summary}");
        assert!(failures.is_empty() && counts.0 > 5, "{failures:?}");
        assert!(skips >= least, "{name}: {skips} skipped, {least} expected");
    }
}

/// What the manifest names must be there and be numbers.
#[test]
fn golden_broken_files_are_seen() {
    let case = Case::open(&own_goldens().join(DDPM)).expect("a case");
    for (file, _) in case.goldens() {
        let scratch = copy(DDPM);
        let path = scratch.path().join(&file);
        std::fs::remove_file(&path).expect("the golden is there");
        assert!(failures(scratch.path()).iter().any(|why| why.contains(&file)), "without {file} it passes");
    }
    let scratch = copy(DDPM);
    let path = scratch.path().join("forward.safetensors");
    let mut bytes = std::fs::read(&path).expect("the golden is there");
    let end = bytes.len();
    for at in (end - 400..end).step_by(4) {
        bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    }
    std::fs::write(&path, bytes).expect("writable");
    assert!(!failures(scratch.path()).is_empty(), "NaN passes");
    let scratch = copy(STAGE1);
    let weights = "pipeline/unet/diffusion_pytorch_model.fp16.safetensors";
    std::fs::remove_file(scratch.path().join(weights)).expect("the weights are there");
    assert!(!failures(scratch.path()).is_empty(), "without the fp16 weights it passes");
}
