//! DeepFloyd IF's stages: text encoder, U-Net forward, half-precision files, runs.

use crate::golden::case::{Case, Checked, Tensor, Tensors, need, text};
use crate::golden::report::{Limit, Report};
use crate::golden::runs::Run;
use crate::golden::{existing, forward};
use ancestral::device::{Device, Keep, ProgramOptions, Variants, Weights};
use ancestral::graph::{Graph, Storage};
use ancestral::kernels::Precision;
use ancestral::kernels::epilogue::Activation;
use ancestral::kernels::resample::{Resample, resample};
use ancestral::models::{t5, unet};
use ancestral::picture::Picture;
use ancestral::systems::denoise::{Guided, channels_last};
use ancestral::systems::imagen::{Conditioning, LowRes, Stage, TextEncoder};
use ancestral::systems::initial_noise;
use ancestral::{Engine, GenerateConfig, LoadOptions};
use serde_json::Value;

const OPTIONS: ProgramOptions = ProgramOptions {
    precision: Precision::F32,
    keep: Keep::Outputs,
    variants: Variants::Measured,
    accurate: false,
};

/// Everything a case stores, of either stage.
pub fn check(case: &Case, device: &Device, report: &mut Report) -> Checked {
    let mut stage = Stage::load(&case.pipeline, None).map_err(text)?;
    for (file, what) in case.goldens() {
        let golden = case.read(&file)?;
        let has = |name: &str| golden.contains_key(name);
        if has("sample") && has("out") {
            let found = forward_of(&stage, &golden, device)?;
            let act = Activation::from_name(&stage.unet.act_fn).ok_or("no activation of that name")?;
            forward::check("forward", &found, &golden, (case.spread("forward")?, act), report)?;
        } else if has("last_hidden_state") {
            check_text(case, &golden, device, report)?;
        } else if has("unet_out") || has("t5_last_hidden_state") {
            check_fp16(case, &golden, device, report)?;
        } else if has("x") && has("timesteps") {
            let scale = case.manifest["run"]["guidance_scale"].as_f64().unwrap_or(1.0);
            let run = Run::new(case, (&file, &what), &stage.scheduler, scale)?;
            check_run(case, &mut stage, &run, device, report)?;
        } else if !has("ids_plain") && !has("ids_clean") {
            return Err(format!("{file}: none of the known kinds of golden"));
        }
    }
    Ok(())
}

fn forward_of(stage: &Stage, golden: &Tensors, device: &Device) -> Checked<forward::Outputs> {
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
    let out = stage.unet.forward(&mut g, &inputs);
    g.output("out", &out);
    let sample = sample.channels_last();
    let mut values: Vec<(&str, &[f32])> =
        vec![("x", &sample), ("t", &timestep.values), ("context", &context.values)];
    values.extend(golden.get("class_labels").map(|levels| ("noise_level", levels.values.as_slice())));
    forward::run(device, stage.weights(), g, &values)
}

/// States of token ids, `mask` where there is one; after every block, too.
fn encode(
    text: &TextEncoder,
    ids: &Tensor,
    mask: Option<&Tensor>,
    device: &Device,
) -> Checked<forward::Outputs> {
    let (batch, len) = (ids.shape[0], ids.shape[1]);
    let mask: Vec<bool> =
        mask.map_or(vec![true; batch * len], |m| m.values.iter().map(|&m| m != 0.0).collect());
    let mask = t5::additive_mask(&mask);
    let graph = t5::graph(&text.config, batch, len);
    forward::run(device, text.weights(), graph, &[("ids", &ids.values), ("mask", &mask)])
}

fn check_text(case: &Case, golden: &Tensors, device: &Device, report: &mut Report) -> Checked {
    let encoder = TextEncoder::load(&case.pipeline, None).map_err(text)?;
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
        let stage = Stage::load(&case.pipeline, Some("fp16")).map_err(text)?;
        let found = forward_of(&stage, with("sample")?, device)?;
        let limit = Limit::once(case.spread("forward")?);
        report.golden("fp16 files: U-Net", found.get("out").unwrap_or_default(), expected, limit);
    }
    if let Some(expected) = golden.get("t5_last_hidden_state") {
        let encoder = TextEncoder::load(&case.pipeline, Some("fp16")).map_err(text)?;
        let inputs = with("last_hidden_state")?;
        let found = encode(&encoder, need(inputs, "ids")?, inputs.get("mask"), device)?;
        let limit = Limit::once(case.spread("T5")?);
        report.golden("fp16 files: T5", found.get("states").unwrap_or_default(), expected, limit);
    }
    Ok(())
}

fn check_run(case: &Case, stage: &mut Stage, run: &Run, device: &Device, report: &mut Report) -> Checked {
    if run.tensors.contains_key("prompt_embeds") && case.manifest["run"]["prompts"].is_array() {
        check_prompts(case, run, device, report)?;
    }
    let context = context(run)?;
    let low_res = check_low_res(case, stage, run, device, report)?;
    let denoiser = stage.denoiser(device, &OPTIONS, run.shape).map_err(text)?;
    denoiser.write("context", &context);
    if let Some((values, level)) = &low_res {
        denoiser.write("low_res", values);
        denoiser.write("noise_level", &vec![*level as f32; run.shape.batch()]);
    }
    run.check(denoiser, report)?;
    match &low_res {
        Some((_, level)) => check_stage(stage, run, (&context, *level), device, report),
        None => check_engine(case, run, device, report),
    }
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
    let encoder = TextEncoder::load(&case.pipeline, None).map_err(text)?;
    let manifest = &case.manifest["run"];
    let clean = manifest["clean_caption"].as_bool().unwrap_or(false);
    // A stage without T5 goldens states no spread of its own for it.
    let limit = Limit::once(case.spread("T5").or_else(|_| case.spread("forward"))?);
    for (key, golden) in [("prompts", "prompt_embeds"), ("negative_prompts", "negative_prompt_embeds")] {
        let (prompts, Some(golden)) = (strings(&manifest[key]), run.tensors.get(golden)) else { continue };
        if !prompts.is_empty() {
            // Several pictures of a prompt repeat its states.
            let pictures = (golden.shape[0] / prompts.len()).max(1);
            let prompts: Vec<&str> =
                prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt.as_str(), pictures)).collect();
            let found = encoder.encode(device, &prompts, clean).map_err(text)?;
            report.golden(&format!("states of the {key}"), &found.states, golden, limit);
        }
    }
    Ok(())
}

/// Super-resolution: the picture enlarged, then noised; returns the stored one (if there is one) with its noise level.
fn check_low_res(
    case: &Case,
    stage: &Stage,
    run: &Run,
    device: &Device,
    report: &mut Report,
) -> Checked<Option<(Vec<f32>, usize)>> {
    if !stage.is_super_resolution() {
        return Ok(None);
    }
    let level =
        case.manifest["run"]["noise_level"].as_u64().ok_or("the manifest's run has no noise_level")?;
    let (low_res, z) = (need(&run.tensors, "low_res")?, need(&run.tensors, "upscale_noise")?);
    let limit = Limit::once(case.spread("forward")?);
    let [n, c, h, w] = low_res.picture()?;
    if let Some(golden) = run.tensors.get("upscaled") {
        let mut g = Graph::new();
        let x = g.input("x", &[n, h, w, c], Storage::Elem);
        let mode = Resample::Bilinear { align_corners: true };
        let up = resample(&mut g, "up", &x, run.shape.height, run.shape.width, mode);
        g.output("out", &up);
        let found = forward::run(device, &Weights::none(), g, &[("x", &low_res.channels_last())])?;
        report.golden("upscaled", found.get("out").unwrap_or_default(), golden, limit);
    }
    let from = low_res.channels_last();
    let found =
        stage.augment(device, (&from, h, w), level as usize, run.shape, &z.channels_last()).map_err(text)?;
    let Some(noised) = run.tensors.get("upscaled_noised") else {
        return Ok(Some((found, level as usize)));
    };
    report.golden("upscaled_noised", &found, noised, limit);
    Ok(Some((noised.channels_last(), level as usize)))
}

/// The whole super-resolution stage: its draws in their order, the picture enlarged and noised, all steps.
fn check_stage(
    stage: &mut Stage,
    run: &Run,
    (context, noise_level): (&[f32], usize),
    device: &Device,
    report: &mut Report,
) -> Checked {
    let mut noise = run.draws(None, run.tensors.get("upscale_noise"));
    let low_res = need(&run.tensors, "low_res")?;
    let [_, c, h, w] = low_res.picture()?;
    let from = channels_last(&low_res.values, c, h, w);
    let start = initial_noise(&mut noise, run.shape);
    let z = initial_noise(&mut noise, run.shape);
    let values = stage.augment(device, (&from, h, w), noise_level, run.shape, &z).map_err(text)?;
    let low_res = Some(LowRes { values: &values, noise_level });
    let conditioning = Conditioning { context, low_res };
    let (scale, shape) = (run.guidance_scale, run.shape);
    let found = stage
        .sample(
            device,
            &OPTIONS,
            &run.steps,
            &mut Guided::classifier_free(scale),
            shape,
            &conditioning,
            &mut noise,
            start,
            &mut |_| true,
        )
        .map_err(text)?;
    let item = shape.height * shape.width * shape.channels;
    let (width, height) = (shape.width, shape.height);
    let pictures: Vec<Picture> = found
        .chunks_exact(item)
        .map(|v| Picture { width, height, channels: 3, values: v.to_vec(), rounding: Default::default() })
        .collect();
    run.check_pictures("stage", &pictures, None, report);
    Ok(())
}

/// Prompt to picture by the engine, one picture at a time as a caller draws them.
fn check_engine(case: &Case, run: &Run, device: &Device, report: &mut Report) -> Checked {
    let (manifest, shape) = (&case.manifest["run"], run.shape);
    let (prompts, negative) = (strings(&manifest["prompts"]), strings(&manifest["negative_prompts"]));
    if prompts.len() != shape.pictures {
        return Ok(());
    }
    let options =
        LoadOptions { device: existing(device), precision: Some(Precision::F32), ..LoadOptions::default() };
    let mut engine = Engine::load(&case.pipeline, &options).map_err(text)?;
    for (i, prompt) in prompts.iter().enumerate() {
        let mut cfg = GenerateConfig::new()
            .steps([run.steps.len()])
            .guidance_scale([run.guidance_scale])
            .negative_prompt(negative.get(i).cloned().unwrap_or_default())
            .clean_caption(manifest["clean_caption"].as_bool().unwrap_or(false))
            .size(shape.width, shape.height);
        let mut noise = run.draws(Some(i), None);
        let pictures = engine.generate_from_noise(prompt, &mut cfg, &mut noise).map_err(text)?;
        run.check_pictures(&format!("engine, picture {i}"), &pictures, Some(i), report);
    }
    Ok(())
}
