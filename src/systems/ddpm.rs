//! DDPM: an unconditional U-Net and its scheduler, from the diffusers folders (files in subfolders, or all at the
//! root as in the oldest ones).

use super::denoise::{Denoiser, Guided, Network, Shape};
use super::loaded::Loaded;
use super::start::{Place, Start, start};
use super::{Condition, Run, System, initial_noise, lent, progress};
use crate::device::{Device, ProgramOptions, Weights};
use crate::diffusion::{SchedulerConfig, Step};
use crate::error::Result;
use crate::estimate::{NetworkCost, Target};
use crate::graph::{Graph, Storage};
use crate::layout::Defaults;
use crate::models::check::require;
use crate::models::unet2d::Config;
use crate::picture::Picture;
use crate::request::{GenerateConfig, Size, StageSide, first_stage, stage_count, stage_sizes, stage_steps};
use crate::weights::{Checkpoint, ddpm_attention_name, read_json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A loaded DDPM folder.
pub struct Ddpm {
    /// The network's config.
    pub unet: Config,
    /// How it was trained and is sampled.
    pub scheduler: SchedulerConfig,
    loaded: Loaded,
}

impl Ddpm {
    /// Reads the configs and checks every tensor of the checkpoint against them.
    pub fn load(folder: &Path) -> Result<Self> {
        let part = |name: &str| -> PathBuf {
            let sub = folder.join(name);
            if sub.is_dir() { sub } else { folder.to_path_buf() }
        };
        Self::load_parts(&part("unet"), &part("scheduler").join("scheduler_config.json"))
    }

    /// The network's folder and the scheduler's file by themselves.
    pub fn load_parts(unet_folder: &Path, scheduler: &Path) -> Result<Self> {
        let path = unet_folder.join("config.json");
        let unet: Config = read_json(&path)?;
        unet.validate(&path)?;
        let mut checkpoint = Checkpoint::open(unet_folder, "diffusion_pytorch_model", None)?;
        checkpoint.rename(ddpm_attention_name)?;
        require(&path, "in_channels", !unet.is_super_resolution(), || {
            "6 channels: this network enlarges a picture; a DDPM has 3 or 1".into()
        })?;
        let graph = network_graph(&unet);
        checkpoint.check(graph.weights(), |_| false)?;
        let scheduler = SchedulerConfig::read(scheduler)?;
        scheduler.fits(&path, unet.in_channels, unet.out_channels)?;
        Ok(Ddpm { unet, scheduler, loaded: Loaded::new(Arc::new(Weights::new(checkpoint))) })
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.loaded.weights
    }

    /// The program for pictures of a size.
    pub fn denoiser(
        &mut self,
        device: &Device,
        options: &ProgramOptions,
        shape: Shape,
    ) -> Result<&mut Denoiser> {
        let unet = &self.unet;
        self.loaded.denoiser(device, options, (shape, unet.size_multiple()), || network(unet))
    }

    /// The sizes of a run that draws pictures of `width` by `height`.
    pub fn shape(&self, steps: &[Step], pictures: usize, (width, height): (usize, usize)) -> Shape {
        let dynamic = Shape::is_dynamic(steps);
        Shape { pictures, height, width, channels: self.unet.in_channels, tokens: 0, guided: false, dynamic }
    }
}

/// The network as a denoiser records it; the picture to enlarge, if it takes one, is the input `low_res`.
pub fn network(unet: &Config) -> Box<Network> {
    let unet = unet.clone();
    Box::new(move |g, shape, x, t| {
        let low_res = unet.is_super_resolution().then(|| g.input("low_res", &shape.sample(), Storage::F32));
        unet.forward(g, (x, low_res.as_ref()), t)
    })
}

/// The network alone, to list its weights or to compare devices: as small as it may be while every weight counts (at
/// one pixel a convolution's corners meet zeros only).
pub fn network_graph(unet: &Config) -> Graph {
    let mut g = Graph::new();
    let unit = unet.size_multiple();
    let x = g.input("x", &[1, 2 * unit, 3 * unit, unet.in_channels], Storage::Elem);
    let t = g.input("t", &[1], Storage::F32);
    let out = unet.forward(&mut g, (&x, None), &t);
    g.output("out", &out);
    g
}

impl Ddpm {
    /// Width and height of a run's pictures, and its steps.
    fn request(&self, defaults: &Defaults, cfg: &GenerateConfig<'_>) -> Result<(Size, Vec<Step>)> {
        stage_count(cfg, 1)?;
        let side = StageSide { side: self.unet.sample_size, multiple: self.unet.size_multiple() };
        let size = stage_sizes(&[side], cfg.size)?[0];
        first_stage(cfg, &[size])?;
        Ok((size, stage_steps(&self.scheduler, defaults, cfg, 0)?))
    }
}

impl System for (Ddpm, Defaults) {
    fn stages(&self) -> usize {
        1
    }

    fn condition(&self) -> Condition {
        Condition::Nothing
    }

    fn sizes(&self, cfg: &GenerateConfig<'_>) -> Result<Vec<Size>> {
        Ok(vec![self.0.request(&self.1, cfg)?.0])
    }

    fn draw(&mut self, run: Run<'_, '_>) -> Result<Vec<Picture>> {
        let Run { device, options, cfg, noise, .. } = run;
        let (ddpm, defaults) = self;
        let ((width, height), steps) = ddpm.request(defaults, cfg)?;
        let shape = ddpm.shape(&steps, cfg.count, (width, height));
        let place = Place { stage: 0, shape, steps: &steps, sees: false, before: None };
        let Start { steps, x, kept } = start(cfg, &place, initial_noise(noise, shape))?;
        let denoiser = ddpm.denoiser(device, options, shape)?;
        let mut guided = Guided { scale: 1.0, by_gradients: lent(&mut cfg.guides), kept };
        let mut on_step = progress(cfg.on_progress.as_mut(), (0, 1), (width, height));
        let x = denoiser.sample(&steps, &mut guided, noise, x, &mut on_step)?;
        Ok(Picture::split(&x, height, width, shape.channels))
    }

    fn plan(&self, cfg: &GenerateConfig<'_>, on: &Target) -> Result<Vec<NetworkCost>> {
        let (ddpm, defaults) = self;
        let (size, steps) = ddpm.request(defaults, cfg)?;
        let shape = ddpm.shape(&steps, cfg.count, size);
        Ok(vec![NetworkCost::of_denoiser("U-Net", shape, steps.len(), &network(&ddpm.unet), on)])
    }

    fn networks(&self) -> Vec<(String, Graph, &Weights)> {
        vec![("unet".into(), network_graph(&self.0.unet), self.0.weights())]
    }
}
