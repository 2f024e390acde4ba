//! OpenAI's guided-diffusion: forwards of the U-Net in both orders of queries, keys and values, of the classifier, its
//! gradient, and of the super-resolution network; runs of both samplers, guided and not, step by step and as a whole by
//! the engine; `.pt` and safetensors bit for bit.

use crate::golden::case::{Case, Checked, Tensor, Tensors, need, own_goldens, text};
use crate::golden::existing;
use crate::golden::forward::{self, Outputs};
use crate::golden::report::{Limit, Report};
use crate::golden::runs::{Stored, eta};
use ancestral::internals::device::{Device, ProgramOptions, Weights};
use ancestral::internals::diffusion::process::Process;
use ancestral::internals::diffusion::{Sampler, Timesteps, steps};
use ancestral::internals::graph::{Graph, Repack, Storage};
use ancestral::internals::kernels::Precision;
use ancestral::internals::models::adm::flags::{Flags, Origin, find};
use ancestral::internals::models::adm::{Config, Inputs, classifier, detect};
use ancestral::internals::pipeline::adm::{Classifier, load_stage};
use ancestral::internals::pipeline::sampler::{Led, StepDone};
use ancestral::internals::pipeline::stage::At;
use ancestral::internals::settings::guidance::Guide;
use ancestral::internals::weights::Checkpoint;
use ancestral::{Engine, LoadOptions, Picture, Settings};
use std::path::{Path, PathBuf};

/// Everything a case stores.
pub fn check(case: &Case, device: &Device, report: &mut Report) -> Checked {
    check_changed(case, device, report, &[])
}

/// The same with flags changed, as `section.flag`.
fn check_changed(case: &Case, device: &Device, report: &mut Report, changes: &[(&str, &str)]) -> Checked {
    let limit = Limit::once(case.spread("U-Net")?);
    let mut upsampler = false;
    for (file, _) in case.goldens() {
        let golden = case.read(&file)?;
        if golden.keys().any(|name| name.starts_with("unet.") || name.starts_with("classifier.")) {
            check_unet(case, &golden, device, report, (limit, changes))?;
            let (config, weights, _) = network::<classifier::Config>(case, "classifier", changes)?;
            let found = logits(&config, &weights, &golden, device)?;
            let expected = golden.get("classifier.logits");
            report.held("classifier.logits", found.get("logits").unwrap_or_default(), expected, limit);
            match golden.get("classifier.grad") {
                Some(expected) => check_gradient(case, (&golden, expected), device, report, changes)?,
                None => report.skip("classifier.grad"),
            }
        } else if golden.contains_key("low_res") {
            upsampler = true;
            let (config, weights, origin) = network::<Config>(case, "upsampler", changes)?;
            report.equal("the upsampler has no preset", &matches!(origin, Origin::Preset { .. }), &false);
            let found = unet(&config, &weights, &golden, device)?;
            let expected = need(&golden, "out")?;
            report.golden("upsampler", found.get("out").unwrap_or_default(), expected, limit);
        } else if golden.contains_key("x") && golden.contains_key("timesteps") && changes.is_empty() {
            Run::new(case, &file, golden)?.check(case, device, report)?;
        }
    }
    if !upsampler {
        report.skip("upsampler");
    }
    for run in ["ddpm", "ddpm_guided", "ddim_guided", "ddim_eta"] {
        if !case.holds(&format!("{run}.safetensors")) {
            report.skip(run);
        }
    }
    Ok(())
}

/// A network's file: PyTorch's, as it is published, where the case has it.
fn weights_of(case: &Case, name: &str) -> PathBuf {
    let published = case.dir.join(format!("{name}.pt"));
    if published.exists() { published } else { case.dir.join(format!("{name}.safetensors")) }
}

/// The classifier's score of the stored classes.
fn check_gradient(
    case: &Case,
    (golden, expected): (&Tensors, &Tensor),
    device: &Device,
    report: &mut Report,
    changes: &[(&str, &str)],
) -> Checked {
    let file = case.dir.join("config.json");
    let changes = changes_of(changes, "classifier");
    let classifier = Classifier::load(&weights_of(case, "classifier"), (Some(&file), "classifier"), &changes);
    let mut guidance = classifier.map_err(text)?.guidance(device);
    let (x, t) = (need(golden, "x")?, need(golden, "t")?);
    let [n, c, h, w] = x.picture()?;
    guidance.set("class", need(golden, "y")?.values.clone());
    // The guidance takes one time for all pictures: those of each time by themselves.
    let values = x.channels_last();
    let item = values.len() / n;
    // It is stored times the scale of the manifest's runs.
    let scale = case.manifest["run"]["classifier_scale"].as_f64().unwrap_or(1.0);
    let mut found = vec![0.0; values.len()];
    for (i, time) in t.values.iter().enumerate() {
        let (_, gradient) =
            guidance.evaluate(&values, [n, h, w, c], f64::from(*time), &mut |_| true).map_err(text)?;
        let gradient = gradient[i * item..][..item].iter().map(|v| (scale * f64::from(*v)) as f32);
        found[i * item..].iter_mut().zip(gradient).for_each(|(found, v)| *found = v);
    }
    let note = &case.manifest["tolerance_notes"]["classifier gradient: max |fp32 - fp64|, max |gradient|"];
    let spread = note[0].as_f64().ok_or("the manifest says no spread of the classifier's gradient")?;
    report.golden("classifier.grad", &found, expected, Limit::once(spread));
    Ok(())
}

/// A stored run.
struct Run {
    name: String,
    golden: Tensors,
    respacing: String,
    sampler: Sampler,
    classes: Vec<usize>,
    /// Of the classifier; 0 is none.
    scale: f64,
    spreads: Vec<f64>,
}

impl Run {
    fn new(case: &Case, file: &str, golden: Tensors) -> Checked<Run> {
        let name = file.trim_end_matches(".safetensors").to_string();
        let (run, what) = (&case.manifest["run"], case.manifest["goldens"][file]["what"].as_str());
        let what = what.unwrap_or_default();
        let kind = if name.starts_with("ddim") { "ddim" } else { "ddpm" };
        let sampler = match kind {
            "ddim" => Sampler::Ddim { eta: eta(what).unwrap_or(0.0) },
            _ => Sampler::Ddpm,
        };
        let respacing = run["respacing"][kind].as_str().ok_or("the manifest says no respacing")?.to_string();
        let classes = run["classes"].as_array().into_iter().flatten();
        let classes = classes.filter_map(|class| Some(class.as_u64()? as usize)).collect();
        let said = what.split_once("classifier scale ").and_then(|(_, rest)| rest.split([',', ' ']).next());
        let scale = said.map_or(Ok(0.0), |scale| scale.parse::<f64>().map_err(|error| error.to_string()))?;
        let key = format!("{name}: max |fp32 - fp64| per step");
        let spreads = case.manifest["tolerance_notes"][&key].as_array().into_iter().flatten();
        let spreads: Vec<f64> = spreads.filter_map(serde_json::Value::as_f64).collect();
        let steps = need(&golden, "timesteps")?.values.len();
        if spreads.len() != steps {
            return Err(format!("the manifest's `{key}` has {} numbers for {steps} steps", spreads.len()));
        }
        Ok(Run { name, golden, respacing, sampler, classes, scale, spreads })
    }

    fn check(&self, case: &Case, device: &Device, report: &mut Report) -> Checked {
        self.check_steps(case, device, report)?;
        let options = LoadOptions {
            device: existing(device),
            precision: Some(Precision::F32),
            ..LoadOptions::default()
        };
        let engine = Engine::load(&case.dir, &options).map_err(text)?;
        let x = need(&self.golden, "x")?;
        let [pictures, _, height, width] = x.at(0).picture()?;
        let cfg = Settings::new()
            .count(pictures)
            .size(width, height)
            .respacing([self.respacing.as_str()])
            .sampler(self.sampler)
            .classes(&self.classes)
            .guidance_scale([self.scale]);
        let mut noise = vec![x.at(0).values];
        noise.extend((0..self.spreads.len()).map(|i| self.golden["noise"].at(i).values));
        let found = engine.generate_from_noise("", &cfg, &mut Stored::new(noise)).map_err(text)?;
        let spread = self.spreads[self.spreads.len() - 1];
        let values: Vec<f32> = found.iter().flat_map(|picture| picture.values.clone()).collect();
        let name = format!("{} engine", self.name);
        report.golden(&name, &values, &x.at(self.spreads.len()), Limit::run(spread));
        let bytes: Vec<f32> = found.iter().flat_map(Picture::to_bytes).map(f32::from).collect();
        match self.golden.get("image_u8") {
            Some(golden) => {
                report.compare(&format!("{name} bytes"), &bytes, &golden.values, Limit::bytes(spread))
            }
            None => report.skip(&format!("{name} bytes")),
        }
        Ok(())
    }

    /// Every step by itself, from the stored sample.
    fn check_steps(&self, case: &Case, device: &Device, report: &mut Report) -> Checked {
        let file = case.dir.join("config.json");
        let diffusion = weights_of(case, "diffusion");
        let (stage, ..) = load_stage(&diffusion, (Some(&file), "diffusion"), &[]).map_err(text)?;
        let respaced = Timesteps::Respaced(self.respacing.clone());
        let steps = steps(&stage.scheduler, &self.sampler, respaced).map_err(text)?;
        let found: Vec<f32> = steps.iter().map(|step| step.timestep as f32).collect();
        report.equal(&format!("{} timesteps", self.name), &found, &self.golden["timesteps"].values);
        let x = need(&self.golden, "x")?;
        let [pictures, _, height, width] = x.at(0).picture()?;
        let classes: Vec<f32> = self.classes.iter().map(|class| *class as f32).collect();
        let classifier = Classifier::load(&weights_of(case, "classifier"), (Some(&file), "classifier"), &[]);
        let mut guidance = classifier.map_err(text)?.guidance(device);
        guidance.set("class", classes.clone());
        let shape = stage.shape(pictures, (width, height), &steps, 1.0);
        let at = At { device, options: &ProgramOptions::default() };
        let mut denoiser = stage.networks[0].denoiser(at, shape, steps.len()).map_err(text)?;
        if denoiser.takes("y") {
            denoiser.write("y", &classes);
        }
        let guides = if self.scale == 0.0 { Vec::new() } else { vec![Guide::new(self.scale, guidance)] };
        let led = Led { guides: &guides, ..Led::classifier_free(1.0) };
        let (unet, golden_x0) = (case.spread("U-Net")?, self.golden.get("pred_x0"));
        for (i, step) in steps.iter().enumerate() {
            let mut x0 = Vec::new();
            let mut keep = |done: StepDone<'_>| {
                if let Some(estimate) = done.estimate {
                    x0 = estimate().expect("it reads").into_iter().flat_map(|p| p.values).collect();
                }
                true
            };
            let mut noise = Stored::new([self.golden["noise"].at(i).values]);
            let start = x.at(i).channels_last();
            let one = std::slice::from_ref(step);
            let next = denoiser.sample_from(one, &led, &mut noise, &start, &mut keep).map_err(text)?;
            let name = format!("{} step {i}", self.name);
            report.golden(&format!("{name} x"), &next, &x.at(i + 1), Limit::once(self.spreads[i]));
            // x̂₀ is the output times this factor, until it is clipped.
            let limit = Limit::once(self.spreads[i].max(unet * step.coefficients.x0_out.abs()));
            report.held(&format!("{name} pred_x0"), &x0, golden_x0.map(|x0| x0.at(i)).as_ref(), limit);
        }
        Ok(())
    }
}

/// A network of a case, with changes of its flags.
fn network<F: Flags>(case: &Case, name: &str, changes: &[(&str, &str)]) -> Checked<(F, Weights, Origin)> {
    let path = weights_of(case, name);
    let checkpoint = Checkpoint::open_file(&path).map_err(text)?;
    check_twin(&checkpoint, &case.dir.join(format!("{name}.safetensors")))?;
    let changes = changes_of(changes, name);
    let file = case.dir.join("config.json");
    let shapes = detect::shapes(&checkpoint);
    let (config, origin) = find::<F>(&path, &shapes, (Some(&file), name), &changes).map_err(text)?;
    checkpoint.check(config.graph().weights(), |_| false).map_err(text)?;
    Ok((config, Weights::new(checkpoint), origin))
}

/// The classifier of a case.
pub fn classifier_of(case: &Case) -> Checked<(classifier::Config, Weights)> {
    network::<classifier::Config>(case, "classifier", &[]).map(|(config, weights, _)| (config, weights))
}

/// A U-Net of a case, and its process.
pub fn unet_of(case: &Case, name: &str) -> Checked<(Config, Process, Weights)> {
    let (config, weights, _) = network::<Config>(case, name, &[])?;
    let file = case.dir.join("config.json");
    let (stage, ..) = load_stage(&weights_of(case, name), (Some(&file), name), &[]).map_err(text)?;
    Ok((config, stage.scheduler.process, weights))
}

/// The changes that are a network's own.
fn changes_of(changes: &[(&str, &str)], name: &str) -> Vec<(String, String)> {
    let mine = |(key, value): &(&str, &str)| {
        Some((key.strip_prefix(name)?.strip_prefix('.')?.to_string(), value.to_string()))
    };
    changes.iter().filter_map(mine).collect()
}

/// The same tensors bit for bit, if the file exists.
fn check_twin(checkpoint: &Checkpoint, twin: &Path) -> Checked {
    if !twin.exists() {
        return Ok(());
    }
    let other = Checkpoint::open_file(twin).map_err(text)?;
    if !checkpoint.names().eq(other.names()) {
        return Err(format!("{} holds other tensors", twin.display()));
    }
    for name in checkpoint.names() {
        let read = |c: &Checkpoint| c.read(name, Repack::None).map_err(text);
        let (a, b) = (read(checkpoint)?, read(&other)?);
        let same = a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits());
        if !same || checkpoint.shape(name) != other.shape(name) || checkpoint.dtype(name) != other.dtype(name)
        {
            return Err(format!("`{name}` is another in {}", twin.display()));
        }
    }
    Ok(())
}

fn check_unet(
    case: &Case,
    golden: &Tensors,
    device: &Device,
    report: &mut Report,
    (limit, changes): (Limit, &[(&str, &str)]),
) -> Checked {
    let (config, weights, origin) = network::<Config>(case, "diffusion", changes)?;
    report.equal("flags of the file", &matches!(origin, Origin::File(_)), &true);
    for (name, expected) in golden.iter().filter(|(name, _)| name.starts_with("unet.")) {
        let mut config = config.clone();
        let words = &case.manifest["goldens"]["forward.safetensors"]["tensors"][name]["words"];
        if name.contains("order") {
            config.use_new_attention_order = name.contains("new_order");
        }
        if let Some((_, count)) = words.as_str().unwrap_or_default().split_once("num_heads=") {
            let count: String = count.chars().take_while(char::is_ascii_digit).collect();
            config.num_heads = count.parse().map_err(|_| format!("`{name}`: no number of heads"))?;
            config.num_head_channels = None;
        }
        let found = unet(&config, &weights, golden, device)?;
        let tap = if name == "unet.emb" { "emb" } else { "out" };
        report.golden(name, found.get(tap).unwrap_or_default(), expected, limit);
    }
    Ok(())
}

fn unet(config: &Config, weights: &Weights, golden: &Tensors, device: &Device) -> Checked<Outputs> {
    let (sample, timestep) = (need(golden, "x")?, need(golden, "t")?);
    let [n, c, h, w] = sample.picture()?;
    let mut g = Graph::new();
    let x = g.input("x", &[n, h, w, c], Storage::Elem);
    let t = g.input("t", &[n], Storage::F32);
    let mut values = vec![("x", sample.channels_last()), ("t", timestep.values.clone())];
    let y = config.classes().map(|_| g.input("y", &[n], Storage::F32));
    if y.is_some() {
        values.push(("y", need(golden, "y")?.values.clone()));
    }
    let low_res = match config.small_size {
        Some(_) => {
            let low = need(golden, "low_res")?;
            let [n, c, h, w] = low.picture()?;
            values.push(("low_res", low.channels_last()));
            Some(g.input("low_res", &[n, h, w, c], Storage::Elem))
        }
        None => None,
    };
    let inputs = Inputs { x: &x, low_res: low_res.as_ref(), t: &t, y: y.as_ref() };
    let out = config.forward(&mut g, &inputs);
    g.output("out", &out);
    let values: Vec<(&str, &[f32])> = values.iter().map(|(name, v)| (*name, v.as_slice())).collect();
    forward::run(device, weights, g, &values)
}

fn logits(
    config: &classifier::Config,
    weights: &Weights,
    golden: &Tensors,
    device: &Device,
) -> Checked<Outputs> {
    let (sample, timestep) = (need(golden, "x")?, need(golden, "t")?);
    let [n, c, h, w] = sample.picture()?;
    let mut g = Graph::new();
    let x = g.input("x", &[n, h, w, c], Storage::Elem);
    let t = g.input("t", &[n], Storage::F32);
    let logits = config.forward(&mut g, &x, &t);
    g.output("logits", &logits);
    forward::run(device, weights, g, &[("x", &sample.channels_last()), ("t", &timestep.values)])
}

/// Another flag is another network, and no check passes a moved golden.
#[test]
fn golden_adm_wrong_flags_are_seen() {
    let case = Case::open(&own_goldens().join("adm")).expect("a case");
    let run = |changes: &[(&str, &str)]| {
        let mut report = Report::new(format!("{changes:?}"));
        let checked = check_changed(&case, &Device::Cpu, &mut report, changes);
        report.finish(checked).2
    };
    assert!(run(&[]).is_empty());
    for change in [
        ("diffusion.num_head_channels", "8"),
        ("diffusion.attention_resolutions_ds", "1"),
        ("diffusion.use_scale_shift_norm", "False"),
        ("classifier.num_head_channels", "32"),
        ("classifier.use_new_attention_order", "True"),
        ("classifier.classifier_pool", "adaptive"),
        ("upsampler.num_heads", "2"),
        ("upsampler.use_new_attention_order", "True"),
    ] {
        let found = run(&[change]);
        assert!(!found.is_empty(), "{change:?} passes");
        println!("{change:?}: {}", found[0]);
    }
    let mut report = Report::new("planted".into());
    report.planted = true;
    check(&case, &Device::Cpu, &mut report).expect("the checks run");
    let (checks, failures) = report.counts();
    assert!(checks >= 6 && failures == checks, "{failures} of {checks} checks fail");
}
