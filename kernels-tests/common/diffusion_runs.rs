//! Checks of whole runs (teacher-forced: the scheduler's part alone), OpenAI's constants, noise streams.

use std::path::Path;

use ancestral::internals::diffusion::reference::apply;
use ancestral::internals::diffusion::{
    BetaSchedule, NoiseStream, Sampler, SchedulerConfig, Timesteps, Variance, VarianceType, add_noise, steps,
};
use serde_json::Value;

use super::{Report, STEP, Tensors, difference, magnitude, split_variance, ulps};

/// Every stored trajectory of a diffusers case: from x[i], model_output[i], noise[i] the next x and pred_x0,
/// and the timesteps. Scheduler files are read from `case_dir/pipeline`, steps and η from `manifest.json`.
///
/// Returns the largest difference of each kind; an error lists what failed, or says that there is no
/// trajectory.
pub fn check_trajectory(case_dir: &Path) -> Result<String, String> {
    let manifest = read_manifest(case_dir)?;
    let mut report = Report::default();
    for file in safetensors_files(case_dir)? {
        let tensors = Tensors::read(&case_dir.join(&file))?;
        let what = manifest["goldens"][&file]["what"].as_str().unwrap_or_default();
        for (prefix, scheduler) in [
            ("", "scheduler"),
            ("prior.", "prior_scheduler"),
            ("decoder.", "decoder_scheduler"),
            ("super_res.", "super_res_scheduler"),
        ] {
            let parts = ["x", "model_output", "noise", "timesteps"];
            if !parts.iter().all(|part| tensors.has(&format!("{prefix}{part}"))) {
                continue;
            }
            let config = read_config(case_dir, scheduler)?;
            let sampler = sampler_of(what, &config);
            let name = format!("{file} {prefix}");
            check_run(&tensors, prefix, &name, &config, &sampler, &mut report)
                .map_err(|error| format!("{name}: {error}"))?;
            if let Some(count) = manifest["run"]["steps"].as_u64() {
                let found = tensors.timesteps(&format!("{prefix}timesteps"))?.len() as u64;
                report.equal(&name, &found, &count);
            }
        }
        check_upscaled(case_dir, &tensors, &manifest, &mut report)?;
    }
    report.finish()
}

fn read_manifest(case_dir: &Path) -> Result<Value, String> {
    let path = case_dir.join("manifest.json");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn safetensors_files(case_dir: &Path) -> Result<Vec<String>, String> {
    let entries = std::fs::read_dir(case_dir).map_err(|error| format!("{}: {error}", case_dir.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut files: Vec<String> = names.filter(|name| name.ends_with(".safetensors")).collect();
    files.sort();
    Ok(files)
}

fn read_config(case_dir: &Path, scheduler: &str) -> Result<SchedulerConfig, String> {
    let path = case_dir.join("pipeline").join(scheduler).join("scheduler_config.json");
    SchedulerConfig::read(&path).map_err(|error| error.to_string())
}

/// The sampler a golden's description names: "DDIM, 10 steps, eta 0.7, …", else the scheduler file's.
fn sampler_of(what: &str, config: &SchedulerConfig) -> Sampler {
    let eta = what.split_once("eta ").map(|(_, rest)| rest.split([',', ' ']).next().unwrap_or_default());
    match eta.and_then(|eta| eta.parse().ok()) {
        Some(eta) => Sampler::Ddim { eta },
        None => config.sampler,
    }
}

fn check_run(
    t: &Tensors,
    prefix: &str,
    name: &str,
    config: &SchedulerConfig,
    sampler: &Sampler,
    report: &mut Report,
) -> Result<(), String> {
    let timesteps = t.timesteps(&format!("{prefix}timesteps"))?;
    let count = timesteps.len();
    let steps = steps(config, sampler, count).map_err(|error| error.to_string())?;
    let found: Vec<usize> = steps.iter().map(|step| step.timestep as usize).collect();
    report.equal(&format!("{name}timesteps"), &found, &timesteps);
    let x = t.get(&format!("{prefix}x"))?;
    let (images, size) = (x.shape[1], x.f32.len() / x.shape[0]);
    let outputs = t.f32(&format!("{prefix}model_output"))?;
    let noises = t.f32(&format!("{prefix}noise"))?;
    let x0 = format!("{prefix}pred_x0");
    let x0 = if t.has(&x0) { Some(t.f32(&x0)?) } else { None };
    for (i, step) in steps.iter().enumerate() {
        let output = &outputs[i * outputs.len() / count..(i + 1) * outputs.len() / count];
        let (out, variance) = split_variance(output, images, size);
        let (now, next) = (i * size..(i + 1) * size, (i + 1) * size..(i + 2) * size);
        let found = apply(step, &x.f32[now.clone()], &out, &variance, &noises[now.clone()], images);
        let scale = magnitude(&found.x0).max(magnitude(&found.x));
        let at = format!("{name} step {i}");
        report.note("trajectory x", &at, difference(&found.x, &x.f32[next], scale), STEP);
        if let Some(x0) = &x0 {
            // rounding of x and of the output, magnified by 1/√ᾱ before it is clipped
            let magnified = step.coefficients.x0_x.abs().max(step.coefficients.x0_out.abs()).max(scale);
            report.note("trajectory x0", &at, difference(&found.x0, &x0[now], magnified), STEP);
        }
        if !step.draws_noise && noises[i * size..(i + 1) * size].iter().any(|&z| z != 0.0) {
            report.failures.push(format!("{at}: the reference drew noise, this step does not"));
        }
    }
    Ok(())
}

/// Stage II: add_noise(upscaled, upscale_noise, noise_level) of the image noising scheduler.
fn check_upscaled(case_dir: &Path, t: &Tensors, manifest: &Value, report: &mut Report) -> Result<(), String> {
    let Some(level) =
        manifest["run"]["noise_level"].as_u64().filter(|_| t.has("upscaled_noised") && t.has("upscaled"))
    else {
        return Ok(());
    };
    let config = read_config(case_dir, "image_noising_scheduler")?;
    let (signal, sigma) = add_noise(&config, level as usize).map_err(|error| error.to_string())?;
    let (image, noise) = (t.f32("upscaled")?, t.f32("upscale_noise")?);
    let pairs = image.iter().zip(&noise);
    let found: Vec<f64> = pairs.map(|(&x, &z)| signal * f64::from(x) + sigma * f64::from(z)).collect();
    let expected = t.f32("upscaled_noised")?;
    report.note("noised upscale", "upscaled_noised", difference(&found, &expected, magnitude(&found)), STEP);
    Ok(())
}

fn openai_config(schedule: &str, variance: VarianceType) -> Result<SchedulerConfig, String> {
    let schedule = match schedule {
        "linear" => BetaSchedule::openai_linear(1000),
        "cosine" | "squaredcos_cap_v2" => BetaSchedule::SquaredCosCapV2,
        other => return Err(format!("unknown schedule {other}")),
    };
    Ok(SchedulerConfig::openai(schedule, 1000, variance))
}

/// The constants of OpenAI's respaced processes, `SCHEDULE.RESPACING.NAME` in ascending order of time.
pub fn check_openai_constants(file: &Path) -> Result<String, String> {
    let tensors = Tensors::read(file)?;
    let mut report = Report::default();
    for name in tensors.names() {
        let (schedule, rest) = name.split_once('.').ok_or("expected SCHEDULE.RESPACING.NAME")?;
        let (respacing, what) = rest.rsplit_once('.').ok_or("expected SCHEDULE.RESPACING.NAME")?;
        let config = openai_config(schedule, VarianceType::LearnedRange)?;
        let respaced = Timesteps::Respaced(respacing.to_string());
        if what == "timestep_map" {
            let found = respaced.resolve(&config).map_err(|error| error.to_string())?;
            report.equal(&name, &found, &tensors.timesteps(&name)?.into_iter().rev().collect());
            continue;
        }
        let steps = steps(&config, &Sampler::Ddpm, respaced).map_err(|error| error.to_string())?;
        let constant = |step: &ancestral::internals::diffusion::Step| {
            let c = step.coefficients;
            let (log_min, log_max) = match c.variance {
                Variance::LearnedRange { log_min, log_max } => (log_min, log_max),
                _ => (f64::NAN, f64::NAN),
            };
            Some(match what {
                "sqrt_recip_alphas_cumprod" => c.x0_x,
                "sqrt_recipm1_alphas_cumprod" => -c.x0_out,
                "alphas_cumprod" => c.x0_x.powi(-2),
                "posterior_mean_coef1" => c.next.x0,
                "posterior_mean_coef2" => c.next.x,
                "posterior_log_variance_clipped" => log_min,
                // The last step's is 0; its logarithm is clipped.
                "posterior_variance" if step.adds_noise => log_min.exp(),
                "posterior_variance" => 0.0,
                "betas" => log_max.exp(),
                _ => return None,
            })
        };
        let Some(found) = steps.iter().rev().map(constant).collect::<Option<Vec<f64>>>() else {
            continue;
        };
        let expected = tensors.f32(&name)?;
        let pairs = found
            .iter()
            .zip(&expected)
            .map(|(a, &b)| (a - f64::from(b)).abs() / f64::from(b.abs()).max(1e-30));
        report.note(what, &name, pairs.fold(0.0, f64::max), 2e-7);
        report.equal(&name, &found.len(), &expected.len());
    }
    report.finish()
}

/// The stored runs of an ADM case as far as they can be checked without the network: timesteps, and x[i+1]
/// from x[i], pred_x0[i] and noise[i] in DDIM runs and in the last, noiseless step of unguided DDPM runs.
pub fn check_openai_runs(case_dir: &Path) -> Result<String, String> {
    let manifest = read_manifest(case_dir)?;
    let run = &manifest["run"];
    let config =
        openai_config(run["noise_schedule"].as_str().unwrap_or_default(), VarianceType::LearnedRange)?;
    let mut report = Report::default();
    for file in safetensors_files(case_dir)? {
        let kind = if file.starts_with("ddim") { "ddim" } else { "ddpm" };
        let t = Tensors::read(&case_dir.join(&file))?;
        if !file.starts_with(kind) || !t.has("x") || !t.has("pred_x0") {
            continue;
        }
        let what = manifest["goldens"][&file]["what"].as_str().unwrap_or_default();
        let eta = what.split_once("eta ").and_then(|(_, rest)| rest.trim().parse().ok()).unwrap_or(0.0);
        let ddim = Sampler::Ddim { eta };
        let sampler = if kind == "ddim" { ddim } else { Sampler::Ddpm };
        let respacing = run["respacing"][kind].as_str().unwrap_or_default().to_string();
        let steps =
            steps(&config, &sampler, Timesteps::Respaced(respacing)).map_err(|error| error.to_string())?;
        let found: Vec<usize> = steps.iter().map(|step| step.timestep as usize).collect();
        report.equal(&file, &found, &t.timesteps("timesteps")?);
        let (x, x0, noise) = (t.f32("x")?, t.f32("pred_x0")?, t.f32("noise")?);
        let size = x0.len() / steps.len();
        for (i, step) in steps.iter().enumerate() {
            let c = step.coefficients;
            let Variance::Fixed { sigma } = c.variance else { continue };
            if kind == "ddpm" && file.contains("guided") {
                continue;
            }
            let value = |k: usize| {
                let x0 = f64::from(x0[k]);
                c.next.x * f64::from(x[k]) + c.next.x0 * x0 + sigma * f64::from(noise[k])
            };
            let found: Vec<f64> = (i * size..(i + 1) * size).map(value).collect();
            let next = &x[(i + 1) * size..(i + 2) * size];
            // measured 5.2e-6: the original derives ε from x̂0 again in float32, where x̂0 is near x
            let limit = if kind == "ddim" { 1e-5 } else { STEP };
            report.note(
                &format!("{kind} x"),
                &format!("{file} step {i}"),
                difference(&found, next, 1.0),
                limit,
            );
        }
    }
    report.finish()
}

/// torch's CPU generator, bit for bit; `file` is made by tools/make_noise_goldens.py, which
/// says what is in it.
pub fn check_noise(file: &Path) -> Result<String, String> {
    let tensors = Tensors::read(file)?;
    let mut report = Report::default();
    for name in tensors.names() {
        let parts: Vec<&str> = name.split('/').collect();
        let seed =
            parts.get(1).and_then(|seed| seed.parse().ok()).ok_or_else(|| format!("{name}: no seed"))?;
        let mut stream = NoiseStream::new(seed);
        match parts[..] {
            ["random64", _] => {
                let expected = tensors.get(&name)?.i64;
                let found: Vec<i64> = expected.iter().map(|_| stream.random64() as i64).collect();
                report.equal(&name, &found, &expected);
            }
            ["normal", _, sizes, call] => {
                let number = |text: &str| text.parse::<usize>().map_err(|error| format!("{name}: {error}"));
                let sizes = sizes.split(',').map(number).collect::<Result<Vec<_>, _>>()?;
                let calls = sizes.iter().take(number(call)? + 1);
                let last = calls.map(|&n| stream.normal(n)).last().unwrap_or_default();
                let last: Vec<f64> = last.into_iter().map(f64::from).collect();
                report.note("normals (ulp)", &name, ulps(&last, &tensors.f32(&name)?), 0.0);
            }
            _ => return Err(format!("{name}: not a name this check knows")),
        }
    }
    report.finish()
}
