//! Whole systems against numbers that PyTorch computed: `goldens/*`, or the folder `ANCESTRAL_GOLDENS` names.
//!
//! ```text
//! cargo test --release --test contracts golden                        # the project's own cases
//! cargo test --release --test contracts golden -- --nocapture         # with every difference and its limit
//! ANCESTRAL_GOLDENS=FOLDER cargo test --release --test contracts golden   # other cases (a folder of them, or one)
//! ANCESTRAL_GLIDE_TOKENIZER=FOLDER cargo test --release --test contracts golden_glide_tokens   # the published tables' ids
//! ```
//! Of a caller's case is checked what it holds; what it lacks is skipped, counted and said. The project's own lack nothing.
//! A case is a folder with a `manifest.json`; what it is shows in its files, and how far results may be off in the
//! manifest's `tolerance_notes` (the spread of fp32 against fp64): ten times that for a forward, the text encoder or one
//! step from the stored sample; for a run of its own ten times in the mean and thirty times anywhere.
//!
//! - [`case`]: what is there. - [`report`]: comparing. - [`forward`], [`runs`]: what all systems' checks share.
//! - [`adm`], [`ar_prior`], [`ddpm`], [`glide`], [`imagen`], [`unclip`], [`upsampler`]: a system's checks. - [`samplers`]: samplers alone. - [`train`]: training. - [`clip`]:
//!   encoders, and what they steer.
//! - [`controls`]: planted errors, which must fail.

mod adm;
mod ar_prior;
mod bisect;
pub mod case;
mod clip;
mod controls;
mod ddpm;
#[path = "../common/diffusion.rs"]
mod diffusion;
mod forward;
mod glide;
mod imagen;
mod report;
mod runs;
mod samplers;
pub mod scratch;
#[path = "../common/text.rs"]
mod tokens;
mod train;
mod unclip;
mod upsampler;

use crate::device::{on_gpu, say, skip};
use ancestral::internals::device::{Device, DeviceChoice};
use case::{Case, Checked, Kind, cases, chosen, own_goldens};
use report::Report;
use serde_json::Value;

/// A device that is open already, as a choice.
fn existing(device: &Device) -> DeviceChoice {
    match device {
        Device::Cpu => DeviceChoice::Cpu,
        Device::Gpu(gpu) => DeviceChoice::Existing(gpu.clone()),
    }
}

/// The cases of a kind. The project's own must be there; of a caller's it may have none.
fn of(kind: Kind) -> Vec<Case> {
    let all = cases().unwrap_or_else(|why| panic!("{why}"));
    let found: Vec<Case> =
        all.into_iter().filter(|(_, found)| *found == Ok(kind)).map(|(case, _)| case).collect();
    if found.is_empty() {
        say(&format!("golden: no case of kind {kind:?}"));
        assert!(chosen(), "{kind:?}: no case in {}", own_goldens().display());
    }
    found
}

/// All checks of one case.
fn check(case: &Case, device: &Device, report: &mut Report) -> Checked {
    match case.kind()? {
        Kind::Ddpm => ddpm::check(case, device, report),
        Kind::IfStage1 | Kind::IfStage2 => imagen::check(case, device, report),
        Kind::Adm => adm::check(case, device, report),
        Kind::Sdg => clip::check(case, device, report),
        Kind::ArPrior => ar_prior::check(case, device, report),
        Kind::Glide => glide::check(case, device, report),
        Kind::UnClip | Kind::UnClipVariation => unclip::check(case, device, report),
        Kind::Upsampler => upsampler::check(case, device, report),
        Kind::Samplers => samplers::check(case, device, report),
        Kind::Train => train::check(case, device, report),
        Kind::Units => Err("has no network".into()),
    }
}

fn check_all(kind: Kind, device: &Device) {
    let mut failures = Vec::new();
    for case in of(kind) {
        let mut report = Report::new(format!("golden {} on {}", case.name, device.name()));
        let checked = check(&case, device, &mut report);
        if !chosen() && report.skips() > 0 {
            let (name, skips) = (&case.name, report.skips());
            failures.push(format!("golden {name}: the project's own case lacks {skips} goldens"));
        }
        let (table, summary, failed) = report.finish(checked);
        println!("{table}");
        say(&summary);
        failures.extend(failed);
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Checks that need no network: each returns a summary.
fn check_each(cases: Vec<Case>, check: impl Fn(&Case) -> Checked<String>) {
    let mut failures = Vec::new();
    for case in cases {
        match check(&case) {
            Ok(summary) => println!("golden {}: {summary}", case.name),
            Err(why) => failures.push(format!("golden {}: {why}", case.name)),
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn golden_files_are_those_of_the_manifests() {
    let mut failures = Vec::new();
    for (case, kind) in cases().unwrap_or_else(|why| panic!("{why}")) {
        match kind {
            Ok(_) => {
                let read = |(file, _): &(String, String)| case.read(file).err();
                failures.extend(
                    case.goldens().iter().filter_map(read).map(|why| format!("{}: {why}", case.name)),
                );
            }
            Err(why) => skip(&format!("golden {}: {why}", case.name)),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn golden_adm_cpu() {
    check_all(Kind::Adm, &Device::Cpu);
}

#[test]
fn golden_adm_gpu() {
    on_gpu(|device| check_all(Kind::Adm, device));
}

/// CLIP's encoders among the cases of whatever systems.
fn check_clip(device: &Device) {
    let mut failures = Vec::new();
    let all = cases().unwrap_or_else(|why| panic!("{why}"));
    let mut checked = 0;
    for (case, _) in all.iter().filter(|(case, _)| clip::has_clip(case)) {
        let mut report = Report::new(format!("golden {} (CLIP) on {}", case.name, device.name()));
        let result = clip::check_published(case, device, &mut report);
        let (table, summary, failed) = report.finish(result);
        println!("{table}");
        say(&summary);
        failures.extend(failed);
        checked += 1;
    }
    assert!(checked > 0 || chosen(), "no case of CLIP in {}", own_goldens().display());
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn golden_clip_cpu() {
    check_clip(&Device::Cpu);
}

#[test]
fn golden_clip_gpu() {
    on_gpu(check_clip);
}

#[test]
fn golden_sdg_cpu() {
    check_all(Kind::Sdg, &Device::Cpu);
}

#[test]
fn golden_sdg_gpu() {
    on_gpu(|device| check_all(Kind::Sdg, device));
}

#[test]
fn golden_ar_prior_cpu() {
    check_all(Kind::ArPrior, &Device::Cpu);
}

#[test]
fn golden_ar_prior_gpu() {
    on_gpu(|device| check_all(Kind::ArPrior, device));
}

#[test]
fn golden_ddpm_cpu() {
    check_all(Kind::Ddpm, &Device::Cpu);
}

#[test]
fn golden_ddpm_gpu() {
    on_gpu(|device| check_all(Kind::Ddpm, device));
}

#[test]
fn golden_glide_cpu() {
    check_all(Kind::Glide, &Device::Cpu);
}

#[test]
fn golden_glide_gpu() {
    on_gpu(|device| check_all(Kind::Glide, device));
}

#[test]
fn golden_glide_tokens() {
    check_each(of(Kind::Glide), glide::check_tokens);
}

#[test]
fn golden_if_stage1_cpu() {
    check_all(Kind::IfStage1, &Device::Cpu);
}

#[test]
fn golden_if_stage1_gpu() {
    on_gpu(|device| check_all(Kind::IfStage1, device));
}

#[test]
fn golden_if_stage2_cpu() {
    check_all(Kind::IfStage2, &Device::Cpu);
}

#[test]
fn golden_if_stage2_gpu() {
    on_gpu(|device| check_all(Kind::IfStage2, device));
}

#[test]
fn golden_unclip_cpu() {
    check_all(Kind::UnClip, &Device::Cpu);
}

#[test]
fn golden_unclip_gpu() {
    on_gpu(|device| check_all(Kind::UnClip, device));
}

#[test]
fn golden_unclip_variation_cpu() {
    check_all(Kind::UnClipVariation, &Device::Cpu);
}

#[test]
fn golden_unclip_variation_gpu() {
    on_gpu(|device| check_all(Kind::UnClipVariation, device));
}

#[test]
fn golden_upsampler_cpu() {
    check_all(Kind::Upsampler, &Device::Cpu);
}

#[test]
fn golden_upsampler_gpu() {
    on_gpu(|device| check_all(Kind::Upsampler, device));
}

#[test]
fn golden_samplers_cpu() {
    check_all(Kind::Samplers, &Device::Cpu);
}

#[test]
fn golden_samplers_gpu() {
    on_gpu(|device| check_all(Kind::Samplers, device));
}

#[test]
fn golden_train_cpu() {
    check_all(Kind::Train, &Device::Cpu);
}

#[test]
fn golden_train_gpu() {
    on_gpu(|device| check_all(Kind::Train, device));
}

#[test]
fn golden_tokens() {
    let mut with_tokens = of(Kind::IfStage1);
    with_tokens.extend(of(Kind::IfStage2));
    // The manifest says whether there are any.
    with_tokens.retain(|case| case.goldens().iter().any(|(file, _)| file == "tokens.safetensors"));
    check_each(with_tokens, |case| tokens::check_tokens(&case.dir));
}

#[test]
fn golden_unit_schedulers() {
    check_each(of(Kind::Units), |case| diffusion::check_units(&case.dir));
    check_each(of(Kind::Units), |case| diffusion::check_units_control(&case.dir));
}

#[test]
fn golden_unit_layers_cpu() {
    check_each(of(Kind::Units), |case| crate::units::check_units(&case.dir, &Device::Cpu));
}

#[test]
fn golden_unit_layers_gpu() {
    on_gpu(|device| check_each(of(Kind::Units), |case| crate::units::check_units(&case.dir, device)));
}

/// Whether a run is stored with what the scheduler got and drew.
fn stores_outputs(case: &Case) -> bool {
    let files = case.goldens();
    let tensors = files.iter().map(|(file, _)| &case.manifest["goldens"][file]["tensors"]);
    let parts = ["x", "timesteps", "model_output", "noise"];
    let has =
        |named: &Value, stage: &str| parts.iter().all(|part| named.get(format!("{stage}{part}")).is_some());
    // Karlo's runs are several in a file.
    tensors.into_iter().any(|named| ["", "decoder."].iter().any(|stage| has(named, stage)))
}

/// The schedulers alone, from the stored network outputs.
#[test]
fn golden_trajectories_of_schedulers() {
    for kind in [Kind::Ddpm, Kind::IfStage1, Kind::IfStage2, Kind::UnClip, Kind::UnClipVariation] {
        let mut stored = of(kind);
        // Where the pipeline is another case's, so is the scheduler.
        stored.retain(|case| stores_outputs(case) && !case.manifest["pipeline"].is_string());
        check_each(stored, |case| diffusion::check_trajectory(&case.dir));
    }
}

#[test]
fn golden_openai_schedules() {
    check_each(of(Kind::Adm), |case| {
        let constants = case.dir.join("constants.safetensors");
        if constants.exists() {
            diffusion::check_openai_constants(&constants)?;
        }
        diffusion::check_openai_runs(&case.dir)
    });
}

#[test]
fn golden_noise() {
    let found = diffusion::check_noise(&own_goldens().join("noise/noise.safetensors"));
    println!("{}", found.unwrap_or_else(|why| panic!("{why}")));
}
