//! DeepFloyd IF's stages: text encoder, U-Net forward, half-precision files, runs.

use crate::golden::case::{Case, Checked, Tensor, Tensors, need, text};
use crate::golden::report::{Limit, Report};
use crate::golden::runs::Run;
use crate::golden::{existing, forward};
use ancestral::internals::device::{Device, Keep, ProgramOptions, Variants, Weights};
use ancestral::internals::diffusion::{SchedulerConfig, add_noise};
use ancestral::internals::graph::{Graph, Storage};
use ancestral::internals::kernels::Precision;
use ancestral::internals::kernels::epilogue::Activation;
use ancestral::internals::models::text_unet::augment;
use ancestral::internals::models::{t5, unet};
use ancestral::internals::pipeline::adapters::merge;
use ancestral::internals::pipeline::cascade;
use ancestral::internals::pipeline::denoiser::Denoiser;
use ancestral::internals::pipeline::imagen::load_stage;
use ancestral::internals::pipeline::resolve::resolve;
use ancestral::internals::pipeline::run::{self, Line, StageRun};
use ancestral::internals::pipeline::stage::{At, Stage};
use ancestral::internals::pipeline::system::{Conditioner, System};
use ancestral::internals::pipeline::text::{T5Text, t5_caption};
use ancestral::internals::settings::Source;
use ancestral::internals::weights::{Kind, read_json};
use ancestral::{Condition, Engine, LoadOptions, Picture, Settings};
use serde_json::Value;
use std::path::PathBuf;

const OPTIONS: ProgramOptions =
    ProgramOptions { precision: Precision::F32, keep: Keep::Outputs, variants: Variants::Measured };

/// Everything a case stores, of either stage.
pub fn check(case: &Case, device: &Device, report: &mut Report) -> Checked {
    let stage = load(case, None)?;
    let mut fp16 = false;
    for (file, what) in case.goldens() {
        let golden = case.read(&file)?;
        let has = |name: &str| golden.contains_key(name);
        if has("sample") && has("out") {
            let found = forward_of(case, &stage, &golden, device)?;
            let act = Activation::from_name(&unet(case)?.act_fn).ok_or("no activation of that name")?;
            forward::check("forward", &found, &golden, (case.spread("forward")?, act), report)?;
        } else if has("last_hidden_state") {
            check_text(case, &golden, device, report)?;
        } else if has("unet_out") || has("t5_last_hidden_state") {
            fp16 = true;
            check_fp16(case, &golden, device, report)?;
        } else if has("x") && has("timesteps") {
            let scale = case.manifest["run"]["guidance_scale"].as_f64().unwrap_or(1.0);
            let run = Run::new(case, (&file, &what), &stage.scheduler, scale)?;
            check_run(case, &stage, &run, device, report)?;
        } else if !has("ids_plain") && !has("ids_clean") {
            return Err(format!("{file}: none of the known kinds of golden"));
        }
    }
    // Another case holds them where the pipeline is its.
    let own = !case.manifest["pipeline"].is_string();
    if own && !fp16 && case.pipeline.join("unet/diffusion_pytorch_model.fp16.safetensors").exists() {
        report.skip("fp16 files");
    }
    Ok(())
}

/// The case's stage, which noises what it enlarges as the manifest's run does.
fn load(case: &Case, variant: Option<&str>) -> Checked<Stage> {
    let level = case.manifest["run"]["noise_level"].as_u64().unwrap_or(0);
    let mut stage = load_stage(&case.pipeline, variant, level as usize).map_err(text)?;
    if !loras(case).is_empty() {
        let encoder = T5Text::load(&case.pipeline, None).map_err(text)?;
        adapt(case, stage.networks[0].weights(), encoder.weights())?;
    }
    // Another scheduler than the folder's, as the run had it.
    let scheduler = &case.manifest["run"]["scheduler"];
    if scheduler.is_object() {
        let path = case.dir.join("manifest.json");
        stage.scheduler = SchedulerConfig::from_json(&path, &scheduler.to_string()).map_err(text)?;
    }
    Ok(stage)
}

/// The text encoder, with what the run's LoRA adds.
fn load_text(case: &Case) -> Checked<T5Text> {
    let encoder = T5Text::load(&case.pipeline, None).map_err(text)?;
    if !loras(case).is_empty() {
        let stage = load_stage(&case.pipeline, None, 0).map_err(text)?;
        adapt(case, stage.networks[0].weights(), encoder.weights())?;
    }
    Ok(encoder)
}

/// What the manifest's run merged into U-Net and text encoder.
fn loras(case: &Case) -> Vec<(PathBuf, f32)> {
    let file = case.manifest["run"]["lora"].as_str();
    file.map(|file| (case.dir.join(file), 1.0)).into_iter().collect()
}

fn adapt(case: &Case, unet: &Weights, encoder: &Weights) -> Checked {
    merge(&loras(case), &[(Kind::Unet, unet), (Kind::Text, encoder)]).map_err(text)
}

fn unet(case: &Case) -> Checked<unet::Config> {
    read_json(&case.pipeline.join("unet/config.json")).map_err(text)
}

fn forward_of(case: &Case, stage: &Stage, golden: &Tensors, device: &Device) -> Checked<forward::Outputs> {
    let (sample, context) = (need(golden, "sample")?, need(golden, "encoder_hidden_states")?);
    let (timestep, [n, c, h, w]) = (need(golden, "timestep")?, sample.picture()?);
    let mut g = Graph::new();
    let x = g.input("x", &[n, h, w, c], Storage::Elem);
    let t = g.input("t", &[n], Storage::F32);
    let states = g.input("context", &context.shape, Storage::Elem);
    let level = golden.get("class_labels").map(|_| g.input("noise_level", &[n], Storage::F32));
    let inputs = unet::Inputs {
        x: &x,
        low_res: None,
        t: &t,
        context: &states,
        mask: None,
        noise_level: level.as_ref(),
        class_labels: None,
    };
    let out = unet(case)?.forward(&mut g, &inputs);
    g.output("out", &out);
    let sample = sample.channels_last();
    let mut values: Vec<(&str, &[f32])> =
        vec![("x", &sample), ("t", &timestep.values), ("context", &context.values)];
    values.extend(golden.get("class_labels").map(|levels| ("noise_level", levels.values.as_slice())));
    forward::run(device, stage.networks[0].weights(), g, &values)
}

/// States of token ids, `mask` where there is one; after every block, too.
fn encode(text: &T5Text, ids: &Tensor, mask: Option<&Tensor>, device: &Device) -> Checked<forward::Outputs> {
    let (batch, len) = (ids.shape[0], ids.shape[1]);
    let mask: Vec<bool> =
        mask.map_or(vec![true; batch * len], |m| m.values.iter().map(|&m| m != 0.0).collect());
    let mask = t5::additive_mask(&mask);
    let graph = t5::graph(&text.config, batch, len);
    forward::run(device, text.weights(), graph, &[("ids", &ids.values), ("mask", &mask)])
}

fn check_text(case: &Case, golden: &Tensors, device: &Device, report: &mut Report) -> Checked {
    let encoder = T5Text::load(&case.pipeline, None).map_err(text)?;
    let limit = Limit::once(case.spread("T5")?);
    let found = encode(&encoder, need(golden, "ids")?, golden.get("mask"), device)?;
    let last = need(golden, "last_hidden_state")?;
    report.golden("T5 last_hidden_state", found.get("states").unwrap_or_default(), last, limit);
    for (name, tensor) in golden {
        if name.starts_with("hidden.") {
            let values = found.get(name).ok_or_else(|| format!("T5 has no `{name}`"))?;
            // Stored of the first prompts only.
            let stored = &values[..tensor.values.len().min(values.len())];
            report.golden(
                &format!("T5 {name}"),
                stored,
                tensor,
                limit.sized_like(&tensor.values, &last.values),
            );
        }
        if let Some(ids) = golden.get(&format!("{name}_ids")) {
            let found = encode(&encoder, ids, None, device)?;
            report.golden(&format!("T5 {name}"), found.get("states").unwrap_or_default(), tensor, limit);
        }
    }
    Ok(())
}

/// Half-precision files, widened: inputs are those of the other files.
fn check_fp16(case: &Case, golden: &Tensors, device: &Device, report: &mut Report) -> Checked {
    let others: Checked<Vec<Tensors>> = case.goldens().iter().map(|(file, _)| case.read(file)).collect();
    let others = others?;
    let with = |name: &str| {
        others.iter().find(|t| t.contains_key(name)).ok_or_else(|| format!("no golden file has `{name}`"))
    };
    if let Some(expected) = golden.get("unet_out") {
        let stage = load(case, Some("fp16"))?;
        let found = forward_of(case, &stage, with("sample")?, device)?;
        let limit = Limit::once(case.spread("forward")?);
        report.golden("fp16 files: U-Net", found.get("out").unwrap_or_default(), expected, limit);
    }
    if let Some(expected) = golden.get("t5_last_hidden_state") {
        let encoder = T5Text::load(&case.pipeline, Some("fp16")).map_err(text)?;
        let inputs = with("last_hidden_state")?;
        let found = encode(&encoder, need(inputs, "ids")?, inputs.get("mask"), device)?;
        let limit = Limit::once(case.spread("T5")?);
        report.golden("fp16 files: T5", found.get("states").unwrap_or_default(), expected, limit);
    }
    Ok(())
}

fn check_run(case: &Case, stage: &Stage, run: &Run, device: &Device, report: &mut Report) -> Checked {
    if run.tensors.contains_key("prompt_embeds") && case.manifest["run"]["prompts"].is_array() {
        check_prompts(case, run, device, report)?;
    }
    let context = context(run)?;
    let at = At { device, options: &OPTIONS };
    let mut denoiser = stage.networks[0].denoiser(at, run.shape, run.steps.len()).map_err(text)?;
    denoiser.write("context", &context);
    if !stage.network().enlarges() {
        run.check(&mut denoiser, report)?;
        return check_engine(case, run, device, report);
    }
    check_low_res(case, run, device, report)?;
    let level =
        case.manifest["run"]["noise_level"].as_f64().ok_or("the manifest's run has no noise_level")?;
    denoiser.write("low_res", &need(&run.tensors, "low_res")?.channels_last());
    denoiser.write("low_res_noise", &need(&run.tensors, "upscale_noise")?.channels_last());
    denoiser.write("noise_level", &vec![level as f32; run.shape.batch()]);
    run.check(&mut denoiser, report)?;
    check_stage(load(case, None)?, run, context, device, report)
}

/// The unconditional half first, where the run is guided.
fn context(run: &Run) -> Checked<Vec<f32>> {
    let mut context = Vec::new();
    if run.shape.guided {
        context.extend(&need(&run.tensors, "negative_prompt_embeds")?.values);
    }
    context.extend(&need(&run.tensors, "prompt_embeds")?.values);
    Ok(context)
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(String::from).collect()
}

/// The prompts' words to the states the run was given.
fn check_prompts(case: &Case, run: &Run, device: &Device, report: &mut Report) -> Checked {
    let encoder = load_text(case)?;
    let manifest = &case.manifest["run"];
    let clean = manifest["clean_caption"].as_bool().unwrap_or(false);
    // A stage without T5 goldens states no spread of its own for it.
    let limit = Limit::once(case.spread("T5").or_else(|_| case.spread("forward"))?);
    for (key, golden) in [("prompts", "prompt_embeds"), ("negative_prompts", "negative_prompt_embeds")] {
        let (prompts, Some(golden)) = (strings(&manifest[key]), run.tensors.get(golden)) else { continue };
        if !prompts.is_empty() {
            // Several pictures of a prompt repeat its states.
            let pictures = (golden.shape[0] / prompts.len()).max(1);
            let prompts: Vec<String> = prompts.iter().map(|prompt| t5_caption(prompt, clean)).collect();
            let prompts: Vec<&str> =
                prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt.as_str(), pictures)).collect();
            let found = encoder.encode(At { device, options: &OPTIONS }, &prompts).map_err(text)?;
            let states: Vec<f32> = found.into_iter().flat_map(|embeds| embeds.states).collect();
            report.golden(&format!("states of the {key}"), &states, golden, limit);
        }
    }
    Ok(())
}

/// Super-resolution: the picture enlarged, and then noised.
fn check_low_res(case: &Case, run: &Run, device: &Device, report: &mut Report) -> Checked {
    let config = case.pipeline.join("image_noising_scheduler/scheduler_config.json");
    let level = case.manifest["run"]["noise_level"].as_u64().unwrap_or_default() as usize;
    let noising =
        SchedulerConfig::read(&config).and_then(|noising| add_noise(&noising, level)).map_err(text)?;
    let (low_res, z) = (need(&run.tensors, "low_res")?, need(&run.tensors, "upscale_noise")?);
    let limit = Limit::once(case.spread("forward")?);
    for (name, by) in [("upscaled", (1.0, 0.0)), ("upscaled_noised", noising)] {
        let mut g = Graph::new();
        let low = g.input("low_res", &run.shape.small(), Storage::Elem);
        let noise = g.input("z", &run.shape.sample(), Storage::Elem);
        let out = augment(&mut g, &low, &noise, by);
        g.output("out", &out);
        let inputs: [(&str, &[f32]); 2] = [("low_res", &low_res.channels_last()), ("z", &z.channels_last())];
        let found = forward::run(device, &Weights::none(), g, &inputs)?;
        report.held(name, found.get("out").unwrap_or_default(), run.tensors.get(name), limit);
    }
    Ok(())
}

/// A super-resolution stage by itself, of states that are known.
struct Alone {
    stages: [Stage; 1],
    /// Of the whole batch.
    context: Vec<f32>,
}

impl System for Alone {
    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn condition(&self) -> Condition {
        Condition::Nothing
    }

    fn line(&self, settings: &Settings) -> ancestral::Result<Line> {
        let Source::Stage { pictures, .. } = &settings.source else { unreachable!("it begins at pictures") };
        let side = pictures[0].width;
        Ok(Line { alone: Some(run::Alone { side, any: false }), ..Line::all(vec![0]) })
    }

    fn begin<'a>(
        &'a self,
        _: At<'a>,
        _: &'a run::Run,
        _: &'a Settings,
    ) -> ancestral::Result<Box<dyn Conditioner + 'a>> {
        Ok(Box::new(Known(&self.context)))
    }
}

struct Known<'a>(&'a [f32]);

impl Conditioner for Known<'_> {
    fn condition(&mut self, _: &StageRun, denoiser: &mut Denoiser) -> ancestral::Result<()> {
        denoiser.write("context", self.0);
        Ok(())
    }
}

/// The whole super-resolution stage by the cascade: its draws in their order, the picture enlarged and noised, all steps.
fn check_stage(stage: Stage, run: &Run, context: Vec<f32>, device: &Device, report: &mut Report) -> Checked {
    let [_, channels, height, width] = need(&run.tensors, "low_res")?.picture()?;
    let low_res = need(&run.tensors, "low_res")?.channels_last();
    let picture = |values: &[f32]| Picture {
        width,
        height,
        channels,
        values: values.to_vec(),
        rounding: Default::default(),
    };
    let pictures: Vec<Picture> = low_res.chunks_exact(channels * height * width).map(picture).collect();
    let settings = Settings::new()
        .count(pictures.len())
        .from_pictures(pictures)
        .size(run.shape.width, run.shape.height)
        .steps(run.steps.len())
        .guidance_scale(run.guidance_scale);
    let system = Alone { stages: [stage], context };
    let resolved = resolve(&system, "", &settings).map_err(text)?;
    let mut noise = run.draws(None, run.tensors.get("upscale_noise"));
    let at = At { device, options: &OPTIONS };
    let found = cascade::draw(&system, at, &resolved, &settings, &mut noise).map_err(text)?;
    run.check_pictures("stage", &found, None, report);
    Ok(())
}

/// Prompt to picture by the engine, one picture at a time as a caller draws them.
fn check_engine(case: &Case, run: &Run, device: &Device, report: &mut Report) -> Checked {
    let (manifest, shape) = (&case.manifest["run"], run.shape);
    let (prompts, negative) = (strings(&manifest["prompts"]), strings(&manifest["negative_prompts"]));
    if prompts.len() != shape.pictures {
        return Ok(());
    }
    let (device, precision, loras) = (existing(device), Some(Precision::F32), loras(case));
    let options = LoadOptions { device, precision, loras, ..LoadOptions::default() };
    let engine = Engine::load(&case.pipeline, &options).map_err(text)?;
    for (i, prompt) in prompts.iter().enumerate() {
        let cfg = Settings::new()
            .steps([run.steps.len()])
            .guidance_scale([run.guidance_scale])
            .negative_prompt(negative.get(i).cloned().unwrap_or_default())
            .clean_caption(manifest["clean_caption"].as_bool().unwrap_or(false))
            .size(shape.width, shape.height);
        // The folder's scheduler with another sampler is what the run had.
        let other = case.manifest["run"]["scheduler"].is_object().then_some(run.sampler);
        let cfg = other.into_iter().fold(cfg, Settings::sampler);
        let mut noise = run.draws(Some(i), None);
        let pictures = engine.generate_from_noise(prompt, &cfg, &mut noise).map_err(text)?;
        run.check_pictures(&format!("engine, picture {i}"), &pictures, Some(i), report);
    }
    Ok(())
}
