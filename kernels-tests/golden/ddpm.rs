//! DDPM folders: forward, old attention names, files at the root, DDPM and DDIM runs.

use crate::golden::case::{Case, Checked, Tensors, folders, need, text};
use crate::golden::report::{Limit, Report};
use crate::golden::runs::{Run, eta};
use crate::golden::scratch::Scratch;
use crate::golden::{existing, forward};
use ancestral::internals::device::{Device, ProgramOptions, Variants};
use ancestral::internals::diffusion::Sampler;
use ancestral::internals::graph::{Graph, Storage};
use ancestral::internals::kernels::Precision;
use ancestral::internals::kernels::epilogue::Activation;
use ancestral::internals::models::network::Shape;
use ancestral::internals::pipeline::ddpm::load_stage;
use ancestral::internals::pipeline::stage::{At, Stage};
use ancestral::{Engine, LoadOptions, Settings};

const OPTIONS: ProgramOptions = ProgramOptions {
    precision: Precision::F32,
    keep: ancestral::internals::device::Keep::Outputs,
    variants: Variants::Measured,
};

/// Everything a case stores.
pub fn check(case: &Case, device: &Device, report: &mut Report) -> Checked {
    let ddpm = load_stage(&case.pipeline).map_err(text)?;
    for (file, what) in case.goldens() {
        let golden = case.read(&file)?;
        if golden.contains_key("sample") && golden.contains_key("out") {
            check_forwards(case, &ddpm, &golden, device, report)?;
        } else if golden.contains_key("x") && golden.contains_key("timesteps") {
            let run = Run::new(case, (&file, &what), &ddpm.scheduler, 1.0)?;
            let at = At { device, options: &OPTIONS };
            run.check(&mut ddpm.networks[0].denoiser(at, run.shape, run.steps.len()).map_err(text)?, report)?;
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
    ddpm: &Stage,
    golden: &Tensors,
    device: &Device,
    report: &mut Report,
) -> Checked {
    let found = forward_of(ddpm, golden, device)?;
    let (spread, limit) = (case.spread("forward")?, Limit::once(case.spread("forward")?));
    forward::check("forward", &found, golden, (spread, Activation::Silu), report)?;
    let expected = need(golden, "out")?;
    // The same weights under other names, in folders beside the pipeline. The oldest folders have no subfolders.
    let mut others = vec![("files at the root".to_string(), case.pipeline.join("unet"))];
    for folder in folders(&case.dir) {
        if folder != case.pipeline && folder.join("config.json").exists() {
            others.push((folder.file_name().unwrap_or_default().to_string_lossy().into_owned(), folder));
        }
    }
    for (name, folder) in others {
        let root = Scratch::new(&format!("{} {name}", case.name))?;
        root.copy(&folder)?;
        root.copy(&case.pipeline.join("scheduler"))?;
        let found = forward_of(&load_stage(root.path()).map_err(text)?, golden, device)?;
        report.golden(&name, found.get("out").unwrap_or_default(), expected, limit);
    }
    Ok(())
}

fn forward_of(ddpm: &Stage, golden: &Tensors, device: &Device) -> Checked<forward::Outputs> {
    let (sample, timestep) = (need(golden, "sample")?, need(golden, "timestep")?);
    let [n, c, h, w] = sample.picture()?;
    let mut g = Graph::new();
    let x = g.input("x", &[n, h, w, c], Storage::Elem);
    let t = g.input("t", &[n], Storage::F32);
    let shape = Shape { pictures: n, height: h, width: w, channels: c, ..Shape::default() };
    let out = ddpm.network().record(&mut g, shape, &x, &t);
    g.output("out", &out);
    let inputs: [(&str, &[f32]); 2] = [("x", &sample.channels_last()), ("t", &timestep.values)];
    forward::run(device, ddpm.networks[0].weights(), g, &inputs)
}

/// The same run by the engine, as a caller starts it.
fn check_engine(case: &Case, run: &Run, what: &str, device: &Device, report: &mut Report) -> Checked {
    let options =
        LoadOptions { device: existing(device), precision: Some(Precision::F32), ..LoadOptions::default() };
    let engine = Engine::load(&case.pipeline, &options).map_err(text)?;
    let shape = run.shape;
    let mut cfg =
        Settings::new().count(shape.pictures).steps([run.steps.len()]).size(shape.width, shape.height);
    if let Some(eta) = eta(what) {
        cfg = cfg.sampler(Sampler::Ddim { eta });
    }
    let pictures = engine.generate_from_noise("", &cfg, &mut run.draws(None, None)).map_err(text)?;
    run.check_pictures("engine", &pictures, None, report);
    Ok(())
}
