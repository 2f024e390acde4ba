//! The engine: load a model, turn prompts into pictures. The whole path is on this page.

use crate::bisect::{Parting, bisect};
use crate::device::{Choices, Device, DeviceChoice, ProgramOptions, Weights};
use crate::diffusion::NoiseStream;
use crate::error::{Error, Result};
use crate::estimate::{RunCost, Target};
use crate::graph::{Graph, Source};
use crate::kernels::Precision;
pub use crate::layout::Bundled;
use crate::layout::Model;
use crate::picture::{ByteRounding, Picture};
use crate::request::check_request;
pub use crate::request::{GenerateConfig, MAX_COUNT, PriorKind};
pub use crate::systems::Condition;
use crate::systems::adm::Adm;
use crate::systems::ddpm::Ddpm;
use crate::systems::denoise::{Noise, SeededNoise};
use crate::systems::glide::Glide;
use crate::systems::imagen::Imagen;
pub use crate::systems::unclip::DrawnEmbedding;
use crate::systems::unclip::UnClip;
use crate::systems::upsampler::Upsamplers;
use crate::systems::{Run, System};
use std::path::{Path, PathBuf};

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Where it runs.
    pub device: DeviceChoice,
    /// Which files of a folder: `fp16`, or none for full precision.
    pub variant: Option<String>,
    /// Storage on a GPU; unset takes what serves the device best.
    pub precision: Option<Precision>,
    /// Guided diffusion: the classifier's checkpoint; unset takes the one beside the model, if there is one.
    pub classifier: Option<PathBuf>,
    /// Guided diffusion and GLIDE: flags of each model, as OpenAI's command lines have them, which go before all that is
    /// found out: `--attention_resolutions 32,16,8 --num_heads 4`.
    pub flags: Vec<String>,
}

/// What one stage is doing.
pub struct Progress<'a> {
    /// Index of the stage.
    pub stage: usize,
    /// Stages of this run.
    pub stages: usize,
    /// Width and height of the stage's pictures; 1 by 1 where it draws an embedding.
    pub size: (usize, usize),
    /// Steps done, with the share of the running one.
    pub done: f32,
    /// Steps of the stage.
    pub steps: usize,
    pub(crate) estimate: Option<&'a mut dyn FnMut() -> Result<Vec<Picture>>>,
}

impl Progress<'_> {
    /// Reads the stage's current estimate of its final pictures, x̂₀; none in the middle of a step.
    pub fn estimate(&mut self) -> Option<Result<Vec<Picture>>> {
        self.estimate.as_mut().map(|read| read())
    }
}

/// Called with the index of a finished stage and its pictures.
pub type OnStage<'a> = Box<dyn FnMut(usize, &[Picture]) + 'a>;

/// Called several times a step; returning false cancels the run.
pub type OnProgress<'a> = Box<dyn FnMut(Progress<'_>) -> bool + 'a>;

/// A model on a device.
pub struct Engine {
    pub(crate) device: Device,
    pub(crate) precision: Precision,
    pub(crate) system: Box<dyn System + Send>,
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
    pub fn bundled(options: &LoadOptions) -> Result<Engine> {
        Engine::bundled_as(Bundled::Imagen, options)
    }

    /// Loads one of the models that come with the program.
    pub fn bundled_as(which: Bundled, options: &LoadOptions) -> Result<Engine> {
        Engine::load(crate::layout::bundled_model(which)?, options)
    }

    /// Loads a base stage and super-resolution stages from folders or files of their own, in this order.
    pub fn load_cascade(paths: &[impl AsRef<Path>], options: &LoadOptions) -> Result<Engine> {
        let paths: Vec<PathBuf> = paths.iter().map(|p| p.as_ref().to_path_buf()).collect();
        let model = Model::find(&paths, options)?;
        let device = Device::open(&options.device)?;
        let precision = options.precision.unwrap_or_else(|| device.precision());
        let variant = options.variant.as_deref();
        let system: Box<dyn System + Send> = match model {
            Model::Ddpm(folder, defaults) => Box::new((Ddpm::load(&folder)?, defaults)),
            Model::Imagen(files) => Box::new(Imagen::load(&files, variant)?),
            Model::Adm(files) => Box::new(Adm::load(&files)?),
            Model::Glide(files) => Box::new(Glide::load(&files)?),
            Model::UnClip(files) => Box::new(UnClip::load(&files, variant)?),
            Model::Upsampler(files) => Box::new(Upsamplers::load(&files, variant)?),
        };
        Ok(Engine { device, precision, system })
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Stages a run may have.
    pub fn stages(&self) -> usize {
        self.system.stages()
    }

    /// What its pictures follow.
    pub fn condition(&self) -> Condition {
        self.system.condition()
    }

    /// Whether it draws others of a given picture ([`GenerateConfig::image`]).
    pub fn varies_pictures(&self) -> bool {
        self.system.varies_pictures()
    }

    /// What can draw embeddings for a prompt, of an unCLIP; the first does where nothing is said.
    pub fn priors(&self) -> Vec<PriorKind> {
        self.system.priors()
    }

    /// What was taken for granted of the model's files: presets, defaults. Lines for a person.
    pub fn notes(&self) -> Vec<String> {
        self.system.notes()
    }

    /// Draws pictures of a prompt. The same prompt, seed and settings give the same pictures.
    ///
    /// Errors: settings that make no sense ([`Error::Request`]), a device that fails ([`Error::Device`],
    /// [`Error::DeviceLost`]), a callback that cancels ([`Error::Cancelled`]).
    pub fn generate(&mut self, prompt: &str, mut cfg: GenerateConfig<'_>) -> Result<Vec<Picture>> {
        check_request(&cfg)?;
        let mut noise = SeededNoise::new(cfg.seed, cfg.count);
        self.generate_from_noise(prompt, &mut cfg, &mut noise)
    }

    /// [`Engine::generate`] with the caller's own noise.
    pub fn generate_from_noise(
        &mut self,
        prompt: &str,
        cfg: &mut GenerateConfig<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Vec<Picture>> {
        self.check(cfg)?;
        let options = ProgramOptions { precision: self.precision, ..Default::default() };
        self.system.draw(Run { device: &self.device, options: &options, prompt, cfg, noise })
    }

    /// Draws an unCLIP's embeddings of a prompt alone: those that [`Engine::generate`] with the same settings draws
    /// pictures of, in the pictures' order.
    ///
    /// Errors: as [`Engine::generate`]'s; a model without a prior.
    pub fn prior_embeddings(
        &mut self,
        prompt: &str,
        mut cfg: GenerateConfig<'_>,
    ) -> Result<Vec<DrawnEmbedding>> {
        self.check(&cfg)?;
        if self.priors().is_empty() {
            return Err(Error::Request("this model has no prior, which would draw embeddings".into()));
        }
        let mut noise = SeededNoise::new(cfg.seed, cfg.count);
        let options = ProgramOptions { precision: self.precision, ..Default::default() };
        let (device, options, cfg) = (&self.device, &options, &mut cfg);
        self.system.embed(Run { device, options, prompt, cfg, noise: &mut noise })
    }

    /// Refuses settings that make no sense with this model.
    fn check(&mut self, cfg: &GenerateConfig<'_>) -> Result<()> {
        check_request(cfg)?;
        if !cfg.classes.is_empty() && self.condition() != Condition::Class {
            let follows = match self.condition() {
                Condition::Prompt => "this model follows a prompt",
                Condition::Picture => "this model varies a picture",
                _ => "this model knows no classes",
            };
            return Err(Error::Request(format!("{follows}: leave `--class` out")));
        }
        if !cfg.image.is_empty() && !self.system.varies_pictures() {
            let what = "only an unCLIP with a picture encoder (Karlo's image variation) varies a picture: leave `--image` out; \
                        `--init` begins at one";
            return Err(Error::Request(what.into()));
        }
        if !cfg.latents.is_empty() && self.system.as_unclip().is_none() {
            return Err(Error::Request("only an unCLIP draws latents (GenerateConfig::latents)".into()));
        }
        if cfg.eta.is_some() && cfg.latents.is_empty() {
            let what =
                "eta varies what is drawn of latents: leave `GenerateConfig::eta` out; a sampler has its own";
            return Err(Error::Request(what.into()));
        }
        if cfg.upsample_temp.is_some() && !self.system.takes_upsample_temp() {
            let what = "only GLIDE's upsampler takes a temperature: leave `--upsample-temp` out";
            return Err(Error::Request(what.into()));
        }
        if (cfg.prior.is_some() || cfg.candidates > 1) && self.priors().is_empty() {
            let what = "only an unCLIP draws embeddings by a prior, this model has none: leave `--prior` and `--candidates` out";
            return Err(Error::Request(what.into()));
        }
        Ok(())
    }

    /// Width and height of the pictures that these settings give.
    ///
    /// Errors: settings that make no sense.
    pub fn picture_size(&self, cfg: &GenerateConfig<'_>) -> Result<(usize, usize)> {
        check_request(cfg)?;
        let sizes = self.system.sizes(cfg)?;
        sizes.last().copied().ok_or_else(|| Error::Request("this model has no stage that draws".into()))
    }

    /// What drawing with these settings costs on `on`: dispatches, arithmetic, traffic, memory, and the limits in the
    /// way. No weight is read.
    ///
    /// Errors: settings that make no sense.
    pub fn plan(&self, cfg: &GenerateConfig<'_>, on: &Target) -> Result<RunCost> {
        check_request(cfg)?;
        Ok(RunCost::new(self.system.plan(cfg, on)?, on.limits.clone()))
    }

    /// Measures which kernels are fastest for these settings on the engine's GPU, and keeps that on disk, so that no run
    /// needs to. `again` forgets earlier measurements. On the CPU device there is nothing to measure.
    ///
    /// Errors: settings that make no sense; a device that fails.
    pub fn tune(&mut self, mut cfg: GenerateConfig<'_>, again: bool) -> Result<Choices> {
        let Device::Gpu(gpu) = self.device.clone() else { return Ok(Choices::default()) };
        if again {
            gpu.forget_tuning();
        }
        let before = gpu.choices();
        // The shortest run makes every program that a longer one needs.
        cfg = cfg.steps(vec![self.system.fewest_steps(); self.stages()]);
        let grey = |(width, height): (usize, usize)| {
            let values = vec![0.0; 3 * width * height];
            Picture { width, height, channels: 3, values, rounding: ByteRounding::Nearest }
        };
        if self.condition() == Condition::Picture && cfg.image.is_empty() {
            cfg.image = vec![grey((1, 1))];
        }
        if let Some(small) = self.system.enlarges(&cfg)? {
            cfg.from = vec![grey(small); cfg.count];
        }
        let anything = if self.condition() == Condition::Class { "0" } else { "a" };
        self.generate(anything, cfg)?;
        let after = gpu.choices();
        Ok(after.since(before))
    }

    /// Runs every U-Net once on the engine's device and on `other`, on seeded noise, and says for each where they part
    /// by more than `tolerance` (NMSE).
    pub fn bisect(&self, other: &Device, tolerance: f64) -> Result<Vec<(String, Option<Parting>)>> {
        let compare = |(name, graph, weights): (String, Graph, &Weights)| {
            let mut noise = NoiseStream::new(0);
            let inputs: Vec<(String, Vec<f32>)> = graph
                .tensors
                .iter()
                .filter_map(|t| match &t.source {
                    Source::Input(name) => Some((name.clone(), noise.normal(t.len()))),
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
}
