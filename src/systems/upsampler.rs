//! Unguided super-resolution as unCLIP has it: a network that sees the enlarged picture beside the sample and reads no
//! text. One network takes all steps, or one takes all but the last, and another that one (Karlo's 64 → 256).

use super::denoise::{Denoiser, Guided, Noise, Shape, StepDone};
use super::start::{Place, Start, start};
use super::{ddpm, initial_noise, progress};
use crate::device::{Device, ProgramOptions, Weights};
use crate::diffusion::{SchedulerConfig, Step};
use crate::error::Result;
use crate::estimate::{NetworkCost, Target};
use crate::graph::{Graph, Storage};
use crate::guidance::OPTIONS;
use crate::kernels::resample::{Resample, resample};
use crate::models::check::require;
use crate::models::unet2d::Config;
use crate::request::{GenerateConfig, Size, StageSide};
use crate::weights::{Checkpoint, read_json};
use std::path::Path;
use std::sync::Arc;

/// Pictures `[N, h, w, 3]` of a size (width, height) at the size of `shape`: clamped to -1 to 1, then bicubic over all of
/// the pixels that become one.
///
/// Errors: a device that fails.
pub fn enlarged(device: &Device, values: &[f32], (w, h): Size, shape: Shape) -> Result<Vec<f32>> {
    let mut g = Graph::new();
    let x = g.input("x", &[shape.pictures, h, w, shape.channels], Storage::Elem);
    let mode = Resample::Bicubic { antialias: true };
    let y = resample(&mut g, "up", &x, shape.height, shape.width, mode);
    g.output("y", &y);
    let mut program = device.program(g, &Weights::none(), &OPTIONS)?;
    program.write("x", &values.iter().map(|v| v.clamp(-1.0, 1.0)).collect::<Vec<_>>());
    program.run(&mut |_| true)?;
    program.read("y")
}

/// One network of an upsampler.
pub struct Network {
    /// Its config.
    pub unet: Config,
    weights: Arc<Weights>,
    denoiser: Option<Denoiser>,
}

impl Network {
    /// Reads a `UNet2DModel`'s folder and checks every tensor.
    fn load(folder: &Path, scheduler: &SchedulerConfig, variant: Option<&str>) -> Result<Self> {
        let path = folder.join("config.json");
        let unet: Config = read_json(&path)?;
        unet.validate(&path)?;
        require(&path, "in_channels", unet.is_super_resolution(), || {
            format!("{} channels; a super-resolution network takes 6", unet.in_channels)
        })?;
        scheduler.fits(&path, unet.sample_channels(), unet.out_channels)?;
        let checkpoint = Checkpoint::open(folder, "diffusion_pytorch_model", variant)?;
        checkpoint.check(ddpm::network_graph(&unet).weights(), |_| false)?;
        Ok(Network { unet, weights: Arc::new(Weights::new(checkpoint)), denoiser: None })
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The program for pictures of a shape. Its input besides the sample: `low_res` `[N, H, W, 3]`.
    pub fn denoiser(
        &mut self,
        device: &Device,
        options: &ProgramOptions,
        shape: Shape,
    ) -> Result<&mut Denoiser> {
        let (unet, weights) = (&self.unet, &self.weights);
        Denoiser::reuse(&mut self.denoiser, shape, unet.size_multiple(), || {
            Denoiser::new(device, weights, options, shape, ddpm::network(unet))
        })
    }
}

/// A stage that enlarges pictures.
pub struct Upsampler {
    /// The network of all steps, or of all but the last, and then the last one's.
    pub networks: Vec<Network>,
    /// How it was trained and is sampled.
    pub scheduler: SchedulerConfig,
}

/// What a stage enlarges.
pub(crate) struct Small<'a> {
    /// Index of the stage, and how many there are, as the caller counts them.
    pub stage: (usize, usize),
    /// Pictures `[N, h, w, 3]` and their size.
    pub pictures: (&'a [f32], Size),
    /// The size they get.
    pub size: Size,
    /// All steps of the stage.
    pub steps: &'a [Step],
}

impl Upsampler {
    /// Reads Karlo's super-resolution out of a pipeline's folder: `super_res_first`, unless it takes all steps
    /// `super_res_last`, and `super_res_scheduler`.
    ///
    /// Errors: files that are absent, broken, or of another network.
    pub fn load_karlo(folder: &Path, one_for_all_steps: bool, variant: Option<&str>) -> Result<Self> {
        let scheduler = SchedulerConfig::read(&folder.join("super_res_scheduler/scheduler_config.json"))?;
        let parts =
            ["super_res_first", "super_res_last"].into_iter().take(if one_for_all_steps { 1 } else { 2 });
        let networks = parts.map(|part| Network::load(&folder.join(part), &scheduler, variant));
        Ok(Upsampler { networks: networks.collect::<Result<_>>()?, scheduler })
    }

    /// What it needs of its pictures' size.
    pub(crate) fn side(&self) -> StageSide {
        let multiple = self.networks.iter().map(|network| network.unet.size_multiple()).max();
        let side = self.networks.first().map_or(1, |network| network.unet.sample_size);
        StageSide { side, multiple: multiple.unwrap_or(1) }
    }

    /// The sizes of a run.
    pub fn shape(&self, steps: &[Step], pictures: usize, (width, height): Size) -> Shape {
        let channels = self.networks.first().map_or(3, |network| network.unet.sample_channels());
        let dynamic = Shape::is_dynamic(steps);
        Shape { pictures, height, width, channels, tokens: 0, guided: false, dynamic }
    }

    /// Pictures enlarged `[N, H, W, 3]`.
    pub(crate) fn enlarge(
        &mut self,
        (device, options): (&Device, &ProgramOptions),
        small: &Small<'_>,
        cfg: &mut GenerateConfig<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Vec<f32>> {
        let shape = self.shape(small.steps, cfg.count, small.size);
        // It is led by the small picture, in which all that is kept is to be seen.
        let (stage, before) = (small.stage.0, Some(small.pictures));
        let place = Place { stage, shape, steps: small.steps, sees: true, before };
        let Start { steps, mut x, kept } = start(cfg, &place, initial_noise(noise, shape))?;
        let low_res = enlarged(device, small.pictures.0, small.pictures.1, shape)?;
        let mut on_step = progress(cfg.on_progress.as_mut(), small.stage, small.size);
        let (first, last) = steps.split_at(steps.len() - (self.networks.len() - 1).min(steps.len()));
        let mut done = 0.0;
        for (network, part) in self.networks.iter_mut().zip([first, last]) {
            if part.is_empty() {
                continue;
            }
            let denoiser = network.denoiser(device, options, shape)?;
            denoiser.write("low_res", &low_res);
            let mut guided = Guided { kept: kept.clone(), ..Guided::classifier_free(1.0) };
            let mut of_all = |step: StepDone<'_>| {
                on_step(StepDone { done: done + step.done, steps: steps.len(), estimate: step.estimate })
            };
            x = denoiser.sample(part, &mut guided, noise, x, &mut of_all)?;
            Denoiser::release_if_large(&mut network.denoiser, &network.weights);
            done += part.len() as f32;
        }
        Ok(x)
    }

    /// What a run of so many steps costs.
    pub(crate) fn plan(&self, name: &str, shape: Shape, steps: usize, on: &Target) -> Vec<NetworkCost> {
        let cost = |name: &str, network: &Network, steps: usize| {
            NetworkCost::of_denoiser(name, shape, steps, &ddpm::network(&network.unet), on)
        };
        match &self.networks[..] {
            [first, last] => {
                vec![cost(name, first, steps - 1), cost(&format!("{name}, last step"), last, 1)]
            }
            all => all.iter().map(|network| cost(name, network, steps)).collect(),
        }
    }

    /// Its networks, as small as they may be, under names.
    pub(crate) fn networks<'a>(
        &'a self,
        names: &'a [&str],
    ) -> impl Iterator<Item = (String, Graph, &'a Weights)> {
        let named = names.iter().zip(&self.networks);
        named.map(|(name, network)| (name.to_string(), ddpm::network_graph(&network.unet), network.weights()))
    }
}
