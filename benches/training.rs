//! A training step of the bundled base: pictures a second, and where the time goes.
//!
//! `cargo bench --bench training` measures on the CPU device, or on the adapter that `ANCESTRAL_TEST_DEVICE` names.
//! `ANCESTRAL_BATCH` is the batch (32), `ANCESTRAL_PROFILE=1` lists the shaders by their time.

use ancestral::internals::device::{Device, DeviceChoice, NodeTime};
use ancestral::internals::diffusion::NoiseStream;
use ancestral::internals::models::network::Shape;
use ancestral::internals::pipeline::imagen::load_stage;
use ancestral::internals::train::objective::{Noising, denoising};
use ancestral::internals::train::trainer::{Options, Trainer};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

fn main() {
    let choice = std::env::var("ANCESTRAL_TEST_DEVICE").map_or(DeviceChoice::Cpu, DeviceChoice::Named);
    let device = Device::open(&choice).expect("the device opens");
    let batch = std::env::var("ANCESTRAL_BATCH").map_or(32, |n| n.parse().expect("a number"));
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/scenes/stage_1");
    let stage = load_stage(&models, None, 20).expect("the bundled model");
    let noising = Noising::new(&stage.scheduler).expect("a schedule");
    let shape = Shape { pictures: batch, tokens: 20, ..stage.shape(1, (32, 32), &[], 1.0) };
    let mut noise = NoiseStream::new(1);
    let mut all = 0;
    for (mixed, halved) in [(false, false), (true, false), (true, true)] {
        let budget = halved.then_some(all / 2);
        let options = Options { mixed, budget, ..Options::default() };
        let weights = stage.networks[0].weights();
        let record = |g: &mut _| denoising(g, stage.network(), shape, false);
        let mut trainer = Trainer::new(&device, weights, options, record, |_| true, None).expect("it fits");
        all = all.max(trainer.activations());
        let len = shape.sample().iter().product();
        let t: Vec<usize> = (0..batch).map(|i| i * noising.timesteps() / batch).collect();
        let inputs = [
            ("x0", noise.normal(len)),
            ("noise", noise.normal(len)),
            ("numbers", t.iter().flat_map(|t| noising.numbers(*t)).collect()),
            ("t", t.iter().map(|t| *t as f32).collect()),
            ("weights", vec![1.0 / batch as f32; batch]),
            ("context", noise.normal(batch * 20 * 128)),
        ];
        let inputs = inputs.map(|(name, values)| (name.to_string(), values));
        let mut seconds: Vec<f64> = (0..8)
            .map(|_| {
                let start = Instant::now();
                trainer.batch(&inputs).expect("a step");
                start.elapsed().as_secs_f64()
            })
            .collect();
        seconds.remove(0);
        seconds.sort_by(f64::total_cmp);
        println!(
            "scenes base, batch {batch}, {}: {:.1} pictures/s, median of {} steps, {} parameters, {:.0} MiB of activations, on {}",
            match (mixed, halved) {
                (_, true) => "mixed, half the activations",
                (true, _) => "mixed",
                _ => "f32",
            },
            batch as f64 / seconds[seconds.len() / 2],
            seconds.len(),
            trainer.parameters(),
            trainer.activations() as f64 / f64::from(1 << 20),
            device.name()
        );
        if std::env::var_os("ANCESTRAL_PROFILE").is_some() {
            list(trainer.profile().expect("a step"));
        }
    }
}

fn list(nodes: Vec<NodeTime>) {
    let total: f64 = nodes.iter().map(|node| node.seconds).sum();
    let mut by: BTreeMap<&str, (f64, f64, usize)> = BTreeMap::new();
    for node in &nodes {
        let entry = by.entry(node.shader).or_default();
        *entry = (entry.0 + node.seconds, entry.1 + node.cost.flops, entry.2 + 1);
    }
    let mut by: Vec<_> = by.into_iter().collect();
    by.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    for (shader, (seconds, flops, count)) in by.iter().take(16) {
        let (ms, share, rate) = (seconds * 1e3, 100.0 * seconds / total, flops / seconds / 1e9);
        println!("  {shader:28} {count:4} nodes {ms:8.1} ms {share:5.1} % {rate:8.1} GFLOP/s");
    }
}
