//! Samplers alone: from a scheduler's JSON and stored outputs of a network its timesteps, what the network would be given,
//! and every sample. Ours are √ᾱ x0 + √(1−ᾱ) ε for all of them; those that diffusers keeps in σ are √(σ²+1) times that.

use crate::golden::case::{Case, Checked, SAMPLERS, Tensor, Tensors, text};
use crate::golden::report::{Limit, Report};
use ancestral::internals::device::{Device, Keep, Program, ProgramOptions, Variants, Weights};
use ancestral::internals::diffusion::numbers::COUNT;
use ancestral::internals::diffusion::reference::{Inputs, apply_remembering};
use ancestral::internals::diffusion::{SchedulerConfig, Step, Thresholding, coefficients, steps};
use ancestral::internals::graph::{Graph, Storage};
use ancestral::internals::kernels::Precision;
use ancestral::internals::kernels::quantile::quantile;
use ancestral::internals::kernels::step::{StepInputs, step as step_node};
use serde_json::Value;
use std::path::Path;

/// Classes whose samples are kept in σ.
const IN_SIGMA: [&str; 3] =
    ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"];
/// The least a sample may be off, over its magnitude.
const LEAST: f64 = 1e-6;

const OPTIONS: ProgramOptions =
    ProgramOptions { precision: Precision::F32, keep: Keep::Outputs, variants: Variants::Measured };

/// An entry of the manifest: a scheduler and a run of it.
struct Entry<'a> {
    name: &'a str,
    tensors: &'a Tensors,
    config: SchedulerConfig,
    about: &'a Value,
    in_sigma: bool,
}

pub fn check(case: &Case, device: &Device, report: &mut Report) -> Checked {
    let tensors = case.read(SAMPLERS)?;
    for about in case.manifest["entries"].as_array().into_iter().flatten() {
        let name = about["name"].as_str().ok_or("an entry without a name")?;
        if let Err(why) = check_entry(name, about, &tensors, (device, report)) {
            report.fail(name, why);
        }
    }
    Ok(())
}

fn check_entry(
    name: &str,
    about: &Value,
    tensors: &Tensors,
    (device, report): (&Device, &mut Report),
) -> Checked {
    let config = &about["config"];
    let in_sigma = IN_SIGMA.contains(&config["_class_name"].as_str().unwrap_or_default());
    let config = SchedulerConfig::from_json(Path::new(name), &config.to_string()).map_err(text)?;
    Entry { name, tensors, config, about, in_sigma }.check(device, report)
}

impl Entry<'_> {
    fn tensor(&self, what: &str) -> Option<&Tensor> {
        self.tensors.get(&format!("{}/{what}", self.name))
    }

    fn check(&self, device: &Device, report: &mut Report) -> Checked {
        let at = |what: &str| format!("{} {what}", self.name);
        let count = self.about["steps"].as_u64().ok_or("no number of steps")? as usize;
        let list = steps(&self.config, &self.config.sampler, count).map_err(text)?;
        if let Some(calls) = self.about["network_calls"].as_u64() {
            report.equal(&at("calls"), &(list.len() as u64), &calls);
        }
        if let Some(drawn) = self.about["noises_drawn"].as_u64() {
            let draws = list.iter().filter(|step| step.draws_noise).count() as u64;
            report.equal(&at("noises"), &draws, &drawn);
        }
        match self.tensor("timesteps") {
            Some(timesteps) => {
                let found: Vec<f32> = list.iter().map(|step| step.timestep as f32).collect();
                report.equal(&at("timesteps"), &found, &timesteps.values);
            }
            None => report.skip(&at("timesteps")),
        }
        let (Some(x), Some(outputs)) = (self.tensor("x"), self.tensor("model_output")) else {
            report.skip(&at("x"));
            return Ok(());
        };
        if x.shape[0] != list.len() + 1 || outputs.shape[0] != list.len() {
            return Err(format!("{:?} samples for {} calls", x.shape, list.len()));
        }
        self.follow(&list, x, outputs, report)?;
        self.follow_on(device, &list, x, outputs, report)
    }

    /// How far sample `i` may be off, as diffusers keeps it; none where its sample is no number (UniPC's bh1 multiplies an
    /// infinite B(h) by 0 where the noise ends at none).
    fn limit(&self, i: usize) -> Option<f64> {
        let number = |what: &str| self.about[what][i].as_f64();
        Some((10.0 * number("spread")?).max(LEAST * number("magnitude")?))
    }

    /// What diffusers keeps over what we keep, of the sample before call `i`.
    fn scale(&self, list: &[Step], i: usize) -> f64 {
        match (self.in_sigma, list.get(i)) {
            (true, Some(step)) => 1.0 / step.alpha_bar.sqrt(),
            (true, None) => self.last_scale(list.len()),
            (false, _) => 1.0,
        }
    }

    /// √(σ²+1) after so many calls.
    fn last_scale(&self, calls: usize) -> f64 {
        let sigma = self.tensor("sigmas").and_then(|all| all.values.get(calls));
        sigma.map_or(1.0, |sigma| f64::from(*sigma).hypot(1.0))
    }

    /// The run through the kernels, whose numbers are f32.
    fn follow_on(
        &self,
        device: &Device,
        list: &[Step],
        stored: &Tensor,
        outputs: &Tensor,
        report: &mut Report,
    ) -> Checked {
        let Some(first) = list.first() else { return Ok(()) };
        let scaled = |values: &[f32], factor: f64| -> Vec<f32> {
            values.iter().map(|v| (f64::from(*v) * factor) as f32).collect()
        };
        let mut kernel = Kernel::new(device, first, stored, outputs)?;
        kernel.begin(scaled(&stored.at(0).channels_last(), 1.0 / self.scale(list, 0)));
        for (i, step) in list.iter().enumerate() {
            let drawn = list[..i].iter().filter(|step| step.draws_noise).count();
            let noise = self.tensor("noise").filter(|_| step.draws_noise);
            let noise = noise.map_or_else(|| vec![0.0; kernel.x.len()], |all| all.at(drawn).channels_last());
            kernel.take(step, &outputs.at(i).channels_last(), &noise)?;
            let found = scaled(&kernel.x, self.scale(list, i + 1));
            let what = format!("{} call {i} x by kernels", self.name);
            compare(&what, &found, &stored.at(i + 1).channels_last(), self.limit(i + 1), report);
        }
        Ok(())
    }

    fn follow(&self, list: &[Step], stored: &Tensor, outputs: &Tensor, report: &mut Report) -> Checked {
        let images = stored.shape[1];
        let scaled = |values: &[f64], factor: f64| -> Vec<f32> {
            values.iter().map(|v| (v * factor) as f32).collect()
        };
        let first: Vec<f64> = stored.at(0).values.iter().map(|v| f64::from(*v)).collect();
        let mut x = scaled(&first, 1.0 / self.scale(list, 0));
        let mut memory = Vec::new();
        for (i, step) in list.iter().enumerate() {
            let at = |what: &str| format!("{} call {i} {what}", self.name);
            match self.tensor("model_input") {
                Some(inputs) => {
                    let limit = self.limit(i).map(|limit| limit / self.scale(list, i));
                    compare(&at("input"), &x, &inputs.at(i).values, limit, report);
                }
                None => report.skip(&at("input")),
            }
            let (out, variance) = halves(&outputs.at(i).values, images, x.len());
            // Noises are stored in the order drawn.
            let drawn = list[..i].iter().filter(|step| step.draws_noise).count();
            let noise = self.tensor("noise").filter(|_| step.draws_noise).map(|all| all.at(drawn).values);
            let noise = noise.unwrap_or_default();
            let inputs =
                Inputs { x: &x, out: &out, variance: &variance, noise: &noise, memory: &memory, images };
            let stepped = apply_remembering(step, inputs);
            let found = scaled(&stepped.x, self.scale(list, i + 1));
            compare(&at("x"), &found, &stored.at(i + 1).values, self.limit(i + 1), report);
            x = scaled(&stepped.x, 1.0);
            memory = stepped.memory;
        }
        Ok(())
    }
}

/// The sampler's step as the kernels take it, on a device: the sample and what is remembered are updated in place.
struct Kernel {
    program: Program,
    x: Vec<f32>,
}

impl Kernel {
    fn new(device: &Device, step: &Step, x: &Tensor, outputs: &Tensor) -> Checked<Kernel> {
        let ([n, c, h, w], mut g) = (x.at(0).picture()?, Graph::new());
        let dynamic = matches!(step.coefficients.clip, Thresholding::Dynamic { .. });
        let memory = step.coefficients.memory_len;
        let sample = g.input("x", &[n, h, w, c], Storage::F32);
        let out = g.input("out", &[n, h, w, outputs.shape[2]], Storage::Elem);
        let noise = g.input("noise", &[n, h, w, c], Storage::F32);
        let numbers = g.input("numbers", &[COUNT + n], Storage::F32);
        let fault = g.input("fault", &[1], Storage::F32);
        let remembered = (memory > 0).then(|| g.input("memory", &[memory, n, h, w, c], Storage::F32));
        if dynamic {
            quantile(&mut g, &sample, &out, &numbers, None);
        }
        let inputs =
            StepInputs { memory: remembered.as_ref(), ..StepInputs::plain(&out, &noise, &numbers, &fault) };
        let x0 = step_node(&mut g, &sample, &inputs);
        g.output("x0", &x0);
        let mut program = device.program(g, &Weights::none(), &OPTIONS).map_err(text)?;
        program.write("fault", &[0.0]);
        if memory > 0 {
            program.write("memory", &vec![0.0; memory * n * h * w * c]);
        }
        Ok(Kernel { program, x: Vec::new() })
    }

    fn begin(&mut self, x: Vec<f32>) {
        self.program.write("x", &x);
        self.x = x;
    }

    fn take(&mut self, step: &Step, out: &[f32], noise: &[f32]) -> Checked {
        let images = self.program.input("numbers").len() - COUNT;
        let numbers: Vec<f32> = coefficients(step, 1.0).into_iter().chain(vec![0.0; images]).collect();
        self.program.write("numbers", &numbers);
        self.program.write("out", out);
        self.program.write("noise", noise);
        self.program.run(&mut |_| true).map_err(text)?;
        self.x = self.program.input("x").read().map_err(text)?;
        Ok(())
    }
}

/// Compares with what is stored; where that is no number, ours must be one.
fn compare(what: &str, found: &[f32], stored: &[f32], limit: Option<f64>, report: &mut Report) {
    match limit {
        Some(limit) => report.compare(what, found, stored, Limit { max: limit, mean: limit }),
        None => report.equal(what, &found.iter().all(|v| v.is_finite()), &true),
    }
}

/// An output's channels, and those of its variance, if there are any.
fn halves(output: &[f32], images: usize, len: usize) -> (Vec<f32>, Vec<f32>) {
    if output.len() == len {
        return (output.to_vec(), Vec::new());
    }
    let item = len / images;
    let pictures = || output.chunks_exact(output.len() / images);
    let of = |range: std::ops::Range<usize>| {
        pictures().flat_map(|picture| picture[range.clone()].to_vec()).collect::<Vec<f32>>()
    };
    (of(0..item), of(item..output.len() / images))
}
