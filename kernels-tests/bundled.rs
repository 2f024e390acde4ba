//! The bundled models, end to end: the picture diffusers draws, the same on every run and on both devices; a classifier
//! that steers.

mod unclip;

use crate::skipped::skip;
use crate::told::Told;
use ancestral::guidance::ClipGuidance;
use ancestral::internals::pipeline::adm::Classifier;
use ancestral::{
    Bundled, Clip, Device, DeviceChoice, Engine, Error, Gpu, LoadOptions, Mask, Photo, Picture, Precision,
};
use ancestral::{Rectangle, Resampling, Settings};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Deserialize)]
struct Golden {
    file: String,
    prompt: String,
    seed: u64,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/bundled")
}

fn goldens() -> Vec<Golden> {
    let text = std::fs::read_to_string(folder().join("pictures.json")).expect("pictures.json");
    serde_json::from_str(&text).expect("a list of pictures")
}

fn read_png(path: &Path) -> Vec<u8> {
    image::open(path).expect("a PNG").to_rgb8().into_raw()
}

fn engine(device: DeviceChoice, precision: Option<Precision>) -> Engine {
    let options = LoadOptions { device, precision, ..Default::default() };
    Engine::bundled(&options).expect("the bundled model loads")
}

fn draw(engine: &Engine, prompt: &str, seed: u64) -> Picture {
    let started = Instant::now();
    let mut pictures = engine.generate(prompt, Settings::new().seed(seed)).expect("a picture");
    println!("`{prompt}` on {}: {:.1} s", engine.device().name(), started.elapsed().as_secs_f64());
    pictures.remove(0)
}

/// The adapter the GPU tests run on, or none with the reason.
fn gpu() -> Option<DeviceChoice> {
    let name = std::env::var("ANCESTRAL_TEST_DEVICE").unwrap_or_else(|_| "llvmpipe".into());
    let choice = DeviceChoice::Named(name);
    match Device::open(&choice) {
        Ok(device) => {
            println!("adapter: {}", device.name());
            Some(choice)
        }
        Err(error) => {
            assert!(std::env::var_os("ANCESTRAL_REQUIRE_GPU").is_none(), "a GPU is required: {error}");
            skip(&error.to_string());
            None
        }
    }
}

/// At most 1 of 255 for 99.9 % of values and at most 4 anywhere; the figures, if not.
fn alike(a: &[u8], b: &[u8]) -> Result<(), String> {
    assert_eq!(a.len(), b.len(), "pictures of one size");
    let differences: Vec<u8> = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).collect();
    let worst = differences.iter().copied().max().unwrap_or(0);
    let off = differences.iter().filter(|d| **d > 1).count() as f64 / differences.len() as f64;
    println!("worst difference {worst}, {:.4} % above 1", 100.0 * off);
    if worst <= 4 && off <= 0.001 { Ok(()) } else { Err(format!("worst {worst}, share above 1: {off}")) }
}

#[test]
fn golden_bundled_cpu_draws_what_diffusers_draws() {
    let engine = engine(DeviceChoice::Cpu, None);
    for golden in goldens() {
        let picture = draw(&engine, &golden.prompt, golden.seed);
        alike(&picture.to_bytes(), &read_png(&folder().join(&golden.file))).expect(&golden.prompt);
        // Negative control: another seed is another picture.
        let other = draw(&engine, &golden.prompt, golden.seed + 1);
        assert!(alike(&other.to_bytes(), &picture.to_bytes()).is_err());
    }
}

#[test]
fn golden_bundled_gpu_draws_the_same() {
    let Some(choice) = gpu() else { return };
    let golden = &goldens()[0];
    let engine = engine(choice, Some(Precision::F32));
    let picture = draw(&engine, &golden.prompt, golden.seed);
    alike(&picture.to_bytes(), &read_png(&folder().join(&golden.file))).expect(&golden.prompt);
    let again = draw(&engine, &golden.prompt, golden.seed);
    assert_eq!(picture, again, "the same bits on every run");
}

/// A wgpu device of the caller's own, with f16 where the adapter has it.
fn own_device() -> Option<(wgpu::AdapterInfo, wgpu::Device, wgpu::Queue)> {
    let Some(DeviceChoice::Named(name)) = gpu() else { return None };
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let named = |a: &wgpu::Adapter| a.get_info().name.to_lowercase().contains(&name.to_lowercase());
    let adapter = adapters.into_iter().find(named)?;
    let descriptor = wgpu::DeviceDescriptor {
        required_features: adapter.features() & wgpu::Features::SHADER_F16,
        required_limits: adapter.limits(),
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("a device");
    Some((adapter.get_info(), device, queue))
}

#[test]
fn f16_storage_draws_nearly_the_same_on_a_device_handed_in() {
    let Some((info, device, queue)) = own_device() else { return };
    let gpu = Gpu::from_wgpu(info, device, queue);
    if !gpu.has_f16() {
        return skip(&format!("{} has no f16", gpu.name()));
    }
    let golden = &goldens()[0];
    let half = engine(DeviceChoice::Existing(gpu), Some(Precision::F16));
    // The base stage alone: the later ones add time here and no other kernel.
    let cfg = || Settings::new().seed(golden.seed).stages(1);
    let in_f16 = half.generate(&golden.prompt, cfg()).expect("a picture");
    let in_f32 = engine(DeviceChoice::Cpu, None).generate(&golden.prompt, cfg()).expect("a picture");
    let pairs = in_f16[0].values.iter().zip(&in_f32[0].values);
    let mean = pairs.map(|(a, b)| f64::from((a - b).abs())).sum::<f64>() / in_f32[0].values.len() as f64;
    println!("mean difference of f16 storage: {mean:.5}");
    assert!(mean < 0.02, "f16 storage is off by {mean} in the mean");
}

#[test]
fn a_lost_device_is_an_error_that_says_so() {
    let Some((info, device, queue)) = own_device() else { return };
    let engine = engine(DeviceChoice::Existing(Gpu::from_wgpu(info, device.clone(), queue)), None);
    let prompt = "a red circle";
    let cfg = Settings::new().on_progress(move |progress| {
        if progress.done >= 1.0 {
            device.destroy();
        }
        true
    });
    let error = engine.generate(prompt, cfg).expect_err("the device is gone");
    println!("{error}");
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
    // And again, from the start.
    assert!(engine.generate(prompt, Settings::new()).is_err());
}

#[test]
fn pictures_of_a_batch_are_the_single_ones_and_runs_can_be_cancelled() {
    let engine = engine(DeviceChoice::Cpu, None);
    let prompt = "a green heart in the top left corner";
    let two = engine.generate(prompt, Settings::new().seed(3).count(2).stages(1)).expect("pictures");
    let second = engine.generate(prompt, Settings::new().seed(4).stages(1)).expect("a picture");
    alike(&two[1].to_bytes(), &second[0].to_bytes()).expect("picture 1 of a batch is seed + 1 alone");
    let calls = Told::new();
    let told = calls.clone();
    let cfg = Settings::new().on_progress(move |mut progress| {
        let estimate = progress.estimate().expect("an estimate");
        told.push((progress.size, estimate.map(|pictures| (pictures[0].width, pictures[0].height))));
        progress.done < 3.0
    });
    assert!(matches!(engine.generate(prompt, cfg), Err(Error::Cancelled)));
    let calls = calls.take();
    let estimates: Vec<_> =
        calls.iter().filter_map(|(size, estimate)| estimate.map(|e| (*size, e))).collect();
    assert!(calls.len() > 3 && estimates.len() == 3, "{} calls, {} estimates", calls.len(), estimates.len());
    assert!(estimates.iter().all(|(size, estimate)| size == estimate));
}

fn adm(device: DeviceChoice) -> Engine {
    let options = LoadOptions { device, precision: Some(Precision::F32), ..Default::default() };
    Engine::bundled_as(Bundled::Adm, &options).expect("the bundled model loads")
}

/// A few steps of the bundled classifier-guided model.
fn guided(engine: &Engine, scale: f64) -> Vec<Picture> {
    let cfg = Settings::new().seed(1).count(8).respacing(["20"]).guidance_scale([scale]);
    engine.generate("red circle", cfg).expect("pictures")
}

#[test]
fn bundled_classifier_steers_towards_its_class() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/adm-scenes");
    let flags = folder.join("config.json");
    let file = folder.join("classifier.safetensors");
    let classifier = Classifier::load(&file, (Some(&flags), "classifier"), &[]).expect("the classifier");
    let mut judge = classifier.guidance(&Device::Cpu);
    // The class "red circle" is the first.
    judge.set("class", vec![0.0; 8]);
    let engine = adm(DeviceChoice::Cpu);
    let mut mean = |scale: f64| {
        let pictures = guided(&engine, scale);
        let shape = [8, pictures[0].height, pictures[0].width, 3];
        let values: Vec<f32> = pictures.into_iter().flat_map(|picture| picture.values).collect();
        let (log_p, _) = judge.evaluate(&values, shape, 0.0, &mut |_| true).expect("it runs");
        log_p.iter().sum::<f32>() / 8.0
    };
    let (free, steered) = (mean(0.0), mean(4.0));
    println!("log p of the class: {free:.2} unguided, {steered:.2} at scale 4");
    assert!(steered > free + 1.0, "{steered} at scale 4, {free} unguided");
}

#[test]
fn bundled_adm_draws_the_same_on_both_devices() {
    let Some(choice) = gpu() else { return };
    let one = |engine: Engine| {
        let cfg = Settings::new().seed(5).respacing(["8"]).classes(["blue star"]).guidance_scale([2.0]);
        engine.generate("", cfg).expect("a picture").remove(0).to_bytes()
    };
    alike(&one(adm(DeviceChoice::Cpu)), &one(adm(choice))).expect("the same picture");
}

/// A photo that no model drew: tones that change slowly, with grain.
fn photo(width: u32, height: u32) -> Photo {
    let mut state = 1u32;
    let image = image::RgbImage::from_fn(width, height, |x, y| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let tone = (x as f32 / width as f32 - y as f32 / height as f32) * 20.0 + (state >> 24) as f32 / 32.0;
        image::Rgb([245.0, 205.0, 50.0].map(|v: f32| (v + tone).clamp(0.0, 255.0) as u8))
    });
    Photo { pixels: image.into(), icc_profile: None }
}

/// Mean difference of bytes between the ring of pixels `depth` inside a rectangle and the next one outwards.
fn step_across(image: &image::RgbImage, r: Rectangle, depth: u32) -> f64 {
    let [x, y, w, h] = [r.x, r.y, r.width, r.height].map(|n| n as u32);
    let off = |a: (u32, u32), b: (u32, u32)| {
        let (a, b) = (image.get_pixel(a.0, a.1).0, image.get_pixel(b.0, b.1).0);
        (0..3).map(|c| f64::from(a[c].abs_diff(b[c]))).sum::<f64>() / 3.0
    };
    let columns = (x..x + w).map(|i| off((i, y + depth), (i, y + depth - 1)));
    let below = (x..x + w).map(|i| off((i, y + h - 1 - depth), (i, y + h - depth)));
    let rows = (y..y + h).map(|j| off((x + depth, j), (x + depth - 1, j)));
    let right = (y..y + h).map(|j| off((x + w - 1 - depth, j), (x + w - depth, j)));
    columns.chain(below).chain(rows).chain(right).sum::<f64>() / f64::from(2 * (w + h))
}

/// On both devices: all outside the mask is as it was, and across its edge pixels differ no more than their neighbours.
#[test]
fn an_edit_leaves_no_visible_edge() {
    let photo = photo(700, 500);
    let part = Rectangle { x: 380, y: 100, width: 250, height: 280 };
    let mask = Mask::rectangles(&[part], (700, 500)).expect("a mask");
    for device in [Some(DeviceChoice::Cpu), gpu()].into_iter().flatten() {
        let engine = engine(device, None);
        let edited = engine.edit(
            &photo,
            &mask,
            "a blue square on a yellow background",
            Settings::new().seed(1).resampling(Resampling { times: 2, jump: 5 }),
        );
        let (before, after) = (photo.pixels.to_rgb8(), edited.expect("an edit")[0].pixels.to_rgb8());
        let changed = |x: u32, y: u32| before.get_pixel(x, y) != after.get_pixel(x, y);
        let outside = (0..500).flat_map(|y| (0..700).map(move |x| (x, y)));
        let outside = outside.filter(|&(x, y)| !mask.redraws(x as usize, y as usize));
        assert_eq!(outside.filter(|&(x, y)| changed(x, y)).count(), 0);
        let drawn = (0..250 * 280).map(|i| after.get_pixel(380 + i % 250, 100 + i / 250).0);
        let blue = drawn.filter(|[r, _, b]| u32::from(*b) > u32::from(*r) + 60).count();
        assert!(blue > 3_000, "{blue} blue pixels in the mask");
        let (outside, seam, inside) =
            (step_across(&before, part, 0), step_across(&after, part, 0), step_across(&after, part, 1));
        println!(
            "steps from pixel to pixel: {outside:.2} outside, {seam:.2} across the edge, {inside:.2} inside"
        );
        assert!(seam < outside.max(inside), "the edge is seen: {seam}, {outside} outside, {inside} inside");
    }
}

/// A disc on a ground, in colours of the recipe.
fn disc(side: usize, (x, y): (f32, f32), radius: f32, colour: [u8; 3], ground: [u8; 3]) -> Picture {
    let pixel = |i: usize| {
        let (column, row) = ((i % side) as f32 + 0.5, (i / side) as f32 + 0.5);
        let inside = (column - x).hypot(row - y) <= radius;
        (if inside { colour } else { ground }).map(|byte| f32::from(byte) / 127.5 - 1.0)
    };
    let values = (0..side * side).flat_map(pixel).collect();
    Picture { width: side, height: side, channels: 3, values, rounding: Default::default() }
}

const RED: [u8; 3] = [220, 40, 40];
const BLUE: [u8; 3] = [45, 90, 215];
const WHITE: [u8; 3] = [245, 245, 245];

#[test]
fn the_bundled_clip_tells_what_a_picture_shows() {
    let (clip, device) = (Clip::bundled().expect("the bundled CLIP"), Device::Cpu);
    let texts = [
        "a red circle",
        "a blue circle",
        "a red square",
        "a red circle on a blue background",
        "a red circle in the top left corner",
        "two red circles",
    ];
    let pictures = [
        disc(32, (16.0, 16.0), 6.0, RED, WHITE),
        disc(32, (16.0, 16.0), 6.0, BLUE, WHITE),
        disc(32, (16.0, 16.0), 6.0, RED, BLUE),
        disc(32, (8.0, 8.0), 6.0, RED, WHITE),
        // Another size is resized.
        disc(128, (64.0, 64.0), 24.0, RED, WHITE),
    ];
    let texts = clip.text_embeddings(&device, &texts).expect("texts");
    let seen = clip.image_embeddings(&device, &pictures).expect("pictures");
    let width = clip.text_encoder().expect("a text encoder").embed;
    for (seen, expected) in seen.chunks_exact(width).zip([0, 1, 3, 4, 0]) {
        let cosine = |text: &[f32]| text.iter().zip(seen).map(|(a, b)| a * b).sum::<f32>();
        let cosines: Vec<f32> = texts.chunks_exact(width).map(cosine).collect();
        let best = (0..cosines.len()).max_by(|a, b| cosines[*a].total_cmp(&cosines[*b]));
        assert_eq!(best, Some(expected), "{cosines:?}");
    }
}

/// The unconditional model follows a text, and an example, as CLIP sees both.
#[test]
fn the_bundled_clip_steers_the_unconditional_model() {
    let engine = adm(DeviceChoice::Cpu);
    let (clip, device) = (Clip::bundled().expect("the bundled CLIP"), Device::Cpu);
    let example = disc(64, (44.0, 20.0), 11.0, [250, 215, 45], [20, 20, 20]);
    let text = clip.text_embeddings(&device, &["a blue square"]).expect("a text");
    let like = clip.image_embeddings(&device, std::slice::from_ref(&example)).expect("a picture");
    let cosines = |guidance: Option<ClipGuidance>| {
        let cfg = Settings::new().seed(7).count(3).respacing(["25"]);
        let cfg = guidance.into_iter().fold(cfg, |cfg, guidance| cfg.guide(1.0, guidance));
        let drawn = engine.generate("", cfg).expect("pictures");
        let seen = clip.image_embeddings(&device, &drawn).expect("vectors");
        let mean = |aim: &[f32]| {
            let sum: f32 = seen.iter().zip(aim.iter().cycle()).map(|(a, b)| a * b).sum();
            sum / drawn.len() as f32
        };
        [mean(&text), mean(&like)]
    };
    let plain = cosines(None);
    let by_text = cosines(Some(clip.guidance(&device).text("a blue square", 10.0).build().expect("a text")));
    let by_both = clip.guidance(&device).content(&example, 6.0).structure(&example, 3.0).build();
    let by_example = cosines(Some(by_both.expect("an example")));
    println!("cosines with text and example: {plain:?}, by text {by_text:?}, by example {by_example:?}");
    assert!(by_text[0] > plain[0] + 0.2 && by_example[1] > plain[1] + 0.2);
}
