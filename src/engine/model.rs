//! The engine: a model on a device. The whole path is on this page.

use crate::catalog::{Bundled, LoadOptions, bundled_model};
use crate::device::{Choices, Device, ProgramOptions, Weights, ledger};
use crate::diffusion::{Noise, NoiseStream, SeededNoise};
use crate::error::Result;
use crate::graph::{Graph, Source as TensorSource};
use crate::kernels::Precision;
use crate::picture::Picture;
use crate::pipeline::bisect::{Parting, bisect};
use crate::pipeline::cascade;
use crate::pipeline::cost::{RunCost, Target};
use crate::pipeline::load::load;
use crate::pipeline::plan::plan;
use crate::pipeline::resolve::{resolve, size_to_enlarge, stage_names};
use crate::pipeline::run::Run;
use crate::pipeline::stage::At;
use crate::pipeline::system::{Condition, System};
use crate::settings::{DrawnEmbedding, PriorKind, PromptEmbeds, Settings, Source};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model on a device.
///
/// Cheap to clone: clones share weights, programs and the text states of the last prompts. It is `Send` and `Sync`: several
/// threads may draw with one engine at once, each run with programs of its own over the same weights.
#[derive(Clone)]
pub struct Engine {
    device: Device,
    options: ProgramOptions,
    system: Arc<dyn System>,
}

impl Engine {
    /// Loads a model: a DeepFloyd IF, DDPM or Karlo folder of diffusers, a cascade of IF's folders, a checkpoint of guided
    /// diffusion (`64x64_diffusion.pt`), or GLIDE: a folder of its files (`base.pt`, `upsample.pt`) with its tokenizer's
    /// (`encoder.json.gz`, `vocab.bpe.gz`).
    ///
    /// Errors name the file and what is wrong with it: absent, cut short, of another shape, of an unknown kind.
    pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Engine> {
        Engine::load_cascade(&[path.as_ref()], options)
    }

    /// Loads the bundled model, which draws simple scenes: `a red circle to the left of a blue square`.
    ///
    /// Errors: as [`Engine::load`]'s.
    pub fn bundled(options: &LoadOptions) -> Result<Engine> {
        Engine::bundled_as(Bundled::Imagen, options)
    }

    /// Loads one of the models that come with the program.
    ///
    /// Errors: as [`Engine::load`]'s.
    pub fn bundled_as(which: Bundled, options: &LoadOptions) -> Result<Engine> {
        Engine::load(bundled_model(which)?, options)
    }

    /// Loads a base stage and super-resolution stages from folders or files of their own, in this order.
    ///
    /// Errors: as [`Engine::load`]'s.
    pub fn load_cascade(paths: &[impl AsRef<Path>], options: &LoadOptions) -> Result<Engine> {
        let paths: Vec<PathBuf> = paths.iter().map(|p| p.as_ref().to_path_buf()).collect();
        let system = load(&paths, options)?;
        let device = Device::open(&options.device)?;
        if options.memory.is_some() {
            device.memory().set(options.memory);
        }
        let precision = options.precision.unwrap_or_else(|| device.precision());
        Ok(Engine { device, options: ProgramOptions { precision, ..Default::default() }, system })
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What the stages of a run from a prompt are called, optional ones included: settings by stage name them so.
    pub fn stage_names(&self) -> Vec<String> {
        stage_names(self.system())
    }

    /// What its pictures follow.
    pub fn condition(&self) -> Condition {
        self.system.condition()
    }

    /// Whether it draws others of a given picture ([`Settings::image`]).
    pub fn varies_pictures(&self) -> bool {
        self.system.abilities().varies_pictures
    }

    /// What can draw embeddings for a prompt, of an unCLIP; the first does where nothing is said.
    pub fn priors(&self) -> Vec<PriorKind> {
        self.system.abilities().priors
    }

    /// What was taken for granted of the model's files: presets, defaults. Lines for a person.
    pub fn notes(&self) -> Vec<String> {
        self.system.notes()
    }

    /// Draws pictures of a prompt. The same prompt, seed and settings give the same pictures.
    ///
    /// Errors: settings that make no sense ([`Error::Request`](crate::Error::Request)), a device that fails or is lost, a
    /// callback or a token that cancels.
    pub fn generate(&self, prompt: &str, settings: Settings) -> Result<Vec<Picture>> {
        let run = self.resolve(prompt, &settings)?;
        let mut noise = SeededNoise::each(run.seeds.iter().copied(), 0);
        let before = ledger::traffic();
        let pictures = self.draw(&run, &settings, &mut noise);
        if let Device::Gpu(_) = self.device {
            log::info!("{}", ledger::traffic() - before);
        }
        pictures
    }

    /// [`Engine::generate`] with the caller's own noise.
    ///
    /// Errors: as [`Engine::generate`]'s.
    pub fn generate_from_noise(
        &self,
        prompt: &str,
        settings: &Settings,
        noise: &mut dyn Noise,
    ) -> Result<Vec<Picture>> {
        self.draw(&self.resolve(prompt, settings)?, settings, noise)
    }

    /// Draws an unCLIP's embeddings of a prompt alone: those that [`Engine::generate`] with the same settings draws
    /// pictures of, in the pictures' order.
    ///
    /// Errors: as [`Engine::generate`]'s; a model without a prior.
    pub fn prior_embeddings(&self, prompt: &str, settings: Settings) -> Result<Vec<DrawnEmbedding>> {
        let run = self.resolve(prompt, &settings)?;
        let mut noise = SeededNoise::each(run.seeds.iter().copied(), 0);
        cascade::embed(self.system(), self.at(), &run, &settings, &mut noise)
    }

    /// The text states of prompts, for [`Settings::prompt_embeds`]: encoded once for many runs, or on another machine.
    /// `clean` as [`Settings::clean_caption`].
    ///
    /// Errors: a prompt that the tokenizer refuses; a model without a text encoder of its own; a device that fails.
    pub fn encode_prompts(&self, prompts: &[&str], clean: bool) -> Result<Vec<PromptEmbeds>> {
        self.system.encode(self.at(), prompts, clean)
    }

    /// Width and height of the pictures that these settings give.
    ///
    /// Errors: settings that make no sense.
    pub fn picture_size(&self, prompt: &str, settings: &Settings) -> Result<(usize, usize)> {
        Ok(self.resolve(prompt, settings)?.sizes.last().copied().unwrap_or_default())
    }

    /// What drawing with these settings costs on `on`: dispatches, arithmetic, traffic, memory, and the limits in the
    /// way. No weight is read.
    ///
    /// Errors: settings that make no sense.
    pub fn plan(&self, prompt: &str, settings: &Settings, on: &Target) -> Result<RunCost> {
        plan(self.system(), &self.resolve(prompt, settings)?, settings, on)
    }

    /// Measures which kernels are fastest for these settings on the engine's GPU, and keeps that on disk, so that no run
    /// needs to; [`Gpu::on_measuring`](crate::Gpu::on_measuring) tells how far it is. A choice that is made for one picture
    /// holds for any number of them. `again` forgets earlier measurements. On the CPU device there is nothing to measure.
    ///
    /// Errors: settings that make no sense; a device that fails.
    pub fn tune(&self, settings: Settings, again: bool) -> Result<Choices> {
        let Device::Gpu(gpu) = &self.device else { return Ok(Choices::default()) };
        if again {
            gpu.forget_tuning();
        }
        let before = gpu.choices();
        // The shortest run makes every program that a longer one needs.
        let stages = self.system.stages().len() + 1;
        let steps = vec![self.system.fewest_steps(); self.stage_names().len().min(stages)];
        self.generate(self.anything(), self.with_anything(settings.steps(steps)))?;
        Ok(gpu.choices().since(before))
    }

    /// A prompt or a class that this model takes, to plan or to measure a run with; empty where it takes none.
    pub fn anything(&self) -> &str {
        match self.condition() {
            Condition::Class => "0",
            Condition::Prompt => "a",
            _ => "",
        }
    }

    /// Settings with a grey picture where the model takes one and none is given, to plan or to measure a run with.
    pub fn with_anything(&self, settings: Settings) -> Settings {
        if settings.source != Source::Prompt {
            return settings;
        }
        let count = settings.pictures();
        match size_to_enlarge(self.system(), &settings) {
            Some((width, height)) => settings.from_pictures(vec![Picture::grey(width, height); count]),
            None if self.condition() == Condition::Picture => settings.image([Picture::grey(1, 1)]),
            None => settings,
        }
    }

    /// Runs every U-Net once on the engine's device and on `other`, on seeded noise, and says for each where they part
    /// by more than `tolerance` (NMSE).
    ///
    /// Errors: a device that fails.
    pub fn bisect(&self, other: &Device, tolerance: f64) -> Result<Vec<(String, Option<Parting>)>> {
        let compare = |(name, graph, weights): (String, Graph, &Weights)| {
            let mut noise = NoiseStream::new(0);
            let inputs: Vec<(String, Vec<f32>)> = graph
                .tensors
                .iter()
                .filter_map(|t| match &t.source {
                    TensorSource::Input(name) => Some((name.clone(), noise.normal(t.len()))),
                    _ => None,
                })
                .collect();
            let inputs: Vec<(&str, &[f32])> =
                inputs.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
            let sides = ((&self.device, weights), (other, weights));
            let parting = bisect(&graph, &inputs, sides, Precision::F32, tolerance)?;
            Ok((name, parting))
        };
        self.system.networks().into_iter().map(compare).collect()
    }

    pub(super) fn system(&self) -> &dyn System {
        &*self.system
    }

    pub(super) fn at(&self) -> At<'_> {
        At { device: &self.device, options: &self.options }
    }

    pub(super) fn resolve(&self, prompt: &str, settings: &Settings) -> Result<Run> {
        resolve(self.system(), prompt, settings)
    }

    fn draw(&self, run: &Run, settings: &Settings, noise: &mut dyn Noise) -> Result<Vec<Picture>> {
        cascade::draw(self.system(), self.at(), run, settings, noise)
    }
}
