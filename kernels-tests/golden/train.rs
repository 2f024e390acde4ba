//! Losses, the gradient of every weight, and runs of AdamW with averages, beside PyTorch's.

use crate::golden::adm;
use crate::golden::case::{Case, Checked, Tensor, Tensors, need, text};
use crate::golden::report::{Limit, Report};
use ancestral::internals::device::{Device, ProgramOptions, Weights};
use ancestral::internals::graph::gradient::gradient;
use ancestral::internals::graph::{Graph, Storage, Tensor as Recorded};
use ancestral::internals::kernels::conv2d::compute_directly;
use ancestral::internals::models::adm::classifier;
use ancestral::internals::models::network::{DenoisingNetwork, Shape};
use ancestral::internals::models::text_unet::TextUNet;
use ancestral::internals::models::unet::Config as TextConfig;
use ancestral::internals::pipeline::ddpm::load_stage;
use ancestral::internals::train::objective::{Noising, cross_entropy, denoising};
use ancestral::internals::train::optimiser::{Average, Optimiser, Rate};
use ancestral::internals::train::parameters::{Tensors as Values, parameters};
use ancestral::internals::train::trainer::{Options, Trainer};
use ancestral::internals::weights::{Checkpoint, read_json};
use serde_json::Value;
use std::path::Path;

/// Gradients are held to this share of the network's largest, or ten times their spread.
const LEAST: f64 = 1e-6;

/// What an entry trains.
struct Trained {
    weights: Weights,
    network: Network,
}

enum Network {
    Denoises(Box<dyn DenoisingNetwork>, Noising),
    Classifies(Box<classifier::Config>),
}

/// Every entry of a case.
pub fn check(case: &Case, device: &Device, report: &mut Report) -> Checked {
    let entries = case.manifest["entries"].as_array().ok_or("the manifest has no entries")?;
    for entry in entries {
        let name = entry["name"].as_str().ok_or("an entry has no name")?;
        let golden = case.read(entry["file"].as_str().unwrap_or(&format!("{name}.safetensors")))?;
        let checkpoint = entry["checkpoint"].as_str().ok_or("an entry has no checkpoint")?;
        let cases = case.dir.parent().ok_or("a case lies in a folder")?;
        let Some(trained) = load(&cases.join(checkpoint), cases)? else {
            report.skip(&format!("{name}: no {checkpoint}"));
            continue;
        };
        check_gradients(name, entry, &golden, &trained, device, report)?;
        if entry["run"].is_object() {
            check_run(name, entry, &golden, &trained, device, report)?;
        }
    }
    Ok(())
}

/// A network by where its checkpoint lies.
fn load(checkpoint: &Path, cases: &Path) -> Checked<Option<Trained>> {
    if !checkpoint.exists() {
        return Ok(None);
    }
    if checkpoint.is_file() {
        let case = Case::open(checkpoint.parent().unwrap_or(cases))?;
        let name = checkpoint.file_stem().unwrap_or_default().to_string_lossy();
        if name == "classifier" {
            let (config, weights) = adm::classifier_of(&case)?;
            return Ok(Some(Trained { weights, network: Network::Classifies(Box::new(config)) }));
        }
        let (config, process, weights) = adm::unet_of(&case, &name)?;
        let noising = Noising::new(&process).map_err(text)?;
        return Ok(Some(Trained { weights, network: Network::Denoises(Box::new(config), noising) }));
    }
    let config: Value = read_json(&checkpoint.join("config.json")).map_err(text)?;
    let folder = checkpoint.parent().unwrap_or(cases);
    if config["_class_name"] == "UNet2DModel" {
        let stage = load_stage(folder).map_err(text)?;
        let config: ancestral::internals::models::unet2d::Config =
            read_json(&checkpoint.join("config.json")).map_err(text)?;
        let mut weights = Checkpoint::open(checkpoint, "diffusion_pytorch_model", None).map_err(text)?;
        weights.rename(ancestral::internals::weights::ddpm_attention_name).map_err(text)?;
        let noising = Noising::new(&stage.scheduler).map_err(text)?;
        let network = Network::Denoises(Box::new(config), noising);
        return Ok(Some(Trained { weights: Weights::new(weights), network }));
    }
    let config: TextConfig = read_json(&checkpoint.join("config.json")).map_err(text)?;
    let scheduler = folder.join("scheduler/scheduler_config.json");
    let scheduler = ancestral::internals::diffusion::SchedulerConfig::read(&scheduler).map_err(text)?;
    let weights = Checkpoint::open(checkpoint, "diffusion_pytorch_model", None).map_err(text)?;
    let noising = Noising::new(&scheduler).map_err(text)?;
    let network = Network::Denoises(Box::new(TextUNet::new(config)), noising);
    Ok(Some(Trained { weights: Weights::new(weights), network }))
}

/// A batch: names of the graph's inputs and their values.
type Batch = Vec<(String, Vec<f32>)>;

/// Whether an entry's loss has the variational bound.
fn has_bound(entry: &Value) -> bool {
    entry["what"].as_str().is_some_and(|what| what.contains("hybrid"))
}

impl Trained {
    /// Records the losses of a batch like the golden's.
    fn record(&self, g: &mut Graph, golden: &Tensors, prefix: &str, bound: bool) -> Checked<Recorded> {
        let read = |name: &str| need(golden, &format!("{prefix}{name}"));
        match &self.network {
            Network::Denoises(network, _) => {
                let [pictures, channels, height, width] = read("x0")?.picture()?;
                let tokens = golden.get("states").map_or(0, |states| states.shape[1]);
                let enlarges = golden.contains_key("low").then_some((height, width));
                let shape = Shape { pictures, channels, height, width, tokens, enlarges, ..Shape::default() };
                Ok(denoising(g, &**network, shape, bound))
            }
            Network::Classifies(config) => {
                let [n, c, h, w] = read("x")?.picture()?;
                let x = g.input("x", &[n, h, w, c], Storage::Elem);
                let t = g.input("t", &[n], Storage::F32);
                let classes = g.input("class", &[n], Storage::F32);
                let logits = config.forward(g, &x, &t);
                Ok(cross_entropy(g, &logits, &classes))
            }
        }
    }

    /// A stored batch. The prediction of an entry that says `v` is v, whatever the scheduler of the checkpoint says.
    fn batch(&self, golden: &Tensors, prefix: &str, (bound, v): (bool, bool)) -> Checked<Batch> {
        let read = |name: &str| need(golden, &format!("{prefix}{name}"));
        let t = read("t")?.values.clone();
        let mut batch: Batch = vec![("t".into(), t.clone())];
        let mut give = |name: &str, values: Vec<f32>| batch.push((name.into(), values));
        match &self.network {
            Network::Denoises(_, noising) => {
                let n = t.len() as f64;
                give("x0", read("x0")?.channels_last());
                give("noise", read("noise")?.channels_last());
                let numbers = |t: &f32| {
                    let mut numbers = noising.numbers(*t as usize);
                    if v {
                        (numbers[2], numbers[3]) = (-numbers[1], numbers[0]);
                    }
                    numbers
                };
                give("numbers", t.iter().flat_map(numbers).collect());
                give("weights", vec![(1.0 / n) as f32; t.len()]);
                if bound {
                    give("bound", t.iter().flat_map(|t| noising.bound(*t as usize, 1.0 / n)).collect());
                }
                if let Some(states) = golden.get("states") {
                    give("context", states.values.clone());
                }
                if let Some(low) = golden.get("low") {
                    give("low_res", low.channels_last());
                    give("low_res_noise", vec![0.0; low.values.len()]);
                    give("noise_level", need(golden, "level")?.values.clone());
                }
                if let Some(y) = golden.get("y") {
                    give("y", y.values.clone());
                }
            }
            Network::Classifies(_) => {
                give("x", read("x")?.channels_last());
                give("class", read("y")?.values.clone());
            }
        }
        Ok(batch)
    }
}

/// The loss of the stored batch, and of every weight its gradient.
fn check_gradients(
    name: &str,
    entry: &Value,
    golden: &Tensors,
    trained: &Trained,
    device: &Device,
    report: &mut Report,
) -> Checked {
    let (bound, v) = (has_bound(entry), entry["what"].as_str().is_some_and(|what| what.contains("v = ")));
    let mut g = Graph::new();
    let losses = trained.record(&mut g, golden, "", bound)?;
    let parameters = parameters(&mut g, |_| true).map_err(text)?;
    let inputs: Vec<&Recorded> = parameters.iter().map(|p| &p.tensor).collect();
    let gradients = gradient(&mut g, &losses, &inputs).map_err(text)?;
    g.output("losses", &losses);
    compute_directly(&mut g);
    for (i, gradient) in gradients.iter().enumerate() {
        g.output(&format!("gradient {i}"), gradient);
    }
    crate::shaders::check_storage(&g)?;
    let mut program = device.program(g, &Weights::none(), &ProgramOptions::default()).map_err(text)?;
    for (name, values) in trained.batch(golden, "", (bound, v))? {
        program.write(&name, &values);
    }
    for parameter in &parameters {
        let values = trained.weights.values(&parameter.parts, parameter.repack).map_err(text)?;
        program.write(&parameter.name, &values);
    }
    program.run(&mut |_| true).map_err(text)?;
    let loss: f32 = program.output("losses").read().map_err(text)?.iter().sum();
    let expected = entry["loss_f64"].as_f64().or(entry["loss"].as_f64()).ok_or("no loss")?;
    report.compare(
        &format!("{name}: loss"),
        &[loss],
        &[expected as f32],
        Limit::once(1e-6 * expected.abs().max(1.0)),
    );
    let mut found = Values::new();
    for (i, parameter) in parameters.iter().enumerate() {
        let values = program.output(&format!("gradient {i}")).read().map_err(text)?;
        parameter.store(&values, &mut found);
    }
    let top = entry["magnitude"].as_object().into_iter().flatten().filter_map(|(_, v)| v.as_f64());
    let top = top.fold(0.0, f64::max);
    compare_all(
        &format!("{name}: gradient of "),
        &found,
        "grad.",
        golden,
        &entry["spread"],
        (LEAST * top, report),
    )
}

/// Tensors beside a golden's of a prefix: none more, none less.
fn compare_all(
    what: &str,
    found: &Values,
    prefix: &str,
    golden: &Tensors,
    spread: &Value,
    (least, report): (f64, &mut Report),
) -> Checked {
    for (name, expected) in
        golden.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)))
    {
        let Tensor { shape, values, .. } = expected;
        let Some((found_shape, found)) = found.get(name) else {
            return Err(format!("{what}{name}: not found"));
        };
        if found_shape.iter().product::<usize>() != shape.iter().product::<usize>() {
            return Err(format!("{what}{name}: {found_shape:?} instead of {shape:?}"));
        }
        let limit = (10.0 * spread[name].as_f64().unwrap_or(0.0)).max(least);
        report.compare(&format!("{what}{name}"), found, values, Limit { max: limit, mean: limit });
    }
    for name in found.keys() {
        if !golden.contains_key(&format!("{prefix}{name}")) {
            return Err(format!("{what}{name}: the golden has none"));
        }
    }
    Ok(())
}

/// Some steps of the optimiser on stored batches.
fn check_run(
    name: &str,
    entry: &Value,
    golden: &Tensors,
    trained: &Trained,
    device: &Device,
    report: &mut Report,
) -> Checked {
    let run = &entry["run"];
    let number = |key: &str| run[key].as_f64().ok_or(format!("the run has no `{key}`"));
    let steps = number("steps")? as u64;
    let optimiser = Optimiser {
        rate: number("lr")?,
        schedule: Rate::Constant,
        warmup: 0,
        steps,
        beta1: run["betas"][0].as_f64().ok_or("no betas")?,
        beta2: run["betas"][1].as_f64().ok_or("no betas")?,
        eps: number("eps")?,
        decay: number("weight_decay")?,
        clip: number("clip_grad_norm")?,
        average: Average::Constant(number("ema")?),
    };
    let options = Options { optimiser, ..Options::default() };
    let mut refused = None;
    let record = |g: &mut Graph| match trained.record(g, golden, "run.batch0.", has_bound(entry)) {
        Ok(losses) => losses,
        Err(why) => {
            refused = Some(why);
            g.input("none", &[1], Storage::F32)
        }
    };
    let made = Trainer::new(device, &trained.weights, options, record, |_| true, None);
    if let Some(why) = refused {
        return Err(why);
    }
    let mut trainer = made.map_err(text)?;
    for step in 0..steps {
        let v = entry["what"].as_str().is_some_and(|what| what.contains("v = "));
        let batch = trained.batch(golden, &format!("run.batch{step}."), (has_bound(entry), v))?;
        let done = trainer.batch(&batch).map_err(text)?;
        let at = |key: &str| run[key][step as usize].as_f64().ok_or(format!("no `{key}` of step {step}"));
        let (loss, norm) = (at("losses_f64").or(at("losses"))?, at("grad_norms")?);
        // What the spread of the weights before makes of the loss: as the weights', a millionth at least.
        report.compare(
            &format!("{name}: loss of step {step}"),
            &[done.loss as f32],
            &[loss as f32],
            Limit::once(1e-6 * loss.abs().max(1.0)),
        );
        let found = done.norm.ok_or("no norm")? as f32;
        report.compare(
            &format!("{name}: norm of step {step}"),
            &[found],
            &[norm as f32],
            Limit::once(1e-5 * norm),
        );
    }
    let (weights, averages) = (trainer.weights().map_err(text)?, trainer.averages().map_err(text)?);
    for (kind, found, prefix, spread) in [
        ("weight", weights, "run.weight.", &run["spread_weight"]),
        ("average", averages, "run.ema.", &run["spread_ema"]),
    ] {
        compare_all(&format!("{name}: {kind} "), &found, prefix, golden, spread, (LEAST, report))?;
    }
    Ok(())
}
