//! An upsampler of our layout: the enlarged picture, every step from the stored sample and on its own, the engine alone,
//! and after an unCLIP.

use crate::golden::case::{Case, Checked, Tensors, need, own_goldens, text};
use crate::golden::report::{Limit, Report};
use crate::golden::runs::{Run, Stored};
use crate::golden::{existing, unclip};
use ancestral::device::{Device, Keep, ProgramOptions, Variants};
use ancestral::kernels::Precision;
use ancestral::picture::Picture;
use ancestral::systems::upsampler::{Upsampler, enlarged};
use ancestral::{Engine, GenerateConfig, LoadOptions};

const OPTIONS: ProgramOptions = ProgramOptions {
    precision: Precision::F32,
    keep: Keep::Outputs,
    variants: Variants::Measured,
    accurate: false,
};

/// Everything a case stores.
pub fn check(case: &Case, device: &Device, report: &mut Report) -> Checked {
    for (file, what) in case.goldens() {
        let golden = case.read(&file)?;
        if golden.contains_key("upscaled") {
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
    let mut upsampler = Upsampler::load(&case.pipeline, None).map_err(text)?;
    let run = Run::new(case, (file, what), &upsampler.scheduler, 1.0)?;
    let (low_res, upscaled) = (need(golden, "low_res")?, need(golden, "upscaled")?);
    let [_, _, height, width] = low_res.picture()?;
    let low = low_res.channels_last();
    let found = enlarged(device, &low, (width, height), run.shape).map_err(text)?;
    report.golden("upscaled", &found, upscaled, Limit::once(case.spread("forward")?));
    let denoiser = upsampler.networks[0].denoiser(device, &OPTIONS, run.shape).map_err(text)?;
    denoiser.write("low_res", &upscaled.channels_last());
    run.check(denoiser, report)?;
    // Alone, by its own settings: steps and scale are the folder's.
    let mut engine = Engine::load(&case.pipeline, &options(device)).map_err(text)?;
    let picture = |values: &[f32]| Picture {
        width,
        height,
        channels: 3,
        values: values.to_vec(),
        rounding: Default::default(),
    };
    let pictures: Vec<Picture> = low.chunks_exact(3 * height * width).map(picture).collect();
    let mut cfg = GenerateConfig::new().count(pictures.len()).from_pictures(pictures);
    let found = engine.generate_from_noise("", &mut cfg, &mut run.draws(None, None)).map_err(text)?;
    run.check_pictures("engine", &found, None, report);
    Ok(())
}

/// From a prompt through prior, decoder and super-resolution.
fn check_after_unclip(case: &Case, golden: &Tensors, device: &Device, report: &mut Report) -> Checked {
    let before = Case::open(&own_goldens().join("unclip"))?;
    let (prompt, steps, scales, noise) = unclip::first_picture(&before, device)?;
    let folders = [&before.pipeline, &case.pipeline];
    let mut engine = Engine::load_cascade(&folders, &options(device)).map_err(text)?;
    let mut noise = Stored::joined([noise, Stored::new([need(golden, "noise")?.values.clone()])]);
    let mut cfg = GenerateConfig::new().steps(steps).guidance_scale(scales);
    let found = engine.generate_from_noise(&prompt, &mut cfg, &mut noise).map_err(text)?;
    let values: Vec<f32> = found.iter().flat_map(|picture| picture.values.clone()).collect();
    let spreads = case.spreads("unclip", 3)?;
    report.golden("engine after unCLIP", &values, need(golden, "last")?, Limit::run(spreads[3]));
    Ok(())
}
