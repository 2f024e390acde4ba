//! unCLIP's latents: DDIM inversion leads back to the picture, blends end at their ends, text diffs and truncated
//! components move the embedding and nothing else.

use crate::device::{on_gpu, say};
use crate::golden::scratch::Scratch;
use ancestral::vectors::text_diff;
use ancestral::{DeviceChoice, Engine, Latent, Layout, LoadOptions, Picture, Settings, UnClipSettings};
use std::fs;
use std::path::{Path, PathBuf};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/unclip_variation/pipeline")
}

/// The tiny image variation of the goldens, its weights random. They predict ε.
fn engine(device: DeviceChoice) -> Engine {
    let options = LoadOptions { device, ..Default::default() };
    Engine::load(golden(), &options).expect("the golden's model")
}

/// The same, but that its decoder's output is taken for v.
fn v_engine(device: DeviceChoice) -> Engine {
    let folder = Scratch::new("v").expect("a folder");
    folder.copy(&golden()).expect("a copy");
    let scheduler = r#"{"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "timestep_spacing": "trailing",
        "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}"#;
    fs::write(folder.path().join("decoder_scheduler/scheduler_config.json"), scheduler).expect("a scheduler");
    let options = LoadOptions { device, ..Default::default() };
    Engine::load(folder.path(), &options).expect("the model")
}

/// Slow waves, of the decoder's size.
fn waves(phase: f32) -> Picture {
    let value = |i: usize, c: usize| {
        let (x, y) = ((i % 16) as f32 / 16.0, (i / 16) as f32 / 16.0);
        0.8 * (5.0 * x + 3.0 * y * c as f32 + c as f32 + phase).sin()
    };
    let values = (0..256).flat_map(|i| [0, 1, 2].map(|c| value(i, c))).collect();
    Picture { width: 16, height: 16, channels: 3, values, rounding: Default::default() }
}

/// Peak signal-to-noise ratio in dB, of values from -1 to 1.
fn psnr(a: &Picture, b: &Picture) -> f64 {
    let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
    let mean = a.values.iter().zip(&b.values).map(square).sum::<f64>() / a.values.len() as f64;
    10.0 * (4.0 / mean).log10()
}

/// So many evaluations in each step of an inversion.
fn solved_by(evaluations: usize) -> UnClipSettings {
    UnClipSettings { inversion: Some(evaluations), ..Default::default() }
}

/// The least PSNR of the decoder's pictures of some pictures' latents.
fn there_and_back(engine: &Engine, steps: usize, evaluations: usize) -> f64 {
    let pictures = [0.0, 1.0, 2.5].map(waves);
    let cfg = || Settings::new().steps(steps).system(solved_by(evaluations)).count(3);
    let latents = engine.invert(&pictures, cfg()).expect("latents");
    let drawn = engine.generate("", cfg().stages(1).latents(latents)).expect("pictures");
    pictures.iter().zip(&drawn).map(|(a, b)| psnr(a, b)).fold(f64::INFINITY, f64::min)
}

/// Steps, evaluations in each, and dB there and back at least; measured values beside.
type RoundTrips<'a> = &'a [(usize, usize, f64)];

/// A random network denoises nothing, and without clipping its ε is blown up thirtyfold on the way to a picture: only
/// many evaluations solve for it. 38.8.
const EPSILON: RoundTrips<'_> = &[(100, 20, 35.0)];
/// 26.5, 82.0, 33.7, 108.3.
const V: RoundTrips<'_> = &[(10, 1, 25.0), (10, 5, 75.0), (25, 1, 32.0), (25, 5, 100.0)];

fn check_round_trips(engine: Engine, trips: RoundTrips<'_>) {
    for &(steps, evaluations, least) in trips {
        let found = there_and_back(&engine, steps, evaluations);
        let name = engine.device().name();
        say(&format!("there and back on {name}: {steps} steps of {evaluations} evaluations: {found:.1} dB"));
        assert!(found >= least, "{steps} steps of {evaluations} evaluations: {found:.1} dB, wanted {least}");
    }
}

fn named(device: &ancestral::Device) -> DeviceChoice {
    DeviceChoice::Named(device.name())
}

#[test]
fn inversion_leads_back_to_the_picture() {
    check_round_trips(engine(DeviceChoice::Cpu), EPSILON);
    check_round_trips(v_engine(DeviceChoice::Cpu), V);
}

#[test]
fn inversion_leads_back_to_the_picture_on_the_gpu() {
    // Two thousand evaluations take software Vulkan minutes: ε is left to the CPU.
    on_gpu(|device| check_round_trips(v_engine(named(device)), V));
}

/// A picture's noise does not depend on how long others of its batch are searched for: a flat one is found at once.
fn check_batches(engine: Engine) {
    let flat = Picture { values: vec![0.3; 3 * 256], ..waves(0.0) };
    let pictures = [waves(0.0), flat, waves(2.5)];
    let by = |evaluations| Settings::new().steps([25]).system(solved_by(evaluations));
    for evaluations in [2, 8] {
        let together = engine.invert(&pictures, by(evaluations)).expect("latents");
        for (picture, together) in pictures.iter().zip(together) {
            let alone = engine.invert(std::slice::from_ref(picture), by(evaluations)).expect("a latent");
            assert!(alone[0].noise == together.noise, "by {evaluations} evaluations");
        }
    }
}

#[test]
fn a_picture_s_noise_does_not_depend_on_its_batch() {
    check_batches(v_engine(DeviceChoice::Cpu));
    on_gpu(|device| check_batches(v_engine(named(device))));
}

fn few() -> Settings {
    Settings::new().seed(3).steps([4, 2])
}

/// `same` says whether a picture is one drawn in another batch.
fn check_blends(engine: Engine, same: impl Fn(&Picture, &Picture) -> bool) {
    let (a, b) = (waves(0.0), waves(2.0));
    for layout in [Layout::Kept, Layout::New] {
        let blend = engine.blend([&a, &b], 5, layout, few()).expect("a blend");
        assert_eq!(blend.len(), 5);
        assert!(blend.windows(2).all(|pair| pair[0] != pair[1]), "{layout:?}");
        let latents = match layout {
            Layout::Kept => engine.invert(&[a.clone(), b.clone()], few()),
            Layout::New => engine.embed(&[a.clone(), b.clone()]),
        };
        for (end, latent) in [&blend[0], &blend[4]].into_iter().zip(latents.expect("latents")) {
            let alone = engine.generate("", few().latents([latent])).expect("a picture");
            assert!(
                same(&alone[0], end),
                "{layout:?}: an end is not its picture: {:.1} dB",
                psnr(&alone[0], end)
            );
        }
    }
}

#[test]
fn blends_end_at_their_ends() {
    check_blends(engine(DeviceChoice::Cpu), |a, b| a == b);
    check_blends(v_engine(DeviceChoice::Cpu), |a, b| a == b);
}

#[test]
fn blends_end_at_their_ends_on_the_gpu() {
    // Another number of pictures may take other variants of kernels, whose last digits differ.
    on_gpu(|device| check_blends(v_engine(named(device)), |a, b| psnr(a, b) > 90.0));
}

#[test]
fn variations_keep_the_layout_or_not() {
    let (engine, picture) = (v_engine(DeviceChoice::Cpu), waves(0.5));
    let cfg = || Settings::new().seed(3).steps([25]).stages(1);
    let vary = |layout, cfg| engine.vary(&picture, layout, cfg).expect("pictures");
    let same = vary(Layout::Kept, cfg());
    assert!(psnr(&picture, &same[0]) > 100.0);
    let [kept, far] = [0.05, 1.0].map(|eta| vary(Layout::Kept, cfg().eta(eta).count(2)));
    let new = vary(Layout::New, cfg().count(2));
    assert!(kept[0] != kept[1] && new[0] != new[1]);
    let [near, far] = [&kept, &far].map(|pictures| psnr(&same[0], &pictures[0]));
    assert!(near > far + 10.0, "{near:.1} dB with little noise, {far:.1} dB with much");
    // From new noise: what image variation draws.
    let image = engine.generate("", cfg().count(2).image([picture.clone()])).expect("pictures");
    assert!(image == new);
}

#[test]
fn text_diffs_turn_the_embedding_alone() {
    let (engine, picture) = (engine(DeviceChoice::Cpu), waves(0.5));
    let texts = ["a red fox", "a boat near the river"];
    let strengths = [0.0, 0.25, 0.5];
    let morph = engine.morph(&picture, texts, &strengths, Layout::Kept, few()).expect("pictures");
    let captions = engine.embed_captions(&texts).expect("embeddings");
    let direction = text_diff(&captions[0], &captions[1]).expect("a direction");
    let latent = engine.invert(std::slice::from_ref(&picture), few()).expect("a latent").remove(0);
    for (t, drawn) in strengths.into_iter().zip(&morph) {
        let moved = latent.towards(&direction, t);
        assert_eq!(moved.noise, latent.noise);
        assert!(engine.generate("", few().latents([moved])).expect("a picture")[0] == *drawn, "{t}");
    }
    let same = engine.vary(&picture, Layout::Kept, few()).expect("a picture");
    assert!(same[0] == morph[0] && morph[0] != morph[1]);
}

#[test]
fn latents_and_pictures_that_make_no_sense() {
    let (engine, a, b) = (engine(DeviceChoice::Cpu), waves(0.0), waves(1.0));
    let cfg = Settings::new;
    let broken = Picture { width: 17, ..a.clone() };
    let says = |result: ancestral::Result<Vec<Picture>>, part: &str| {
        let error = result.expect_err(part).to_string();
        assert!(error.contains(part), "`{part}` is not in: {error}");
    };
    says(engine.vary(&broken, Layout::Kept, cfg()), "17x16 pixels");
    says(engine.vary(&broken, Layout::New, cfg()), "17x16 pixels");
    says(engine.vary(&a, Layout::New, cfg().eta(0.5)), "eta");
    says(engine.vary(&a, Layout::Kept, cfg().eta(1.5)), "0 to 1");
    says(engine.vary(&a, Layout::Kept, cfg().system(solved_by(0))), "0 evaluations");
    says(engine.vary(&a, Layout::Kept, cfg().steps([1000])), "1000 steps");
    says(engine.vary(&a, Layout::Kept, cfg().init([b.clone()])), "a picture to begin at cannot");
    says(engine.blend([&a, &a], 5, Layout::Kept, cfg()), "the same");
    says(engine.blend([&a, &b], 1, Layout::Kept, cfg()), "2 or more");
    says(engine.blend([&a, &b], 1000, Layout::New, cfg()), "1000 pictures");
    says(engine.blend([&a, &broken], 3, Layout::New, cfg()), "17x16");
    says(engine.morph(&a, ["", "x"], &[0.3], Layout::Kept, cfg()), "empty");
    says(engine.morph(&a, ["a fox", "a fox"], &[0.3], Layout::Kept, cfg()), "the same");
    says(engine.morph(&a, ["a fox", "a boat"], &[1.1], Layout::Kept, cfg()), "1.1");
    says(engine.morph(&a, ["a fox", "a boat"], &[f64::NAN], Layout::Kept, cfg()), "NaN");
    says(engine.reconstruct(&a, &[4], Layout::New, cfg()), "prior_ar");
    let embedding = engine.embed(std::slice::from_ref(&a)).expect("a latent").remove(0).embedding;
    let latent = |embedding: &[f32], noise: Option<usize>| Latent {
        embedding: embedding.to_vec(),
        noise: noise.map(|len| vec![0.0; len]),
    };
    says(engine.generate("", cfg().latents([latent(&embedding[1..], None)])), "columns");
    says(engine.generate("", cfg().latents([latent(&embedding, Some(12))])), "12 values");
    says(engine.generate("", cfg().latents([latent(&[f32::NAN], None)])), "not numbers");
    says(engine.generate("", cfg().image([a.clone()]).eta(0.5)), "eta");
    let two = [latent(&embedding, None), latent(&embedding, None)];
    says(engine.generate("", cfg().count(3).latents(two)), "2 latents for 3");
    assert!(engine.embed(&[]).is_err() && engine.invert(&[], cfg()).is_err());
    // Other models have no embeddings.
    let folder = golden().join("../../ddpm/pipeline");
    let options = LoadOptions { device: DeviceChoice::Cpu, ..Default::default() };
    let other = Engine::load(folder, &options).expect("the golden's model");
    says(other.vary(&a, Layout::Kept, cfg()), "unCLIP");
    says(other.vary(&a, Layout::New, cfg()), "unCLIP");
    says(other.generate("", cfg().latents([latent(&embedding, None)])), "unCLIP");
}
