//! Guided diffusion, ADM (Dhariwal & Nichol 2021, arXiv:2105.05233): U-Nets with or without classes, a noisy classifier
//! that steers them, and upsamplers, from OpenAI's files; improved diffusion (Nichol & Dhariwal 2021,
//! arXiv:2102.09672) is the same with other flags.

use super::denoise::{Denoiser, Guided, Network, Shape};
use super::loaded::Loaded;
use super::start::{Place, Start, start};
use super::{Condition, Run, System, initial_noise, lent, progress};
use crate::device::{Device, ProgramOptions, Weights};
use crate::diffusion::{BetaSchedule, PredictionType, SchedulerConfig, Step, VarianceType};
use crate::error::{Error, Result};
use crate::estimate::{NetworkCost, Target};
use crate::graph::{Graph, Storage};
use crate::guidance::{GraphGuidance, MEMORY_BUDGET, Scalar, Weighted, score_graph};
use crate::kernels::pick::pick;
use crate::kernels::softmax::log_softmax;
use crate::layout::{AdmFiles, Defaults};
use crate::models::adm::NoiseSchedule;
use crate::models::adm::flags::{Flags, Origin, Overrides, find};
use crate::models::adm::{self, classifier, detect};
use crate::picture::{ByteRounding, Picture};
use crate::request::{
    GenerateConfig, Size, StageSide, stage_count, stage_sizes, stage_steps, stages_and_sizes,
};
use crate::weights::Checkpoint;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Opens a checkpoint, finds out its flags and checks every tensor against them.
pub(super) fn load_network<F: Flags>(
    weights: &Path,
    file: (Option<&Path>, &str),
    overrides: &Overrides,
) -> Result<(F, Origin, Arc<Weights>)> {
    let checkpoint = Checkpoint::open_file(weights)?;
    let (flags, origin) = find::<F>(weights, &detect::shapes(&checkpoint), file, overrides)?;
    checkpoint.check(flags.graph().weights(), |_| false)?;
    Ok((flags, origin, Arc::new(Weights::new(checkpoint))))
}

/// A U-Net with the process it was trained for.
pub struct Stage {
    /// The network's flags.
    pub unet: adm::Config,
    /// Where they come from.
    pub origin: Origin,
    /// How it was trained and is sampled.
    pub scheduler: SchedulerConfig,
    loaded: Loaded,
}

impl Stage {
    /// Reads a checkpoint, `.pt` or safetensors. `file` is a JSON file of flags and its section, if there is one.
    ///
    /// Errors: a broken file, tensors of another network, flags that do not fit them.
    pub fn load(weights: &Path, file: (Option<&Path>, &str), overrides: &Overrides) -> Result<Self> {
        let (unet, origin, weights) = load_network::<adm::Config>(weights, file, overrides)?;
        Ok(Stage { scheduler: scheduler(&unet), unet, origin, loaded: Loaded::new(weights) })
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.loaded.weights
    }

    /// Whether it enlarges a picture.
    pub fn is_upsampler(&self) -> bool {
        self.unet.small_size.is_some()
    }

    /// The program for pictures of a size. Its inputs besides the sample: `y`, the classes' numbers `[N]`, of a
    /// network that is told the class; `low_res` `[N, h, w, 3]` of an upsampler.
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
    pub fn shape(&self, steps: &[Step], pictures: usize, (width, height): Size) -> Shape {
        let (channels, dynamic) = (self.unet.in_channels(), Shape::is_dynamic(steps));
        Shape { pictures, height, width, channels, tokens: 0, guided: false, dynamic }
    }

    /// The steps of a run. With `rescale_timesteps` the network is told the time in thousandths of its training.
    pub(crate) fn steps(
        &self,
        defaults: &Defaults,
        cfg: &GenerateConfig<'_>,
        index: usize,
    ) -> Result<Vec<Step>> {
        let mut steps = stage_steps(&self.scheduler, defaults, cfg, index)?;
        if self.unet.rescale_timesteps {
            let scale = 1000.0 / self.unet.diffusion_steps as f64;
            steps.iter_mut().for_each(|step| step.timestep *= scale);
        }
        Ok(steps)
    }
}

/// The process that the flags describe.
pub fn scheduler(unet: &adm::Config) -> SchedulerConfig {
    let betas = match unet.noise_schedule {
        NoiseSchedule::Linear => BetaSchedule::openai_linear(unet.diffusion_steps),
        NoiseSchedule::Cosine => BetaSchedule::SquaredCosCapV2,
    };
    let variance = match (unet.learn_sigma, unet.sigma_small) {
        (true, _) => VarianceType::LearnedRange,
        (false, true) => VarianceType::FixedSmall,
        (false, false) => VarianceType::FixedLarge,
    };
    let mut scheduler = SchedulerConfig::openai(betas, unet.diffusion_steps, variance);
    if unet.predict_xstart {
        scheduler.prediction_type = PredictionType::Sample;
    }
    scheduler
}

/// The network as a denoiser records it.
fn network(unet: &adm::Config) -> Box<Network> {
    let unet = unet.clone();
    Box::new(move |g, shape, x, t| {
        let y = unet.class_cond.then(|| g.input("y", &[shape.pictures], Storage::F32));
        let low_res = unet.small_size.map(|small| {
            let side = |length: usize| length * small / unet.image_size;
            let size = [shape.pictures, side(shape.height), side(shape.width), shape.channels];
            g.input("low_res", &size, Storage::Elem)
        });
        unet.forward(g, &adm::Inputs { x, low_res: low_res.as_ref(), t, y: y.as_ref() })
    })
}

/// A classifier of noisy pictures.
pub struct Classifier {
    /// The network's flags.
    pub config: classifier::Config,
    /// Where they come from.
    pub origin: Origin,
    weights: Arc<Weights>,
}

impl Classifier {
    /// Reads a checkpoint; see [`Stage::load`].
    pub fn load(weights: &Path, file: (Option<&Path>, &str), overrides: &Overrides) -> Result<Self> {
        let (config, origin, weights) = load_network::<classifier::Config>(weights, file, overrides)?;
        Ok(Classifier { config, origin, weights })
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Its gradient as a guidance; [set](GraphGuidance::set) `class`.
    pub fn guidance(&self, device: &Device) -> GraphGuidance {
        GraphGuidance::new(device, self.weights.clone(), log_probability(&self.config))
    }
}

/// A classifier's log p(class | x_t, t) of every picture; the numbers of the classes are the input `class` `[N]`.
pub fn log_probability(config: &classifier::Config) -> Box<Scalar> {
    let config = config.clone();
    Box::new(move |g, x, t| {
        let class = g.input("class", &x.shape[..1], Storage::F32);
        let logits = config.forward(g, x, t);
        let log_p = log_softmax(g, "log_softmax", &logits);
        pick(g, "class", &log_p, &class)
    })
}

/// A base stage, upsamplers after it, and what steers the base.
pub(crate) struct Adm {
    stages: Vec<(Stage, Defaults)>,
    classifier: Option<Classifier>,
    guidance: Option<GraphGuidance>,
    names: adm::classes::Classes,
}

impl Adm {
    /// Reads every checkpoint.
    pub(crate) fn load(files: &AdmFiles) -> Result<Self> {
        let mut stages: Vec<(Stage, Defaults)> = Vec::new();
        for file in &files.stages {
            let stage = Stage::load(&file.weights, (file.flags.as_deref(), "diffusion"), &file.overrides)?;
            if !stages.is_empty() && !stage.is_upsampler() {
                let what = "is no upsampler; only upsamplers may follow the first model";
                return Err(Error::file(&file.weights, what));
            }
            stages.push((stage, file.defaults.clone()));
        }
        let load = |file: &crate::layout::AdmFile| {
            Classifier::load(&file.weights, (file.flags.as_deref(), "classifier"), &file.overrides)
        };
        let classifier = files.classifier.as_ref().map(load).transpose()?;
        let count = stages.iter().find_map(|(stage, _)| stage.unet.classes());
        if let (Some(classifier), Some(file)) = (&classifier, &files.classifier) {
            let (found, side) = (classifier.config.num_classes, stages[0].0.unet.image_size);
            if count.is_some_and(|count| count != found) {
                let what = format!("tells {found} classes apart, the U-Net {}", count.unwrap_or_default());
                return Err(Error::file(&file.weights, what));
            }
            if classifier.config.image_size != side {
                let of = classifier.config.image_size;
                let what = format!("is for pictures of {of}x{of} pixels, the U-Net for {side}x{side}");
                return Err(Error::file(&file.weights, what));
            }
        }
        let count = count.or(classifier.as_ref().map(|c| c.config.num_classes)).unwrap_or(0);
        let names = adm::classes::Classes::new(files.names.clone(), count)?;
        Ok(Adm { stages, classifier, guidance: None, names })
    }

    /// The number of every picture's class, where the caller says one.
    fn classes(&self, cfg: &GenerateConfig<'_>, prompt: &str) -> Result<Option<Vec<usize>>> {
        let mut given: Vec<&str> = cfg.classes.iter().map(String::as_str).collect();
        // A prompt names a class where there are classes; elsewhere nothing reads it.
        if given.is_empty() && !prompt.is_empty() && !self.names.is_empty() {
            given.push(prompt);
        }
        let numbers = given.iter().map(|name| self.names.number(name)).collect::<Result<Vec<usize>>>()?;
        match numbers[..] {
            [] => Ok(None),
            _ if self.names.is_empty() => {
                Err(Error::Request("this model knows no classes; leave `--class` out".into()))
            }
            [one] => Ok(Some(vec![one; cfg.count])),
            _ if numbers.len() == cfg.count => Ok(Some(numbers)),
            _ => Err(Error::Request(format!(
                "{} classes for {} pictures: give one for all, or one for each",
                numbers.len(),
                cfg.count
            ))),
        }
    }

    /// How strongly the classifier steers, if it does.
    fn scale(&self, cfg: &GenerateConfig<'_>) -> f64 {
        let scale = cfg.guidance_scale.first().copied().unwrap_or(self.stages[0].1.guidance_scale);
        if self.classifier.is_some() { scale } else { 0.0 }
    }

    /// What the first stages need of the final picture's size.
    fn sides(&self, count: usize) -> Vec<StageSide> {
        let side = |(s, _): &(Stage, Defaults)| StageSide {
            side: s.unet.image_size,
            multiple: s.unet.size_multiple(),
        };
        self.stages[..count].iter().map(side).collect()
    }

    /// Which stages run, and the widths and heights of the pictures that each stage makes.
    fn runs(&self, cfg: &GenerateConfig<'_>) -> Result<(Range<usize>, Vec<Size>)> {
        let count = stage_count(cfg, self.stages.len())?;
        for pair in self.stages[..count].windows(2) {
            let (made, wanted) = (pair[0].0.unet.image_size, pair[1].0.unet.small_size);
            if wanted != Some(made) {
                let what = format!(
                    "the upsampler enlarges pictures of {} pixels a side; the stage before makes {made}",
                    wanted.unwrap_or_default()
                );
                return Err(Error::Request(what));
            }
        }
        stages_and_sizes(cfg, self.sides(count), self.stages[0].0.unet.small_size)
    }

    /// The classifier's own size is all that its pooling takes.
    fn fits_classifier(&self, (width, height): Size, scale: f64) -> Result<()> {
        match &self.classifier {
            Some(c)
                if scale != 0.0
                    && c.config.fixed_size()
                    && (width, height) != (c.config.image_size, c.config.image_size) =>
            {
                let side = c.config.image_size;
                Err(Error::Request(format!(
                    "{width}x{height} pixels: the classifier takes {side}x{side}; leave `--size` out, or give \
                     `--guidance-scale 0`"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Pictures as the next stage of the published chain gets them: by way of their bytes.
fn through_bytes(values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| f32::from(ByteRounding::Down.byte(*v)) / 127.5 - 1.0).collect()
}

impl System for Adm {
    fn stages(&self) -> usize {
        self.stages.len()
    }

    fn condition(&self) -> Condition {
        if self.names.is_empty() { Condition::Nothing } else { Condition::Class }
    }

    fn notes(&self) -> Vec<String> {
        let stages = self.stages.iter().enumerate();
        let mut notes: Vec<String> =
            stages.map(|(i, (s, _))| format!("stage {}: {}", i + 1, s.origin)).collect();
        notes.extend(self.classifier.iter().map(|c| format!("classifier: {}", c.origin)));
        notes
    }

    fn sizes(&self, cfg: &GenerateConfig<'_>) -> Result<Vec<Size>> {
        Ok(self.runs(cfg)?.1)
    }

    fn draw(&mut self, run: Run<'_, '_>) -> Result<Vec<Picture>> {
        let Run { device, options, prompt, cfg, noise } = run;
        let (runs, sizes) = self.runs(cfg)?;
        let count = runs.end;
        let stages = self.stages[..count].iter().enumerate();
        let lists = stages.map(|(i, (stage, defaults))| stage.steps(defaults, cfg, i));
        let lists = lists.collect::<Result<Vec<Vec<Step>>>>()?;
        let classes = self.classes(cfg, prompt)?;
        let told = self.stages[runs.clone()].iter().any(|(stage, _)| stage.unet.class_cond);
        let Some(numbers) = classes.clone().or((!told).then(Vec::new)) else {
            let what = format!("this model draws a class: give `--class` ({})", self.names.examples());
            return Err(Error::Request(what));
        };
        let numbers: Vec<f32> = numbers.iter().map(|n| *n as f32).collect();
        let scale = if classes.is_some() { self.scale(cfg) } else { 0.0 };
        if runs.start == 0 && !self.stages[0].0.is_upsampler() {
            self.fits_classifier(sizes[0], scale)?;
        }
        let mut picture: Vec<f32> = cfg.from.iter().flat_map(|p| &p.values).copied().collect();
        for (i, &size) in sizes.iter().enumerate().filter(|(i, _)| runs.contains(i)) {
            let (stage, steps) = (&mut self.stages[i].0, &lists[i]);
            let shape = stage.shape(steps, cfg.count, size);
            let enlarges = stage.is_upsampler();
            let before = (i > 0).then(|| (picture.as_slice(), sizes[i - 1]));
            let place = Place { stage: i, shape, steps, sees: false, before };
            let Start { steps, x, kept } = start(cfg, &place, initial_noise(noise, shape))?;
            let (told, mut guides) = (stage.unet.class_cond, Vec::new());
            if i == 0 && !enlarges {
                if let Some(classifier) = self.classifier.as_ref().filter(|_| scale != 0.0) {
                    let guidance = self.guidance.get_or_insert_with(|| classifier.guidance(device));
                    guidance.set("class", numbers.clone());
                    guides.push(Weighted { weight: scale, guidance });
                }
                guides.extend(lent(&mut cfg.guides));
            }
            let denoiser = stage.denoiser(device, options, shape)?;
            if told {
                denoiser.write("y", &numbers);
            }
            if enlarges {
                denoiser.write("low_res", &through_bytes(&picture));
            }
            let mut guided = Guided { scale: 1.0, by_gradients: guides, kept };
            let mut on_step = progress(cfg.on_progress.as_mut(), (i, count), size);
            picture = denoiser.sample(&steps, &mut guided, noise, x, &mut on_step)?;
            drop(on_step);
            if i + 1 < count {
                if let Some(on_stage) = &mut cfg.on_stage {
                    on_stage(i, &pictures(&picture, size));
                }
                stage.loaded.release_if_large();
            }
        }
        Ok(pictures(&picture, sizes[count - 1]))
    }

    fn plan(&self, cfg: &GenerateConfig<'_>, on: &Target) -> Result<Vec<NetworkCost>> {
        let count = stage_count(cfg, self.stages.len())?;
        let sizes = stage_sizes(&self.sides(count), cfg.size)?;
        let mut networks = Vec::new();
        for (i, (stage, defaults)) in self.stages[..count].iter().enumerate() {
            let steps = stage.steps(defaults, cfg, i)?;
            let (shape, network) = (stage.shape(&steps, cfg.count, sizes[i]), network(&stage.unet));
            let name = format!("stage {} U-Net", i + 1);
            networks.push(NetworkCost::of_denoiser(&name, shape, steps.len(), &network, on));
            let steered = i == 0 && !stage.is_upsampler() && self.scale(cfg) != 0.0;
            if let Some(classifier) = self.classifier.as_ref().filter(|_| steered) {
                let graph =
                    score_graph(shape.sample(), &*log_probability(&classifier.config), MEMORY_BUDGET)?;
                networks.push(NetworkCost::of_guidance(
                    "classifier's gradient",
                    shape,
                    steps.len(),
                    graph,
                    on,
                ));
            }
        }
        Ok(networks)
    }

    fn networks(&self) -> Vec<(String, Graph, &Weights)> {
        let stages = self.stages.iter().enumerate();
        let mut networks: Vec<(String, Graph, &Weights)> = stages
            .map(|(i, (s, _))| (format!("stage {} unet", i + 1), s.unet.graph(), s.weights()))
            .collect();
        networks.extend(self.classifier.iter().map(|c| ("classifier".into(), c.config.graph(), c.weights())));
        networks
    }
}

/// Pictures whose bytes are made as OpenAI's scripts make them.
fn pictures(values: &[f32], (width, height): Size) -> Vec<Picture> {
    let mut pictures = Picture::split(values, height, width, 3);
    pictures.iter_mut().for_each(|picture| picture.rounding = ByteRounding::Down);
    pictures
}
