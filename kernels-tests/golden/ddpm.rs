//! DDPM folders: forward, old attention names, files at the root, DDPM and DDIM runs.

use crate::golden::case::{Case, Checked, Tensors, folders, need, text};
use crate::golden::report::{Limit, Report};
use crate::golden::runs::{Run, eta};
use crate::golden::scratch::Scratch;
use crate::golden::{existing, forward};
use ancestral::device::{Device, ProgramOptions, Variants};
use ancestral::diffusion::Sampler;
use ancestral::graph::{Graph, Storage};
use ancestral::kernels::Precision;
use ancestral::kernels::epilogue::Activation;
use ancestral::systems::ddpm::Ddpm;
use ancestral::{Engine, GenerateConfig, LoadOptions};

const OPTIONS: ProgramOptions = ProgramOptions {
    precision: Precision::F32,
    keep: ancestral::device::Keep::Outputs,
    variants: Variants::Measured,
    accurate: false,
};

/// Everything a case stores.
pub fn check(case: &Case, device: &Device, report: &mut Report) -> Checked {
    let mut ddpm = Ddpm::load(&case.pipeline).map_err(text)?;
    for (file, what) in case.goldens() {
        let golden = case.read(&file)?;
        if golden.contains_key("sample") && golden.contains_key("out") {
            check_forwards(case, &ddpm, &golden, device, report)?;
        } else if golden.contains_key("x") && golden.contains_key("timesteps") {
            let run = Run::new(case, (&file, &what), &ddpm.scheduler, 1.0)?;
            run.check(ddpm.denoiser(device, &OPTIONS, run.shape).map_err(text)?, report)?;
            if run.shape.channels == 3 && !run.learns_variance() {
                check_engine(case, &run, &what, device, report)?;
            }
        } else {
            return Err(format!("{file}: neither a forward nor a run"));
        }
    }
    Ok(())
}

fn check_forwards(
    case: &Case,
    ddpm: &Ddpm,
    golden: &Tensors,
    device: &Device,
    report: &mut Report,
) -> Checked {
    let found = forward_of(ddpm, golden, device)?;
    let (spread, limit) = (case.spread("forward")?, Limit::once(case.spread("forward")?));
    forward::check("forward", &found, golden, (spread, Activation::Silu), report)?;
    let expected = need(golden, "out")?;
    let scheduler = case.pipeline.join("scheduler/scheduler_config.json");
    // The same weights under other names, in folders beside the pipeline.
    for folder in folders(&case.dir) {
        if folder != case.pipeline && folder.join("config.json").exists() {
            let other = Ddpm::load_parts(&folder, &scheduler).map_err(text)?;
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let found = forward_of(&other, golden, device)?;
            report.golden(&name, found.get("out").unwrap_or_default(), expected, limit);
        }
    }
    // The oldest folders have no subfolders.
    let root = Scratch::new(&format!("{} root", case.name))?;
    root.copy(&case.pipeline.join("unet"))?;
    root.copy(&case.pipeline.join("scheduler"))?;
    let flat = Ddpm::load(root.path()).map_err(text)?;
    let found = forward_of(&flat, golden, device)?;
    report.golden("files at the root", found.get("out").unwrap_or_default(), expected, limit);
    Ok(())
}

fn forward_of(ddpm: &Ddpm, golden: &Tensors, device: &Device) -> Checked<forward::Outputs> {
    let (sample, timestep) = (need(golden, "sample")?, need(golden, "timestep")?);
    let [n, c, h, w] = sample.picture()?;
    let mut g = Graph::new();
    let x = g.input("x", &[n, h, w, c], Storage::Elem);
    let t = g.input("t", &[n], Storage::F32);
    let out = ddpm.unet.forward(&mut g, (&x, None), &t);
    g.output("out", &out);
    forward::run(device, ddpm.weights(), g, &[("x", &sample.channels_last()), ("t", &timestep.values)])
}

/// The same run by the engine, as a caller starts it.
fn check_engine(case: &Case, run: &Run, what: &str, device: &Device, report: &mut Report) -> Checked {
    let options =
        LoadOptions { device: existing(device), precision: Some(Precision::F32), ..LoadOptions::default() };
    let mut engine = Engine::load(&case.pipeline, &options).map_err(text)?;
    let shape = run.shape;
    let mut cfg =
        GenerateConfig::new().count(shape.pictures).steps([run.steps.len()]).size(shape.width, shape.height);
    if let Some(eta) = eta(what) {
        cfg = cfg.sampler(Sampler::Ddim { eta, rederive_epsilon: false });
    }
    let pictures = engine.generate_from_noise("", &mut cfg, &mut run.draws(None, None)).map_err(text)?;
    run.check_pictures("engine", &pictures, None, report);
    Ok(())
}
