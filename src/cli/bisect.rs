//! `ancestral bisect`.

use super::model::Choice;
use super::output::say;
use ancestral::{Device, DeviceChoice, Error};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Bisect {
    /// Model folder, or OpenAI's checkpoint [default: a bundled model]
    #[arg(short, long, value_name = "PATH")]
    model: Vec<PathBuf>,
    #[command(flatten)]
    choice: Choice,
    /// Device to compare with the CPU
    #[arg(short, long, value_name = "NAME", default_value = "gpu")]
    device: String,
    /// Largest normalised mean square error taken for agreement
    #[arg(long, value_name = "X", default_value_t = 1e-8)]
    tolerance: f64,
}

/// Compares, and prints where they part.
pub fn run(args: &Bisect) -> Result<(), Error> {
    let device = Device::open(&DeviceChoice::parse(&args.device))?;
    let engine = args.choice.load(&args.model, DeviceChoice::Cpu, false)?;
    say(format_args!("CPU against {}", device.name()));
    for (network, parting) in engine.bisect(&device, args.tolerance)? {
        match parting {
            Some(p) => say(format_args!(
                "{network}: parts at {} ({}), NMSE {:.2e}, after {} nodes",
                p.label, p.kernel, p.nmse, p.agreed
            )),
            None => say(format_args!("{network}: agrees")),
        }
    }
    Ok(())
}
