//! `ancestral loss`.

use super::model::Where;
use super::output::say;
use ancestral::training::{Batches, Data, Losses, Weighting, losses, plot_losses};
use ancestral::{Device, Error};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// What a checkpoint loses on pictures: L_simple by timestep, and the variational bound in bits per dimension, each from
/// timesteps spread evenly over all of them.
#[derive(Args)]
pub struct Loss {
    /// The model's folder: a DDPM, or a base stage of DeepFloyd IF's layout
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Pictures: a folder, as `ancestral train` takes it
    #[arg(long, value_name = "FOLDER", required_unless_present = "scenes")]
    data: Option<PathBuf>,
    /// Drawn scenes in place of --data
    #[arg(long, conflicts_with = "data")]
    scenes: bool,
    /// Pictures of a batch
    #[arg(short, long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Batches
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Stretches of timesteps in the table
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    stretches: u16,
    /// Side of the pictures in pixels [default: the network's]
    #[arg(long, value_name = "P")]
    size: Option<usize>,
    /// Writes the losses by timestep as a picture
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Seed of data and noise
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: Where,
}

/// Prints the table.
pub fn run(args: &Loss) -> Result<(), Error> {
    let device = Device::open(&args.device.choice())?;
    let batches = Batches {
        data: args.data.clone().map_or(Data::Scenes, Data::Folder),
        batch: args.batch.into(),
        side: args.size.unwrap_or(0),
        flip: false,
        caption_dropout: 0.0,
        weighting: Weighting::Simple,
        bound: false,
        seed: args.seed,
    };
    let bar = ProgressBar::new(args.rounds);
    if let Ok(style) = ProgressStyle::with_template("[{bar:30}] batch {pos}/{len} {elapsed} (left: {eta})") {
        bar.set_style(style.progress_chars("=> "));
    }
    let found = losses(&args.model, &device, &batches, (args.rounds, args.stretches.into()), &mut |done| {
        bar.set_position(done);
        true
    })?;
    bar.finish_and_clear();
    say(table(&found));
    args.output.as_ref().map_or(Ok(()), |path| plot_losses(&found, path))
}

fn table(found: &Losses) -> String {
    let mut lines = vec!["timesteps     pictures     error   bits/dim".to_string()];
    for s in &found.stretches {
        let range = format!("{}-{}", s.first, s.last);
        lines.push(format!("{range:<12} {:9} {:9.5} {:10.6}", s.count, s.error, s.bits));
    }
    lines.push(format!("L_simple {:.5}", found.simple));
    lines
        .push(format!("bound {:.4} bits per dimension, {:.2e} of them the prior's", found.bits, found.prior));
    lines.join("\n")
}
