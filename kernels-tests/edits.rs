//! Pictures a run begins at and keeps parts of, with every kind of model: RePaint, strength, guidance beside them.

use ancestral::guidance::{Direction, State};
use ancestral::{DeviceChoice, Engine, LoadOptions, Mask, Picture, Resampling, Settings, Thresholding};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

fn engine(golden: &str) -> Engine {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens").join(golden);
    let options = LoadOptions { device: DeviceChoice::Cpu, ..Default::default() };
    Engine::load(path, &options).expect("the golden's model")
}

/// A prompt where a class does not take its place.
fn prompt(golden: &str) -> &'static str {
    if golden == "adm" { "" } else { "a fox" }
}

/// Settings that suit each model.
fn config(golden: &str) -> Settings {
    let cfg = Settings::new().seed(5).steps([6]);
    if golden == "adm" { cfg.classes([1]) } else { cfg }
}

/// A picture of slow waves.
fn waves(width: usize, height: usize) -> Picture {
    let value = |i: usize, c: usize| {
        let (x, y) = ((i % width) as f32 / width as f32, (i / width) as f32 / height as f32);
        0.7 * (4.0 * x + 3.0 * y * c as f32 + c as f32).sin()
    };
    let values = (0..width * height).flat_map(|i| [0, 1, 2].map(|c| value(i, c))).collect();
    Picture { width, height, channels: 3, values, rounding: Default::default() }
}

/// The picture and the mean distance from it, of what the mask keeps and of what it does not.
fn distances(drawn: &Picture, known: &Picture, mask: &Mask) -> [f32; 2] {
    let mut sums = [[0.0; 2]; 2];
    for (i, (a, b)) in drawn.values.iter().zip(&known.values).enumerate() {
        let pixel = i / 3;
        let sum = &mut sums[usize::from(mask.redraws(pixel % known.width, pixel / known.width))];
        *sum = [sum[0] + (a - b).abs(), sum[1] + 1.0];
    }
    sums.map(|[sum, count]| sum / count)
}

const GOLDENS: [&str; 3] = ["ddpm/pipeline", "adm", "if_stage1/pipeline"];

#[test]
fn every_model_keeps_what_is_masked_out() {
    for golden in GOLDENS {
        let engine = engine(golden);
        let (width, height) = engine.picture_size(prompt(golden), &config(golden)).expect("a size");
        let (known, mask) = (waves(width, height), Mask::new(width, height, |x, y| x < width / 2 && y > 2));
        for resampling in [Resampling { times: 1, jump: 1 }, Resampling { times: 3, jump: 2 }] {
            let cfg = config(golden).count(2).resampling(resampling);
            let drawn = engine.generate(prompt(golden), cfg.inpaint(vec![known.clone()], mask.clone()));
            let drawn = drawn.expect("pictures");
            assert_ne!(drawn[0], drawn[1]);
            for drawn in &drawn {
                let [kept, redrawn] = distances(drawn, &known, &mask);
                assert!(kept == 0.0 && redrawn > 0.05, "{golden}: kept {kept}, redrawn {redrawn}");
            }
        }
    }
}

#[test]
fn the_less_strength_the_nearer_the_picture() {
    for golden in GOLDENS {
        let engine = engine(golden);
        let (width, height) = engine.picture_size(prompt(golden), &config(golden)).expect("a size");
        // Twice the size, and wider: its middle is taken.
        let (given, all) = (waves(2 * width + 10, 2 * height), Mask::new(width, height, |_, _| true));
        let middle = Picture { width: 2 * width, ..given.clone() };
        let row = |y: usize| &given.values[3 * (y * (2 * width + 10) + 5)..][..6 * width];
        let middle = Picture { values: (0..2 * height).flat_map(row).copied().collect(), ..middle };
        let distance = |strength: f64| {
            let cfg = config(golden).steps([20]).init(vec![given.clone()]).strength(strength);
            let drawn = engine.generate(prompt(golden), cfg).expect("a picture").remove(0);
            // Against the mean of four pixels, which is near what scaling makes of such slow waves.
            let mean = |i: usize| {
                let (pixel, c) = (i / 3, i % 3);
                let at = |dx: usize, dy: usize| {
                    middle.values[3 * ((2 * (pixel / width) + dy) * 2 * width + 2 * (pixel % width) + dx) + c]
                };
                (at(0, 0) + at(1, 0) + at(0, 1) + at(1, 1)) / 4.0
            };
            let values = (0..3 * width * height).map(mean).collect();
            distances(&drawn, &Picture { width, height, values, ..given.clone() }, &all)[1]
        };
        let (near, far) = (distance(0.05), distance(1.0));
        assert!(near < 0.05 && far > 3.0 * near, "{golden}: {near} at 0.05, {far} at 1");
    }
}

/// A guidance is asked at every step that is taken, also those gone through again, and does not touch what is kept.
#[test]
fn guidance_and_keeping_go_together() {
    let engine = engine("ddpm/pipeline");
    let known = waves(16, 16);
    let mask = Mask::new(16, 16, |x, _| x > 7);
    let (calls, taken) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let count = calls.clone();
    let brighter = move |at: &State<'_>| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(Direction::Mean(vec![0.3; at.x.len()]))
    };
    let seen = taken.clone();
    let cfg = config("ddpm/pipeline")
        .inpaint(vec![known.clone()], mask.clone())
        .resampling(Resampling { times: 2, jump: 2 })
        .guide(1.0, brighter)
        .on_progress(move |progress| {
            seen.lock().expect("unpoisoned").push((progress.done, progress.steps));
            true
        });
    let guided = engine.generate("", cfg).expect("a picture").remove(0);
    let cfg = config("ddpm/pipeline").inpaint(vec![known.clone()], mask.clone());
    let plain =
        engine.generate("", cfg.resampling(Resampling { times: 2, jump: 2 })).expect("a picture").remove(0);
    // 6 steps, and twice 2 of them again.
    assert_eq!(calls.load(Ordering::Relaxed), 10);
    assert_eq!(taken.lock().expect("unpoisoned").last(), Some(&(10.0, 10)));
    assert_eq!(distances(&guided, &known, &mask)[0], 0.0);
    assert!(distances(&guided, &plain, &mask)[1] > 0.1);
}

/// Networks that see the picture keep it whatever clips x̂₀, and nothing.
#[test]
fn inpainting_networks_keep_the_picture() {
    let engine = engine("glide");
    let (known, mask) = (waves(16, 16), Mask::new(16, 16, |x, y| x < 8 && y > 2));
    for clip in [Thresholding::Range(1.0), Thresholding::None, Thresholding::Dynamic { ratio: 0.9, max: 1.5 }]
    {
        let cfg = Settings::new().stages(1).respacing(["4"]).thresholding(clip);
        let drawn = engine.generate("a fox", cfg.inpaint(vec![known.clone()], mask.clone()));
        let [kept, redrawn] = distances(&drawn.expect("a picture")[0], &known, &mask);
        // Thresholding scales what it clips, the picture too.
        let off = if matches!(clip, Thresholding::Dynamic { .. }) { 0.3 } else { 1e-5 };
        assert!(kept < off && redrawn > 0.05, "{clip:?}: kept {kept}, redrawn {redrawn}");
    }
}
