//! `ancestral plan`.

use super::card::Card;
use super::drawing::{Extent, Prior};
use super::model::Choice;
use super::output::say;
use super::parse::{StageValue, per_stage, positive};
use super::tables::table;
use super::train::{planned, training};
use ancestral::cost::{Target, plan_network};
use ancestral::training::training_cost;
use ancestral::{Device, DeviceChoice, DeviceLimits, Error, Precision, Settings};
use clap::Args;
use std::path::PathBuf;

/// Dispatches, arithmetic, traffic and memory of a run, from configs and tensor names alone.
///
/// Each network has up to three parts: `once` (what depends on the prompt only), `times` (time embeddings of all steps
/// in as few passes as fit) and `step`. A dispatch is a node of the fused graph, which a device may cut into several
/// where that measures faster. `moved` counts each node's inputs and
/// output once; `fewest` each weight, input and output of the part once, as if nothing between them left the chip.
/// `activations` is what the plan's buffers take, `at least` the largest set of activations alive at once.
///
/// With a card's figures (--multiprocessors, --peak, --bandwidth) the nodes follow, those that take longest first: the
/// workgroups of each, the share of the multiprocessors at work, and the least time, which is that of its operations at the
/// peak or of its bytes at the bandwidth, whichever is longer, by that share. No card is faster; most are slower.
///
/// Exits with 1 where something does not fit.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct Plan {
    /// Model folder, or OpenAI's checkpoint; several for super-resolution stages [default: a bundled model]
    #[arg(value_name = "FOLDER", conflicts_with_all = ["config", "layout"])]
    model: Vec<PathBuf>,
    /// A network's config.json, to plan it without a model folder
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Names and shapes of that network's tensors, {"name": [2, 3], …}, to compare the config with
    #[arg(long, value_name = "FILE", requires = "config")]
    layout: Option<PathBuf>,
    /// Whose limits: webgpu (what every adapter has), auto, gpu, cpu, or part of an adapter's name
    #[arg(short, long, value_name = "NAME", default_value = "auto")]
    device: String,
    /// What a step of training the folder's network takes, in place of a run; --count is its batch
    #[arg(long, requires = "model", conflicts_with_all = ["config", "layout"])]
    train: bool,
    /// Pictures at once
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    count: usize,
    /// Denoising steps, by stage if separated by commas [default: the model's; 50 with --config]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    steps: Vec<StageValue<usize>>,
    /// Guidance scale, by stage if separated by commas; 1 runs the conditional half only
    #[arg(short, long, value_name = "X", value_delimiter = ',')]
    guidance_scale: Vec<StageValue<f64>>,
    /// A card's multiprocessors (compute units, cores): prints each node's workgroups, and the share of the card at work
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    multiprocessors: Option<u32>,
    /// A card's peak in TFLOP/s, of the type that is multiplied: prints the least time of each node and of the run
    #[arg(long, value_name = "TFLOPS", value_parser = positive)]
    peak: Option<f64>,
    /// A card's memory bandwidth in GB/s: the same
    #[arg(long, value_name = "GBS", value_parser = positive)]
    bandwidth: Option<f64>,
    #[command(flatten)]
    extent: Extent,
    #[command(flatten)]
    prior: Prior,
    #[command(flatten)]
    choice: Choice,
}

/// Prints the plan; whether all of it fits.
pub fn run(args: &Plan) -> Result<bool, Error> {
    if let (true, Some(model)) = (args.train, args.model.first()) {
        say(planned(&training_cost(model, &training(args.count))?));
        return Ok(true);
    }
    let webgpu = args.device.eq_ignore_ascii_case("webgpu");
    let mut target = match webgpu {
        true => Target { precision: Precision::F32, limits: DeviceLimits::webgpu() },
        false => Target::of(&Device::open(&DeviceChoice::parse(&args.device))?),
    };
    target.precision = args.choice.precision().unwrap_or(target.precision);
    target.limits.memory = args.choice.memory().or(target.limits.memory);
    target.limits.budget = args.choice.memory().or(target.limits.budget);
    let settings = Settings::new()
        .count(args.count)
        .steps(per_stage(&args.steps))
        .guidance_scale(per_stage(&args.guidance_scale));
    let settings = args.prior.apply(args.extent.apply(settings));
    let cost = match &args.config {
        Some(config) => plan_network(config, args.layout.as_deref(), &settings, &target)?,
        None => {
            // The configs and tensors' names are read here; no weight is, wherever it would run.
            let engine = args.choice.load(&args.model, DeviceChoice::Cpu, false)?;
            engine.plan(engine.anything(), &engine.with_anything(settings), &target)?
        }
    };
    let card = Card {
        multiprocessors: args.multiprocessors.map(u64::from),
        peak: args.peak.map(|tera| tera * 1e12),
        bandwidth: args.bandwidth.map(|giga| giga * 1e9),
    };
    let asked = args.multiprocessors.is_some() || args.peak.is_some() || args.bandwidth.is_some();
    say(table(&cost, asked.then_some(&card)));
    Ok(cost.fits())
}
