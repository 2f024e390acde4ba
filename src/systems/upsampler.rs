//! Unguided super-resolution as unCLIP has it (Ramesh et al. 2022, arXiv:2204.06125, section 2.1): a network that sees the
//! enlarged picture beside the sample and reads no text. One network takes all steps, or one takes all but the last, and
//! another that one: Karlo's 64 → 256. The last stage of unCLIP's and Imagen's cascades, 256 → 1024, is a folder of our own
//! layout, which enlarges any picture by itself, too.

use super::denoise::{Denoiser, Guided, Noise, Shape, StepDone};
use super::loaded::Loaded;
use super::start::{Place, Start, start};
use super::{Condition, Run, System, ddpm, initial_noise, progress};
use crate::device::{Device, ProgramOptions, Weights};
use crate::diffusion::{SchedulerConfig, Step};
use crate::error::{Error, Result};
use crate::estimate::{NetworkCost, Target};
use crate::graph::{Graph, Storage};
use crate::guidance::OPTIONS;
use crate::kernels::resample::{Resample, resample};
use crate::layout::{Defaults, UpsamplerFiles, read_upsampler};
use crate::models::check::require;
use crate::models::unet2d::Config;
use crate::picture::Picture;
use crate::request::{
    GenerateConfig, Size, StageSide, check_size, first_stage, stage_count_of, stage_sizes, stage_steps,
};
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
    /// What its folder is called.
    pub name: String,
    /// Its config.
    pub unet: Config,
    loaded: Loaded,
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
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Network { name, unet, loaded: Loaded::new(Arc::new(Weights::new(checkpoint))) })
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.loaded.weights
    }

    /// The program for pictures of a shape. Its input besides the sample: `low_res` `[N, H, W, 3]`.
    pub fn denoiser(
        &mut self,
        device: &Device,
        options: &ProgramOptions,
        shape: Shape,
    ) -> Result<&mut Denoiser> {
        let unet = &self.unet;
        self.loaded.denoiser(device, options, (shape, unet.size_multiple()), || ddpm::network(unet))
    }
}

/// A stage that enlarges pictures.
pub struct Upsampler {
    /// The network of all steps, or of all but the last, and then the last one's.
    pub networks: Vec<Network>,
    /// How it was trained and is sampled.
    pub scheduler: SchedulerConfig,
    /// Its pictures' sides to those of the pictures it enlarges; none where the networks' own size says it.
    scale: Option<usize>,
}

/// What a stage enlarges.
struct Small<'a> {
    /// Index of the stage, and how many there are, as the caller counts them.
    stage: (usize, usize),
    /// Pictures `[N, h, w, 3]` and their size.
    pictures: (&'a [f32], Size),
    /// The size they get.
    size: Size,
    /// All steps of the stage.
    steps: &'a [Step],
}

impl Upsampler {
    /// Reads an upsampler's folder: `model_index.json` (`ancestral.Upsampler`), `config.json` and
    /// `diffusion_pytorch_model.*` of a `UNet2DModel` that takes 6 channels, `scheduler/scheduler_config.json`.
    ///
    /// Errors: files that are absent, broken, or of another network.
    pub fn load(folder: &Path, variant: Option<&str>) -> Result<Self> {
        Upsampler::of(&read_upsampler(folder)?, variant)
    }

    fn of(files: &UpsamplerFiles, variant: Option<&str>) -> Result<Self> {
        let scheduler = SchedulerConfig::read(&files.folder.join("scheduler/scheduler_config.json"))?;
        let network = Network::load(&files.folder, &scheduler, variant)?;
        Ok(Upsampler { networks: vec![network], scheduler, scale: Some(files.scale) })
    }

    /// Reads Karlo's super-resolution out of a pipeline's folder: `super_res_first`, unless it takes all steps
    /// `super_res_last`, and `super_res_scheduler`.
    ///
    /// Errors: files that are absent, broken, or of another network.
    pub fn load_karlo(folder: &Path, one_for_all_steps: bool, variant: Option<&str>) -> Result<Self> {
        let scheduler = SchedulerConfig::read(&folder.join("super_res_scheduler/scheduler_config.json"))?;
        let parts =
            ["super_res_first", "super_res_last"].into_iter().take(if one_for_all_steps { 1 } else { 2 });
        let networks = parts.map(|part| Network::load(&folder.join(part), &scheduler, variant));
        Ok(Upsampler { networks: networks.collect::<Result<_>>()?, scheduler, scale: None })
    }

    /// What it needs of its pictures' size, where those of the stage before have a side of `small`.
    fn side(&self, small: usize) -> StageSide {
        let own = self.networks.first().map_or(small, |network| network.unet.sample_size);
        let multiple = self.networks.iter().map(|network| network.unet.size_multiple()).max();
        let side = self.scale.map_or(own, |scale| scale * small);
        StageSide { side, multiple: multiple.unwrap_or(1) }
    }

    /// The sizes of a run.
    pub fn shape(&self, steps: &[Step], pictures: usize, (width, height): Size) -> Shape {
        let channels = self.networks.first().map_or(3, |network| network.unet.sample_channels());
        let dynamic = Shape::is_dynamic(steps);
        Shape { pictures, height, width, channels, tokens: 0, guided: false, dynamic }
    }

    /// Pictures enlarged `[N, H, W, 3]`.
    fn enlarge(
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
            network.loaded.release_if_large();
            done += part.len() as f32;
        }
        Ok(x)
    }

    /// What a run of so many steps costs.
    fn plan(&self, shape: Shape, steps: usize, on: &Target) -> Vec<NetworkCost> {
        let name = if self.scale.is_some() { "upsampler" } else { "super-resolution" };
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
}

/// The last stages of a cascade, or all of it.
pub(crate) struct Upsamplers {
    list: Vec<(Upsampler, Defaults)>,
    /// So many of them run unless more or fewer are asked for.
    usual: usize,
}

/// Which stages of a run there are.
pub(crate) struct Stages {
    /// Of them all, those before the upsamplers included.
    pub count: usize,
    /// Widths and heights of the pictures of each stage that makes any.
    pub sizes: Vec<Size>,
    /// The first of those that runs.
    pub first: usize,
}

/// A run of upsamplers.
pub(crate) struct Chain<'a> {
    /// Stages before the upsamplers, as the caller counts them.
    pub before: usize,
    /// The size of the pictures that the first upsampler enlarges, then of each one's.
    pub sizes: &'a [Size],
    /// Upsamplers that are not needed, for the pictures are larger already.
    pub passed: usize,
    /// Of every upsampler that runs.
    pub steps: &'a [Vec<Step>],
}

impl Upsamplers {
    /// Reads their folders.
    pub(crate) fn load(files: &[UpsamplerFiles], variant: Option<&str>) -> Result<Self> {
        let load = |files: &UpsamplerFiles| Ok((Upsampler::of(files, variant)?, files.defaults.clone()));
        let usual = files.iter().take_while(|files| !files.optional).count();
        Ok(Upsamplers { list: files.iter().map(load).collect::<Result<_>>()?, usual })
    }

    /// With `upsampler` before them all.
    pub(crate) fn after(self, upsampler: Upsampler, defaults: Defaults) -> Self {
        let list = std::iter::once((upsampler, defaults)).chain(self.list).collect();
        Upsamplers { list, usual: self.usual + 1 }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The stages of a run: `blind` that make no pictures, those of `sides`, and upsamplers. Pictures to go on from that
    /// only an optional one enlarges ask for it.
    ///
    /// Errors: numbers of stages, sizes and pictures to go on from that do not fit.
    pub(crate) fn stages(
        &self,
        cfg: &GenerateConfig<'_>,
        blind: usize,
        sides: &[StageSide],
    ) -> Result<Stages> {
        let own = blind + sides.len();
        let count = stage_count_of(cfg, own + self.len(), own + self.usual)?;
        let stages = |count: usize| {
            let mut sides: Vec<StageSide> = sides.iter().take(count - blind.min(count)).copied().collect();
            for (upsampler, _) in self.list.iter().take(count.saturating_sub(own)) {
                sides.push(upsampler.side(sides.last().map_or(1, |stage| stage.side)));
            }
            let sizes = stage_sizes(&sides, cfg.size)?;
            check_size(cfg, sizes.last().copied())?;
            Ok(Stages { count, first: first_stage(cfg, &sizes)?, sizes })
        };
        match cfg.stages.is_none() && !cfg.from.is_empty() && count < own + self.len() {
            true => stages(count).or_else(|_: Error| stages(own + self.len())),
            false => stages(count),
        }
    }

    /// The steps of the first `count` of them, which follow `before` stages.
    pub(crate) fn steps(
        &self,
        cfg: &GenerateConfig<'_>,
        before: usize,
        count: usize,
    ) -> Result<Vec<Vec<Step>>> {
        let numbered = self.list.iter().take(count).enumerate();
        numbered
            .map(|(i, (upsampler, defaults))| stage_steps(&upsampler.scheduler, defaults, cfg, before + i))
            .collect()
    }

    /// Enlarges pictures `[N, h, w, 3]`, one stage after another.
    pub(crate) fn run(
        &mut self,
        at: (&Device, &ProgramOptions),
        chain: &Chain<'_>,
        mut pictures: Vec<f32>,
        cfg: &mut GenerateConfig<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Vec<f32>> {
        let last = chain.steps.len();
        for (i, (upsampler, _)) in self.list.iter_mut().enumerate().take(last).skip(chain.passed) {
            let (stage, size) = ((chain.before + i, chain.before + last), chain.sizes[i + 1]);
            let small = Small { stage, pictures: (&pictures, chain.sizes[i]), size, steps: &chain.steps[i] };
            pictures = upsampler.enlarge(at, &small, cfg, noise)?;
            if let Some(on_stage) = cfg.on_stage.as_mut().filter(|_| i + 1 < last) {
                on_stage(stage.0, &Picture::split(&pictures, size.1, size.0, 3));
            }
        }
        Ok(pictures)
    }

    /// What a run of `count` pictures costs.
    pub(crate) fn plan(&self, chain: &Chain<'_>, count: usize, on: &Target) -> Vec<NetworkCost> {
        let running = self.list.iter().enumerate().take(chain.steps.len()).skip(chain.passed);
        let plan = |(i, (upsampler, _)): (usize, &(Upsampler, Defaults))| {
            let shape = upsampler.shape(&chain.steps[i], count, chain.sizes[i + 1]);
            upsampler.plan(shape, chain.steps[i].len(), on)
        };
        running.flat_map(plan).collect()
    }

    /// Their networks, as small as they may be.
    pub(crate) fn networks(&self) -> impl Iterator<Item = (String, Graph, &Weights)> {
        let all = self.list.iter().flat_map(|(upsampler, _)| &upsampler.networks);
        all.map(|network| (network.name.clone(), ddpm::network_graph(&network.unet), network.weights()))
    }

    /// The stages of a run that begins at given pictures, whose size is the first of `sizes`.
    fn alone(&self, cfg: &GenerateConfig<'_>) -> Result<Stages> {
        let count = stage_count_of(cfg, self.len(), self.usual)?;
        let running = || self.list.iter().take(count).map(|(upsampler, _)| upsampler);
        let scale: usize = running().filter_map(|upsampler| upsampler.scale).product();
        // The size the first one was trained for, over its scale.
        let small = running().next().map_or(1, |first| {
            let own = first.networks.first().map_or(1, |network| network.unet.sample_size);
            (own / first.scale.unwrap_or(1)).max(1)
        });
        let mut sides = vec![StageSide { side: small, multiple: 1 }];
        for upsampler in running() {
            sides.push(upsampler.side(sides.last().map_or(1, |stage| stage.side)));
        }
        let given = cfg.from.first().map(|picture| (picture.width * scale, picture.height * scale));
        let sizes = stage_sizes(&sides, cfg.size.or(given))?;
        check_size(cfg, sizes.last().copied())?;
        Ok(Stages { count, first: first_stage(cfg, &sizes)?, sizes })
    }
}

impl System for Upsamplers {
    fn stages(&self) -> usize {
        self.len()
    }

    fn condition(&self) -> Condition {
        Condition::Nothing
    }

    fn enlarges(&self, cfg: &GenerateConfig<'_>) -> Result<Option<Size>> {
        Ok(self.alone(cfg)?.sizes.first().copied())
    }

    fn sizes(&self, cfg: &GenerateConfig<'_>) -> Result<Vec<Size>> {
        Ok(self.alone(cfg)?.sizes.split_off(1))
    }

    fn draw(&mut self, run: Run<'_, '_>) -> Result<Vec<Picture>> {
        let Run { device, options, cfg, noise, .. } = run;
        let Stages { count, sizes, first } = self.alone(cfg)?;
        let steps = self.steps(cfg, 0, count)?;
        if first == 0 {
            let what = "an upsampler enlarges a picture: give it by `--from PNG`, or a base model before it";
            return Err(Error::Request(what.into()));
        }
        let chain = Chain { before: 0, sizes: &sizes, passed: first - 1, steps: &steps };
        let pictures = cfg.from.iter().flat_map(|picture| &picture.values).copied().collect();
        let pictures = self.run((device, options), &chain, pictures, cfg, noise)?;
        let (width, height) = sizes[count];
        Ok(Picture::split(&pictures, height, width, 3))
    }

    fn plan(&self, cfg: &GenerateConfig<'_>, on: &Target) -> Result<Vec<NetworkCost>> {
        let Stages { count, sizes, first } = self.alone(cfg)?;
        let steps = self.steps(cfg, 0, count)?;
        let chain = Chain { before: 0, sizes: &sizes, passed: first.saturating_sub(1), steps: &steps };
        Ok(Upsamplers::plan(self, &chain, cfg.count, on))
    }

    fn networks(&self) -> Vec<(String, Graph, &Weights)> {
        Upsamplers::networks(self).collect()
    }
}
