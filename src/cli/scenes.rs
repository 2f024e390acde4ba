//! `ancestral scenes`.

use super::output::say;
use ancestral::Error;
use ancestral::scenes::write_folder;
use clap::Args;
use std::path::PathBuf;

/// Objects on plain backgrounds, one to four, with captions in English; what a model is never shown, so that it can be
/// asked whether it composes, is left out (a purple star, a red square above something, and others).
#[derive(Args)]
pub struct Scenes {
    /// How many pictures
    #[arg(short, long, value_name = "N")]
    count: usize,
    /// The folder they go to
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,
    /// The same seed gives the same scenes, the first ones of a larger count
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Side of the pictures in pixels
    #[arg(long, value_name = "P", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    size: u16,
}

/// Draws and writes them.
pub fn run(args: &Scenes) -> Result<(), Error> {
    write_folder(&args.out, args.count, args.seed, args.size.into())?;
    say(args.out.display());
    Ok(())
}
