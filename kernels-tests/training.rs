//! Training runs as a whole: a thousand steps beside PyTorch's, overflow, budgets, gradients of several batches.

use crate::device::on_gpu;
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

/// The tiny DDPM of the goldens, with batches of [`BATCH`] pictures.
struct Tiny {
    config: Config,
    noising: Noising,
    weights: Weights,
    side: usize,
}

impl Tiny {
    fn load() -> Tiny {
        let pipeline = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/ddpm/pipeline");
        let stage = load_stage(&pipeline).expect("the tiny pipeline");
        let noising = Noising::new(&stage.scheduler).expect("a schedule");
        let config: Config = read_json(&pipeline.join("unet/config.json")).expect("a config");
        let unet = pipeline.join("unet");
        let mut checkpoint = Checkpoint::open(&unet, "diffusion_pytorch_model", None).expect("weights");
        checkpoint.rename(ddpm_attention_name).expect("names");
        let side = config.sides().side;
        Tiny { config, noising, weights: Weights::new(checkpoint), side }
    }

    fn trainer(&self, device: &Device, options: Options) -> Trainer {
        let shape =
            Shape { pictures: BATCH, height: self.side, width: self.side, channels: 3, ..Shape::default() };
        let record = |g: &mut _| denoising(g, &self.config, shape, false);
        Trainer::new(device, &self.weights, options, record, |_| true, None).expect("a trainer")
    }

    /// Batch `step` of `tools/make_train_run.py`; each item counts `weight`.
    fn batch(&self, step: usize, weight: f32) -> Vec<(String, Vec<f32>)> {
        let (side, last) = (self.side, self.noising.timesteps() - 1);
        let mut stream = NoiseStream::new(1000 + step as u64);
        let t = |stream: &mut NoiseStream| ((stream.uniform() * (last + 1) as f32) as usize).min(last);
        let t: Vec<usize> = (0..BATCH).map(|_| t(&mut stream)).collect();
        let noise = channels_last(&stream.normal(BATCH * 3 * side * side), 3, side, side);
        let x0 = (0..BATCH).flat_map(|i| picture((BATCH * step + i) as u64 % 8, side)).collect();
        let inputs = [
            ("x0", x0),
            ("noise", noise),
            ("numbers", t.iter().flat_map(|t| self.noising.numbers(*t)).collect()),
            ("t", t.iter().map(|t| *t as f32).collect()),
            ("weights", vec![weight; BATCH]),
        ];
        inputs.map(|(name, values)| (name.into(), values)).into()
    }
}

/// Pictures of a batch.
const BATCH: usize = 2;

fn optimiser(rate: f64, steps: usize) -> Optimiser {
    let average = Average::Constant(0.999);
    Optimiser {
        rate,
        schedule: Rate::Constant,
        warmup: 0,
        steps: steps as u64,
        average,
        ..Optimiser::default()
    }
}

#[test]
fn a_thousand_steps_end_where_pytorchs_do() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/train_run/losses.json");
    let manifest: Value = read_json(&golden).expect("the golden");
    let losses = manifest["losses"].as_array().expect("losses");
    let expected: Vec<f64> = losses.iter().filter_map(Value::as_f64).collect();
    assert_eq!(manifest["batch"].as_u64(), Some(BATCH as u64));
    let rate = manifest["rate"].as_f64().expect("a rate");
    let tiny = Tiny::load();
    let options = Options { optimiser: optimiser(rate, expected.len()), ..Options::default() };
    let mut trainer = tiny.trainer(&Device::Cpu, options);
    let weight = 1.0 / BATCH as f32;
    let found: Vec<f64> = (0..expected.len())
        .map(|step| trainer.batch(&tiny.batch(step, weight)).expect("a step").loss)
        .collect();
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

/// Gradients that are no numbers: neither weights nor moments, schedule nor averages move, and the loss scale halves.
fn overflow(device: &Device, mixed: bool) {
    let tiny = Tiny::load();
    let options = Options { optimiser: optimiser(1e-3, 10), mixed, loss_scale: 1024.0, ..Options::default() };
    let mut trainer = tiny.trainer(device, options);
    let weight = 1.0 / BATCH as f32;
    assert!(trainer.batch(&tiny.batch(0, weight)).expect("a step").taken);
    let before = trainer.state().expect("a state");
    let lost = trainer.batch(&tiny.batch(1, f32::INFINITY)).expect("a step");
    assert!(!lost.taken && trainer.steps() == 1, "{lost:?}");
    let mut after = trainer.state().expect("a state");
    let (was, is) = (&before["state"].1, after["state"].1.clone());
    assert_eq!((was[0], is[0], is[3]), (1.0, 1.0, 1.0), "steps taken, and left out");
    assert_eq!(is[1], (was[1] / 2.0).max(1.0), "the loss scale");
    after.insert("state".into(), before["state"].clone());
    assert!(before == after, "a step that was left out moved something");
    assert!(trainer.batch(&tiny.batch(1, weight)).expect("a step").taken);
    assert_eq!(trainer.steps(), 2);
}

#[test]
fn an_overflowed_step_moves_nothing() {
    overflow(&Device::Cpu, false);
    on_gpu(|device| {
        overflow(device, false);
        overflow(device, true);
    });
}

/// Half the activations, computed again: the same losses; two batches of one step: the step of one of twice the size.
#[test]
fn budgets_and_several_batches_change_no_step() {
    // Larger pictures, beside whose activations the gradients are small.
    let tiny = Tiny { side: 32, ..Tiny::load() };
    let weight = 1.0 / BATCH as f32;
    let plain = Options { optimiser: optimiser(1e-3, 10), ..Options::default() };
    let losses = |trainer: &mut Trainer| -> Vec<f64> {
        (0..6).map(|step| trainer.batch(&tiny.batch(step, weight)).expect("a step").loss).collect()
    };
    let mut whole = tiny.trainer(&Device::Cpu, plain);
    let expected = losses(&mut whole);
    let half = Options { budget: Some(whole.activations() / 2), ..plain };
    let mut less = tiny.trainer(&Device::Cpu, half);
    assert!(less.activations() <= whole.activations() / 2);
    assert_eq!(losses(&mut less), expected);
    let twice = Options { accumulation: 2, ..plain };
    let mut gathered = tiny.trainer(&Device::Cpu, twice);
    for step in [0, 0, 1, 1] {
        let report = gathered.batch(&tiny.batch(step, weight / 2.0)).expect("a batch");
        assert_eq!(report.loss * 2.0, if step == 0 { expected[0] } else { report.loss * 2.0 });
    }
    let mut once = tiny.trainer(&Device::Cpu, plain);
    once.batch(&tiny.batch(0, weight)).expect("a step");
    once.batch(&tiny.batch(1, weight)).expect("a step");
    let (gathered, once) = (gathered.weights().expect("weights"), once.weights().expect("weights"));
    for (name, (_, values)) in &once {
        let top = gathered[name].1.iter().zip(values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(top < 2e-6, "{name}: {top}");
    }
}

/// `[side, side, 3]`: tanh of normals, each four pixels wide and high.
fn picture(seed: u64, side: usize) -> Vec<f32> {
    let small = side / 4;
    let normals = NoiseStream::new(seed).normal(3 * small * small);
    let value = |y: usize, x: usize, c: usize| normals[(c * small + y / 4) * small + x / 4].tanh();
    (0..side * side).flat_map(|i| [0, 1, 2].map(|c| value(i / side, i % side, c))).collect()
}
