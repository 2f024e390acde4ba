//! `ancestral tune`.

use super::drawing::{Extent, Prior};
use super::model::{Choice, Where};
use super::output::{note, say};
use ancestral::{Device, Error, Settings};
use clap::Args;
use std::path::PathBuf;

/// A run measures what it does not know by itself; this does it ahead, with one step of each stage. Small kernels are
/// chosen by rule. A variant is taken only if its result is right on this adapter.
#[derive(Args)]
pub struct Tune {
    /// Model folder, or OpenAI's checkpoint; repeat it for super-resolution stages [default: a bundled model]
    #[arg(short, long, value_name = "PATH")]
    model: Vec<PathBuf>,
    #[command(flatten)]
    place: Where,
    /// Pictures drawn at once
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    count: usize,
    #[command(flatten)]
    extent: Extent,
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
    let engine = args.choice.load(&args.model, args.place.choice(), false)?;
    let Device::Gpu(gpu) = engine.device().clone() else {
        let what = "the CPU device has nothing to measure; name a GPU: ancestral tune --device llvmpipe";
        return Err(Error::Device { what: what.into() });
    };
    note(format_args!("device: {}", gpu.name()));
    let settings = args.prior.apply(args.extent.apply(Settings::new().count(args.count)));
    let choices = engine.tune(settings, args.again)?;
    say(format_args!("{} sizes measured, {} known", choices.measured, choices.known));
    match gpu.tuning_file() {
        Some(path) => say(path.display()),
        None => note("not kept: there is no cache folder; name one with ANCESTRAL_CACHE_DIR"),
    }
    Ok(())
}
