//! How the cost of a step grows with steps, batch and pixels: ×2, ×4, ×8, of the bundled model's stages.
//!
//! `cargo bench --bench scaling` measures on the CPU device, or on the adapter that `ANCESTRAL_TEST_DEVICE` names, and
//! prints two tables: seconds a step, and operations and bytes by the graph. `growth` is the cost over the cost of ×1
//! times the factor: 1 is linear, below 1 a fixed part is shared. Self-attention over pixels grows with their square;
//! the second stage has none.

use ancestral::cost::Target;
use ancestral::internals::device::ProgramOptions;
use ancestral::internals::diffusion::{Step, steps};
use ancestral::internals::models::network::Shape;
use ancestral::internals::models::unet;
use ancestral::internals::pipeline::imagen::load_stage;
use ancestral::internals::pipeline::sampler::{Led, initial_noise};
use ancestral::internals::pipeline::stage::{At, Stage};
use ancestral::internals::weights::read_json;
use ancestral::{Device, DeviceChoice, Engine, LoadOptions, Precision, Sampler, SeededNoise, Settings};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Rounds of which the median counts.
const RUNS: usize = 7;
/// A side of the second stage's pictures to the first's.
const SCALE: usize = 8;
/// Steps of a run, where steps do not grow.
const STEPS: usize = 3;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/scenes")
}

fn device() -> Device {
    let choice = std::env::var("ANCESTRAL_TEST_DEVICE").map_or(DeviceChoice::Cpu, DeviceChoice::Named);
    Device::open(&choice).expect("the device opens")
}

/// What grows, by which factor, and the run.
struct Case {
    what: &'static str,
    factor: usize,
    pictures: usize,
    size: (usize, usize),
    steps: usize,
}

fn cases(side: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for factor in [1, 2, 4, 8] {
        let base = Case { what: "", factor, pictures: 1, size: (side, side), steps: STEPS };
        // Squares and 2:1.
        let size = match factor {
            1 => (side, side),
            2 => (2 * side, side),
            4 => (2 * side, 2 * side),
            _ => (4 * side, 2 * side),
        };
        cases.push(Case { what: "steps", steps: factor * STEPS, ..base });
        cases.push(Case { what: "batch", pictures: factor, ..base });
        cases.push(Case { what: "pixels", size, ..base });
    }
    cases.sort_by_key(|c| c.what);
    cases
}

/// A run to be measured; what is computed once is part of it.
struct Bench {
    stage: Stage,
    list: Vec<Step>,
    shape: Shape,
    /// Of the text's states.
    channels: usize,
}

impl Bench {
    fn new(path: &str, case: &Case, guided: bool) -> Self {
        let stage = load_stage(&folder().join(path), None, 20).expect("the bundled model");
        let sampler = Sampler::Ddim { eta: 0.0 };
        let list = steps(&stage.scheduler, &sampler, case.steps).expect("a schedule");
        let (width, height) = case.size;
        let enlarges = stage.network().enlarges().then_some((height / SCALE, width / SCALE));
        let shape = Shape { enlarges, guided, ..stage.shape(case.pictures, case.size, &list, 1.0) };
        let config: unet::Config =
            read_json(&folder().join(path).join("unet/config.json")).expect("a config");
        Bench { stage, list, shape, channels: config.context_channels() }
    }

    /// Seconds a step.
    fn run(&mut self, device: &Device) -> f64 {
        let shape = self.shape;
        let options = ProgramOptions { precision: Precision::F32, ..Default::default() };
        let network = &self.stage.networks[0];
        let mut denoiser =
            network.denoiser(At { device, options: &options }, shape, self.list.len()).expect("it fits");
        let context = vec![0.1; shape.batch() * shape.tokens * self.channels];
        let mut noise = SeededNoise::new(0, shape.pictures);
        let start = initial_noise(&mut noise, shape);
        let started = Instant::now();
        denoiser.write("context", &context);
        if shape.enlarges.is_some() {
            denoiser.write("low_res", &vec![0.1; shape.small().iter().product()]);
            denoiser.write("low_res_noise", &start);
            denoiser.write("noise_level", &vec![100.0; shape.batch()]);
        }
        denoiser
            .sample_from(&self.list, &Led::classifier_free(2.0), &mut noise, &start, &mut |_| true)
            .expect("it runs");
        let seconds = started.elapsed().as_secs_f64();
        network.put_back(denoiser);
        seconds / self.list.len() as f64
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The cases of one kind in turn, so that what else the machine does falls on all of them: rows of the table.
fn measure(device: &Device, (name, path, guided): (&str, &str, bool), cases: &[Case]) {
    let mut benches: Vec<Bench> = cases.iter().map(|case| Bench::new(path, case, guided)).collect();
    // Programs are made, and made larger, in the first runs.
    benches.iter_mut().for_each(|bench| {
        bench.run(device);
    });
    let rounds: Vec<Vec<f64>> =
        (0..RUNS).map(|_| benches.iter_mut().map(|bench| bench.run(device)).collect()).collect();
    for (i, case) in cases.iter().enumerate() {
        // Per step already: only batch and pixels make a step larger.
        let factor = if case.what == "steps" { 1.0 } else { case.factor as f64 };
        let growth = median(rounds.iter().map(|round| round[i] / round[0] / factor).collect());
        let ms = 1e3 * median(rounds.iter().map(|round| round[i]).collect());
        println!("| {name} | {} | {} | {ms:.2} | {growth:.2} |", case.what, case.factor);
    }
}

fn main() {
    let device = device();
    println!("{}; medians of {RUNS}", device.name());
    let stages = [("stage 1", "stage_1", 32, true), ("stage 2", "stage_2", 64, false)];
    println!("\n| network | grows | factor | ms a step | growth |\n|---|---|---|---|---|");
    for (name, path, side, guided) in stages {
        for kind in cases(side).chunk_by(|a, b| a.what == b.what) {
            measure(&device, (name, path, guided), kind);
        }
    }
    println!(
        "\n| network | grows | factor | GFLOP a step | growth | MB a step | growth |\n|---|---|---|---|---|---|---|"
    );
    let options = LoadOptions { device: DeviceChoice::Cpu, ..Default::default() };
    let target = Target { precision: Precision::F32, limits: device.limits() };
    let engine = Engine::load(folder(), &options).expect("the bundled model");
    // The final picture's side over each stage's own.
    for (i, ((name, _, side, _), enlarged)) in stages.into_iter().zip([8, 1]).enumerate() {
        let mut first = (0.0, 0.0);
        for case in cases(side).into_iter().filter(|c| c.what != "steps") {
            let (width, height) = case.size;
            let cfg = Settings::new().count(case.pictures).size(enlarged * width, enlarged * height);
            let cost = engine.plan("a", &cfg, &target).expect("a plan");
            let step = cost.networks[1 + i].parts.iter().find(|p| p.name == "step").expect("a step");
            first = if case.factor == 1 { (step.flops, step.moved) } else { first };
            let growth = |cost: f64, first: f64| cost / first / case.factor as f64;
            println!(
                "| {name} | {} | {} | {:.2} | {:.2} | {:.1} | {:.2} |",
                case.what,
                case.factor,
                step.flops / 1e9,
                growth(step.flops, first.0),
                step.moved / 1e6,
                growth(step.moved, first.1)
            );
        }
    }
}
