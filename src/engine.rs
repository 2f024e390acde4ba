//! The engine: load a model, turn prompts into pictures. The whole path is on this page.

use crate::bisect::{Parting, bisect};
use crate::device::{Choices, Device, DeviceChoice, ProgramOptions, Weights};
use crate::diffusion::{NoiseStream, Step};
use crate::error::{Error, Result};
use crate::estimate::{NetworkCost, RunCost, Target};
use crate::graph::{Graph, Source};
use crate::kernels::Precision;
use crate::layout::{Defaults, Model, StageFiles};
use crate::picture::Picture;
pub use crate::request::GenerateConfig;
use crate::request::{StageSide, check_request, first_stage, stage_count, stage_sizes, stage_steps};
use crate::systems::ddpm::{self, Ddpm};
use crate::systems::denoise::{Guided, Noise, OnStep, SeededNoise, Shape};
use crate::systems::imagen::{
    self, Conditioning, LowRes, MAX_TOKENS, Stage, TextEncoder, TextStates, initial_noise,
};
use std::path::{Path, PathBuf};

/// Prompts of a run: what it should not show, and what it should.
pub(crate) const PROMPTS: usize = 2;

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Where it runs.
    pub device: DeviceChoice,
    /// Which files of a folder: `fp16`, or none for full precision.
    pub variant: Option<String>,
    /// Storage on a GPU; unset takes what serves the device best.
    pub precision: Option<Precision>,
}

/// What one stage is doing.
pub struct Progress<'a> {
    /// Index of the stage.
    pub stage: usize,
    /// Stages of this run.
    pub stages: usize,
    /// Width and height of the stage's pictures.
    pub size: (usize, usize),
    /// Steps done, with the share of the running one.
    pub done: f32,
    /// Steps of the stage.
    pub steps: usize,
    estimate: Option<&'a mut dyn FnMut() -> Result<Vec<Picture>>>,
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

enum System {
    Imagen { text: Box<TextEncoder>, stages: Vec<(Stage, Defaults)> },
    Ddpm(Box<Ddpm>, Defaults),
}

/// A model on a device.
pub struct Engine {
    device: Device,
    precision: Precision,
    system: System,
}

impl Engine {
    /// Loads a model folder: a DeepFloyd IF or DDPM folder of diffusers, or a cascade of such folders.
    ///
    /// Errors name the file and what is wrong with it: absent, cut short, of another shape, of an unknown kind.
    pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Engine> {
        Engine::load_cascade(&[path.as_ref()], options)
    }

    /// Loads the bundled model, which draws simple scenes: `a red circle to the left of a blue square`.
    pub fn bundled(options: &LoadOptions) -> Result<Engine> {
        Engine::load(crate::layout::bundled_model()?, options)
    }

    /// Loads a base stage and super-resolution stages from folders of their own, in this order.
    pub fn load_cascade(paths: &[impl AsRef<Path>], options: &LoadOptions) -> Result<Engine> {
        let paths: Vec<PathBuf> = paths.iter().map(|p| p.as_ref().to_path_buf()).collect();
        let model = Model::find(&paths)?;
        let device = Device::open(&options.device)?;
        let precision = options.precision.unwrap_or_else(|| device.precision());
        let variant = options.variant.as_deref();
        let system = match model {
            Model::Ddpm(folder, defaults) => System::Ddpm(Box::new(Ddpm::load(&folder)?), defaults),
            Model::Imagen(files) => load_imagen(&files, variant)?,
        };
        Ok(Engine { device, precision, system })
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Stages a run may have.
    pub fn stages(&self) -> usize {
        match &self.system {
            System::Imagen { stages, .. } => stages.len(),
            System::Ddpm(..) => 1,
        }
    }

    /// Whether pictures follow a prompt.
    pub fn takes_prompt(&self) -> bool {
        matches!(self.system, System::Imagen { .. })
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
        check_request(cfg)?;
        let options = ProgramOptions { precision: self.precision, ..Default::default() };
        match &mut self.system {
            System::Ddpm(ddpm, defaults) => {
                stage_count(cfg, 1)?;
                let (width, height) = stage_sizes(&[ddpm_side(ddpm)], cfg.size)?[0];
                first_stage(cfg, &[(width, height)])?;
                let list = stage_steps(&ddpm.scheduler, defaults, cfg, 0)?;
                let mut on_step = progress(cfg.on_progress.as_mut(), 0, 1, (width, height));
                let mut guided = Guided { scale: 1.0, by_gradients: &mut cfg.guides };
                let size = (height, width);
                ddpm.sample(&self.device, &options, &list, cfg.count, size, &mut guided, noise, &mut on_step)
            }
            System::Imagen { text, stages } => {
                // Everything that can be refused is refused before the first network runs.
                let (count, sizes) = imagen_sizes(stages, cfg)?;
                for (i, (stage, defaults)) in stages[..count].iter().enumerate() {
                    stage_steps(&stage.scheduler, defaults, cfg, i)?;
                    stage.check_noise_level(i, defaults.noise_level)?;
                }
                let first = first_stage(cfg, &sizes)?;
                let prompts: [&str; PROMPTS] = [&cfg.negative_prompt, prompt];
                let states = text.encode(&self.device, &prompts, cfg.clean_caption)?;
                if states.truncated {
                    log::warn!("the prompt is longer than {MAX_TOKENS} tokens; its end is not seen");
                }
                let mut picture: Vec<f32> = cfg.from.iter().flat_map(|p| &p.values).copied().collect();
                for i in first..count {
                    let from = (i > 0).then(|| (picture.as_slice(), sizes[i - 1]));
                    let run = StageRun { index: i, count, size: sizes[i], states: &states, from };
                    picture = run_stage(&self.device, &options, &mut stages[i], &run, cfg, noise)?;
                    let (width, height) = sizes[i];
                    if let Some(on_stage) = cfg.on_stage.as_mut().filter(|_| i + 1 < count) {
                        on_stage(i, &Picture::split(&picture, height, width, 3));
                    }
                }
                let (width, height) = sizes[count - 1];
                Ok(Picture::split(&picture, height, width, 3))
            }
        }
    }
}

impl Engine {
    /// What drawing with these settings costs on `on`: dispatches, arithmetic, traffic, memory, and the limits in the
    /// way. No weight is read.
    ///
    /// Errors: settings that make no sense.
    pub fn plan(&self, cfg: &GenerateConfig<'_>, on: &Target) -> Result<RunCost> {
        check_request(cfg)?;
        let networks = match &self.system {
            System::Ddpm(ddpm, defaults) => {
                stage_count(cfg, 1)?;
                let size = stage_sizes(&[ddpm_side(ddpm)], cfg.size)?[0];
                let steps = stage_steps(&ddpm.scheduler, defaults, cfg, 0)?;
                let shape = ddpm.shape(&steps, cfg.count, size);
                let network = ddpm::network(&ddpm.unet);
                vec![NetworkCost::of_denoiser("U-Net", shape, steps.len(), &network, on)]
            }
            System::Imagen { text, stages } => {
                let mut networks = vec![NetworkCost::of_encoder(&text.config, PROMPTS, MAX_TOKENS, on)];
                let (count, sizes) = imagen_sizes(stages, cfg)?;
                for (i, (stage, defaults)) in stages[..count].iter().enumerate() {
                    let steps = stage_steps(&stage.scheduler, defaults, cfg, i)?;
                    let shape = stage_shape(stage, defaults, cfg, i, (sizes[i], &steps));
                    let (name, network) = (format!("stage {} U-Net", i + 1), imagen::network(&stage.unet));
                    networks.push(NetworkCost::of_denoiser(&name, shape, steps.len(), &network, on));
                }
                networks
            }
        };
        Ok(RunCost::new(networks, on.limits.clone()))
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
        // A run of one step makes every program that a longer one needs.
        cfg = cfg.steps(vec![1; self.stages()]);
        self.generate("a", cfg)?;
        let after = gpu.choices();
        Ok(after.since(before))
    }

    /// Runs every U-Net once on the engine's device and on `other`, on seeded noise, and says for each where they part
    /// by more than `tolerance` (NMSE).
    pub fn bisect(&self, other: &Device, tolerance: f64) -> Result<Vec<(String, Option<Parting>)>> {
        let networks: Vec<(String, Graph, &Weights)> = match &self.system {
            System::Ddpm(ddpm, _) => vec![("unet".into(), ddpm::network_graph(&ddpm.unet), ddpm.weights())],
            System::Imagen { stages, .. } => stages
                .iter()
                .enumerate()
                .map(|(i, (stage, _))| {
                    (format!("stage {} unet", i + 1), imagen::network_graph(&stage.unet), stage.weights())
                })
                .collect(),
        };
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
        networks.into_iter().map(compare).collect()
    }
}

fn load_imagen(files: &[StageFiles], variant: Option<&str>) -> Result<System> {
    let mut stages: Vec<(Stage, Defaults)> = Vec::new();
    for file in files {
        let stage = Stage::load(&file.folder, variant)?;
        if stages.is_empty() && stage.is_super_resolution() {
            return Err(Error::file(
                &file.folder,
                "is a super-resolution stage, which enlarges a picture. Give a base stage before it: `--model BASE --model THIS`",
            ));
        }
        if !stages.is_empty() && !stage.is_super_resolution() {
            return Err(Error::file(
                &file.folder,
                "is a base stage; only super-resolution stages may follow the first",
            ));
        }
        stages.push((stage, file.defaults.clone()));
    }
    let text = TextEncoder::load(&files[0].folder, variant)?;
    for ((stage, _), file) in stages.iter().zip(files) {
        let (wants, has) = (stage.unet.context_channels(), text.config.d_model);
        if wants != has {
            let what = format!("wants text states of {wants} channels, the text encoder makes {has}");
            return Err(Error::config(file.folder.join("unet/config.json"), "encoder_hid_dim", what));
        }
    }
    Ok(System::Imagen { text: Box::new(text), stages })
}

fn ddpm_side(ddpm: &Ddpm) -> StageSide {
    StageSide { side: ddpm.unet.sample_size, multiple: ddpm.unet.size_multiple() }
}

/// How many stages run, and their widths and heights.
fn imagen_sizes(
    stages: &[(Stage, Defaults)],
    cfg: &GenerateConfig<'_>,
) -> Result<(usize, Vec<(usize, usize)>)> {
    let count = stage_count(cfg, stages.len())?;
    let sides = stages[..count]
        .iter()
        .map(|(stage, _)| StageSide { side: stage.unet.sample_size, multiple: stage.unet.size_multiple() });
    Ok((count, stage_sizes(&sides.collect::<Vec<_>>(), cfg.size)?))
}

fn guidance_scale(defaults: &Defaults, cfg: &GenerateConfig<'_>, index: usize) -> f64 {
    cfg.guidance_scale.get(index).copied().unwrap_or(defaults.guidance_scale)
}

/// The sizes of a stage's run.
fn stage_shape(
    stage: &Stage,
    defaults: &Defaults,
    cfg: &GenerateConfig<'_>,
    index: usize,
    ((width, height), steps): ((usize, usize), &[Step]),
) -> Shape {
    Shape {
        pictures: cfg.count,
        height,
        width,
        channels: stage.channels(),
        tokens: MAX_TOKENS,
        guided: guidance_scale(defaults, cfg, index) > 1.0,
        dynamic: Shape::is_dynamic(steps),
    }
}

/// What one stage of a run is about.
struct StageRun<'a> {
    index: usize,
    count: usize,
    size: (usize, usize),
    states: &'a TextStates,
    /// The previous stage's pictures and their size.
    from: Option<(&'a [f32], (usize, usize))>,
}

/// Text, noise and the previous stage's pictures → this stage's pictures `[N, H, W, 3]`.
fn run_stage(
    device: &Device,
    options: &ProgramOptions,
    (stage, defaults): &mut (Stage, Defaults),
    run: &StageRun<'_>,
    cfg: &mut GenerateConfig<'_>,
    noise: &mut dyn Noise,
) -> Result<Vec<f32>> {
    let steps = stage_steps(&stage.scheduler, defaults, cfg, run.index)?;
    let guidance_scale = guidance_scale(defaults, cfg, run.index);
    let shape = stage_shape(stage, defaults, cfg, run.index, (run.size, &steps));
    let (unconditional, conditional) = run.states.states.split_at(run.states.states.len() / 2);
    let halves: &[&[f32]] = if shape.guided { &[unconditional, conditional] } else { &[conditional] };
    let context: Vec<f32> = halves.iter().flat_map(|half| half.repeat(cfg.count)).collect();
    let start = initial_noise(noise, shape);
    let low_res = match run.from {
        Some((values, (w, h))) => {
            let z = initial_noise(noise, shape);
            Some(stage.augment(device, (values, h, w), defaults.noise_level, shape, &z)?)
        }
        None => None,
    };
    let low_res = low_res.as_deref().map(|values| LowRes { values, noise_level: defaults.noise_level });
    let conditioning = Conditioning { context: &context, low_res };
    let mut on_step = progress(cfg.on_progress.as_mut(), run.index, run.count, run.size);
    let by_gradients = if run.index == 0 { &mut cfg.guides[..] } else { &mut [] };
    let mut guided = Guided { scale: guidance_scale, by_gradients };
    stage.sample(device, options, &steps, &mut guided, shape, &conditioning, noise, start, &mut on_step)
}

fn progress<'a>(
    mut on_progress: Option<&'a mut OnProgress<'_>>,
    stage: usize,
    stages: usize,
    size: (usize, usize),
) -> Box<OnStep<'a>> {
    Box::new(move |step| match &mut on_progress {
        Some(f) => {
            f(Progress { stage, stages, size, done: step.done, steps: step.steps, estimate: step.estimate })
        }
        None => true,
    })
}
