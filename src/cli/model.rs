//! Which model, and on which device.

use super::output::{note, show_measuring};
use super::parse::{parse_lora, parse_memory};
use ancestral::{Bundled, Device, DeviceChoice, Engine, Error, LoadOptions, Precision};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// How a model's files are read.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub struct Choice {
    /// Which bundled model
    #[arg(long, value_enum, default_value = "imagen", conflicts_with = "model")]
    system: SystemName,
    /// Guided diffusion: checkpoint of the classifier [default: the one beside the model]
    #[arg(long, value_name = "FILE")]
    classifier: Option<PathBuf>,
    /// Guided diffusion and GLIDE: flags of the model, as on OpenAI's command lines, which go before those found out;
    /// repeat it for each model, e.g. --flags "--num_heads 4 --noise_schedule linear"
    #[arg(long, value_name = "FLAGS", allow_hyphen_values = true)]
    flags: Vec<String>,
    #[command(flatten)]
    files: Files,
}

/// Which of a model's files are read, and how they are stored.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub struct Files {
    /// Which files of the model to read, e.g. fp16
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Storage of activations and weights on a GPU [default: what serves the device best]
    #[arg(long, value_enum)]
    precision: Option<PrecisionName>,
    /// Memory budget of the device, e.g. 6GB or 800MiB: weights and programs stay between pictures within it, and what was
    /// used least recently goes where more is needed [default: what the CPU's machine has free; seven eighths of a GPU's
    /// own memory, or 6GB where its driver does not say]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory, allow_hyphen_values = true)]
    memory: Option<u64>,
    /// LoRA to merge into the weights, at a scale [default: 1]: a file of diffusers, peft or kohya's scripts; repeat it for
    /// several
    #[arg(long, value_name = "FILE[:SCALE]", value_parser = parse_lora)]
    lora: Vec<(PathBuf, f32)>,
}

#[derive(Clone, Copy, ValueEnum)]
enum PrecisionName {
    /// 4 bytes an element
    F32,
    /// 2 bytes an element, but for what needs f32's range
    F16,
}

impl Files {
    /// The storage that was asked for.
    pub fn precision(&self) -> Option<Precision> {
        self.precision.map(|precision| match precision {
            PrecisionName::F32 => Precision::F32,
            PrecisionName::F16 => Precision::F16,
        })
    }

    fn options(&self, device: DeviceChoice) -> LoadOptions {
        let (variant, precision) = (self.variant.clone(), self.precision());
        LoadOptions {
            device,
            variant,
            precision,
            memory: self.memory,
            loras: self.lora.clone(),
            ..LoadOptions::default()
        }
    }
}

/// Where it runs.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub struct Where {
    /// auto (a hardware GPU, else the CPU), gpu, cpu, or part of an adapter's name, e.g. llvmpipe
    #[arg(short, long, value_name = "NAME", default_value = "auto")]
    device: String,
}

impl Where {
    /// The device that was asked for.
    pub fn choice(&self) -> DeviceChoice {
        DeviceChoice::parse(&self.device)
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum SystemName {
    /// Draws simple scenes by a prompt
    Imagen,
    /// Draws single objects, steered by a classifier: --class "red circle"
    Adm,
    /// Draws simple scenes by a prompt or after a picture, by way of CLIP's embeddings
    Unclip,
}

impl Choice {
    /// The storage that was asked for.
    pub fn precision(&self) -> Option<Precision> {
        self.files.precision()
    }

    /// The memory budget that was asked for.
    pub fn memory(&self) -> Option<u64> {
        self.files.memory
    }

    /// Loads the model and says what was taken for granted of its files.
    pub fn load(&self, model: &[PathBuf], device: DeviceChoice, quiet: bool) -> Result<Engine, Error> {
        let (classifier, flags) = (self.classifier.clone(), self.flags.clone());
        let options = LoadOptions { classifier, flags, ..self.files.options(device) };
        let engine = match (model.is_empty(), self.system) {
            (false, _) => Engine::load_cascade(model, &options),
            (true, SystemName::Imagen) => Engine::bundled_as(Bundled::Imagen, &options),
            (true, SystemName::Adm) => Engine::bundled_as(Bundled::Adm, &options),
            (true, SystemName::Unclip) => Engine::bundled_as(Bundled::UnClip, &options),
        }?;
        if !quiet {
            engine.notes().iter().for_each(note);
            show_measuring(engine.device());
        }
        Ok(engine)
    }
}

/// Says on which device a model was loaded.
fn say_device(engine: &Engine, asked: &DeviceChoice) {
    note(format_args!("device: {}", engine.device().name()));
    if matches!(asked, DeviceChoice::Auto) && matches!(engine.device(), Device::Cpu) {
        note("        no hardware GPU answers; with one and its Vulkan driver this is much faster");
    }
}

/// An unCLIP to draw with.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub struct UnClip {
    /// Folder of an unCLIP that sees pictures, such as Karlo's image variation; repeat it where prior and encoder of
    /// pictures are apart [default: the bundled one]
    #[arg(short, long, value_name = "PATH")]
    model: Vec<PathBuf>,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    files: Files,
}

impl UnClip {
    /// Loads it, and says on which device.
    pub fn load(&self, quiet: bool) -> Result<Engine, Error> {
        let options = self.files.options(self.place.choice());
        let engine = match self.model.is_empty() {
            true => Engine::bundled_as(Bundled::UnClip, &options),
            false => Engine::load_cascade(&self.model, &options),
        }?;
        if !quiet {
            engine.notes().iter().for_each(note);
            show_measuring(engine.device());
            say_device(&engine, &options.device);
        }
        Ok(engine)
    }
}

/// A model to draw with.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub struct Model {
    /// Model folder, or OpenAI's checkpoint (guided diffusion, GLIDE); repeat it for super-resolution stages and
    /// upsamplers [default: a bundled model]
    #[arg(short, long, value_name = "PATH")]
    model: Vec<PathBuf>,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    choice: Choice,
}

impl Model {
    /// Loads it, and says on which device.
    pub fn load(&self, quiet: bool) -> Result<Engine, Error> {
        let device = self.place.choice();
        let engine = self.choice.load(&self.model, device.clone(), quiet)?;
        if !quiet {
            say_device(&engine, &device);
        }
        Ok(engine)
    }

    /// The folder of a model that is not bundled.
    pub fn folder(&self) -> Option<&Path> {
        let first = self.model.first()?;
        // The parent of a bare file name is empty, which is no folder.
        let beside = first.parent().filter(|folder| !folder.as_os_str().is_empty());
        Some(if first.is_dir() { first } else { beside.unwrap_or(Path::new(".")) })
    }
}
