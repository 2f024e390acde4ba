//! Imagen (Saharia et al. 2022, arXiv:2205.11487): a frozen T5 encoder, a base stage and super-resolution stages,
//! from DeepFloyd IF's diffusers folders.

use super::denoise::{Denoiser, Guided, Network, Noise, OnStep, Shape, channels_last};
use crate::device::{Device, ProgramOptions, Weights};
use crate::diffusion::{SchedulerConfig, Step, add_noise};
use crate::error::{Error, Result};
use crate::graph::{Graph, Storage};
use crate::kernels::Precision;
use crate::kernels::elementwise::{add, scale};
use crate::kernels::resample::{Resample, resample};
use crate::models::{t5, unet};
use crate::text::{T5Tokenizer, caption};
use crate::weights::{Checkpoint, read_json, t5_name};
use std::path::Path;
use std::sync::Arc;

/// Tokens a prompt is padded or cut to.
pub const MAX_TOKENS: usize = 77;

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
    weights: Arc<Weights>,
    denoiser: Option<Denoiser>,
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
            weights: Arc::new(Weights::new(checkpoint)),
            denoiser: None,
        })
    }

    /// Whether it enlarges a picture.
    pub fn is_super_resolution(&self) -> bool {
        self.unet.class_embed_type.is_some()
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
        &self.weights
    }

    /// The program for pictures and prompts of a size.
    pub fn denoiser(
        &mut self,
        device: &Device,
        options: &ProgramOptions,
        shape: Shape,
    ) -> Result<&mut Denoiser> {
        let (unet, weights) = (&self.unet, &self.weights);
        Denoiser::reuse(&mut self.denoiser, shape, unet.size_multiple(), || {
            Denoiser::new(device, weights, options, shape, network(unet))
        })
    }

    /// Draws pictures `[N, H, W, 3]` from `start`.
    #[expect(clippy::too_many_arguments, reason = "a run has this many settings, each used once")]
    pub fn sample(
        &mut self,
        device: &Device,
        options: &ProgramOptions,
        steps: &[Step],
        guidance: &mut Guided<'_, '_>,
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
        self.release_if_large();
        pictures
    }

    /// Gives memory back where a picture took much of it. The program holds its weights, so it goes with them.
    fn release_if_large(&mut self) {
        const LARGE_ACTIVATIONS: u64 = 1 << 28;
        let activations = self.denoiser.as_mut().map_or(0, |d| d.memory().0);
        if self.weights.is_large() || activations > LARGE_ACTIVATIONS {
            self.denoiser = None;
            self.weights.release_if_large();
        }
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
        let mut program = device.program(g, &self.weights, &ProgramOptions::default())?;
        program.write("low_res", values);
        program.write("z", z);
        program.run(&mut |_| true)?;
        program.read("y")
    }
}

/// Channels of the sample: the network's input less the low-resolution picture beside it.
pub fn sample_channels(unet: &unet::Config) -> usize {
    if unet.class_embed_type.is_some() { unet.in_channels / 2 } else { unet.in_channels }
}

/// The network as a denoiser records it: with the text states as an input, and the picture to enlarge beside the sample.
pub fn network(unet: &unet::Config) -> Box<Network> {
    let unet = unet.clone();
    Box::new(move |g, shape, x, t| {
        let batch = shape.batch();
        let context = g.input("context", &[batch, shape.tokens, unet.context_channels()], Storage::Elem);
        let low_res = unet.class_embed_type.as_ref().map(|_| {
            (
                g.input("low_res", &shape.sample(), Storage::F32),
                g.input("noise_level", &[batch], Storage::F32),
            )
        });
        let noise_level = low_res.as_ref().map(|(_, level)| level);
        let low_res = low_res.as_ref().map(|(picture, _)| picture);
        unet.forward(g, &unet::Inputs { x, low_res, t, context: &context, noise_level })
    })
}

/// The network alone, to list its weights or to compare devices: as small as it may be while every weight counts (at
/// one pixel a convolution's corners meet zeros only).
pub fn network_graph(config: &unet::Config) -> Graph {
    let mut g = Graph::new();
    let unit = config.size_multiple();
    let x = g.input("x", &[1, 2 * unit, 3 * unit, config.in_channels], Storage::Elem);
    let t = g.input("t", &[1], Storage::F32);
    let context = g.input("context", &[1, 2, config.context_channels()], Storage::Elem);
    let noise_level = config.class_embed_type.as_ref().map(|_| g.input("noise_level", &[1], Storage::F32));
    let inputs =
        unet::Inputs { x: &x, low_res: None, t: &t, context: &context, noise_level: noise_level.as_ref() };
    let out = config.forward(&mut g, &inputs);
    g.output("out", &out);
    g
}

/// Draws one stage's initial noise, channels last.
pub fn initial_noise(noise: &mut dyn Noise, shape: Shape) -> Vec<f32> {
    let Shape { pictures, height, width, channels, .. } = shape;
    channels_last(&noise.draw(pictures, channels, height, width), channels, height, width)
}
