//! `ancestral tune`.

use super::drawing::sized;
use super::model::Choice;
use super::output::{note, say};
use super::parse::parse_size;
use super::prior::Prior;
use ancestral::{Device, DeviceChoice, Error, GenerateConfig};
use clap::Args;
use std::path::PathBuf;

/// A run measures what it does not know by itself; this does it ahead, with one step of each stage. Small kernels are
/// chosen by rule. A variant is taken only if its result is right on this adapter.
#[derive(Args)]
pub struct Tune {
    /// Model folder, or OpenAI's checkpoint; repeat it for super-resolution stages [default: a bundled model]
    #[arg(short, long, value_name = "PATH")]
    model: Vec<PathBuf>,
    /// gpu, or part of an adapter's name, e.g. llvmpipe
    #[arg(short, long, value_name = "NAME", default_value = "auto")]
    device: String,
    /// Pictures drawn at once
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    count: usize,
    /// Width and height of the final picture, e.g. 256x256
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    size: Option<(usize, usize)>,
    /// Tune this many stages: fewer than the model has, or its optional upsampler, too [default: all but that]
    #[arg(long, value_name = "N")]
    stages: Option<usize>,
    #[command(flatten)]
    prior: Prior,
    #[command(flatten)]
    choice: Choice,
    /// Measure anew what was measured before
    #[arg(long)]
    again: bool,
}

/// Measures.
pub fn run(args: &Tune) -> Result<(), Error> {
    let mut engine = args.choice.load(&args.model, DeviceChoice::parse(&args.device), false)?;
    let Device::Gpu(gpu) = engine.device().clone() else {
        return Err(Error::Device(
            "the CPU device has nothing to measure; name a GPU: ancestral tune --device llvmpipe".into(),
        ));
    };
    note(format_args!("device: {}", gpu.name()));
    let cfg = args.prior.apply(GenerateConfig::new().count(args.count));
    let cfg = sized(cfg, args.size, args.stages);
    let choices = engine.tune(cfg, args.again)?;
    say(format_args!("{} sizes measured, {} known", choices.measured, choices.known));
    match gpu.tuning_file() {
        Some(path) => say(path.display()),
        None => note("not kept: there is no cache folder; name one with ANCESTRAL_CACHE_DIR"),
    }
    Ok(())
}
