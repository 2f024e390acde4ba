//! An upsampler of our layout: the enlarged picture, every step from the stored sample and on its own, the engine alone,
//! and after an unCLIP.

use crate::golden::case::{Case, Checked, Tensors, need, own_goldens, text};
use crate::golden::report::{Limit, Report};
use crate::golden::runs::{Run, Stored};
use crate::golden::{existing, forward, unclip};
use ancestral::Picture;
use ancestral::internals::device::{Device, Keep, ProgramOptions, Variants, Weights};
use ancestral::internals::graph::{Graph, Storage};
use ancestral::internals::kernels::Precision;
use ancestral::internals::models::network::Shape;
use ancestral::internals::models::unet2d::enlarge;
use ancestral::internals::pipeline::stage::{At, Stage};
use ancestral::internals::pipeline::upsampler::load_stage;
use ancestral::{Engine, LoadOptions, Settings};

const OPTIONS: ProgramOptions =
    ProgramOptions { precision: Precision::F32, keep: Keep::Outputs, variants: Variants::Measured };

/// Everything a case stores.
pub fn check(case: &Case, device: &Device, report: &mut Report) -> Checked {
    for (file, what) in case.goldens() {
        let golden = case.read(&file)?;
        if golden.contains_key("low_res") && golden.contains_key("x") {
            check_run(case, (&file, &what), &golden, device, report)?;
        } else if golden.contains_key("last") {
            check_after_unclip(case, &golden, device, report)?;
        } else {
            return Err(format!("{file}: none of the known kinds of golden"));
        }
    }
    Ok(())
}

fn options(device: &Device) -> LoadOptions {
    LoadOptions { device: existing(device), precision: Some(Precision::F32), ..LoadOptions::default() }
}

fn check_run(
    case: &Case,
    (file, what): (&str, &str),
    golden: &Tensors,
    device: &Device,
    report: &mut Report,
) -> Checked {
    let upsampler = load_stage(&case.pipeline, None).map_err(text)?;
    let run = Run::new(case, (file, what), &upsampler.scheduler, 1.0)?;
    let low_res = need(golden, "low_res")?;
    let [_, _, height, width] = low_res.picture()?;
    let low = low_res.channels_last();
    let found = enlarged(&upsampler, &low, run.shape, device)?;
    report.held("upscaled", &found, golden.get("upscaled"), Limit::once(case.spread("forward")?));
    let at = At { device, options: &OPTIONS };
    let mut denoiser = upsampler.networks[0].denoiser(at, run.shape, run.steps.len()).map_err(text)?;
    denoiser.write("low_res", &handed_over(&upsampler, &low));
    run.check(&mut denoiser, report)?;
    // Alone, by its own settings: steps and scale are the folder's.
    let engine = Engine::load(&case.pipeline, &options(device)).map_err(text)?;
    let picture = |values: &[f32]| Picture {
        width,
        height,
        channels: 3,
        values: values.to_vec(),
        rounding: Default::default(),
    };
    let pictures: Vec<Picture> = low.chunks_exact(3 * height * width).map(picture).collect();
    let cfg = Settings::new().count(pictures.len()).from_pictures(pictures);
    let found = engine.generate_from_noise("", &cfg, &mut run.draws(None, None)).map_err(text)?;
    run.check_pictures("engine", &found, None, report);
    Ok(())
}

/// Pictures as the stage gets them.
pub fn handed_over(stage: &Stage, low_res: &[f32]) -> Vec<f32> {
    low_res.iter().map(|v| stage.handover.of(*v)).collect()
}

/// What its network sees of pictures: handed over, at the size of the sample.
pub fn enlarged(stage: &Stage, low_res: &[f32], shape: Shape, device: &Device) -> Checked<Vec<f32>> {
    let mut g = Graph::new();
    let low = g.input("low_res", &shape.small(), Storage::Elem);
    let out = enlarge(&mut g, &low, (shape.height, shape.width));
    g.output("out", &out);
    let found = forward::run(device, &Weights::none(), g, &[("low_res", &handed_over(stage, low_res))])?;
    Ok(found.get("out").unwrap_or_default().to_vec())
}

/// From a prompt through prior, decoder and super-resolution.
fn check_after_unclip(case: &Case, golden: &Tensors, device: &Device, report: &mut Report) -> Checked {
    let before = Case::open(&own_goldens().join("unclip"))?;
    let (prompt, steps, scales, noise) = unclip::first_picture(&before, device)?;
    let folders = [&before.pipeline, &case.pipeline];
    let engine = Engine::load_cascade(&folders, &options(device)).map_err(text)?;
    let mut noise = Stored::joined([noise, Stored::new([need(golden, "noise")?.values.clone()])]);
    let cfg = Settings::new().steps(steps).guidance_scale(scales);
    let found = engine.generate_from_noise(&prompt, &cfg, &mut noise).map_err(text)?;
    let values: Vec<f32> = found.iter().flat_map(|picture| picture.values.clone()).collect();
    let spreads = case.spreads("unclip", 3)?;
    report.golden("engine after unCLIP", &values, need(golden, "last")?, Limit::run(spreads[3]));
    Ok(())
}
