//! Checks of `ancestral::internals::diffusion` against stored numbers of diffusers, OpenAI's code and torch.

use std::path::Path;

use ancestral::internals::diffusion::reference::{apply, quantile_abs};
use ancestral::internals::diffusion::{
    Arithmetic, BetaSchedule, Coefficients, Row, Sampler, SchedulerConfig, ScoreShifts, Spacing, Step,
    Thresholding, Variance, add_noise, steps,
};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

#[path = "diffusion_runs.rs"]
mod runs;

#[allow(unused_imports, reason = "each test binary uses some of these")]
pub use runs::{check_noise, check_openai_constants, check_openai_runs, check_trajectory};

/// Largest difference of a scheduler's step, relative to max(1, |x0|, |y|): both sides are float32 tensors.
const STEP: f64 = 2e-6;

/// A safetensors file's tensors as numbers.
struct Tensors {
    bytes: Vec<u8>,
    /// Negative control: the last value of every expected float tensor is falsified as it is read.
    planted: bool,
}

struct Tensor {
    shape: Vec<usize>,
    f32: Vec<f32>,
    i64: Vec<i64>,
}

impl Tensors {
    fn read(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        SafeTensors::deserialize(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Tensors { bytes, planted: false })
    }

    fn view(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("checked in read")
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.view().names().into_iter().map(String::from).collect();
        names.sort();
        names
    }

    fn has(&self, name: &str) -> bool {
        self.view().tensor(name).is_ok()
    }

    fn get(&self, name: &str) -> Result<Tensor, String> {
        let view = self.view();
        let tensor = view.tensor(name).map_err(|error| format!("{name}: {error}"))?;
        let (mut f32, mut i64) = (Vec::new(), Vec::new());
        match tensor.dtype() {
            Dtype::F32 => f32 = tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::I64 => i64 = tensor.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            other => return Err(format!("{name}: unexpected type {other:?}")),
        }
        let part = name.rsplit('/').next().unwrap_or_default();
        let input = matches!(part, "x" | "x0" | "model_output") || part.starts_with("noise");
        if let Some(last) = f32.last_mut().filter(|_| self.planted && !input) {
            *last = *last * 1.001 + 1e-4;
        }
        Ok(Tensor { shape: tensor.shape().to_vec(), f32, i64 })
    }

    fn f32(&self, name: &str) -> Result<Vec<f32>, String> {
        Ok(self.get(name)?.f32)
    }

    fn timesteps(&self, name: &str) -> Result<Vec<usize>, String> {
        Ok(self.get(name)?.i64.into_iter().map(|t| t as usize).collect())
    }
}

/// The kind of difference that lists of whole numbers have.
const EQUAL: &str = "equal lists";

/// Largest difference seen of each kind, and the first failures.
#[derive(Default)]
struct Report {
    worst: std::collections::BTreeMap<String, f64>,
    failures: Vec<String>,
}

impl Report {
    /// Notes `difference` under `kind`; above `limit` (or NaN) it fails.
    fn note(&mut self, kind: &str, name: &str, difference: f64, limit: f64) {
        let worst = self.worst.entry(kind.to_string()).or_default();
        *worst = if difference.is_nan() { difference } else { worst.max(difference) };
        if difference.is_nan() || difference > limit {
            self.failures.push(format!("{name}: {kind} differs by {difference:e}, limit {limit:e}"));
        }
    }

    fn equal<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, found: &T, expected: &T) {
        self.worst.entry(EQUAL.into()).or_default();
        if found != expected {
            self.failures.push(format!("{name}: found {found:?}, expected {expected:?}"));
        }
    }

    fn finish(self) -> Result<String, String> {
        let line = |(kind, worst): (&String, &f64)| format!("{kind} {worst:.2e}");
        let summary = self.worst.iter().map(line).collect::<Vec<_>>().join(", ");
        if self.worst.is_empty() {
            return Err("nothing was checked: no known entry in this case".into());
        }
        if self.failures.is_empty() {
            return Ok(summary);
        }
        let first = &self.failures[..self.failures.len().min(5)];
        Err(format!("{} failures of [{summary}]: {}", self.failures.len(), first.join("; ")))
    }
}

/// Largest |a − b| / max(1, scale).
fn difference(found: &[f64], expected: &[f32], scale: f64) -> f64 {
    if found.len() != expected.len() {
        return f64::NAN;
    }
    let each = found.iter().zip(expected).map(|(a, b)| (a - f64::from(*b)).abs());
    // fold with max would swallow NaN
    each.fold(0.0, |worst: f64, d| if d.is_nan() || worst.is_nan() { f64::NAN } else { worst.max(d) })
        / scale.max(1.0)
}

/// Largest distance in float32 units in the last place.
fn ulps(found: &[f64], expected: &[f32]) -> f64 {
    let ordered = |x: f32| i64::from(x.to_bits() as i32);
    let each = found.iter().zip(expected).map(|(a, b)| (ordered(*a as f32) - ordered(*b)).abs());
    if found.len() == expected.len() { each.max().unwrap_or(0) as f64 } else { f64::NAN }
}

fn magnitude(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

/// Splits `[images, 2·channels, …]` into output and variance channels; the second is empty if there are none.
fn split_variance(output: &[f32], images: usize, values: usize) -> (Vec<f32>, Vec<f32>) {
    if output.len() == values {
        return (output.to_vec(), Vec::new());
    }
    let half = values / images;
    let pictures = output.chunks(2 * half);
    let first = pictures.clone().flat_map(|picture| &picture[..half]).copied().collect();
    (first, pictures.flat_map(|picture| &picture[half..]).copied().collect())
}

/// `family/number` parameters in diffusers' words as a configuration.
fn config_of(class: &str, parameters: &Value) -> Result<SchedulerConfig, String> {
    let mut object = parameters.as_object().cloned().unwrap_or_default();
    object.insert("_class_name".into(), json!(class));
    if let Some(schedule) = object.get("schedule").cloned() {
        object.insert("beta_schedule".into(), schedule);
    }
    // what the cases' maker passes where an entry names neither
    object.entry("dynamic_thresholding_ratio").or_insert(json!(0.95));
    object.entry("sample_max_value").or_insert(json!(1.5));
    let text = Value::Object(object).to_string();
    SchedulerConfig::from_json(Path::new("units.json"), &text).map_err(|error| error.to_string())
}

/// Every diffusion entry of a units case: `case_dir/units.json` (parameters) and `units.safetensors`.
///
/// Returns the largest difference of each kind; an error lists what failed. Families of other parts are
/// passed over; a case without any known family is an error.
pub fn check_units(case_dir: &Path) -> Result<String, String> {
    units(case_dir, false)?.finish()
}

/// Negative control of [`check_units`]: falsified goldens must fail, every kind of them.
pub fn check_units_control(case_dir: &Path) -> Result<String, String> {
    let report = units(case_dir, true)?;
    let blind = report.worst.iter().find(|(kind, _)| {
        let fails = |failure: &String| failure.contains(&format!(": {kind} differs"));
        *kind != EQUAL && !report.failures.iter().any(fails)
    });
    match blind {
        Some((kind, _)) => Err(format!("falsified goldens passed the check of {kind}")),
        None => Ok(format!("{} planted errors found", report.failures.len())),
    }
}

fn units(case_dir: &Path, planted: bool) -> Result<Report, String> {
    let text = std::fs::read_to_string(case_dir.join("units.json")).map_err(|error| error.to_string())?;
    let units: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let tensors = Tensors { planted, ..Tensors::read(&case_dir.join("units.safetensors"))? };
    let mut report = Report::default();
    for (name, parameters) in units.as_object().ok_or("units.json is no object")? {
        let checked = match name.split('/').next().unwrap_or_default() {
            "betas" => check_betas(&tensors, name, parameters, &mut report),
            "timesteps" => check_timesteps(&tensors, name, parameters, &mut report),
            "q_sample" => check_q_sample(&tensors, name, parameters, &mut report),
            "dynamic_threshold" => check_threshold(&tensors, name, parameters, &mut report),
            "ddpm_step" => check_steps(&tensors, name, parameters, "DDPMScheduler", &mut report),
            "unclip_step" => check_steps(&tensors, name, parameters, "UnCLIPScheduler", &mut report),
            "ddim_step" => check_steps(&tensors, name, parameters, "DDIMScheduler", &mut report),
            _ => Ok(()),
        };
        checked.map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(report)
}

fn check_betas(t: &Tensors, name: &str, parameters: &Value, report: &mut Report) -> Result<(), String> {
    let mut config = config_of("DDPMScheduler", parameters)?;
    let schedule = config.schedule().map_err(|error| error.to_string())?;
    report.note("betas (ulp)", name, ulps(&schedule.betas, &t.f32(&format!("{name}/betas"))?), 1.0);
    let expected = t.f32(&format!("{name}/alphas_cumprod"))?;
    report.note("alpha_bars (ulp)", name, ulps(&schedule.alpha_bars, &expected), 1.0);
    // OpenAI's code has float64 forms of these two only; of others the float32 betas are multiplied up
    if !matches!(config.beta_schedule, BetaSchedule::Linear { .. } | BetaSchedule::SquaredCosCapV2) {
        config.beta_schedule = BetaSchedule::Trained(schedule.betas);
        config.rescale_betas_zero_snr = false;
    }
    config.arithmetic = Arithmetic::Float64;
    let schedule = config.schedule().map_err(|error| error.to_string())?;
    let expected = t.f32(&format!("{name}/alphas_cumprod_f64"))?;
    report.note("alpha_bars f64 (ulp)", name, ulps(&schedule.alpha_bars, &expected), 1.0);
    Ok(())
}

fn check_timesteps(t: &Tensors, name: &str, parameters: &Value, report: &mut Report) -> Result<(), String> {
    let total = parameters["num_train_timesteps"].as_u64().unwrap_or(1000) as usize;
    let prefix = format!("{name}/");
    for tensor in t.names().iter().filter(|tensor| tensor.starts_with(&prefix)) {
        let (kind, count) = tensor[prefix.len()..].rsplit_once('_').ok_or("expected KIND_STEPS")?;
        let spacing = match kind {
            "unclip" => Spacing::Fractional,
            _ if kind.ends_with("leading") => Spacing::Leading,
            _ if kind.ends_with("linspace") => Spacing::Linspace,
            _ if kind.ends_with("trailing") => Spacing::Trailing,
            other => return Err(format!("unknown timesteps {other}")),
        };
        let count = count.parse().map_err(|_| format!("{tensor}: no number of steps"))?;
        let found = spacing.timesteps(total, count, 0).map_err(|error| error.to_string())?;
        report.equal(tensor, &found, &t.timesteps(tensor)?);
    }
    Ok(())
}

fn check_q_sample(t: &Tensors, name: &str, parameters: &Value, report: &mut Report) -> Result<(), String> {
    let config = config_of("DDPMScheduler", parameters)?;
    let (x0, noise) = (t.f32(&format!("{name}/x0"))?, t.f32(&format!("{name}/noise"))?);
    let timesteps = t.timesteps(&format!("{name}/t"))?;
    let size = x0.len() / timesteps.len();
    let mut found = Vec::new();
    for (i, &timestep) in timesteps.iter().enumerate() {
        let (signal, sigma) = add_noise(&config, timestep).map_err(|error| error.to_string())?;
        let image = i * size..(i + 1) * size;
        let pairs = x0[image.clone()].iter().zip(&noise[image]);
        found.extend(pairs.map(|(&x0, &noise)| signal * f64::from(x0) + sigma * f64::from(noise)));
    }
    report.note("q_sample", name, difference(&found, &t.f32(&format!("{name}/y"))?, magnitude(&found)), STEP);
    Ok(())
}

fn check_threshold(t: &Tensors, name: &str, parameters: &Value, report: &mut Report) -> Result<(), String> {
    let x = t.get(&format!("{name}/x"))?;
    let (images, s) = (x.shape[0], t.f32(&format!("{name}/s"))?);
    let ratio = parameters["ratio"].as_f64().ok_or("no ratio")?;
    let max = parameters["sample_max_value"].as_f64().ok_or("no sample_max_value")?;
    for (image, &s) in x.f32.chunks(x.f32.len() / images).zip(&s) {
        let found = quantile_abs(image, ratio).max(1.0).min(max as f32);
        report.note("threshold s (ulp)", name, ulps(&[f64::from(found)], &[s]), 0.0);
    }
    // a step that only thresholds: x̂0 = out = mean
    let coefficients = Coefficients {
        x0_x: 0.0,
        x0_out: 1.0,
        eps_x: 0.0,
        eps_out: 0.0,
        next: Row::of(0.0, 1.0, 0.0),
        memory: Default::default(),
        memory_len: 0,
        clip: Thresholding::Dynamic { ratio, max },
        variance: Variance::Fixed { sigma: 0.0 },
    };
    let step = Step {
        step: 0,
        begins: true,
        timestep: 0.0,
        coefficients,
        draws_noise: false,
        adds_noise: false,
        alpha_bar: 0.5,
        alpha_bar_after: 1.0,
        start_scale: 1.0,
        score_shifts: ScoreShifts::Mean,
    };
    let found = apply(&step, &x.f32, &x.f32, &[], &[], images);
    report.note("threshold", name, difference(&found.x, &t.f32(&format!("{name}/y"))?, 1.0), STEP);
    Ok(())
}

/// `y_K` (and `x0_K`, `variance_K`, `logvar_K`) of one scheduler for the timesteps K that are stored.
fn check_steps(
    t: &Tensors,
    name: &str,
    parameters: &Value,
    class: &str,
    report: &mut Report,
) -> Result<(), String> {
    let mut config = config_of(class, parameters)?;
    let mut sampler = config.sampler;
    if let Sampler::Ddim { eta } = &mut sampler {
        *eta = parameters["eta"].as_f64().unwrap_or(0.0);
        config.rederive_epsilon = parameters["use_clipped_model_output"].as_bool().unwrap_or(false);
    }
    let count = parameters["steps"].as_u64().ok_or("no steps")? as usize;
    let steps = steps(&config, &sampler, count).map_err(|error| error.to_string())?;
    let x = t.get(&format!("{name}/x"))?;
    let (images, values) = (x.shape[0], x.f32.len());
    let (out, variance) = split_variance(&t.f32(&format!("{name}/model_output"))?, images, values);
    let prefix = format!("{name}/y_");
    for tensor in t.names().iter().filter(|tensor| tensor.starts_with(&prefix)) {
        let index = tensor[prefix.len()..].parse::<usize>().map_err(|error| error.to_string())?;
        let step = steps.get(index).ok_or("fewer steps than stored")?;
        let noises = [format!("{name}/noise_{index}"), format!("{name}/noise")];
        let noise = noises.iter().find(|noise| t.has(noise)).map(|noise| t.f32(noise)).transpose()?;
        let noise = noise.unwrap_or_else(|| vec![0.0; values]);
        let found = apply(step, &x.f32, &out, &variance, &noise, images);
        let scale = magnitude(&found.x0).max(magnitude(&found.x));
        report.note(&format!("{class} x"), tensor, difference(&found.x, &t.f32(tensor)?, scale), STEP);
        let x0 = format!("{name}/x0_{index}");
        if t.has(&x0) {
            // rounding of x and of the output, magnified by 1/√ᾱ before it is clipped
            let magnified = step.coefficients.x0_x.abs().max(step.coefficients.x0_out.abs()).max(scale);
            report.note(&format!("{class} x0"), &x0, difference(&found.x0, &t.f32(&x0)?, magnified), STEP);
        }
        check_variance(t, name, index, step, &variance, report)?;
    }
    Ok(())
}

/// diffusers' `_get_variance`: a variance, for fixed_small_log a standard deviation, log variances
/// if learned.
fn check_variance(
    t: &Tensors,
    name: &str,
    index: usize,
    step: &Step,
    channels: &[f32],
    report: &mut Report,
) -> Result<(), String> {
    let (fixed, learned) = (format!("{name}/variance_{index}"), format!("{name}/logvar_{index}"));
    match step.coefficients.variance {
        Variance::Fixed { sigma } if t.has(&fixed) => {
            let expected = f64::from(t.f32(&fixed)?[0]);
            let nearest = (sigma - expected).abs().min((sigma * sigma - expected).abs());
            report.note("variance (relative)", &fixed, nearest / expected, 1e-5);
        }
        Variance::LearnedRange { log_min, log_max } if t.has(&learned) => {
            let fraction = channels.iter().map(|&v| (f64::from(v) + 1.0) / 2.0);
            let found: Vec<f64> = fraction.map(|f| f * log_max + (1.0 - f) * log_min).collect();
            report.note(
                "log variance",
                &learned,
                difference(&found, &t.f32(&learned)?, magnitude(&found)),
                STEP,
            );
        }
        _ => {}
    }
    Ok(())
}
