//! CLIP's encoders of every layout against PyTorch, Semantic Diffusion Guidance's terms against its autograd, and a run
//! steered by them; GLIDE's noised CLIP and transformers' encoders of published pipelines' layouts.

use crate::golden::case::{Case, Checked, Tensors, need, text};
use crate::golden::existing;
use crate::golden::forward;
use crate::golden::report::{Limit, Report};
use crate::golden::runs::Stored;
use ancestral::Clip;
use ancestral::guidance::State;
use ancestral::internals::device::{Device, Weights};
use ancestral::internals::diffusion::{Sampler, Timesteps, steps};
use ancestral::internals::graph::{Graph, Storage};
use ancestral::internals::kernels::Precision;
use ancestral::internals::models::clip::{ImageEncoder, detect, text as text_encoder};
use ancestral::internals::pipeline::adm::load_stage;
use ancestral::internals::pipeline::sampler::Led;
use ancestral::internals::pipeline::stage::At;
use ancestral::internals::settings::guidance::Guide;
use ancestral::internals::weights::{Checkpoint, read_json};
use ancestral::{ByteRounding, Engine, LoadOptions, Noise, Picture, Settings};
use serde_json::Value;

/// Spread of GLIDE's vectors, whose manifest says none: what this project's own float32 and float64 measured on the same
/// files (`terms_glide` of the case `sdg`: 1.2e-6 of 2.3; the gradient of a text 1.2e-6 of 1.7, as a share 7e-7).
const GLIDE_SPREAD: f64 = 1.2e-6;
pub const GLIDE_GRADIENT: f64 = 7e-7;

/// Whether a case has something for these checks.
pub fn has_clip(case: &Case) -> bool {
    ["clip.safetensors", "clip_text.safetensors", "clip_vision.safetensors"]
        .iter()
        .any(|file| case.dir.join(file).exists())
}

/// The encoders that a published pipeline's case stores.
pub fn check_published(case: &Case, device: &Device, report: &mut Report) -> Checked {
    if case.dir.join("clip.safetensors").exists() {
        check_glide(case, device, report)?;
    }
    if case.dir.join("clip_text.safetensors").exists() {
        check_text(case, device, report)?;
    }
    if case.dir.join("clip_vision.safetensors").exists() {
        check_vision(case, device, report)?;
    }
    Ok(())
}

/// Ids of texts as the encoder takes them.
fn encode_text(
    config: &text_encoder::Config,
    weights: &Weights,
    (ids, ends): (&[f32], &[usize]),
    device: &Device,
) -> Checked<forward::Outputs> {
    let len = ids.len() / ends.len();
    forward::run(device, weights, config.graph(len, ends), &[("ids", ids)])
}

fn encode_pictures(
    config: &ImageEncoder,
    weights: &Weights,
    golden: (&[f32], [usize; 4], Option<&[f32]>),
    device: &Device,
) -> Checked<forward::Outputs> {
    let (values, [n, c, h, w], t) = golden;
    let mut g = Graph::new();
    let x = g.input("x", &[n, h, w, c], Storage::F32);
    let times = g.input("t", &[n], Storage::F32);
    let seen = config.forward(&mut g, &x, Some(&times), true);
    g.output("embeds", &seen.embeds);
    for (j, map) in seen.maps.iter().enumerate() {
        g.output(&format!("map.{j}"), map);
    }
    let t = t.map_or(vec![0.0; n], <[f32]>::to_vec);
    forward::run(device, weights, g, &[("x", values), ("t", &t)])
}

fn unit(values: &[f32], columns: usize) -> Vec<f32> {
    let length = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let rows = values.chunks_exact(columns);
    rows.flat_map(|row| row.iter().map(|v| (f64::from(*v) / length(row)) as f32).collect::<Vec<_>>())
        .collect()
}

/// GLIDE's noised CLIP: vectors of texts and pictures, and the score.
fn check_glide(case: &Case, device: &Device, report: &mut Report) -> Checked {
    let golden = crate::golden::case::read(&case.dir.join("clip.safetensors"))?;
    let clip = Clip::load(&case.dir).map_err(text)?;
    let limit = Limit::once(GLIDE_SPREAD);
    let (Some(text_config), Some(image)) = (clip.text_encoder(), clip.image_encoder()) else {
        return Err("GLIDE's CLIP lacks an encoder".into());
    };
    let file = |stem: &str| {
        let of = |ending: &str| case.dir.join(format!("{stem}.{ending}"));
        let path = if of("pt").exists() { of("pt") } else { of("safetensors") };
        Checkpoint::open_file(&path).map(Weights::new).map_err(text)
    };
    let (ids, lens) = (need(&golden, "ids")?, need(&golden, "lens")?);
    let rows: Vec<Vec<u32>> =
        (0..ids.shape[0]).map(|i| ids.at(i).values.iter().map(|id| *id as u32).collect()).collect();
    let place = |(row, len): (&Vec<u32>, &f32)| text_config.end.place(row, *len as usize);
    let ends: Vec<usize> = rows.iter().zip(&lens.values).map(place).collect();
    let found = encode_text(text_config, &file("clip_text_enc")?, (&ids.values, &ends), device)?;
    let raw = found.get("embeds").unwrap_or_default();
    report.golden("clip z_t_raw", raw, need(&golden, "z_t_raw")?, limit);
    report.golden("clip z_t", &unit(raw, text_config.embed), need(&golden, "z_t")?, limit);
    let (x, t) = (need(&golden, "x")?, need(&golden, "t")?);
    let shape @ [n, c, h, w] = x.picture()?;
    let (values, weights) = (x.channels_last(), file("clip_image_enc")?);
    let found = encode_pictures(image, &weights, (&values, shape, Some(&t.values)), device)?;
    let raw = found.get("embeds").unwrap_or_default();
    report.golden("clip z_i_raw", raw, need(&golden, "z_i_raw")?, limit);
    report.golden("clip z_i", &unit(raw, image.embed()), need(&golden, "z_i")?, limit);
    // The manifest's words: 2.5 * d(100 * z_t.z_i)/dx. A guidance takes one time for all pictures.
    let said =
        case.manifest["goldens"]["clip.safetensors"]["tensors"]["grad"]["words"].as_str().unwrap_or("2.5");
    let weight: f64 =
        said.split(' ').next().and_then(|word| word.parse().ok()).ok_or("no weight of the gradient")?;
    let mut guidance =
        clip.guidance(device).vectors(need(&golden, "z_t")?.values.clone(), weight).build().map_err(text)?;
    let (item, mut gradient) = (values.len() / n, vec![0.0; values.len()]);
    for (i, time) in t.values.iter().enumerate() {
        let alpha_bar = ancestral::internals::diffusion::Schedule::new(
            &ancestral::internals::diffusion::BetaSchedule::SquaredCosCapV2,
            1000,
            ancestral::internals::diffusion::Arithmetic::Float64,
            false,
        );
        let alpha_bar = alpha_bar.map_err(text)?.alpha_bars[*time as usize];
        report.equal("clip timestep", &clip.timestep(alpha_bar), &Some(*time as usize));
        let at = State { x: &values, x0: &values, shape: [n, h, w, c], timestep: 0.0, alpha_bar };
        let (_, all) = guidance.evaluate(&at, &mut |_| true).map_err(text)?;
        gradient[i * item..][..item].copy_from_slice(&all[i * item..][..item]);
    }
    let golden = need(&golden, "grad")?;
    let largest = golden.values.iter().fold(0.0f32, |top, v| top.max(v.abs()));
    report.golden("clip gradient", &gradient, golden, Limit::once(GLIDE_GRADIENT * f64::from(largest)));
    Ok(())
}

/// A pipeline's encoder in transformers' layout: its config and weights.
fn transformers(case: &Case, folder: &str) -> Checked<(detect::TransformersFile, Weights)> {
    let folder = case.pipeline.join(folder);
    let config: detect::TransformersFile = read_json(&folder.join("config.json")).map_err(text)?;
    let checkpoint = Checkpoint::open(&folder, "model", None).map_err(text)?;
    Ok((config, Weights::new(checkpoint)))
}

fn check_text(case: &Case, device: &Device, report: &mut Report) -> Checked {
    let golden = crate::golden::case::read(&case.dir.join("clip_text.safetensors"))?;
    let limit = Limit::once(case.spread("CLIP text")?);
    let (config, weights) = transformers(case, "text_encoder")?;
    let config = config.text().ok_or("no text encoder")??;
    let ids = need(&golden, "ids")?;
    let place = |i| {
        let row: Vec<u32> = ids.at(i).values.iter().map(|id| *id as u32).collect();
        config.end.place(&row, row.len())
    };
    let ends: Vec<usize> = (0..ids.shape[0]).map(place).collect();
    let found = encode_text(&config, &weights, (&ids.values, &ends), device)?;
    let embeds = need(&golden, "text_embeds")?;
    report.golden("text_embeds", found.get("embeds").unwrap_or_default(), embeds, limit);
    states(&golden, &found, ("last_hidden_state", "hidden"), (embeds, limit), report)
}

fn check_vision(case: &Case, device: &Device, report: &mut Report) -> Checked {
    let golden = crate::golden::case::read(&case.dir.join("clip_vision.safetensors"))?;
    let limit = Limit::once(case.spread("CLIP vision")?);
    let (config, weights) = transformers(case, "image_encoder")?;
    let config = config.image().ok_or("no picture encoder")??;
    // Ours begins at -1 to 1: the stored pixels are normalised, and go back.
    let pixels = need(&golden, "pixel_values")?;
    let values: Vec<f32> = pixels.channels_last().chunks_exact(3).flat_map(unnormalised).collect();
    let found = encode_pictures(&config, &weights, (&values, pixels.picture()?, None), device)?;
    let embeds = need(&golden, "image_embeds")?;
    report.golden("image_embeds", found.get("embeds").unwrap_or_default(), embeds, limit);
    let last = match &config {
        ImageEncoder::Transformer(config) => format!("hidden.{}", config.transformer.layers),
        ImageEncoder::ResNet(_) => return Err("transformers has no residual network".into()),
    };
    states(&golden, &found, ("last_hidden_state", &last), (embeds, limit), report)
}

fn unnormalised(pixel: &[f32]) -> Vec<f32> {
    let (means, deviations) =
        (ancestral::internals::models::clip::MEANS, ancestral::internals::models::clip::DEVIATIONS);
    let value = |c: usize| (f64::from(pixel[c]) * deviations[c] + means[c]) * 2.0 - 1.0;
    (0..3).map(|c| value(c) as f32).collect()
}

/// States of the first texts or pictures, as many as are stored.
fn states(
    golden: &Tensors,
    found: &forward::Outputs,
    (name, ours): (&str, &str),
    (output, limit): (&crate::golden::case::Tensor, Limit),
    report: &mut Report,
) -> Checked {
    let stored = golden.iter().filter(|(key, _)| key.starts_with("hidden.") || *key == name);
    for (key, tensor) in stored {
        let tap = if key == name { ours } else { key };
        let values = found.get(tap).ok_or_else(|| format!("no state `{tap}`"))?;
        let values = &values[..tensor.values.len().min(values.len())];
        report.compare(key, values, &tensor.values, limit.sized_like(&tensor.values, &output.values));
    }
    Ok(())
}

/// What a golden's tensors are off by in float32, as its manifest says.
fn spread(case: &Case, file: &str, tensor: &str) -> Checked<f64> {
    let spread = &case.manifest["tolerance_notes"][file][tensor];
    spread.as_f64().ok_or_else(|| format!("the manifest says no spread of {file}'s `{tensor}`"))
}

/// Everything of a case of Semantic Diffusion Guidance.
pub fn check(case: &Case, device: &Device, report: &mut Report) -> Checked {
    let encoders = case.manifest["encoders"].as_object().ok_or("the manifest lists no encoders")?;
    for (name, about) in encoders {
        let paths = about["files"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let paths: Vec<_> = paths.map(|file| case.dir.join(file)).collect();
        let clip = Clip::load_parts(&paths).map_err(text)?;
        check_terms(case, name, &clip, device, report)?;
    }
    for name in ["vit", "transformers"] {
        let file = format!("text_{name}");
        let golden = case.read(&format!("{file}.safetensors"))?;
        let path = case.dir.join(if name == "vit" { "vit.pt" } else { "transformers" });
        let clip = Clip::load(&path).map_err(text)?;
        let config = clip.text_encoder().ok_or("no text encoder")?;
        let (weights, ids) = (weights_of(&path)?, need(&golden, "ids")?);
        let place = |i| {
            let row: Vec<u32> = ids.at(i).values.iter().map(|id| *id as u32).collect();
            config.end.place(&row, row.len())
        };
        let ends: Vec<usize> = (0..ids.shape[0]).map(place).collect();
        let found = encode_text(config, &weights, (&ids.values, &ends), device)?;
        let limit = Limit::once(spread(case, &file, "embeds")?);
        report.golden(&file, found.get("embeds").unwrap_or_default(), need(&golden, "embeds")?, limit);
    }
    check_run(case, device, report)
}

/// A stored picture of `[1, 3, H, W]`.
fn picture(golden: &Tensors, name: &str) -> Checked<Picture> {
    let tensor = need(golden, name)?;
    let [_, channels, height, width] = tensor.picture()?;
    let (values, rounding) = (tensor.channels_last(), ByteRounding::Nearest);
    Ok(Picture { width, height, channels, values, rounding })
}

/// Places and channels of a map of `len` values of `n` pictures.
fn seen_shape(len: usize, n: usize, key: &str, config: &ImageEncoder) -> Checked<[usize; 2]> {
    let j: u32 = key.trim_start_matches("map.").parse().map_err(|_| format!("`{key}` is no map"))?;
    let places = match config {
        ImageEncoder::Transformer(config) => config.patches(),
        // The stem and the first level are a quarter of the side, each level behind them half of the one before.
        ImageEncoder::ResNet(config) => (config.image_size / (4 << j.saturating_sub(1))).pow(2),
    };
    Ok([places, len / n / places])
}

/// The first rows and columns of each picture's map.
fn corner(values: &[f32], [places, channels]: [usize; 2], [rows, columns]: [usize; 2]) -> Vec<f32> {
    let pictures = values.chunks_exact(places * channels);
    let rows = pictures.flat_map(|map| map.chunks_exact(channels).take(rows));
    rows.flat_map(|row| &row[..columns]).copied().collect()
}

fn weights_of(path: &std::path::Path) -> Checked<Weights> {
    let checkpoint = match path.is_dir() {
        true => Checkpoint::open(path, "model", None),
        false => Checkpoint::open_file(path),
    };
    checkpoint.map(Weights::new).map_err(text)
}

fn check_terms(case: &Case, name: &str, clip: &Clip, device: &Device, report: &mut Report) -> Checked {
    let file = format!("terms_{name}");
    let golden = case.read(&format!("{file}.safetensors"))?;
    let about = &case.manifest["encoders"][name];
    let alpha_bar = about["alpha_bar"].as_f64().ok_or("no alpha_bar")?;
    let (x, example) = (need(&golden, "x")?, picture(&golden, "example")?);
    let [n, c, h, w] = x.picture()?;
    if let Some(t) = golden.get("t") {
        report.equal(&format!("{name} timestep"), &clip.timestep(alpha_bar), &Some(t.values[0] as usize));
    }
    let values = x.channels_last();
    let path = about["files"][0].as_str().map(|file| case.dir.join(file)).ok_or("no file")?;
    let t = golden.get("t").map(|t| t.values.as_slice());
    let config = clip.image_encoder().ok_or("no picture encoder")?;
    let seen = encode_pictures(config, &weights_of(&path)?, (&values, x.picture()?, t), device)?;
    for (key, tensor) in golden.iter().filter(|(key, _)| *key == "embeds" || key.starts_with("map.")) {
        let mut found = seen.get(key).unwrap_or_default().to_vec();
        if let &[n, rows, columns] = &tensor.shape[..] {
            let map = seen_shape(found.len(), n, key, config)?;
            found = corner(&found, map, [rows, columns]);
        }
        let limit = Limit::once(spread(case, &file, key)?);
        report.compare(&format!("{name} {key}"), &found, &tensor.values, limit);
    }
    let at = State { x: &values, x0: &values, shape: [n, h, w, c], timestep: 0.0, alpha_bar };
    let weight =
        |term: &str| case.manifest["mix"][term].as_f64().ok_or_else(|| format!("no weight of `{term}`"));
    let vector = need(&golden, "vector")?.values.clone();
    let all = |weights: [f64; 4]| {
        let mut b = clip.guidance(device);
        let [text, content, structure, style] = weights;
        if text != 0.0 {
            b = b.vectors(vector.clone(), text);
        }
        if content != 0.0 {
            b = b.content(&example, content);
        }
        if structure != 0.0 {
            b = b.structure(&example, structure);
        }
        if style != 0.0 { b.style(&example, style) } else { b }
    };
    let mix = [weight("text")?, weight("content")?, weight("structure")?, weight("style")?];
    for (term, weights) in [
        ("text", [1.0, 0.0, 0.0, 0.0]),
        ("content", [0.0, 1.0, 0.0, 0.0]),
        ("structure", [0.0, 0.0, 1.0, 0.0]),
        ("style", [0.0, 0.0, 0.0, 1.0]),
        ("mix", mix),
    ] {
        let mut b = all(weights);
        if let Some(noise) = golden.get("noise") {
            b = b.noise(Stored::new([noise.values.clone()]));
        }
        let mut guidance = b.build().map_err(text)?;
        let (value, gradient) = guidance.evaluate(&at, &mut |_| true).map_err(text)?;
        for (what, found) in [("value", value), ("gradient", gradient)] {
            let key = format!("{term}.{what}");
            let expected = need(&golden, &key)?;
            // Of two numbers float32's spread is small by chance: no less than a rounding of the larger.
            let rounding = expected.values.iter().fold(0.0f32, |top, v| top.max(v.abs())) * f32::EPSILON;
            let least = if what == "value" { f64::from(rounding) } else { 0.0 };
            let limit = Limit::once(spread(case, &file, &key)?.max(least));
            report.golden(&format!("{name} {key}"), &found, expected, limit);
        }
    }
    Ok(())
}

/// The stored run: each step from its stored sample, and all of them by the engine.
fn check_run(case: &Case, device: &Device, report: &mut Report) -> Checked {
    let golden = case.read("run.safetensors")?;
    let clip = Clip::load(case.dir.join("sdg.pt")).map_err(text)?;
    let mix = &case.manifest["mix"];
    let weight = |term: &str| mix[term].as_f64().ok_or_else(|| format!("no weight of `{term}`"));
    let of_all = case.manifest["run_weight"].as_f64().ok_or("no weight of the run")?;
    let example = picture(&golden, "example")?;
    let noise = need(&golden, "example_noise")?;
    let vector = need(&golden, "vector")?.values.clone();
    let guidance = |noise: Vec<Vec<f32>>| {
        let b = clip
            .guidance(device)
            .vectors(vector.clone(), weight("text")?)
            .content(&example, weight("content")?);
        let b = b.structure(&example, weight("structure")?).style(&example, weight("style")?);
        b.noise(Stored::new(noise)).build().map_err(text)
    };
    let folder = case.dir.join("diffusion");
    let (weights, flags) = (folder.join("diffusion.safetensors"), folder.join("config.json"));
    let (stage, ..) = load_stage(&weights, (Some(&flags), "diffusion"), &[]).map_err(text)?;
    let x = need(&golden, "x")?;
    let count = need(&golden, "timesteps")?.values.len();
    let respacing = count.to_string();
    let list =
        steps(&stage.scheduler, &Sampler::Ddpm, Timesteps::Respaced(respacing.clone())).map_err(text)?;
    let found: Vec<f32> = list.iter().map(|step| step.timestep as f32).collect();
    report.equal("run timesteps", &found, &need(&golden, "timesteps")?.values);
    let spreads = case.manifest["tolerance_notes"]["run per step"].as_array().into_iter().flatten();
    let spreads: Vec<f64> = spreads.filter_map(Value::as_f64).collect();
    if spreads.len() != count + 1 {
        return Err("the manifest lacks the run's spread".into());
    }
    let [pictures, _, height, width] = x.at(0).picture()?;
    let shape = stage.shape(pictures, (width, height), &list, 1.0);
    let at = At { device, options: &Default::default() };
    let mut denoiser = stage.networks[0].denoiser(at, shape, count).map_err(text)?;
    for (i, step) in list.iter().enumerate() {
        let guides = [Guide::new(of_all, guidance(vec![noise.at(i).values])?)];
        let led = Led { guides: &guides, ..Led::classifier_free(1.0) };
        let mut drawn = Stored::new([golden["noise"].at(i).values]);
        let (start, one) = (x.at(i).channels_last(), std::slice::from_ref(step));
        let next = denoiser.sample_from(one, &led, &mut drawn, &start, &mut |_| true).map_err(text)?;
        // The spread of a step from float64's sample is no larger than the run's so far, nor than a step's own.
        let limit = Limit::once(spreads[i + 1].max(spreads[1]));
        report.golden(&format!("run step {i} x"), &next, &x.at(i + 1), limit);
    }
    let options =
        LoadOptions { device: existing(device), precision: Some(Precision::F32), ..LoadOptions::default() };
    let engine = Engine::load(&folder, &options).map_err(text)?;
    let steered = guidance((0..count).map(|i| noise.at(i).values).collect())?;
    let mut cfg = Settings::new().count(pictures).respacing([respacing]).sampler(Sampler::Ddpm);
    cfg = cfg.guide(of_all, steered);
    let mut draws = vec![x.at(0).values];
    draws.extend((0..count).map(|i| golden["noise"].at(i).values));
    let drawn: &mut dyn Noise = &mut Stored::new(draws);
    let found = engine.generate_from_noise("", &cfg, drawn).map_err(text)?;
    let values: Vec<f32> = found.iter().flat_map(|picture| picture.values.clone()).collect();
    report.golden("run engine", &values, &x.at(count), Limit::run(spreads[count]));
    Ok(())
}
