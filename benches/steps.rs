//! What one step of published networks takes, from their configs alone: dispatches, operations, traffic, memory.
//!
//! `cargo bench --bench steps` prints the table in f16; nothing is run. Dispatches are nodes of the fused graph; moved is
//! each node's inputs and output once; memory is weights, activations of all programs, inputs.

use ancestral::GenerateConfig;
use ancestral::device::DeviceLimits;
use ancestral::estimate::{Target, plan_network};
use ancestral::kernels::Precision;
use std::path::Path;

fn main() {
    let layouts = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/layouts");
    // What the plan heeds of a device is its alignment; nothing here is held against a limit.
    let limits = DeviceLimits { binding: None, buffer: None, ..DeviceLimits::webgpu() };
    let target = Target { precision: Precision::F16, limits };
    println!(
        "| network | sizes | parameters | dispatches a step | GFLOP | moved | weights | activations | memory |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (network, file, steps) in [
        ("IF-I-XL", "IF-I-XL", 100),
        ("IF-I-M", "IF-I-M", 100),
        ("Karlo's prior", "karlo.prior", 25),
        ("Karlo's decoder", "karlo.decoder", 25),
        ("Karlo's super-resolution", "karlo.super_res", 7),
        ("DALL·E 2's second upsampler", "DALL-E-2.upsampler", 15),
    ] {
        let config = layouts.join(format!("{file}.config.json"));
        let cost =
            plan_network(&config, None, &GenerateConfig::new().steps([steps]), &target).expect("a plan");
        let planned = &cost.networks[0];
        let step = planned.parts.iter().find(|part| part.name == "step").expect("a step");
        let activations: u64 = planned.parts.iter().map(|part| part.activations).sum();
        println!(
            "| {network} | {} | {:.0} M | {} | {:.0} | {:.1} GB | {:.2} GB | {:.2} GB | {:.2} GB |",
            planned.sizes,
            planned.weights as f64 / 2e6,
            step.dispatches,
            step.flops / 1e9,
            step.moved / 1e9,
            planned.weights as f64 / 1e9,
            activations as f64 / 1e9,
            planned.bytes() as f64 / 1e9
        );
    }
}
