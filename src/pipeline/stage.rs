//! A stage: denoising networks with the process they were trained for, and the programs last made of them.

use super::denoiser::Denoiser;
use crate::catalog::Defaults;
use crate::device::{Device, ProgramOptions, Shelf, Weights};
use crate::diffusion::{Sampler, SchedulerConfig, Step, Thresholding, Timesteps, steps_from};
use crate::error::{Result, request};
use crate::kernels::hand_over::HandOver;
use crate::models::network::{DenoisingNetwork, Shape, Sides};
use crate::settings::Settings;
use std::sync::Arc;

/// Width and height.
pub(crate) type Size = (usize, usize);

/// Where programs are made, and how.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// The device.
    pub device: &'a Device,
    /// How graphs are built into programs.
    pub options: &'a ProgramOptions,
}

/// A denoising network with its weights. Several runs may use it at once: each takes a program out and puts it back.
pub struct Network {
    /// What its files call it.
    pub name: String,
    network: Arc<dyn DenoisingNetwork>,
    weights: Arc<Weights>,
    idle: Shelf<Denoiser>,
}

impl Network {
    /// Of weights that are known to be the network's.
    pub fn new(
        name: impl Into<String>,
        network: impl DenoisingNetwork + 'static,
        weights: impl Into<Arc<Weights>>,
    ) -> Self {
        let (name, network, weights) = (name.into(), Arc::new(network), weights.into());
        Network { name, network, weights, idle: Shelf::default() }
    }

    /// The network.
    pub fn network(&self) -> &dyn DenoisingNetwork {
        &*self.network
    }

    /// The weights.
    pub fn weights(&self) -> &Arc<Weights> {
        &self.weights
    }

    /// Takes a program for a device, options and sizes out: one that a run put back, or a new one.
    ///
    /// Errors: sizes that are not multiples of what the network needs; a device that fails.
    pub fn denoiser(&self, at: At<'_>, shape: Shape, steps: usize) -> Result<Denoiser> {
        let (Shape { height, width, .. }, multiple) = (shape, self.network.sides().multiple);
        let fits = |side: usize| side > 0 && side.is_multiple_of(multiple);
        if !fits(height) || !fits(width) {
            return Err(request!(
                Size,
                Mismatch,
                "{width}x{height} pixels: this network needs multiples of {multiple}"
            ));
        }
        let fits = |made: &Denoiser| made.is_for(at.device, at.options, shape);
        let kept = self.idle.take(&at.device.memory(), fits);
        let made = || Denoiser::new(at.device, &self.weights, at.options, (shape, steps), &self.network);
        kept.map_or_else(made, Ok)
    }

    /// Keeps a program for the next run, until the device's budget needs its room.
    pub fn put_back(&self, denoiser: Denoiser) {
        let memory = denoiser.device().memory();
        self.idle.put(&memory, denoiser);
    }
}

/// One stage of a model, whatever its system.
pub struct Stage {
    /// What callers call it: `base`, `prior`, `decoder`, `upscaler`.
    pub name: String,
    /// The network of all steps, or of all but the last, and then the last one's.
    pub networks: Vec<Network>,
    /// How it was trained and is sampled.
    pub scheduler: SchedulerConfig,
    pub(crate) defaults: Defaults,
    /// Tokens that it reads of a prompt.
    pub tokens: usize,
    /// It runs on an unconditional and a conditional half where the guidance scale is above 1.
    pub classifier_free: bool,
    /// Timesteps as the network gets them, over the scheduler's.
    pub timestep_scale: f64,
    /// What is kept of a picture enters its estimate, for the network sees it, or is led by a picture that shows it; in any
    /// other the sample is replaced.
    pub keeps_estimate: bool,
    /// How it gets the values of the stage's pictures before it.
    pub handover: HandOver,
    /// Its pictures' sides to those of the pictures it enlarges; none where the network's own size says it.
    pub scale: Option<usize>,
}

impl Stage {
    /// A stage that reads no text and keeps a picture by its sample.
    pub(crate) fn new(name: &str, network: Network, scheduler: SchedulerConfig, defaults: Defaults) -> Self {
        Stage {
            name: name.to_string(),
            networks: vec![network],
            scheduler,
            defaults,
            tokens: 0,
            classifier_free: false,
            timestep_scale: 1.0,
            keeps_estimate: false,
            handover: HandOver::AsIs,
            scale: None,
        }
    }

    /// The first of its networks; they differ in weights alone.
    pub fn network(&self) -> &dyn DenoisingNetwork {
        self.networks[0].network()
    }

    /// What it needs of its pictures' size, where those of the stage before have a side of `before`.
    pub fn sides(&self, before: usize) -> Sides {
        let multiple = self.networks.iter().map(|n| n.network().sides().multiple).max().unwrap_or(1);
        let own = self.network().sides().side;
        Sides { side: self.scale.map_or(own, |scale| scale * before), multiple }
    }

    /// The sizes of a run of `pictures` pictures.
    pub fn shape(
        &self,
        pictures: usize,
        (width, height): Size,
        steps: &[Step],
        guidance_scale: f64,
    ) -> Shape {
        Shape {
            pictures,
            height,
            width,
            channels: self.network().sample_channels(),
            enlarges: None,
            tokens: self.tokens,
            guided: self.classifier_free && guidance_scale > 1.0,
            dynamic: steps.iter().any(|s| matches!(s.coefficients.clip, Thresholding::Dynamic { .. })),
        }
    }

    /// How many of so many steps each of its networks takes.
    pub fn parts(&self, steps: usize) -> impl Iterator<Item = (&Network, usize)> {
        let last = (self.networks.len() - 1).min(steps);
        self.networks.iter().zip([steps - last, last]).filter(|(_, steps)| *steps > 0)
    }

    /// The steps of a run by the scheduler, the defaults and the caller's settings for the stage at `place`, from its step
    /// `first` on where it begins there.
    ///
    /// Errors: numbers of steps that there cannot be.
    pub(crate) fn steps(&self, settings: &Settings, place: usize, first: usize) -> Result<Vec<Step>> {
        let mut scheduler = self.scheduler.clone();
        scheduler.clip = settings.thresholding.unwrap_or(scheduler.clip);
        // What is kept enters a step by x̂₀, which ancestral steps leave out where nothing clips it.
        if settings.start.mask().is_some() && scheduler.clip == Thresholding::None {
            scheduler.clip = Thresholding::Range(f32::MAX.into());
        }
        let sampler = self.sampler(settings);
        let given = settings.steps.get(place, &self.name);
        let default = self.defaults.respacing.as_ref().filter(|_| given.is_none());
        let timesteps = match settings.respacing.get(place, &self.name).or(default) {
            Some(respacing) => Timesteps::Respaced(respacing.clone()),
            None => scheduler.timesteps(&sampler, self.step_count(settings, place)?),
        };
        let mut steps = steps_from(&scheduler, &sampler, timesteps.clone(), first)?;
        // Another network takes the last step, and remembers nothing of this one.
        if let Some(last) =
            steps.last().map(|step| step.step).filter(|last| self.networks.len() > 1 && *last > first)
        {
            steps.retain(|step| step.step < last);
            steps.extend(
                steps_from(&scheduler, &sampler, timesteps, last)?
                    .into_iter()
                    .map(|step| Step { begins: false, ..step }),
            );
        }
        steps.iter_mut().for_each(|step| step.timestep *= self.timestep_scale);
        Ok(steps)
    }

    /// The sampler of a run: the caller's, else its own, DDIM with the caller's η.
    pub(crate) fn sampler(&self, settings: &Settings) -> Sampler {
        let own = self.defaults.sampler.unwrap_or(self.scheduler.sampler);
        match (settings.sampler.unwrap_or(own), settings.eta) {
            (Sampler::Ddim { .. }, Some(eta)) if settings.given_latents().is_empty() => Sampler::Ddim { eta },
            (sampler, _) => sampler,
        }
    }

    /// How many steps it takes: as many as the caller says, else the default, of which there may not be as many.
    ///
    /// Errors: none.
    pub(crate) fn step_count(&self, settings: &Settings, place: usize) -> Result<usize> {
        let usual = self.defaults.steps.min(self.scheduler.num_train_timesteps);
        match settings.steps.get(place, &self.name).copied().unwrap_or(usual) {
            0 => Err(request!(Steps, OutOfRange, "0 steps make no picture: give 1 or more")),
            count => Ok(count),
        }
    }

    /// How far it goes over its conditional output.
    pub(crate) fn guidance_scale(&self, settings: &Settings, place: usize) -> f64 {
        settings.guidance_scale.get(place, &self.name).copied().unwrap_or(self.defaults.guidance_scale)
    }
}

/// Names stages in the order in which they draw pictures: `upscaler`, `upscaler-2`, … after the first.
pub(crate) fn name_upscalers<'s>(stages: impl IntoIterator<Item = &'s mut Stage>) {
    for (i, stage) in stages.into_iter().enumerate() {
        stage.name = if i == 0 { "upscaler".into() } else { format!("upscaler-{}", i + 1) };
    }
}
