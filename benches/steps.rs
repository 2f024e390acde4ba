//! What one step of published networks takes, from their configs alone: dispatches, operations, traffic, memory.
//!
//! `cargo bench --bench steps` prints the table in f16; nothing is run. Dispatches are nodes of the fused graph; moved is
//! each node's inputs and output once; memory is weights, activations of all programs, inputs.
//!
//! `cargo bench --bench steps -- FOLDER prior decoder` runs steps of these networks of an unCLIP's folder instead, on the
//! CPU device or the adapter that `ANCESTRAL_TEST_DEVICE` names: the first, which finds everything cold, and the median of
//! the others.

use ancestral::cost::{Target, plan_network};
use ancestral::internals::device::ProgramOptions;
use ancestral::internals::diffusion::steps;
use ancestral::internals::models::network::Shape;
use ancestral::internals::pipeline::stage::At;
use ancestral::internals::pipeline::unclip::{load_decoder, load_prior};
use ancestral::{Device, DeviceChoice, DeviceLimits, Precision, Settings};
use std::path::Path;
use std::time::Instant;

/// Steps that are timed after the first.
const RUNS: usize = 3;
/// Tokens of a caption, and of a picture's embedding.
const TOKENS: [usize; 2] = [77, 4];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    match &args[..] {
        [folder, parts @ ..] if !parts.is_empty() => {
            parts.iter().for_each(|part| time(Path::new(folder), part));
        }
        _ => print_plans(),
    }
}

/// Times steps of `prior` or `decoder`, guided, one picture.
fn time(folder: &Path, part: &str) {
    let choice = std::env::var("ANCESTRAL_TEST_DEVICE").map_or(DeviceChoice::Cpu, DeviceChoice::Named);
    let device = Device::open(&choice).expect("the device opens");
    let [caption, picture] = TOKENS;
    let stage = match part {
        "prior" => load_prior(folder, None).map(|(stage, _)| stage),
        _ => load_decoder(folder, None, caption + picture).map(|(stage, _)| stage),
    };
    let stage = stage.expect("a network");
    let list = steps(&stage.scheduler, &stage.scheduler.sampler, RUNS + 1).expect("a schedule");
    let side = stage.network().sides().side;
    let shape = Shape { guided: true, ..stage.shape(1, (side, side), &list, 2.0) };
    let at = At { device: &device, options: &ProgramOptions::default() };
    let mut denoiser = stage.networks[0].denoiser(at, shape, list.len()).expect("it fits");
    let x: Vec<f32> = (0..shape.sample().iter().product()).map(|i| (i as f32).sin()).collect();
    denoiser.write("x", &x);
    let mut times: Vec<f64> = list
        .iter()
        .map(|step| {
            let started = Instant::now();
            denoiser.step(step, 2.0, &vec![0.0; x.len()], &mut |_| true).expect("it runs");
            denoiser.sample_now().read().expect("it is there");
            started.elapsed().as_secs_f64()
        })
        .collect();
    let first = times.remove(0);
    times.sort_by(f64::total_cmp);
    println!("{part} on {}: first {first:.2} s, then {:.2} s a step", device.name(), times[times.len() / 2]);
}

/// The table.
fn print_plans() {
    let layouts = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/layouts");
    // What the plan heeds of a device is its alignment; nothing here is held against a limit.
    let limits = DeviceLimits { binding: None, buffer: None, ..DeviceLimits::webgpu() };
    let target = Target { precision: Precision::F16, limits };
    println!("| network | sizes | dispatches a step | GFLOP | moved | weights | activations | memory |");
    println!("|---|---|---|---|---|---|---|---|");
    for (network, file, steps) in [
        ("IF-I-XL", "IF-I-XL", Some(100)),
        ("IF-I-M", "IF-I-M", Some(100)),
        ("Karlo's prior", "karlo.prior", Some(25)),
        // Its steps are tokens, as many as its config says.
        ("DALL·E 2's autoregressive prior", "dalle2.prior_ar", None),
        ("Karlo's decoder", "karlo.decoder", Some(25)),
        ("Karlo's super-resolution", "karlo.super_res", Some(7)),
        ("DALL·E 2's second upsampler", "dalle2.upsampler", Some(15)),
    ] {
        let config = layouts.join(format!("{file}.config.json"));
        let cfg = Settings::new().steps(Vec::from_iter(steps));
        let cost = plan_network(&config, None, &cfg, &target).expect("a plan");
        let planned = &cost.networks[0];
        let step = planned.parts.last().expect("a step");
        let activations: u64 = planned.parts.iter().map(|part| part.activations).sum();
        println!(
            "| {network} | {} | {} | {:.0} | {:.1} GB | {:.2} GB | {:.2} GB | {:.2} GB |",
            planned.sizes,
            step.dispatches,
            step.flops / 1e9,
            step.moved / 1e9,
            planned.weights as f64 / 1e9,
            activations as f64 / 1e9,
            planned.bytes() as f64 / 1e9
        );
    }
}
