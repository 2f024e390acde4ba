//! Karlo: tokens; forwards of prior, text projection, decoder and both super-resolution networks; every stage's steps,
//! each from the stored sample and on their own; pictures to CLIP's embedding; prompt or picture to picture by the engine.

use crate::golden::case::{Case, Checked, Kind, Tensor, Tensors, need, text};
use crate::golden::existing;
use crate::golden::forward;
use crate::golden::report::{Limit, Report};
use crate::golden::runs::{Run, Stored};
use crate::golden::upsampler::{enlarged, handed_over};
use ancestral::internals::device::{Device, ProgramOptions};
use ancestral::internals::diffusion::SchedulerConfig;
use ancestral::internals::graph::{Graph, Storage};
use ancestral::internals::kernels::Precision;
use ancestral::internals::models::{prior, unet, unet2d};
use ancestral::internals::pipeline::denoiser::Denoiser;
use ancestral::internals::pipeline::stage::{At, Stage};
use ancestral::internals::pipeline::text::Halves;
use ancestral::internals::pipeline::unclip::{
    PictureEncoder, Projection, TextEncoder, denormalised, load_decoder, load_prior, padded_mask,
};
use ancestral::internals::pipeline::upsampler::load_karlo;
use ancestral::internals::weights::read_json;
use ancestral::{ByteRounding, Engine, LoadOptions, Picture, PromptEmbeds, Settings};
use serde_json::Value;

/// Spreads of the same networks where a manifest states none, as image variation's: those of `unclip`'s manifest, the
/// largest of its steps.
const FORWARD: f64 = 1.95e-6;
const DECODER: f64 = 1.39e-4;
const SUPER_RESOLUTION: f64 = 1.58e-4;

/// Outputs of single networks.
const FORWARDS: [&str; 5] =
    ["prior.out", "text_proj.hidden_states", "decoder.out", "sr_first.out", "sr_last.out"];

/// Everything a case stores.
pub fn check(case: &Case, device: &Device, report: &mut Report) -> Checked {
    for (file, _) in case.goldens() {
        let golden = case.read(&file)?;
        if golden.contains_key("decoder.x") {
            Whole::read(case, golden, device)?.check(report)?;
        } else if FORWARDS.iter().any(|name| golden.contains_key(*name)) {
            check_forwards(case, &golden, device, report)?;
        } else if golden.contains_key("ids") {
            check_tokens(case, &golden, report)?;
        } else if golden.contains_key("image_u8") {
            check_pixels(case, &golden, report)?;
        } else {
            return Err(format!("{file}: none of the known kinds of golden"));
        }
    }
    Ok(())
}

/// A device with this harness's options.
fn at(device: &Device) -> At<'_> {
    At { device, options: &OPTIONS }
}

/// The network's spread of one forward.
fn spread(case: &Case, part: &str) -> f64 {
    case.spread(part).unwrap_or(FORWARD)
}

/// Added to scores: nothing where there is text.
fn additive(mask: &Tensor) -> Vec<f32> {
    mask.values.iter().map(|&text| if text > 0.0 { 0.0 } else { prior::HIDDEN }).collect()
}

fn check_tokens(case: &Case, golden: &Tensors, report: &mut Report) -> Checked {
    let encoder = TextEncoder::load(&case.pipeline, None).map_err(text)?;
    let stored = std::fs::read(case.dir.join("prompts.json")).map_err(|error| error.to_string())?;
    let stored: Value = serde_json::from_slice(&stored).map_err(|error| error.to_string())?;
    let prompts = stored["prompts"].as_array().ok_or("prompts.json has no prompts")?;
    let (ids, mask) = (need(golden, "ids")?, need(golden, "mask")?);
    if prompts.len() != ids.shape[0] {
        return Err(format!("{} prompts for {} rows of ids", prompts.len(), ids.shape[0]));
    }
    for (i, prompt) in prompts.iter().enumerate() {
        let raw = prompt["raw"].as_str().ok_or("a prompt without `raw`")?;
        let tokens = encoder.tokenizer().encode(raw, ids.shape[1]).map_err(text)?;
        let found: Vec<f32> = tokens.ids.iter().map(|&id| id as f32).collect();
        report.equal(&format!("ids of {raw:?}"), &found, &ids.at(i).values);
        let seen = |at: usize| f32::from(u8::from(at < tokens.len));
        let found: Vec<f32> = (0..ids.shape[1]).map(seen).collect();
        report.equal(&format!("mask of {raw:?}"), &found, &mask.at(i).values);
    }
    Ok(())
}

/// A picture of bytes `[H, W, 3]`.
fn picture(bytes: &Tensor) -> Checked<Picture> {
    let &[height, width, channels] = &bytes.shape[..] else {
        return Err(format!("a picture of {:?}", bytes.shape));
    };
    let values = bytes.values.iter().map(|byte| byte / 127.5 - 1.0).collect();
    Ok(Picture { width, height, channels, values, rounding: ByteRounding::Nearest })
}

/// Pixels as CLIP's encoder gets them: whole bytes, so not one may be off.
fn check_pixels(case: &Case, golden: &Tensors, report: &mut Report) -> Checked {
    let encoder = PictureEncoder::load(&case.pipeline, None).map_err(text)?;
    let found = encoder.preprocessor.apply(&picture(need(golden, "image_u8")?)?).map_err(text)?;
    let pixels = need(golden, "pixel_values_of_image_u8")?;
    let (means, deviations) =
        (ancestral::internals::models::clip::MEANS, ancestral::internals::models::clip::DEVIATIONS);
    let byte = |(i, v): (usize, &f32)| ((f64::from(*v) * deviations[i % 3] + means[i % 3]) * 255.0) as f32;
    let expected: Vec<f32> = pixels.channels_last().iter().enumerate().map(byte).collect();
    let bytes: Vec<f32> = found.to_bytes().into_iter().map(f32::from).collect();
    report.compare("bytes of image_u8", &bytes, &expected, Limit { max: 1e-3, mean: 1e-3 });
    Ok(())
}

fn check_forwards(case: &Case, golden: &Tensors, device: &Device, report: &mut Report) -> Checked {
    let held = FORWARDS.map(|name| golden.contains_key(name));
    for (name, _) in FORWARDS.iter().zip(held).filter(|(_, held)| !held) {
        report.skip(name);
    }
    if held[0] {
        check_prior(case, golden, device, report)?;
    }
    if held[1] {
        check_projection(case, golden, device, report)?;
    }
    if held[2] {
        check_decoder(case, golden, device, report)?;
    }
    let upsampler = load_karlo(&case.pipeline, false, None).map_err(text)?;
    for (network, out) in upsampler.networks.iter().zip(["sr_first.out", "sr_last.out"]) {
        let Some(expected) = golden.get(out) else { continue };
        let sample = need(golden, "sr.sample")?;
        let [n, c, h, w] = sample.picture()?;
        let mut g = Graph::new();
        let x = g.input("x", &[n, h, w, c], Storage::Elem);
        let t = g.input("t", &[n], Storage::F32);
        let config = case.pipeline.join(&network.name).join("config.json");
        let config: unet2d::Config = read_json(&config).map_err(text)?;
        let y = config.forward(&mut g, (&x, None), &t);
        g.output("out", &y);
        let times = &need(golden, "timestep")?.values[..n];
        let inputs: [(&str, &[f32]); 2] = [("x", &sample.channels_last()), ("t", times)];
        let found = forward::run(device, network.weights(), g, &inputs)?;
        let limit = Limit::once(spread(case, "decoder"));
        report.golden(out, found.get("out").unwrap_or_default(), expected, limit);
    }
    Ok(())
}

fn check_projection(case: &Case, golden: &Tensors, device: &Device, report: &mut Report) -> Checked {
    let projection = Projection::load(&case.pipeline, None).map_err(text)?;
    let of = |name: &str| need(golden, name).map(|tensor| tensor.values.as_slice());
    let (context, time) = projection
        .run(
            at(device),
            of("text_proj.image_embeddings")?,
            of("text_proj.prompt_embeds")?,
            of("text_proj.text_encoder_hidden_states")?,
        )
        .map_err(text)?;
    let limit = Limit::once(spread(case, "decoder"));
    report.golden("text_proj hidden_states", &context, need(golden, "text_proj.hidden_states")?, limit);
    report.held("text_proj additive_time", &time, golden.get("text_proj.additive_time"), limit);
    Ok(())
}

fn check_prior(case: &Case, golden: &Tensors, device: &Device, report: &mut Report) -> Checked {
    let (stage, config) = load_prior(&case.pipeline, None).map_err(text)?;
    let weights = stage.networks[0].weights();
    let (sample, states) =
        (need(golden, "prior.hidden_states")?, need(golden, "prior.encoder_hidden_states")?);
    let (n, columns) = (sample.shape[0], config.embedding_dim);
    let mut g = Graph::new();
    let x = g.input("x", &[n, 1, 1, columns], Storage::F32);
    let t = g.input("t", &[n], Storage::F32);
    let embeds = g.input("embeds", &[n, columns], Storage::Elem);
    let context = g.input("states", &states.shape, Storage::Elem);
    let mask = g.input("mask", &[n, config.num_embeddings + 1], Storage::F32);
    let inputs = prior::Inputs { x: &x, t: &t, embeds: &embeds, states: &context, mask: &mask };
    let out = config.forward(&mut g, &inputs);
    g.output("out", &out);
    let of = |name: &str| need(golden, name).map(|tensor| tensor.values.as_slice());
    let mask = additive(need(golden, "prior.attention_mask")?);
    let inputs: [(&str, &[f32]); 5] = [
        ("x", &sample.values),
        ("t", &of("timestep")?[..n]),
        ("embeds", of("prior.proj_embedding")?),
        ("states", &states.values),
        ("mask", &padded_mask(&mask, config.num_embeddings, 0, 1)),
    ];
    let found = forward::run(device, weights, g, &inputs)?;
    let (out, limit) = (need(golden, "prior.out")?, Limit::once(case.spread("prior")?));
    report.golden("prior.out", found.get("out").unwrap_or_default(), out, limit);
    let found = denormalised(at(device), &config, weights, &out.values).map_err(text)?;
    report.held("prior.post_process", &found, golden.get("prior.post_process"), limit);
    Ok(())
}

fn check_decoder(case: &Case, golden: &Tensors, device: &Device, report: &mut Report) -> Checked {
    let of = |name: &str| need(golden, name);
    let (sample, states) = (of("decoder.sample")?, of("text_proj.hidden_states")?);
    let (stage, config) = load_decoder(&case.pipeline, None, states.shape[1]).map_err(text)?;
    let (labels, mask) = (of("decoder.class_labels")?, of("decoder.attention_mask")?);
    let [n, c, h, w] = sample.picture()?;
    let mut g = Graph::new();
    let x = g.input("x", &[n, h, w, c], Storage::Elem);
    let t = g.input("t", &[n], Storage::F32);
    let context = g.input("context", &states.shape, Storage::Elem);
    let class_labels = g.input("class_labels", &labels.shape, Storage::F32);
    let added = g.input("mask", &mask.shape, Storage::F32);
    let inputs = unet::Inputs {
        x: &x,
        low_res: None,
        t: &t,
        context: &context,
        mask: Some(&added),
        noise_level: None,
        class_labels: Some(&class_labels),
    };
    let out = config.forward(&mut g, &inputs);
    g.output("out", &out);
    let inputs: [(&str, &[f32]); 5] = [
        ("x", &sample.channels_last()),
        ("t", &of("timestep")?.values[..n]),
        ("context", &states.values),
        ("class_labels", &labels.values),
        ("mask", &additive(mask)),
    ];
    let found = forward::run(device, stage.networks[0].weights(), g, &inputs)?;
    let limit = Limit::once(spread(case, "decoder"));
    report.golden("decoder.out", found.get("out").unwrap_or_default(), of("decoder.out")?, limit);
    Ok(())
}

/// What an engine needs for the first picture of a stored run from a prompt: prompt, steps and scales by stage, noise.
pub fn first_picture(case: &Case, device: &Device) -> Checked<(String, Vec<usize>, Vec<f64>, Stored)> {
    let files = case.goldens();
    let stored = files.iter().map(|(file, _)| case.read(file)).collect::<Checked<Vec<_>>>()?;
    let golden = stored.into_iter().find(|golden| golden.contains_key("super_res.x")).ok_or("no run")?;
    let whole = Whole::read(case, golden, device)?;
    let (prior, _) = load_prior(&case.pipeline, None).map_err(text)?;
    let (decoder, _) = load_decoder(&case.pipeline, None, 0).map_err(text)?;
    let upsampler = load_karlo(&case.pipeline, false, None).map_err(text)?;
    let schedulers = [prior.scheduler, decoder.scheduler, upsampler.scheduler];
    let run = |(part, scheduler): (&str, &SchedulerConfig)| whole.run(part, scheduler, 1.0, 0);
    let runs = ["prior", "decoder", "super_res"].into_iter().zip(&schedulers).map(run);
    let runs = runs.collect::<Checked<Vec<_>>>()?;
    let noise = Stored::joined(runs.iter().map(|run| run.draws(Some(0), None)));
    Ok((whole.prompts[0].clone(), whole.steps, whole.scales, noise))
}

/// A stored run of a pipeline, whichever it begins with.
struct Whole<'a> {
    case: &'a Case,
    device: &'a Device,
    golden: Tensors,
    /// The prompts, unconditional halves first, one for each picture.
    captions: Halves,
    prompts: Vec<String>,
    /// Scales and steps by stage.
    scales: Vec<f64>,
    steps: Vec<usize>,
}

const OPTIONS: ProgramOptions = ProgramOptions {
    precision: Precision::F32,
    keep: ancestral::internals::device::Keep::Outputs,
    variants: ancestral::internals::device::Variants::Measured,
};

impl<'a> Whole<'a> {
    fn read(case: &'a Case, golden: Tensors, device: &'a Device) -> Checked<Self> {
        let run = &case.manifest["run"];
        let pictures = need(&golden, "decoder.x")?.shape[1];
        let strings = run["prompts"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut prompts: Vec<String> = strings.map(String::from).collect();
        if prompts.is_empty() {
            prompts = vec![String::new(); pictures];
        }
        // Several pictures of a prompt come one after another.
        let each = (pictures / prompts.len()).max(1);
        prompts = prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt.clone(), each)).collect();
        let encoder = TextEncoder::load(&case.pipeline, None).map_err(text)?;
        let encode = |texts: &[&str]| encoder.encode(at(device), texts).map_err(text);
        let texts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        let captions = Halves { negative: encode(&vec![""; prompts.len()])?, prompts: encode(&texts)? };
        let stages: &[&str] = match case.kind()? {
            Kind::UnClip => &["prior", "decoder", "super_res"],
            _ => &["decoder", "super_res"],
        };
        let scale = |stage: &&str| run[format!("{stage}_guidance_scale")].as_f64().unwrap_or(1.0);
        let count = |stage: &&str| Ok(need(&golden, &format!("{stage}.timesteps"))?.values.len());
        let steps = stages.iter().map(count).collect::<Checked<_>>()?;
        let scales = stages.iter().map(scale).collect();
        Ok(Whole { case, device, golden, captions, prompts, scales, steps })
    }

    /// A part of the captions, those of what is not drawn first.
    fn of_captions(&self, part: impl Fn(&PromptEmbeds) -> &[f32]) -> Vec<f32> {
        let all = self.captions.negative.iter().chain(&self.captions.prompts);
        all.flat_map(|embeds| part(embeds).to_vec()).collect()
    }

    /// A stage's stored run; `tokens` of a caption.
    fn run(&self, part: &str, scheduler: &SchedulerConfig, scale: f64, tokens: usize) -> Checked<Run> {
        let prefix = format!("{part}.");
        let mine = |(name, tensor): (&String, &Tensor)| {
            let mut tensor = tensor.clone();
            // Embeddings are pictures of one pixel.
            if tensor.shape.len() == 3 {
                tensor.shape.extend([1, 1]);
            }
            Some((name.strip_prefix(&prefix)?.to_string(), tensor))
        };
        let tensors: Tensors = self.golden.iter().filter_map(mine).collect();
        let count = need(&tensors, "timesteps")?.values.len();
        let largest = if part == "decoder" { DECODER } else { SUPER_RESOLUTION };
        let spreads = self.case.spreads(part, count).unwrap_or_else(|_| vec![largest; count + 1]);
        let forward = spread(self.case, if part == "prior" { "prior" } else { "decoder" });
        Run::of(part, tensors, scheduler, (scale, tokens), (spreads, forward))
    }

    fn check(&self, report: &mut Report) -> Checked {
        let limit = Limit::once(spread(self.case, "CLIP text"));
        let [mut embeds, mut states] =
            [self.of_captions(|embeds| &embeds.pooled), self.of_captions(|embeds| &embeds.states)];
        let mask = self.of_captions(|embeds| &embeds.mask);
        match self.golden.get("prior_in.prompt_embeds") {
            Some(golden) => {
                let golden_states = need(&self.golden, "prior_in.text_hidden_states")?;
                report.golden("prompts' embeds", &embeds, golden, limit);
                report.golden("prompts' states", &states, golden_states, limit);
                match self.golden.get("prior_in.text_mask") {
                    Some(golden) => report.equal("prompts' mask", &mask, &additive(golden)),
                    None => report.skip("prompts' mask"),
                }
                (embeds, states) = (golden.values.clone(), golden_states.values.clone());
            }
            None if self.case.kind()? == Kind::UnClip => report.skip("prompts' embeds"),
            None => {}
        }
        let length = mask.len() / (2 * self.prompts.len());
        let pictures = match self.case.kind()? {
            Kind::UnClip => self.check_prior((&embeds, &states, &mask), length, report)?,
            _ => self.check_picture(report)?,
        };
        let decoder = self.check_decoder((&embeds, &states, &mask), length, report)?;
        let enlarger = self.check_enlarging(report)?;
        self.check_engine(pictures, [&decoder, &enlarger], report)
    }

    /// The prior's run; it, to draw from.
    fn check_prior(
        &self,
        (embeds, states, mask): (&[f32], &[f32], &[f32]),
        length: usize,
        report: &mut Report,
    ) -> Checked<Option<Run>> {
        let (stage, config) = load_prior(&self.case.pipeline, None).map_err(text)?;
        let run = self.run("prior", &stage.scheduler, self.scales[0], length)?;
        let mut denoiser = self.denoiser(&stage, 0, &run)?;
        denoiser.write("embeds", embeds);
        denoiser.write("states", states);
        denoiser.write("mask", &padded_mask(mask, length, 0, 1));
        run.check(&mut denoiser, report)?;
        let last = need(&self.golden, "prior.x")?.at(run.steps.len());
        let weights = stage.networks[0].weights();
        let found = denormalised(at(self.device), &config, weights, &last.values).map_err(text)?;
        let golden = need(&self.golden, "image_embeddings")?;
        report.golden("image_embeddings", &found, golden, Limit::once(spread(self.case, "prior")));
        Ok(Some(run))
    }

    /// The picture's embedding.
    fn check_picture(&self, report: &mut Report) -> Checked<Option<Run>> {
        let encoder = PictureEncoder::load(&self.case.pipeline, None).map_err(text)?;
        let golden = need(&self.golden, "image_embeddings")?;
        let pictures = vec![self.picture()?; golden.shape[0]];
        let found = encoder.embed(at(self.device), &pictures).map_err(text)?;
        report.golden("image_embeddings", &found, golden, Limit::once(self.case.spread("CLIP vision")?));
        Ok(None)
    }

    /// The picture that is varied.
    fn picture(&self) -> Checked<Picture> {
        picture(need(&self.case.read("clip_vision.safetensors")?, "image_u8")?)
    }

    fn check_decoder(
        &self,
        (embeds, states, mask): (&[f32], &[f32], &[f32]),
        length: usize,
        report: &mut Report,
    ) -> Checked<Run> {
        let projection = Projection::load(&self.case.pipeline, None).map_err(text)?;
        let pictures = &need(&self.golden, "image_embeddings")?.values;
        let (context, labels) = projection.run(at(self.device), pictures, embeds, states).map_err(text)?;
        let limit = Limit::once(spread(self.case, "decoder"));
        let [hidden, time] =
            ["text_proj.hidden_states", "text_proj.additive_time"].map(|name| self.golden.get(name));
        report.held("text_proj hidden_states", &context, hidden, limit);
        report.held("text_proj additive_time", &labels, time, limit);
        let extra = projection.config.clip_extra_context_tokens;
        let mask = padded_mask(mask, length, extra, 0);
        if let Some(golden) = self.golden.get("decoder_text_mask") {
            report.equal("decoder's mask", &mask, &additive(golden));
        }
        let (stage, _) = load_decoder(&self.case.pipeline, None, length + extra).map_err(text)?;
        let run =
            self.run("decoder", &stage.scheduler, self.scales[self.scales.len() - 2], length + extra)?;
        let mut denoiser = self.denoiser(&stage, 0, &run)?;
        denoiser.write("context", hidden.map_or(&context, |golden| &golden.values));
        denoiser.write("class_labels", time.map_or(&labels, |golden| &golden.values));
        denoiser.write("mask", &mask);
        run.check(&mut denoiser, report)?;
        Ok(run)
    }

    fn check_enlarging(&self, report: &mut Report) -> Checked<Run> {
        let upsampler = load_karlo(&self.case.pipeline, false, None).map_err(text)?;
        let mut run = self.run("super_res", &upsampler.scheduler, 1.0, 0)?;
        let small = need(&self.golden, "decoder.x")?;
        let small = small.at(small.shape[0] - 1);
        let [_, _, h, w] = small.picture()?;
        run.shape.enlarges = Some((h, w));
        let small = small.channels_last();
        let found = enlarged(&upsampler, &small, run.shape, self.device)?;
        let limit = Limit::once(spread(self.case, "decoder"));
        // Image variation's run has none.
        let golden = self.golden.get("image_upscaled");
        if golden.is_some() || self.case.kind()? == Kind::UnClip {
            report.held("image_upscaled", &found, golden, limit);
        }
        let [mut first, mut last] =
            [self.denoiser(&upsampler, 0, &run)?, self.denoiser(&upsampler, 1, &run)?];
        let low_res = handed_over(&upsampler, &small);
        first.write("low_res", &low_res);
        last.write("low_res", &low_res);
        run.check_with_last(&mut first, Some(&mut last), report)?;
        Ok(run)
    }

    /// A program of a stage's network for a run.
    fn denoiser(&self, stage: &Stage, network: usize, run: &Run) -> Checked<Denoiser> {
        let network = stage.networks.get(network).ok_or("not two networks")?;
        network.denoiser(at(self.device), run.shape, run.steps.len()).map_err(text)
    }

    /// Prompt or picture to picture by the engine, one picture at a time as a caller draws them.
    fn check_engine(&self, prior: Option<Run>, runs: [&Run; 2], report: &mut Report) -> Checked {
        let options = LoadOptions {
            device: existing(self.device),
            precision: Some(Precision::F32),
            ..LoadOptions::default()
        };
        let engine = Engine::load(&self.case.pipeline, &options).map_err(text)?;
        let [decoder, enlarger] = runs;
        for (i, prompt) in self.prompts.iter().enumerate() {
            let all = prior.iter().chain([decoder, enlarger]);
            let mut noise = Stored::joined(all.map(|run| run.draws(Some(i), None)));
            let mut cfg = Settings::new().steps(self.steps.clone()).guidance_scale(self.scales.clone());
            if prior.is_none() {
                cfg = cfg.image(vec![self.picture()?]);
            }
            let found = engine.generate_from_noise(prompt, &cfg, &mut noise).map_err(text)?;
            enlarger.check_pictures(&format!("engine, picture {i}"), &found, Some(i), report);
            // `images` lie in 0 to 1, channels last already.
            if let Some(golden) = self.golden.get("images") {
                let golden: Vec<f32> = golden.at(i).values.iter().map(|v| 2.0 * v - 1.0).collect();
                let values: Vec<f32> = found.iter().flat_map(|p| p.values.clone()).collect();
                report.compare(&format!("engine, images[{i}]"), &values, &golden, enlarger.limit());
            }
        }
        Ok(())
    }
}
