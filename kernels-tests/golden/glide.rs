//! GLIDE: tokens of both tokenizers; the text transformer; forwards of all four networks; the base's steps under
//! classifier-free guidance and the upsampler's DDIM, each from the stored sample, on their own, and by the engine.

use crate::golden::case::{Case, Checked, Kind, Tensor, Tensors, need, own_goldens, text};
use crate::golden::clip;
use crate::golden::existing;
use crate::golden::forward::{self, Outputs};
use crate::golden::report::{Limit, Report};
use crate::golden::runs::Stored;
use ancestral::guidance::ClipGuidance;
use ancestral::internals::device::{Device, DeviceTensor, ProgramOptions};
use ancestral::internals::diffusion::repaint::{Keeping, Kept};
use ancestral::internals::diffusion::{Sampler, Step, Timesteps, channels_last, steps};
use ancestral::internals::graph::{Graph, Storage};
use ancestral::internals::kernels::Precision;
use ancestral::internals::models::adm::flags::Origin;
use ancestral::internals::models::glide::Config;
use ancestral::internals::models::network::{DenoisingNetwork, Shape};
use ancestral::internals::pipeline::denoiser::Denoiser;
use ancestral::internals::pipeline::glide::{load_stage, through_bytes};
use ancestral::internals::pipeline::sampler::{Led, StepDone};
use ancestral::internals::pipeline::stage::{At, Stage};
use ancestral::internals::settings::guidance::Guide;
use ancestral::internals::text::{ClipTokenizer, Gpt2Tokenizer};
use ancestral::{ByteRounding, Clip, Engine, GlideSettings, LoadOptions, Mask, Picture, Settings};
use serde_json::Value;
use std::path::Path;

/// Everything a case stores.
pub fn check(case: &Case, device: &Device, report: &mut Report) -> Checked {
    check_changed(case, device, report, &[])
}

/// The same with options changed, as `network.option`.
fn check_changed(case: &Case, device: &Device, report: &mut Report, changes: &[(&str, &str)]) -> Checked {
    for (file, _) in case.goldens() {
        let golden = case.read(&file)?;
        if golden.contains_key("base.out") {
            check_forwards(case, &golden, device, report, changes)?;
        } else if !changes.is_empty() {
            continue;
        } else if let Some(name) = file.strip_suffix("_cfg.safetensors") {
            let inpaints = golden.contains_key("inpaint_image");
            let network = if inpaints { "base_inpaint" } else { "base" };
            let name = &format!("{name}_cfg");
            Base { case, golden, network, name, clip: None }.check(device, report)?;
        } else if file == "clip_guided.safetensors" {
            let clip = case.manifest["run"]["clip_guided"]["grad_scale"].as_f64();
            let clip = clip.ok_or("the manifest says no scale of CLIP guidance")?;
            let clip = Some(clip);
            Base { case, golden, network: "base", name: "clip_guided", clip }.check(device, report)?;
        } else if golden.contains_key("x_T") {
            Upsampler { case, golden }.check(device, report)?;
        }
    }
    Ok(())
}

/// Names a folder with the published tables (`encoder.json`, `vocab.bpe`, `bpe_simple_vocab_16e6.txt`, packed or not), whose
/// ids a case stores too; they are not ours to copy.
const TABLES: &str = "ANCESTRAL_GLIDE_TOKENIZER";

/// The ids that the case's tokenizers make of its prompts, and those of the published tables where the caller has them.
pub fn check_tokens(case: &Case) -> Checked<String> {
    if !case.holds("tokens.safetensors") {
        return Ok("skipped: no tokens are stored".into());
    }
    let golden = case.read("tokens.safetensors")?;
    let stored = std::fs::read_to_string(case.dir.join("tokens.json")).map_err(|error| error.to_string())?;
    let json: Value = serde_json::from_str(&stored).map_err(|error| error.to_string())?;
    let prompts = json["prompts"].as_array().ok_or("tokens.json has no prompts")?;
    let load = |dir: &Path| -> Checked<_> {
        Ok((Gpt2Tokenizer::load(dir).map_err(text)?, ClipTokenizer::load(dir).map_err(text)?))
    };
    let (gpt2, clip) = load(&case.dir)?;
    let published = std::env::var_os(TABLES).map(|dir| load(Path::new(&dir))).transpose()?;
    let [ids, mask, clip_ids, clip_lens] =
        ["ids", "mask", "clip_ids", "clip_lens"].map(|name| need(&golden, name).cloned());
    let (ids, mask, clip_ids, clip_lens) = (ids?, mask?, clip_ids?, clip_lens?);
    if prompts.len() != ids.shape[0] || prompts.is_empty() {
        return Err(format!("{} prompts for {} rows of ids", prompts.len(), ids.shape[0]));
    }
    for (i, prompt) in prompts.iter().enumerate() {
        let raw = prompt["raw"].as_str().ok_or("a prompt without `raw`")?;
        let same = |what: &str, found: &[f32], golden: &Tensor| match found == golden.at(i).values {
            true => Ok(()),
            false => Err(format!("{what} of {raw:?}: {found:?}, expected {:?}", golden.at(i).values)),
        };
        let tokens = gpt2.encode(raw, ids.shape[1]).map_err(text)?;
        same("ids", &tokens.ids.iter().map(|&id| id as f32).collect::<Vec<_>>(), &ids)?;
        let text_places: Vec<f32> = tokens.mask.iter().map(|&text| f32::from(u8::from(text))).collect();
        same("mask", &text_places, &mask)?;
        let tokens = clip.encode(raw, clip_ids.shape[1]).map_err(text)?;
        same("clip_ids", &tokens.ids.iter().map(|&id| id as f32).collect::<Vec<_>>(), &clip_ids)?;
        if let Some((gpt2, clip)) = &published {
            let stored = |name: &str| serde_json::from_value(prompt[name].clone()).unwrap_or_default();
            let (ids, clip_ids): (Vec<u32>, Vec<u32>) = (stored("real_ids"), stored("real_clip_ids"));
            let tokens = gpt2.encode(raw, ids.len() + 1).map_err(text)?;
            let of_clip = clip.encode(raw, clip_ids.len() + 2).map_err(text)?;
            if tokens.ids[..ids.len()] != ids || of_clip.ids[1..of_clip.len - 1] != clip_ids {
                return Err(format!("other ids by the published tables: {raw:?}"));
            }
        }
        if tokens.len as f32 != clip_lens.values[i] {
            return Err(format!(
                "{raw:?}: {} of CLIP's tokens, expected {}",
                tokens.len, clip_lens.values[i]
            ));
        }
    }
    let tables = published.map_or(String::new(), |_| ", the published tables' too".into());
    Ok(format!("{} prompts by two tokenizers{tables}", prompts.len()))
}

/// A network of the case.
fn stage(case: &Case, name: &str, changes: &[(&str, &str)]) -> Checked<(Stage, Config, Origin)> {
    let file = case.dir.join("config.json");
    let mine = |(key, value): &(&str, &str)| {
        Some((key.strip_prefix(name)?.strip_prefix('.')?.to_string(), value.to_string()))
    };
    let changes: Vec<_> = changes.iter().filter_map(mine).collect();
    let published = case.dir.join(format!("{name}.pt"));
    let weights = if published.exists() { published } else { case.dir.join(format!("{name}.safetensors")) };
    load_stage(&weights, Some(&file), &changes).map_err(text)
}

/// One forward of each network that is stored.
fn check_forwards(
    case: &Case,
    golden: &Tensors,
    device: &Device,
    report: &mut Report,
    changes: &[(&str, &str)],
) -> Checked {
    // The manifest has the base's spread alone; the other networks are smaller.
    let limit = Limit::once(case.spread("base")?);
    for name in ["base", "upsample", "base_inpaint", "upsample_inpaint"] {
        if !golden.contains_key(&format!("{name}.out")) {
            report.skip(&format!("{name}.out"));
        }
    }
    for (key, expected) in golden {
        let Some((name, kind)) = key.split_once('.').filter(|(_, kind)| kind.starts_with("out")) else {
            continue;
        };
        let (stage, config, origin) = stage(case, name, changes)?;
        report.equal(&format!("{name}'s options"), &matches!(origin, Origin::File(_)), &true);
        let found = forward_of((&stage, &config), golden, kind == "out", device)?;
        report.golden(key, found.get("out").unwrap_or_default(), expected, limit);
        if let (Some(states), Some(pooled)) =
            (golden.get(&format!("{name}.xf_out")), golden.get(&format!("{name}.xf_proj")))
        {
            let [n, width, tokens] = states.shape[..] else { return Err("xf_out is not [N, C, L]".into()) };
            let stored = channels_last(&states.values, width, 1, tokens);
            for (what, stored) in [("xf_out", &stored), ("xf_proj", &pooled.values)] {
                let limit = limit.sized_like(stored, &expected.values);
                let found = found.get(what).unwrap_or_default();
                report.compare(&format!("{name}.{what} of {n} prompts"), found, stored, limit);
            }
        }
    }
    Ok(())
}

/// The stored inputs through a network; without the known picture if `known` is false.
fn forward_of(
    (stage, config): (&Stage, &Config),
    golden: &Tensors,
    known: bool,
    device: &Device,
) -> Checked<Outputs> {
    let up = config.is_super_resolution();
    let pick = |name: &str| need(golden, &if up { format!("{name}_up") } else { name.to_string() });
    let (sample, t) = (pick("x")?, need(golden, "t")?);
    let [n, c, h, w] = sample.picture()?;
    let mut values = vec![
        ("x", sample.channels_last()),
        ("t", t.values.clone()),
        ("tokens", need(golden, "tokens")?.values.clone()),
        ("mask", need(golden, "mask")?.values.clone()),
    ];
    let mut enlarges = None;
    if up {
        let low = need(golden, "low_res")?;
        let [_, _, h, w] = low.picture()?;
        enlarges = Some((h, w));
        values.push(("low_res", low.channels_last()));
    }
    if config.inpaint {
        let (image, keep) = (pick("inpaint_image")?, pick("inpaint_mask")?);
        let of = |tensor: &Tensor| match known {
            true => tensor.channels_last(),
            false => vec![0.0; tensor.values.len()],
        };
        values.extend([("image", of(image)), ("keep", of(keep))]);
    }
    let mut g = Graph::new();
    let x = g.input("x", &[n, h, w, c], Storage::Elem);
    let t = g.input("t", &[n], Storage::F32);
    let shape = Shape { pictures: n, height: h, width: w, channels: c, enlarges, ..Shape::default() };
    let out = config.record(&mut g, shape, &x, &t);
    g.output("out", &out);
    let values: Vec<(&str, &[f32])> = values.iter().map(|(name, v)| (*name, v.as_slice())).collect();
    forward::run(device, stage.networks[0].weights(), g, &values)
}

/// A number of the manifest's run.
fn number(case: &Case, key: &str) -> Checked<f64> {
    case.manifest["run"][key].as_f64().ok_or_else(|| format!("the manifest's run has no `{key}`"))
}

fn word<'a>(case: &'a Case, key: &str) -> Checked<&'a str> {
    case.manifest["run"][key].as_str().ok_or_else(|| format!("the manifest's run has no `{key}`"))
}

/// The prompt of a picture.
fn prompt(case: &Case, picture: usize) -> Checked<&str> {
    let prompts = case.manifest["run"]["prompts"].as_array().ok_or("the manifest's run has no prompts")?;
    let prompt = prompts.get(picture).or(prompts.first());
    prompt.and_then(Value::as_str).ok_or_else(|| "a prompt is no text".into())
}

fn engine(case: &Case, device: &Device) -> Checked<Engine> {
    let options =
        LoadOptions { device: existing(device), precision: Some(Precision::F32), ..LoadOptions::default() };
    Engine::load(&case.dir, &options).map_err(text)
}

/// The timesteps that are stored.
fn check_timesteps(name: &str, golden: &Tensors, steps: &[Step], report: &mut Report) -> Checked {
    let found: Vec<f32> = steps.iter().map(|step| step.timestep as f32).collect();
    report.equal(&format!("{name} timesteps"), &found, &need(golden, "timesteps")?.values);
    Ok(())
}

/// One step: the next sample and x̂₀.
fn step(denoiser: &mut Denoiser, step: &Step, scale: f64, z: &[f32]) -> Checked<(Vec<f32>, Vec<f32>)> {
    denoiser.step(step, scale, z, &mut |_| true).map_err(text)?;
    let read = |value: &DeviceTensor| value.read().map_err(text);
    Ok((read(denoiser.sample_now())?, read(denoiser.estimate())?))
}

/// The spread of one step from a stored sample: what it makes of the forward's, and no less than a rounding of x.
fn spread_of_step(step: &Step, forward: f64, x: &[f32]) -> f64 {
    let c = &step.coefficients;
    let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let rounding = f64::from(largest * f32::EPSILON);
    (forward * (c.next.x0 * c.x0_out + c.next.eps * c.eps_out).abs()).max(rounding)
}

/// A stored run of the base, or of its twin that inpaints, under classifier-free guidance or, of its own accord, under
/// CLIP's.
struct Base<'a> {
    case: &'a Case,
    golden: Tensors,
    /// The network's file.
    network: &'a str,
    /// The run's.
    name: &'a str,
    /// How strongly CLIP steers.
    clip: Option<f64>,
}

impl Base<'_> {
    fn check(&self, device: &Device, report: &mut Report) -> Checked {
        let (case, golden) = (self.case, &self.golden);
        let scale = if self.clip.is_some() { 1.0 } else { number(case, "guidance_scale")? };
        let (name, (stage, ..)) = (self.name, stage(case, self.network, &[])?);
        let respaced = Timesteps::Respaced(self.respacing()?.into());
        let steps = steps(&stage.scheduler, &Sampler::Ddpm, respaced).map_err(text)?;
        check_timesteps(name, golden, &steps, report)?;
        let spreads = self.spreads(steps.len())?;
        let (x, noise) = (need(golden, "x")?, need(golden, "noise")?);
        let [pictures, _, height, width] = x.at(0).picture()?;
        let shape = stage.shape(pictures, (width, height), &steps, scale);
        let at = At { device, options: &ProgramOptions::default() };
        let mut denoiser = stage.networks[0].denoiser(at, shape, steps.len()).map_err(text)?;
        for name in ["tokens", "mask"] {
            // The reference has the conditional half first.
            let (prompt, none) = need(golden, name)?.values.split_at(pictures * shape.tokens);
            denoiser.write(name, &[none, prompt].concat());
        }
        let guides: Vec<Guide> = self
            .guidance(device, pictures)?
            .map(|(weight, guidance)| Guide::new(weight, guidance))
            .into_iter()
            .collect();
        let led = Led { scale, guides: &guides, kept: self.kept()? };
        if let Some(kept) = &led.kept {
            denoiser.write("image", &kept.picture);
            denoiser.write("keep", &kept.keep);
        }
        let of_forward = case.spread("base")? * (2.0 * scale - 1.0);
        let mut x0 = Vec::new();
        // One step of the sampler, as the engine takes it.
        let mut sample = |i: usize, from: Vec<f32>, x0: &mut Vec<f32>| {
            let mut keep = |done: StepDone<'_>| {
                if let Some(estimate) = done.estimate {
                    *x0 = estimate().expect("it reads").into_iter().flat_map(|p| p.values).collect();
                }
                true
            };
            let mut draws = Stored::new([noise.at(i).values]);
            let one = std::slice::from_ref(&steps[i]);
            denoiser.sample(one, &led, &mut draws, from, &mut keep).map_err(text)
        };
        for (i, at) in steps.iter().enumerate() {
            let next = sample(i, x.at(i).channels_last(), &mut x0)?;
            report.golden(&format!("{name} step {i} x"), &next, &x.at(i + 1), Limit::once(spreads[i]));
            let limit = Limit::once(spreads[i].max(of_forward * at.coefficients.x0_out.abs()));
            let golden = golden.get("pred_x0").map(|x0| x0.at(i));
            report.held(&format!("{name} step {i} pred_x0"), &x0, golden.as_ref(), limit);
        }
        let mut free = x.at(0).channels_last();
        for (i, &spread) in spreads.iter().enumerate() {
            free = sample(i, free, &mut x0)?;
            report.golden(&format!("{name} free x[{}]", i + 1), &free, &x.at(i + 1), Limit::run(spread));
        }
        self.check_engine(device, report, (steps.len(), pictures, scale), spreads[steps.len() - 1])
    }

    /// The spread after each step. The manifest states none of the run that CLIP steers: that of the same network's other
    /// run, and at least the gradient's share of the sample, most of which the score moved there.
    fn spreads(&self, steps: usize) -> Checked<Vec<f64>> {
        if self.clip.is_none() {
            return spreads(self.case, self.name, steps);
        }
        let x = need(&self.golden, "x")?;
        let largest = |i: usize| x.at(i).values.iter().fold(0.0f32, |top, v| top.max(v.abs()));
        let least = |i: usize| clip::GLIDE_GRADIENT * f64::from(largest(i + 1));
        let of_base = spreads(self.case, "base_cfg", steps)?;
        Ok(of_base.iter().enumerate().map(|(i, spread)| spread.max(least(i))).collect())
    }

    fn respacing(&self) -> Checked<&str> {
        match self.clip {
            None => word(self.case, "base_respacing"),
            Some(_) => self.case.manifest["run"]["clip_guided"]["respacing"]
                .as_str()
                .ok_or_else(|| "the manifest says no respacing of CLIP guidance".into()),
        }
    }

    /// What steers, by the prompts of the pictures.
    fn guidance(&self, device: &Device, pictures: usize) -> Checked<Option<(f64, ClipGuidance)>> {
        let Some(weight) = self.clip else { return Ok(None) };
        let prompts = (0..pictures).map(|i| prompt(self.case, i)).collect::<Checked<Vec<_>>>()?;
        let clip = Clip::load(&self.case.dir).map_err(text)?;
        Ok(Some((weight, clip.text_guidance(device, &prompts).map_err(text)?)))
    }

    /// The stored picture and which part of it is kept.
    fn kept(&self) -> Checked<Option<Kept>> {
        let Some(image) = self.golden.get("inpaint_image") else { return Ok(None) };
        let keep = need(&self.golden, "inpaint_mask")?.values.clone();
        Ok(Some(Kept { picture: image.channels_last(), keep, how: Keeping::Estimate }))
    }

    /// Prompt to picture, one picture at a time as a caller draws them.
    fn check_engine(
        &self,
        device: &Device,
        report: &mut Report,
        (steps, pictures, scale): (usize, usize, f64),
        spread: f64,
    ) -> Checked {
        let (x, noise) = (need(&self.golden, "x")?, need(&self.golden, "noise")?);
        let [_, _, height, width] = x.at(0).picture()?;
        let engine = engine(self.case, device)?;
        for i in 0..pictures {
            let mut cfg = Settings::new()
                .stages(1)
                .size(width, height)
                .respacing([self.respacing()?])
                .guidance_scale([scale]);
            if let Some(kept) = self.kept()? {
                let pixels = width * height;
                let values = kept.picture[3 * pixels * i..][..3 * pixels].to_vec();
                let picture = Picture { width, height, channels: 3, values, rounding: ByteRounding::Nearest };
                let keep = kept.keep[pixels * i..][..pixels].to_vec();
                let mask = Mask::new(width, height, |x, y| keep[y * width + x] == 0.0);
                cfg = cfg.inpaint(vec![picture], mask);
            }
            if let Some(weight) = self.clip {
                let clip = Clip::load(&self.case.dir).map_err(text)?;
                let guidance = clip.text_guidance(device, &[prompt(self.case, i)?]).map_err(text)?;
                cfg = cfg.guide(weight, guidance);
            }
            let draws =
                [x.at(0).at(i).values].into_iter().chain((0..steps).map(|s| noise.at(s).at(i).values));
            let mut draws = Stored::new(draws);
            let prompt = prompt(self.case, i)?;
            let found = engine.generate_from_noise(prompt, &cfg, &mut draws).map_err(text)?;
            let last = channels_last(&x.at(steps).at(i).values, 3, height, width);
            let values = &found.first().ok_or("no picture")?.values;
            report.compare(&format!("{} engine, picture {i}", self.name), values, &last, Limit::run(spread));
        }
        Ok(())
    }
}

/// The stored run of the upsampler.
struct Upsampler<'a> {
    case: &'a Case,
    golden: Tensors,
}

impl Upsampler<'_> {
    fn check(&self, device: &Device, report: &mut Report) -> Checked {
        let (case, golden) = (self.case, &self.golden);
        let (stage, ..) = stage(case, "upsample", &[])?;
        let ddim = Sampler::Ddim { eta: 0.0 };
        let respaced = Timesteps::Respaced(word(case, "upsample_respacing")?.into());
        let steps = steps(&stage.scheduler, &ddim, respaced).map_err(text)?;
        check_timesteps("upsample_ddim", golden, &steps, report)?;
        let (start, low) = (need(golden, "x_T")?, need(golden, "low_res")?);
        let [pictures, _, height, width] = start.picture()?;
        let [_, _, small_height, small_width] = low.picture()?;
        let shape = stage.shape(pictures, (width, height), &steps, 1.0);
        let shape = Shape { enlarges: Some((small_height, small_width)), ..shape };
        let at = At { device, options: &ProgramOptions::default() };
        let denoiser = &mut stage.networks[0].denoiser(at, shape, steps.len()).map_err(text)?;
        for name in ["tokens", "mask"] {
            denoiser.write(name, &need(golden, name)?.values);
        }
        denoiser.write("low_res", &low.channels_last());
        denoiser.write("x", &start.channels_last());
        // The manifest states no spread: a forward's through every step so far.
        let (forward, mut spread, zeros) = (case.spread("base")?, 0.0, vec![0.0; start.values.len()]);
        for (i, at) in steps.iter().enumerate() {
            let (next, _) = step(denoiser, at, 1.0, &zeros)?;
            spread += spread_of_step(at, forward, &next);
            if let Some(stored) = golden.get(&format!("x_after.{i}")) {
                report.golden(&format!("upsample_ddim free x[{}]", i + 1), &next, stored, Limit::run(spread));
                if let Some(after) = golden.get(&format!("x_after.{}", i + 1)).filter(|_| i + 1 < steps.len())
                {
                    denoiser.write("x", &stored.channels_last());
                    let (next, _) = step(denoiser, &steps[i + 1], 1.0, &zeros)?;
                    let limit = Limit::once(spread_of_step(&steps[i + 1], forward, &next));
                    report.golden(&format!("upsample_ddim step {} x", i + 1), &next, after, limit);
                    denoiser.write("x", &stored.channels_last());
                    continue;
                }
            }
        }
        // The base's pictures before they were bytes, where they are stored, and what was made of them.
        if !case.holds("base_cfg.safetensors")
            || !golden.contains_key(&format!("x_after.{}", steps.len() - 1))
        {
            report.skip("upsample_ddim engine");
            return Ok(());
        }
        self.check_engine(device, report, (pictures, steps.len()), spread)
    }

    /// From the base's picture to the end by the engine.
    fn check_engine(
        &self,
        device: &Device,
        report: &mut Report,
        (pictures, steps): (usize, usize),
        spread: f64,
    ) -> Checked {
        let (case, golden) = (self.case, &self.golden);
        let (start, low) = (need(golden, "x_T")?, need(golden, "low_res")?);
        let last = need(golden, &format!("x_after.{}", steps - 1))?;
        let [_, _, height, width] = start.picture()?;
        let [_, _, low_height, low_width] = low.picture()?;
        let (temp, engine) = (number(case, "upsample_temp")?, engine(case, device)?);
        let base = case.read("base_cfg.safetensors")?;
        let base = need(&base, "x")?;
        let base = base.at(base.shape[0] - 1);
        let bytes: Vec<f32> = base.channels_last().into_iter().map(through_bytes).collect();
        report.equal("through_bytes", &bytes, &low.channels_last());
        for i in 0..pictures {
            let values = channels_last(&base.at(i).values, 3, low_height, low_width);
            let (channels, rounding) = (3, ByteRounding::Nearest);
            let from = Picture { width: low_width, height: low_height, channels, values, rounding };
            let cfg = Settings::new()
                .size(width, height)
                .respacing([word(case, "base_respacing")?, word(case, "upsample_respacing")?])
                .from_pictures([from])
                .system(GlideSettings { upsample_temp: Some(temp) });
            let noise: Vec<f32> = start.at(i).values.iter().map(|z| z / temp as f32).collect();
            // DDIM draws at every step, too, and multiplies it by 0.
            let unused = vec![0.0; noise.len()];
            let mut draws = Stored::new(std::iter::once(noise).chain(vec![unused; steps]));
            let prompt = prompt(case, i)?;
            let found = engine.generate_from_noise(prompt, &cfg, &mut draws).map_err(text)?;
            let values = &found.first().ok_or("no picture")?.values;
            let expected = channels_last(&last.at(i).values, 3, height, width);
            report.compare(
                &format!("upsample_ddim engine, picture {i}"),
                values,
                &expected,
                Limit::run(spread),
            );
        }
        Ok(())
    }
}

/// The spread after each step of a run.
fn spreads(case: &Case, name: &str, steps: usize) -> Checked<Vec<f64>> {
    let key = format!("{name}: max |fp32 - fp64| per step");
    let list = case.manifest["tolerance_notes"][&key].as_array().into_iter().flatten();
    let list: Vec<f64> = list.filter_map(Value::as_f64).collect();
    if list.len() != steps {
        return Err(format!("the manifest's `{key}` has {} numbers for {steps} steps", list.len()));
    }
    Ok(list)
}

/// Another option is another network, and no check passes a moved golden.
#[test]
fn golden_glide_wrong_options_are_seen() {
    let case = Case::open(&own_goldens().join("glide")).expect("a case");
    assert_eq!(case.kind(), Ok(Kind::Glide));
    let run = |changes: &[(&str, &str)]| {
        let mut report = Report::new(format!("{changes:?}"));
        let checked = check_changed(&case, &Device::Cpu, &mut report, changes);
        report.finish(checked).2
    };
    for change in [
        ("base.num_head_channels", "32"),
        ("base.xf_heads", "2"),
        ("base.use_scale_shift_norm", "False"),
        ("upsample.num_head_channels", "8"),
        ("base_inpaint.xf_heads", "2"),
        ("upsample_inpaint.num_head_channels", "32"),
    ] {
        let found = run(&[change]);
        assert!(!found.is_empty(), "{change:?} passes");
        println!("{change:?}: {}", found[0]);
    }
    let mut report = Report::new("planted".into());
    report.planted = true;
    check(&case, &Device::Cpu, &mut report).expect("the checks run");
    let (checks, failures) = report.counts();
    assert!(checks >= 30 && failures == checks, "{failures} of {checks} checks fail");
}
