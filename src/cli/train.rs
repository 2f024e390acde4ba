//! `ancestral train`.

use super::model::Where;
use super::output::{note, say};
use super::parse::{parse_memory, positive};
use ancestral::training::{
    Average, Batches, Data, Optimiser, Rate, RunSettings, TrainingCost, Weighting, train, training_cost,
};
use ancestral::{Device, Error};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// Trains a denoising network: a DDPM folder (`UNet2DModel`) or a base stage of DeepFloyd IF's layout, all of its weights.
///
/// The run's folder gets `training.safetensors` (weights, their average, the optimiser), `loss.csv` and `loss.png`, and, at the end, `model`,
/// which `ancestral generate` and diffusers load. The same command goes on where a run was stopped or killed, to the same
/// numbers.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct Train {
    /// The model's folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Pictures: a folder with metadata.jsonl (file_name, text), or with a .txt beside each picture, or with a folder for each
    /// class
    #[arg(long, value_name = "FOLDER", required_unless_present = "scenes")]
    data: Option<PathBuf>,
    /// Drawn scenes, as the bundled models learn them, in place of --data
    #[arg(long, conflicts_with = "data")]
    scenes: bool,
    /// The run's folder
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,
    /// Begin with new weights, not with the model's
    #[arg(long)]
    from_nothing: bool,
    /// Steps of the run
    #[arg(long, value_name = "N", default_value_t = 1000)]
    steps: u64,
    /// Pictures of a batch
    #[arg(short, long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Batches of a step
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    accumulation: u16,
    /// Side of the pictures in pixels [default: the network's]
    #[arg(long, value_name = "P")]
    size: Option<usize>,
    /// Flip half of the pictures
    #[arg(long)]
    flip: bool,
    /// Share of the captions that are left out, which guidance needs
    #[arg(long, value_name = "X", default_value_t = 0.1)]
    caption_dropout: f64,
    /// The largest learning rate
    #[arg(long, value_name = "X", default_value_t = 1e-4, value_parser = positive)]
    rate: f64,
    /// How it goes on after the warm-up
    #[arg(long, value_enum, default_value = "constant")]
    schedule: ScheduleName,
    /// Steps of the warm-up
    #[arg(long, value_name = "N", default_value_t = 100)]
    warmup: u64,
    /// Largest decay of the weights' moving average
    #[arg(long, value_name = "X", default_value_t = 0.9999)]
    ema: f64,
    /// Decay of the gradients' mean square
    #[arg(long, value_name = "X", default_value_t = 0.999)]
    beta2: f64,
    /// Decay of the weights
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    weight_decay: f64,
    /// Largest norm of the gradients; 0 clips nothing
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    clip: f64,
    /// Weigh timesteps by min(SNR, X)
    #[arg(long, value_name = "X", value_parser = positive)]
    min_snr: Option<f64>,
    /// With --min-snr: min(SNR, X) + 1, which keeps the noisiest steps
    #[arg(long, requires = "min_snr")]
    plus_one: bool,
    /// Train a learned variance by the variational bound, too (L_hybrid)
    #[arg(long)]
    bound: bool,
    /// Faster arithmetic that rounds more: f16 activations on a GPU, Winograd's convolutions on the CPU
    #[arg(long)]
    mixed: bool,
    /// Most memory of activations, e.g. 2GB; what is above is computed a second time
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    activations: Option<u64>,
    /// Seed of data, noise and dropout
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Steps from one checkpoint to the next
    #[arg(long, value_name = "N", default_value_t = 200)]
    save_every: u64,
    /// Say what memory and arithmetic a step takes, and train nothing
    #[arg(long)]
    plan: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    device: Where,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScheduleName {
    /// It stays
    Constant,
    /// It falls to nothing
    Linear,
    /// It falls to nothing along half a cosine
    Cosine,
    /// It stays for the first half, then falls along half a cosine to a fiftieth
    LateCosine,
}

/// Trains.
pub fn run(args: &Train) -> Result<(), Error> {
    let device = Device::open(&args.device.choice())?;
    let settings = RunSettings {
        out: args.out.clone(),
        batches: Batches {
            data: args.data.clone().map_or(Data::Scenes, Data::Folder),
            batch: args.batch.into(),
            side: args.size.unwrap_or(0),
            flip: args.flip,
            caption_dropout: args.caption_dropout,
            weighting: match args.min_snr {
                Some(gamma) if args.plus_one => Weighting::MinSnrPlusOne(gamma),
                Some(gamma) => Weighting::MinSnr(gamma),
                None => Weighting::Simple,
            },
            bound: args.bound,
            seed: args.seed,
        },
        optimiser: Optimiser {
            rate: args.rate,
            schedule: match args.schedule {
                ScheduleName::Constant => Rate::Constant,
                ScheduleName::Linear => Rate::Linear,
                ScheduleName::Cosine => Rate::Cosine,
                ScheduleName::LateCosine => Rate::LateCosine,
            },
            warmup: args.warmup,
            steps: args.steps,
            beta2: args.beta2,
            decay: args.weight_decay,
            clip: args.clip,
            average: Average::Warmed { most: args.ema, inv_gamma: 0.0, power: 0.0 },
            ..Optimiser::default()
        },
        accumulation: args.accumulation.into(),
        budget: args.activations,
        mixed: args.mixed,
        from_nothing: args.from_nothing,
        save_every: args.save_every,
    };
    if args.plan {
        say(planned(&training_cost(&args.model, &settings)?));
        return Ok(());
    }
    let bar = if args.quiet { ProgressBar::hidden() } else { ProgressBar::new(args.steps) };
    if let Ok(style) =
        ProgressStyle::with_template("[{bar:30}] step {pos}/{len} {msg} {elapsed} (left: {eta})")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    let mut mean = None;
    train(&args.model, &device, &settings, &mut |done| {
        let mean = mean.insert(mean.map_or(done.loss, |mean: f64| 0.98 * mean + 0.02 * done.loss));
        bar.set_position(done.step);
        bar.set_message(format!("loss {mean:.4}, {:.1} pictures/s", done.rate));
        true
    })?;
    bar.finish();
    if !args.quiet {
        note(format_args!("the model is {}", args.out.join("model").display()));
    }
    Ok(())
}

/// The usual settings with a batch of so many pictures.
pub fn training(batch: usize) -> RunSettings {
    RunSettings {
        out: PathBuf::new(),
        batches: Batches {
            data: Data::Scenes,
            batch,
            side: 0,
            flip: false,
            caption_dropout: 0.0,
            weighting: Weighting::Simple,
            bound: false,
            seed: 0,
        },
        optimiser: Optimiser::default(),
        accumulation: 1,
        budget: None,
        mixed: false,
        from_nothing: false,
        save_every: 1,
    }
}

/// A step's cost in words.
pub fn planned(cost: &TrainingCost) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!(
        "{} parameters\n{:10.1} MiB weights, moments, average and a batch\n{:10.1} MiB activations and gradients\n{:10.1} MiB in all\n\
         {:10.1} GFLOP a step",
        cost.parameters,
        mib(cost.state),
        mib(cost.activations),
        mib(cost.bytes()),
        cost.flops * 1e-9
    )
}
