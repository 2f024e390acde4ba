//! unCLIP's latents: DDIM inversion leads back to the picture, blends end at their ends, text diffs and truncated
//! components move the embedding and nothing else.

use crate::device::{on_gpu, say};
use ancestral::device::DeviceChoice;
use ancestral::latent::{Latent, Layout};
use ancestral::{Device, Engine, GenerateConfig, LoadOptions, Picture};
use std::path::{Path, PathBuf};

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens")
}

/// The tiny image variation of the goldens, its weights random.
fn engine(device: DeviceChoice) -> Engine {
    let options = LoadOptions { device, ..Default::default() };
    Engine::load(goldens().join("unclip_variation/pipeline"), &options).expect("the golden's model")
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

/// The decoder's picture of a picture's latent.
fn there_and_back(engine: &mut Engine, picture: &Picture, steps: usize, evaluations: usize) -> f64 {
    let cfg = || GenerateConfig::new().steps([steps]).inversion(evaluations);
    let latents = engine.invert(std::slice::from_ref(picture), cfg()).expect("a latent");
    let drawn = engine.generate("", cfg().stages(1).latents(latents)).expect("a picture");
    psnr(picture, &drawn[0])
}

/// The least PSNR of a few pictures there and back, by steps and evaluations a step: (steps, evaluations, dB). Measured
/// values stand beside the limits.
const ROUND_TRIPS: [(usize, usize, f64); 0] = [];

fn check_round_trips(device: DeviceChoice) {
    let mut engine = engine(device);
    let name = engine.device().name();
    for steps in [5, 10, 25, 50, 100] {
        for k in [1, 2, 3, 5, 10] {
            let all = [0.0, 1.0, 2.5].map(|phase| there_and_back(&mut engine, &waves(phase), steps, k));
            say(&format!("{name}: {steps} steps, {k}: {all:.1?}"));
        }
    }
}

#[test]
fn inversion_leads_back_to_the_picture_on_the_cpu() {
    check_round_trips(DeviceChoice::Cpu);
}
