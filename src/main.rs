//! The command line: its commands, and how their errors come out.

mod cli;

use ancestral::{Error, list_adapters};
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use cli::output::{note, say};
use cli::remedy::remedy;
use cli::{bisect, edit, generate, loss, plan, scenes, train, tune, variations};
use std::process::ExitCode;

/// Text-to-image diffusion on any GPU.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Draw a picture of a prompt or of a class
    Generate(Box<generate::Generate>),
    /// Change part of a picture: what a mask says is drawn anew, as a prompt says
    Edit(Box<edit::Edit>),
    /// Draw others of a picture, with its layout or with new ones
    Vary(Box<variations::Vary>),
    /// Draw the pictures between two pictures
    Blend(Box<variations::Blend>),
    /// Move a picture along the difference of two captions: what one says becomes what the other says
    Morph(Box<variations::Morph>),
    /// Draw a picture again from a few principal components of what CLIP sees in it
    Reconstruct(Box<variations::Reconstruct>),
    /// Say what a run will cost, and which limit of the device is in its way, before anything is uploaded
    Plan(Box<plan::Plan>),
    /// Measure which kernels are fastest for a run, ahead of it; kept on disk for this adapter and driver
    Tune(Box<tune::Tune>),
    /// Compare a model's networks on two devices, node by node
    Bisect(bisect::Bisect),
    /// Draw scenes with their captions, as the bundled models learn them: PNGs and metadata.jsonl
    Scenes(scenes::Scenes),
    /// Train a model's denoising network on pictures with captions
    Train(Box<train::Train>),
    /// Say what a checkpoint loses on pictures: L_simple by timestep, bits per dimension
    Loss(Box<loss::Loss>),
    /// List the devices a model can run on
    Devices,
}

impl Command {
    /// What it is called.
    fn name(&self) -> &'static str {
        match self {
            Command::Generate(_) => "generate",
            Command::Edit(_) => "edit",
            Command::Vary(_) => "vary",
            Command::Blend(_) => "blend",
            Command::Morph(_) => "morph",
            Command::Reconstruct(_) => "reconstruct",
            Command::Plan(_) => "plan",
            Command::Tune(_) => "tune",
            Command::Bisect(_) => "bisect",
            Command::Scenes(_) => "scenes",
            Command::Train(_) => "train",
            Command::Loss(_) => "loss",
            Command::Devices => "devices",
        }
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn,wgpu=error,naga=error"))
        .init();
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        if error.kind() == ErrorKind::InvalidUtf8 {
            note("error: the prompt, or another argument that is text, is not valid UTF-8; check the terminal's encoding");
            std::process::exit(2);
        }
        error.exit()
    });
    let name = cli.command.name();
    let result = match cli.command {
        Command::Generate(args) => generate::run(&args),
        Command::Edit(args) => edit::run(&args),
        Command::Vary(args) => variations::vary(&args),
        Command::Blend(args) => variations::blend(&args),
        Command::Morph(args) => variations::morph(&args),
        Command::Reconstruct(args) => variations::reconstruct(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Plan(args) => match plan::run(&args) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
        Command::Bisect(args) => bisect::run(&args),
        Command::Scenes(args) => scenes::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Loss(args) => loss::run(&args),
        Command::Devices => {
            say(list_adapters().join("\n"));
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(format_args!("error: {}", one_line(&error, name)));
            ExitCode::FAILURE
        }
    }
}

/// An error on one line: names from a file may hold line breaks and what else steers a terminal.
fn one_line(error: &Error, command: &str) -> String {
    const LONGEST: usize = 4_000;
    let remedy = remedy(error, command).map_or(String::new(), |remedy| format!("; {remedy}"));
    let text: String =
        format!("{error}{remedy}").chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
