//! A training run as a whole: a thousand steps beside PyTorch's.

use ancestral::internals::device::{Device, Weights};
use ancestral::internals::diffusion::{NoiseStream, channels_last};
use ancestral::internals::models::network::{DenoisingNetwork, Shape};
use ancestral::internals::models::unet2d::Config;
use ancestral::internals::pipeline::ddpm::load_stage;
use ancestral::internals::train::objective::{Noising, denoising};
use ancestral::internals::train::optimiser::{Average, Optimiser, Rate};
use ancestral::internals::train::plot::{self, Curve};
use ancestral::internals::train::trainer::{Options, Trainer};
use ancestral::internals::weights::{Checkpoint, ddpm_attention_name, read_json};
use serde_json::Value;
use std::path::Path;

/// How far the mean of the last hundred losses may be from PyTorch's; measured: see the printed line.
const TOLERANCE: f64 = 0.01;
/// Names a file that gets both curves.
const PLOT: &str = "ANCESTRAL_LOSS_PLOT";

/// The batches of `tools/make_train_run.py`.
#[test]
fn a_thousand_steps_end_where_pytorchs_do() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens");
    let manifest: Value = read_json(&goldens.join("train_run/manifest.json")).expect("the golden");
    let expected: Vec<f64> =
        manifest["losses"].as_array().expect("losses").iter().filter_map(Value::as_f64).collect();
    let (batch, rate) =
        (manifest["batch"].as_u64().expect("a batch") as usize, manifest["rate"].as_f64().expect("a rate"));
    let pipeline = goldens.join("ddpm/pipeline");
    let stage = load_stage(&pipeline).expect("the tiny pipeline");
    let noising = Noising::new(&stage.scheduler).expect("a schedule");
    let config: Config = read_json(&pipeline.join("unet/config.json")).expect("a config");
    let mut checkpoint =
        Checkpoint::open(&pipeline.join("unet"), "diffusion_pytorch_model", None).expect("weights");
    checkpoint.rename(ddpm_attention_name).expect("names");
    let side = config.sides().side;
    let optimiser = Optimiser {
        rate,
        schedule: Rate::Constant,
        warmup: 0,
        steps: expected.len() as u64,
        average: Average::Constant(0.999),
        ..Optimiser::default()
    };
    let shape = Shape { pictures: batch, height: side, width: side, channels: 3, ..Shape::default() };
    let options = Options { optimiser, ..Options::default() };
    let record = |g: &mut _| denoising(g, &config, shape, false);
    let weights = Weights::new(checkpoint);
    let mut trainer =
        Trainer::new(&Device::Cpu, &weights, options, record, |_| true, None).expect("a trainer");
    let pictures: Vec<Vec<f32>> = (0..8).map(|seed| picture(seed, side)).collect();
    let mut found = Vec::with_capacity(expected.len());
    for step in 0..expected.len() {
        let mut stream = NoiseStream::new(1000 + step as u64);
        let last = noising.timesteps() - 1;
        let t: Vec<usize> =
            (0..batch).map(|_| ((stream.uniform() * (last + 1) as f32) as usize).min(last)).collect();
        let noise = channels_last(&stream.normal(batch * 3 * side * side), 3, side, side);
        let x0: Vec<f32> =
            (0..batch).flat_map(|i| pictures[(batch * step + i) % 8].iter().copied()).collect();
        let inputs = [
            ("x0", x0),
            ("noise", noise),
            ("numbers", t.iter().flat_map(|t| noising.numbers(*t)).collect()),
            ("t", t.iter().map(|t| *t as f32).collect()),
            ("weights", vec![1.0 / batch as f32; batch]),
        ];
        found.push(trainer.batch(&inputs.map(|(name, values)| (name.into(), values))).expect("a step").loss);
    }
    if let Some(path) = std::env::var_os(PLOT) {
        let curves = [
            Curve { values: &expected, colour: [210, 90, 20] },
            Curve { values: &found, colour: [31, 90, 180] },
        ];
        plot::write(Path::new(&path), &curves).expect("a plot");
    }
    let end = |losses: &[f64]| losses[losses.len() - 100..].iter().sum::<f64>() / 100.0;
    let (ours, theirs) = (end(&found), end(&expected));
    println!(
        "loss at the end: {ours:.5}, PyTorch's {theirs:.5}; first steps {:?} {:?}",
        &found[..3],
        &expected[..3]
    );
    assert!((ours / theirs - 1.0).abs() < TOLERANCE, "{ours} beside {theirs}");
}

/// `[side, side, 3]`: tanh of normals, each four pixels wide and high.
fn picture(seed: u64, side: usize) -> Vec<f32> {
    let small = side / 4;
    let normals = NoiseStream::new(seed).normal(3 * small * small);
    let value = |y: usize, x: usize, c: usize| normals[(c * small + y / 4) * small + x / 4].tanh();
    (0..side * side).flat_map(|i| [0, 1, 2].map(|c| value(i / side, i % side, c))).collect()
}
