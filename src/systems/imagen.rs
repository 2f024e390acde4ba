//! Imagen (Saharia et al. 2022, arXiv:2205.11487): a frozen T5 encoder, a base stage and super-resolution stages,
//! from DeepFloyd IF's diffusers folders.

use super::denoise::{Denoiser, Guided, Network, Noise, OnStep, Shape};
use super::loaded::Loaded;
use super::start::{Place, Start, start};
use super::upsampler::{Chain, Stages, Upsamplers};
use super::{Condition, Run, System, initial_noise, lent, progress};
use crate::device::{Device, ProgramOptions, Weights};
use crate::diffusion::{SchedulerConfig, Step, add_noise};
use crate::error::{Error, Result};
use crate::estimate::{NetworkCost, Target};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::Precision;
use crate::kernels::elementwise::{add, scale};
use crate::kernels::resample::{Resample, resample};
use crate::layout::{Defaults, ImagenFiles};
use crate::models::check::require;
use crate::models::{t5, unet};
use crate::picture::Picture;
use crate::request::{GenerateConfig, Size, StageSide, guidance_scale, stage_steps};
use crate::text::{T5Tokenizer, caption};
use crate::weights::{Checkpoint, read_json, t5_name};
use std::path::Path;
use std::sync::Arc;

/// Tokens a prompt is padded or cut to.
pub const MAX_TOKENS: usize = 77;

/// Prompts of a run: what it should not show, and what it should.
pub(crate) const PROMPTS: usize = 2;

/// Tokenizer and T5 encoder of a folder.
pub struct TextEncoder {
    /// The encoder's config.
    pub config: t5::Config,
    tokenizer: T5Tokenizer,
    weights: Weights,
}

/// What the U-Nets see of prompts.
#[derive(Clone, Debug)]
pub struct TextStates {
    /// `[prompts, tokens, channels]`.
    pub states: Vec<f32>,
    /// Channels of a state.
    pub channels: usize,
    /// A prompt was longer than the tokens it may have.
    pub truncated: bool,
}

impl TextEncoder {
    /// Reads `tokenizer/` and `text_encoder/` of a pipeline's folder; `variant` chooses e.g. the `fp16` files.
    pub fn load(folder: &Path, variant: Option<&str>) -> Result<Self> {
        let tokenizer = T5Tokenizer::load(&folder.join("tokenizer"))?;
        let folder = folder.join("text_encoder");
        let path = folder.join("config.json");
        let config: t5::Config = read_json(&path)?;
        config.validate(&path)?;
        if tokenizer.vocab_size() > config.vocab_size {
            return Err(Error::config(
                path,
                "vocab_size",
                format!(
                    "{} rows, but the tokenizer has ids up to {}",
                    config.vocab_size,
                    tokenizer.vocab_size() - 1
                ),
            ));
        }
        let mut checkpoint = Checkpoint::open(&folder, "model", variant)?;
        checkpoint.rename(t5_name)?;
        checkpoint.check(t5::graph(&config, 1, 2).weights(), |name| name == "encoder.embed_tokens.weight")?;
        Ok(TextEncoder { config, tokenizer, weights: Weights::new(checkpoint) })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &T5Tokenizer {
        &self.tokenizer
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The states of prompts, after lower-casing (and cleaning, if asked, as IF's pipelines do by default).
    pub fn encode(&self, device: &Device, prompts: &[&str], clean: bool) -> Result<TextStates> {
        let (mut ids, mut mask, mut truncated) = (Vec::new(), Vec::new(), false);
        for prompt in prompts {
            let text = if clean { caption::clean(prompt) } else { caption::plain(prompt) };
            let tokens = self.tokenizer.encode(&text, MAX_TOKENS)?;
            ids.extend(tokens.ids.iter().map(|&id| id as f32));
            mask.extend(t5::additive_mask(&tokens.mask));
            truncated |= tokens.truncated;
        }
        let states = self.states(device, prompts.len(), MAX_TOKENS, &ids, &mask)?;
        Ok(TextStates { states, channels: self.config.d_model, truncated })
    }

    /// States `[batch, len, d_model]` of token ids and an additive mask.
    pub fn states(
        &self,
        device: &Device,
        batch: usize,
        len: usize,
        ids: &[f32],
        mask: &[f32],
    ) -> Result<Vec<f32>> {
        // Activations in f32 always: T5's feed-forward sums leave f16's range.
        let precision = Precision { elem_f16: false, ..device.precision() };
        let options = ProgramOptions { precision, ..Default::default() };
        let mut program = device.program(t5::graph(&self.config, batch, len), &self.weights, &options)?;
        program.write("ids", ids);
        program.write("mask", mask);
        program.run(&mut |_| true)?;
        let states = program.read("states");
        drop(program);
        self.weights.release_if_large();
        states
    }
}

/// One stage: a U-Net with its schedulers.
pub struct Stage {
    /// The network's config.
    pub unet: unet::Config,
    /// How it was trained and is sampled.
    pub scheduler: SchedulerConfig,
    /// How its low-resolution picture is noised; super-resolution stages only.
    pub image_noising_scheduler: Option<SchedulerConfig>,
    loaded: Loaded,
}

/// What conditions a stage.
pub struct Conditioning<'a> {
    /// States `[batch, tokens, channels]`: unconditional half first, if guided.
    pub context: &'a [f32],
    /// Super-resolution: the picture to enlarge.
    pub low_res: Option<LowRes<'a>>,
}

/// A super-resolution stage's picture, enlarged and noised.
pub struct LowRes<'a> {
    /// `[pictures, height, width, 3]` at the stage's own size.
    pub values: &'a [f32],
    /// Timestep at which it was noised.
    pub noise_level: usize,
}

impl Stage {
    /// Reads `unet/`, `scheduler/` and `image_noising_scheduler/` of a pipeline's folder and checks every tensor.
    pub fn load(folder: &Path, variant: Option<&str>) -> Result<Self> {
        let unet_folder = folder.join("unet");
        let path = unet_folder.join("config.json");
        let unet: unet::Config = read_json(&path)?;
        unet.validate(&path)?;
        require(&path, "class_embed_type", !unet.takes_embedding(), || {
            "`identity` is of unCLIP's decoder; a stage of IF has `timestep` or none".into()
        })?;
        let checkpoint = Checkpoint::open(&unet_folder, "diffusion_pytorch_model", variant)?;
        checkpoint.check(network_graph(&unet).weights(), |_| false)?;
        let scheduler = SchedulerConfig::read(&folder.join("scheduler/scheduler_config.json"))?;
        scheduler.fits(&path, 3, unet.out_channels)?;
        let noising = folder.join("image_noising_scheduler/scheduler_config.json");
        let image_noising_scheduler =
            noising.exists().then(|| SchedulerConfig::read(&noising)).transpose()?;
        Ok(Stage {
            unet,
            scheduler,
            image_noising_scheduler,
            loaded: Loaded::new(Arc::new(Weights::new(checkpoint))),
        })
    }

    /// Whether it enlarges a picture.
    pub fn is_super_resolution(&self) -> bool {
        self.unet.is_super_resolution()
    }

    /// Channels of the sample: the network's input less the low-resolution picture beside it.
    pub fn channels(&self) -> usize {
        sample_channels(&self.unet)
    }

    /// Refuses a noise level the stage was not trained with; the first stage has none.
    pub(crate) fn check_noise_level(&self, index: usize, noise_level: usize) -> Result<()> {
        let scheduler = self.image_noising_scheduler.as_ref().unwrap_or(&self.scheduler);
        if index > 0 { add_noise(scheduler, noise_level).map(drop) } else { Ok(()) }
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.loaded.weights
    }

    /// The program for pictures and prompts of a size.
    pub fn denoiser(
        &mut self,
        device: &Device,
        options: &ProgramOptions,
        shape: Shape,
    ) -> Result<&mut Denoiser> {
        let unet = &self.unet;
        self.loaded.denoiser(device, options, (shape, unet.size_multiple()), || network(unet))
    }

    /// Draws pictures `[N, H, W, 3]` from `start`.
    #[expect(clippy::too_many_arguments, reason = "a run has this many settings, each used once")]
    pub fn sample(
        &mut self,
        device: &Device,
        options: &ProgramOptions,
        steps: &[Step],
        guidance: &mut Guided<'_>,
        shape: Shape,
        conditioning: &Conditioning<'_>,
        noise: &mut dyn Noise,
        start: Vec<f32>,
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<f32>> {
        let denoiser = self.denoiser(device, options, shape)?;
        denoiser.write("context", conditioning.context);
        if let Some(low_res) = &conditioning.low_res {
            denoiser.write("low_res", low_res.values);
            denoiser.write("noise_level", &vec![low_res.noise_level as f32; shape.batch()]);
        }
        let pictures = denoiser.sample(steps, guidance, noise, start, on_step);
        self.loaded.release_if_large();
        pictures
    }

    /// Noise-conditioning augmentation: the picture enlarged to the stage's size (bilinear, corners aligned) and
    /// noised once, at `noise_level`. `low_res` `[N, h, w, 3]`, z `[N, H, W, 3]` → `[N, H, W, 3]`.
    pub fn augment(
        &self,
        device: &Device,
        low_res: (&[f32], usize, usize),
        noise_level: usize,
        shape: Shape,
        z: &[f32],
    ) -> Result<Vec<f32>> {
        let scheduler = self.image_noising_scheduler.as_ref().unwrap_or(&self.scheduler);
        let (of_picture, of_noise) = add_noise(scheduler, noise_level)?;
        let (values, height, width) = low_res;
        let mut g = Graph::new();
        let x = g.input("low_res", &[shape.pictures, height, width, shape.channels], Storage::Elem);
        let z_in = g.input("z", &shape.sample(), Storage::Elem);
        let up =
            resample(&mut g, "up", &x, shape.height, shape.width, Resample::Bilinear { align_corners: true });
        let up = scale(&mut g, &up, of_picture as f32);
        let noised = scale(&mut g, &z_in, of_noise as f32);
        let y = add(&mut g, &up, &noised);
        g.output("y", &y);
        let mut program = device.program(g, &self.loaded.weights, &ProgramOptions::default())?;
        program.write("low_res", values);
        program.write("z", z);
        program.run(&mut |_| true)?;
        program.read("y")
    }
}

/// Channels of the sample: the network's input less the low-resolution picture beside it.
pub fn sample_channels(unet: &unet::Config) -> usize {
    if unet.is_super_resolution() { unet.in_channels / 2 } else { unet.in_channels }
}

/// The network as a denoiser records it: with the text states as the input `context`; the picture to enlarge beside the
/// sample (`low_res`, `noise_level`); of unCLIP's decoder the embedding that joins the time's, `class_labels`, and what is
/// added to the text's scores, `mask`.
pub fn network(unet: &unet::Config) -> Box<Network> {
    let unet = unet.clone();
    Box::new(move |g, shape, x, t| {
        let batch = shape.batch();
        let context = g.input("context", &[batch, shape.tokens, unet.context_channels()], Storage::Elem);
        let low_res = unet.is_super_resolution().then(|| g.input("low_res", &shape.sample(), Storage::F32));
        conditioned(g, &unet, (x, low_res.as_ref()), t, &context)
    })
}

/// Records the network with what its config asks for besides the text.
fn conditioned(
    g: &mut Graph,
    unet: &unet::Config,
    (x, low_res): (&Tensor, Option<&Tensor>),
    t: &Tensor,
    context: &Tensor,
) -> Tensor {
    let (batch, tokens) = (context.dim(0), context.dim(1));
    let noise_level = unet.is_super_resolution().then(|| g.input("noise_level", &[batch], Storage::F32));
    let given = unet.takes_embedding().then(|| {
        let labels = g.input("class_labels", &[batch, unet.time_channels()], Storage::F32);
        (labels, g.input("mask", &[batch, tokens], Storage::F32))
    });
    let (class_labels, mask) =
        (given.as_ref().map(|(labels, _)| labels), given.as_ref().map(|(_, mask)| mask));
    let noise_level = noise_level.as_ref();
    unet.forward(g, &unet::Inputs { x, low_res, t, context, mask, noise_level, class_labels })
}

/// The network alone, to list its weights or to compare devices: as small as it may be while every weight counts (at
/// one pixel a convolution's corners meet zeros only).
pub fn network_graph(config: &unet::Config) -> Graph {
    let mut g = Graph::new();
    let unit = config.size_multiple();
    let x = g.input("x", &[1, 2 * unit, 3 * unit, config.in_channels], Storage::Elem);
    let t = g.input("t", &[1], Storage::F32);
    let context = g.input("context", &[1, 2, config.context_channels()], Storage::Elem);
    let out = conditioned(&mut g, config, (&x, None), &t, &context);
    g.output("out", &out);
    g
}

/// A cascade with its text encoder and each stage's settings.
pub(crate) struct Imagen {
    text: TextEncoder,
    /// What reads the prompt.
    stages: Vec<(Stage, Defaults)>,
    /// What enlarges their pictures further.
    upsamplers: Upsamplers,
}

impl Imagen {
    /// Reads every stage's folder; the text encoder is the first one's.
    pub(crate) fn load(files: &ImagenFiles, variant: Option<&str>) -> Result<Self> {
        let upsamplers = Upsamplers::load(&files.upsamplers, variant)?;
        let files = &files.stages;
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
        Ok(Imagen { text, stages, upsamplers })
    }

    /// The stages of a run, and the steps of its upsamplers.
    fn request(&self, cfg: &GenerateConfig<'_>) -> Result<(Stages, Vec<Vec<Step>>)> {
        let side = |(stage, _): &(Stage, Defaults)| StageSide {
            side: stage.unet.sample_size,
            multiple: stage.unet.size_multiple(),
        };
        let sides: Vec<StageSide> = self.stages.iter().map(side).collect();
        let stages = self.upsamplers.stages(cfg, 0, &sides)?;
        let own = self.stages.len();
        let steps = self.upsamplers.steps(cfg, own, stages.count.saturating_sub(own))?;
        Ok((stages, steps))
    }
}

impl System for Imagen {
    fn stages(&self) -> usize {
        self.stages.len() + self.upsamplers.len()
    }

    fn condition(&self) -> Condition {
        Condition::Prompt
    }

    fn sizes(&self, cfg: &GenerateConfig<'_>) -> Result<Vec<Size>> {
        Ok(self.request(cfg)?.0.sizes)
    }

    fn draw(&mut self, run: Run<'_, '_>) -> Result<Vec<Picture>> {
        let Run { device, options, prompt, cfg, noise } = run;
        let (Stages { count, sizes, first }, steps) = self.request(cfg)?;
        let before = self.stages.len();
        let stages = &mut self.stages[..count.min(before)];
        for (i, (stage, defaults)) in stages.iter().enumerate() {
            stage_steps(&stage.scheduler, defaults, cfg, i)?;
            stage.check_noise_level(i, defaults.noise_level)?;
        }
        let mut picture: Vec<f32> = cfg.from.iter().flat_map(|p| &p.values).copied().collect();
        if first < stages.len() {
            let prompts: [&str; PROMPTS] = [&cfg.negative_prompt, prompt];
            let states = self.text.encode(device, &prompts, cfg.clean_caption)?;
            if states.truncated {
                log::warn!("the prompt is longer than {MAX_TOKENS} tokens; its end is not seen");
            }
            for (i, stage) in stages.iter_mut().enumerate().skip(first) {
                let from = (i > 0).then(|| (picture.as_slice(), sizes[i - 1]));
                let run = StageRun { index: i, count, size: sizes[i], states: &states, from };
                picture = run_stage(device, options, stage, &run, cfg, noise)?;
                let (width, height) = sizes[i];
                if let Some(on_stage) = cfg.on_stage.as_mut().filter(|_| i + 1 < count) {
                    on_stage(i, &Picture::split(&picture, height, width, 3));
                }
            }
        }
        if let Some(sizes) = sizes.get(before - 1..) {
            let chain = Chain { before, sizes, passed: first.saturating_sub(before), steps: &steps };
            picture = self.upsamplers.run((device, options), &chain, picture, cfg, noise)?;
        }
        let (width, height) = sizes[count - 1];
        Ok(Picture::split(&picture, height, width, 3))
    }

    fn plan(&self, cfg: &GenerateConfig<'_>, on: &Target) -> Result<Vec<NetworkCost>> {
        let mut networks = vec![NetworkCost::of_text(t5::graph(&self.text.config, PROMPTS, MAX_TOKENS), on)];
        let (Stages { count, sizes, first }, list) = self.request(cfg)?;
        let before = self.stages.len();
        for (i, (stage, defaults)) in self.stages.iter().enumerate().take(count) {
            let steps = stage_steps(&stage.scheduler, defaults, cfg, i)?;
            let shape = stage_shape(stage, defaults, cfg, i, (sizes[i], &steps));
            let (name, network) = (format!("stage {} U-Net", i + 1), network(&stage.unet));
            networks.push(NetworkCost::of_denoiser(&name, shape, steps.len(), &network, on));
        }
        if let Some(sizes) = sizes.get(before - 1..) {
            let chain = Chain { before, sizes, passed: first.saturating_sub(before), steps: &list };
            networks.extend(self.upsamplers.plan(&chain, cfg.count, on));
        }
        Ok(networks)
    }

    fn networks(&self) -> Vec<(String, Graph, &Weights)> {
        let stages = self.stages.iter().enumerate();
        stages
            .map(|(i, (s, _))| (format!("stage {} unet", i + 1), network_graph(&s.unet), s.weights()))
            .chain(self.upsamplers.networks())
            .collect()
    }
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
    let place = Place { stage: run.index, shape, steps: &steps, sees: false, before: run.from };
    let Start { steps, x, kept } = start(cfg, &place, initial_noise(noise, shape))?;
    let low_res = match run.from {
        Some((values, (w, h))) => {
            let z = initial_noise(noise, shape);
            Some(stage.augment(device, (values, h, w), defaults.noise_level, shape, &z)?)
        }
        None => None,
    };
    let low_res = low_res.as_deref().map(|values| LowRes { values, noise_level: defaults.noise_level });
    let conditioning = Conditioning { context: &context, low_res };
    let mut on_step = progress(cfg.on_progress.as_mut(), (run.index, run.count), run.size);
    let by_gradients = if run.index == 0 { lent(&mut cfg.guides) } else { Vec::new() };
    let mut guided = Guided { scale: guidance_scale, by_gradients, kept };
    stage.sample(device, options, &steps, &mut guided, shape, &conditioning, noise, x, &mut on_step)
}
