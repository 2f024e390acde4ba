//! unCLIP (DALL·E 2; Ramesh et al. 2022, arXiv:2204.06125) from Karlo's folders, as diffusers saves them: a prior draws a
//! picture's CLIP embedding for a prompt, a decoder draws a small picture of an embedding, super-resolution enlarges it.
//! `UnCLIPPipeline` begins at a prompt, `UnCLIPImageVariationPipeline` at a picture, whose embedding CLIP sees. The prior may be
//! one that denoises the embedding, or one that draws it token by token; a folder may hold both.
//!
//! Stages, as steps and guidance scales count them: from a prompt, 0 is the prior, 1 the decoder, 2 super-resolution; from
//! a picture, 0 is the decoder, 1 super-resolution, which is never guided. The last step of super-resolution is another
//! network's than those before it.

mod ar_prior;
mod encoders;
mod prior;
mod projection;
mod stage;

pub use ar_prior::{AutoregressivePrior, TokenDecoder, TokenSampling};
pub use encoders::{Captions, PictureEncoder, TextEncoder};
pub use prior::DrawnEmbedding;
pub use projection::Projection;
pub use stage::{Kind, Stage, prior_network};

use prior::{Asked, Priors};

use super::denoise::{Guided, Noise, Shape};
use super::start::{Place, Start, start};
use super::upsampler::{Small, Upsampler};
use super::{Condition, Run, System, imagen, initial_noise, lent, progress};
use crate::clip::Clip;
use crate::device::{Device, ProgramOptions, Weights};
use crate::diffusion::{SchedulerConfig, Step};
use crate::error::{Error, Result};
use crate::estimate::{NetworkCost, Target};
use crate::graph::Graph;
use crate::layout::{Defaults, UnClipFiles};
use crate::models::check::require;
use crate::picture::Picture;
use crate::request::{
    GenerateConfig, PriorKind, Size, StageSide, first_stage, guidance_scale, stage_count, stage_sizes,
    stage_steps,
};
use crate::text::caption;
use std::path::Path;

/// The mask `[N, L]` of captions with so many tokens before and after each that are always seen.
pub fn padded_mask(mask: &[f32], length: usize, before: usize, after: usize) -> Vec<f32> {
    let seen = |count| std::iter::repeat_n(0.0, count);
    mask.chunks_exact(length)
        .flat_map(|row| seen(before).chain(row.iter().copied()).chain(seen(after)))
        .collect()
}

/// The loaded networks.
pub(crate) struct UnClip {
    text: TextEncoder,
    /// Draw embeddings for a prompt.
    priors: Priors,
    /// Sees the embeddings of pictures.
    pictures: Option<PictureEncoder>,
    projection: Projection,
    decoder: Stage,
    upsampler: Upsampler,
    /// Of prior, decoder and super-resolution.
    defaults: [Defaults; 3],
}

/// A run's sizes and steps.
struct Request {
    /// What draws the embeddings, unless pictures are varied.
    prior: Option<PriorKind>,
    /// The first stage of those that draw pictures: 0, or 1 where a picture of the decoder is given.
    first: usize,
    /// Of the decoder's pictures and, if it runs, of super-resolution's.
    sizes: Vec<Size>,
    /// By stage; none of an autoregressive prior.
    steps: Vec<Vec<Step>>,
    /// Guidance scales by stage.
    scales: Vec<f64>,
}

impl Request {
    /// Stages before those that draw pictures: the prior, if one draws.
    fn before(&self) -> usize {
        usize::from(self.prior.is_some())
    }
}

impl UnClip {
    /// Reads every part of a pipeline.
    pub(crate) fn load(files: &UnClipFiles, variant: Option<&str>) -> Result<Self> {
        let folder = &files.folder;
        let clip = files.clip.as_ref().map(|path| Ok((Clip::load(path)?, path))).transpose()?;
        let text = match &clip {
            Some((clip, path)) => TextEncoder::of_clip(clip, path)?,
            None => TextEncoder::load(folder, variant)?,
        };
        let pictures = match (&files.pictures, &clip) {
            (Some(folder), Some((clip, path))) if folder == *path => {
                PictureEncoder::of_clip(clip, path).map(Some)?
            }
            (Some(folder), _) => Some(PictureEncoder::load(folder, variant)?),
            (None, _) => None,
        };
        let projection = Projection::load(folder, variant)?;
        let decoder = Stage::load(folder, "decoder", variant)?;
        let upsampler = Upsampler::load_karlo(folder, files.one_for_all_steps, variant)?;
        let diffusion =
            files.prior.as_ref().map(|folder| Stage::load(folder, "prior", variant)).transpose()?;
        let tokens = files.prior_ar.as_ref();
        let tokens = tokens.map(|of| Ok((AutoregressivePrior::load(&of.folder, variant)?, of.sampling)));
        let priors = Priors { diffusion, autoregressive: tokens.transpose()? };
        let defaults = files.defaults.clone();
        let model = UnClip { text, priors, pictures, projection, decoder, upsampler, defaults };
        model.check(files)?;
        Ok(model)
    }

    /// Refuses parts that are not of one model.
    fn check(&self, files: &UnClipFiles) -> Result<()> {
        let of = |folder: &Path, part: &str| folder.join(part).join("config.json");
        let file = |part: &str| {
            let folder = match part {
                "prior" => files.prior.as_ref(),
                "prior_ar" => files.prior_ar.as_ref().map(|of| &of.folder),
                "image_encoder" => files.pictures.as_ref(),
                _ => None,
            };
            of(folder.unwrap_or(&files.folder), part)
        };
        let same = |part: &str, key: &str, found: usize, other: &str, wanted: usize| {
            require(&file(part), key, found == wanted, || format!("{found}, but {other} has {wanted}"))
        };
        let (text, projection) = (&self.text.config, &self.projection.config);
        let columns = projection.clip_embeddings_dim;
        same("text_encoder", "projection_dim", text.embed, "text_proj", columns)?;
        same("text_encoder", "hidden_size", text.transformer.width, "text_proj", columns)?;
        if let Kind::Decoder(unet) = &self.decoder.kind {
            let (channels, time) = (unet.context_channels(), unet.time_channels());
            same(
                "text_proj",
                "cross_attention_dim",
                projection.cross_attention_dim,
                "the decoder",
                channels,
            )?;
            same("text_proj", "time_embed_dim", projection.time_embed_dim, "the decoder", time)?;
        }
        if let Some(encoder) = &self.pictures {
            same("image_encoder", "projection_dim", encoder.config.embed(), "text_proj", columns)?;
        }
        if let Some(Kind::Prior(prior)) = self.priors.diffusion.as_ref().map(|stage| &stage.kind) {
            same("prior", "embedding_dim", prior.embedding_dim, "text_proj", columns)?;
            same("prior", "num_embeddings", prior.num_embeddings, "the text encoder", text.context)?;
        }
        if let Some((prior, _)) = &self.priors.autoregressive {
            let (prior, width) = (&prior.config, text.transformer.width);
            same("prior_ar", "embedding_dim", prior.embedding_dim, "text_proj", columns)?;
            same("prior_ar", "text_states_dim", prior.text_states_dim, "the text encoder", width)?;
            same("prior_ar", "max_text_len", prior.max_text_len, "the text encoder", text.context)?;
        }
        Ok(())
    }

    /// The stages that draw pictures, in order: what each needs of its size, how it is sampled, its defaults.
    fn picture_stages(&self) -> [(StageSide, &SchedulerConfig, &Defaults); 2] {
        let [_, decoder, enlarger] = &self.defaults;
        [
            (self.decoder.kind.side(), &self.decoder.scheduler, decoder),
            (self.upsampler.side(), &self.upsampler.scheduler, enlarger),
        ]
    }

    fn request(&self, cfg: &GenerateConfig<'_>) -> Result<Request> {
        let prior = self.priors.of_run(cfg)?;
        let (before, stages) = (usize::from(prior.is_some()), self.picture_stages());
        let most = before + stages.len();
        let count = stage_count(cfg, most)?;
        if count <= before {
            let least = before + 1;
            let what = format!("stage 1 is the prior, which draws no picture: give {least} or {most}");
            return Err(Error::Request(format!("{count} stages: {what}")));
        }
        let stages = &stages[..count - before];
        let sides: Vec<StageSide> = stages.iter().map(|(side, ..)| *side).collect();
        let sizes = stage_sizes(&sides, cfg.size)?;
        let first = first_stage(cfg, &sizes)?;
        let (mut steps, mut scales) = (Vec::new(), Vec::new());
        match (prior, &self.priors.diffusion, &self.priors.autoregressive) {
            (Some(PriorKind::Diffusion), Some(stage), _) => {
                steps.push(stage_steps(&stage.scheduler, &self.defaults[0], cfg, 0)?);
                scales.push(guidance_scale(&self.defaults[0], cfg, 0));
            }
            (Some(PriorKind::Autoregressive), _, Some((_, usual))) => {
                steps.push(Vec::new());
                scales.push(cfg.guidance_scale.first().copied().unwrap_or(usual.guidance_scale));
            }
            _ => {}
        }
        for (index, (_, scheduler, defaults)) in (before..).zip(stages) {
            steps.push(stage_steps(scheduler, defaults, cfg, index)?);
            scales.push(guidance_scale(defaults, cfg, index));
        }
        Ok(Request { prior, first, sizes, steps, scales })
    }

    /// The sizes of the decoder's run.
    fn shape(&self, request: &Request, pictures: usize) -> Shape {
        let (index, size) = (request.before(), request.sizes[0]);
        let tokens = self.text.config.context + self.projection.config.clip_extra_context_tokens;
        self.decoder.shape(&request.steps[index], pictures, size, tokens, request.scales[index])
    }

    /// The prompt and what takes the place of none, as the networks see them; both empty where a picture is varied.
    fn captions(
        &self,
        device: &Device,
        request: &Request,
        prompt: &str,
        cfg: &GenerateConfig<'_>,
    ) -> Result<Captions> {
        let prompts = match request.prior {
            None => [String::new(), String::new()],
            Some(_) => [&cfg.negative_prompt, prompt].map(|text| match cfg.clean_caption {
                true => caption::clean(text),
                false => text.to_string(),
            }),
        };
        let captions = self.text.encode(device, &prompts.each_ref().map(String::as_str))?;
        if captions.truncated {
            log::warn!("the prompt is longer than {} tokens; its end is not seen", self.text.config.context);
        }
        Ok(captions)
    }

    /// The embeddings `[N, E]` that the decoder draws pictures of: the prior's, or those of the given pictures.
    fn embeddings(
        &mut self,
        at: (&Device, &ProgramOptions),
        request: &Request,
        captions: &Captions,
        cfg: &mut GenerateConfig<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Vec<f32>> {
        if let (None, Some(encoder)) = (request.prior, &self.pictures) {
            let embeds = encoder.embed(at.0, &cfg.image)?;
            return Ok(if cfg.image.len() == 1 { embeds.repeat(cfg.count) } else { embeds });
        }
        let drawn = self.drawn(at, request, captions, cfg, noise)?;
        Ok(drawn.into_iter().flat_map(|drawn| drawn.embedding).collect())
    }

    /// What the prior draws.
    fn drawn(
        &mut self,
        at: (&Device, &ProgramOptions),
        request: &Request,
        captions: &Captions,
        cfg: &mut GenerateConfig<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Vec<DrawnEmbedding>> {
        let Some(kind) = request.prior else {
            return Err(Error::Request("no prior draws embeddings here: leave `--image` out".into()));
        };
        let (steps, guidance_scale) = (&request.steps[0][..], request.scales[0]);
        let asked = Asked { kind, captions, steps, guidance_scale, stages: request.steps.len() };
        self.priors.draw(at, &asked, cfg, noise)
    }

    /// The decoder's pictures of embeddings `[N, h, w, 3]`.
    fn decode(
        &mut self,
        (device, options): (&Device, &ProgramOptions),
        request: &Request,
        (captions, embeddings): (&Captions, &[f32]),
        cfg: &mut GenerateConfig<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Vec<f32>> {
        let index = request.before();
        let shape = self.shape(request, cfg.count);
        let place = Place { stage: 0, shape, steps: &request.steps[index], sees: false, before: None };
        let Start { steps, x, kept } = start(cfg, &place, initial_noise(noise, shape))?;
        let (embeds, states) = (halves(&captions.embeds, shape), halves(&captions.states, shape));
        let (context, labels) = self.projection.run(device, embeddings, &embeds, &states)?;
        let extra = self.projection.config.clip_extra_context_tokens;
        let mask = padded_mask(&halves(&captions.mask, shape), self.text.config.context, extra, 0);
        let denoiser = self.decoder.denoiser(device, options, shape)?;
        denoiser.write("context", &context);
        denoiser.write("class_labels", &labels);
        denoiser.write("mask", &mask);
        let mut on_step = progress(cfg.on_progress.as_mut(), (index, request.steps.len()), request.sizes[0]);
        let mut guided = Guided { scale: request.scales[index], by_gradients: lent(&mut cfg.guides), kept };
        let pictures = denoiser.sample(&steps, &mut guided, noise, x, &mut on_step);
        self.decoder.release_if_large();
        pictures
    }
}

/// Rows of a negative prompt and a prompt as a network's batch: each for every picture, the former only if guided.
fn halves(values: &[f32], shape: Shape) -> Vec<f32> {
    let (negative, prompt) = values.split_at(values.len() / 2);
    let negative = if shape.guided { negative.repeat(shape.pictures) } else { Vec::new() };
    [negative, prompt.repeat(shape.pictures)].concat()
}

impl System for UnClip {
    fn stages(&self) -> usize {
        self.priors.kinds().len().min(1) + self.picture_stages().len()
    }

    fn condition(&self) -> Condition {
        if self.priors.kinds().is_empty() { Condition::Picture } else { Condition::Prompt }
    }

    fn varies_pictures(&self) -> bool {
        self.pictures.is_some()
    }

    fn fewest_steps(&self) -> usize {
        // Two networks of super-resolution share two; UnCLIP's scheduler spaces no fewer.
        2
    }

    fn sizes(&self, cfg: &GenerateConfig<'_>) -> Result<Vec<Size>> {
        Ok(self.request(cfg)?.sizes)
    }

    fn draw(&mut self, run: Run<'_, '_>) -> Result<Vec<Picture>> {
        let Run { device, options, prompt, cfg, noise } = run;
        let request = self.request(cfg)?;
        if request.first == 0 && request.prior.is_none() && cfg.image.is_empty() {
            let what = "this model varies a picture: give it by `--image PICTURE` (GenerateConfig::image)";
            return Err(Error::Request(what.into()));
        }
        let at = (device, options);
        let ((mut width, mut height), mut pictures) = (request.sizes[0], Vec::new());
        if request.first == 0 {
            let captions = self.captions(device, &request, prompt, cfg)?;
            let embeddings = self.embeddings(at, &request, &captions, cfg, noise)?;
            pictures = self.decode(at, &request, (&captions, &embeddings), cfg, noise)?;
        } else {
            pictures.extend(cfg.from.iter().flat_map(|picture| &picture.values));
        }
        if let Some(size) = request.sizes.get(1) {
            if let Some(on_stage) = cfg.on_stage.as_mut().filter(|_| request.first == 0) {
                on_stage(request.before(), &Picture::split(&pictures, height, width, 3));
            }
            let index = request.before() + 1;
            let (stage, steps) = ((index, request.steps.len()), &request.steps[index]);
            let small = Small { stage, pictures: (&pictures, request.sizes[0]), size: *size, steps };
            pictures = self.upsampler.enlarge(at, &small, cfg, noise)?;
            (width, height) = *size;
        }
        Ok(Picture::split(&pictures, height, width, 3))
    }

    fn priors(&self) -> Vec<PriorKind> {
        self.priors.kinds()
    }

    fn embed(&mut self, run: Run<'_, '_>) -> Result<Vec<DrawnEmbedding>> {
        let Run { device, options, prompt, cfg, noise } = run;
        let request = self.request(cfg)?;
        let captions = self.captions(device, &request, prompt, cfg)?;
        self.drawn((device, options), &request, &captions, cfg, noise)
    }

    fn plan(&self, cfg: &GenerateConfig<'_>, on: &Target) -> Result<Vec<NetworkCost>> {
        let (request, tokens) = (self.request(cfg)?, self.text.config.context);
        let (before, mut networks) = (request.before(), Vec::new());
        if request.first == 0 {
            networks.push(NetworkCost::of_text(self.text.config.graph(tokens, &[0; imagen::PROMPTS]), on));
            let rows = cfg.count * cfg.candidates;
            match (request.prior, &self.priors, &self.pictures) {
                (Some(PriorKind::Diffusion), Priors { diffusion: Some(prior), .. }, _) => {
                    let shape = prior.shape(&request.steps[0], rows, (1, 1), tokens, request.scales[0]);
                    let (steps, network) = (request.steps[0].len(), prior.kind.network());
                    networks.push(NetworkCost::of_denoiser("prior", shape, steps, &network, on));
                }
                (Some(PriorKind::Autoregressive), Priors { autoregressive: Some((prior, _)), .. }, _) => {
                    let guided = request.scales[0] > 1.0;
                    networks.push(NetworkCost::of_tokens(&prior.config, rows, guided, on));
                }
                (_, _, Some(encoder)) => {
                    let pictures = cfg.image.len().max(1);
                    let sizes = format!("{pictures} pictures of {0}x{0}", encoder.config.image_size());
                    let graph = encoder.graph(pictures);
                    networks.push(NetworkCost::of_once("picture encoder", sizes, graph, on));
                }
                _ => {}
            }
            let shape = self.shape(&request, cfg.count);
            let graph = self.projection.config.graph(cfg.count, shape.guided, tokens);
            let sizes = format!("{} embeddings", cfg.count);
            networks.push(NetworkCost::of_once("text projection", sizes, graph, on));
            let (steps, network) = (request.steps[before].len(), self.decoder.kind.network());
            networks.push(NetworkCost::of_denoiser("decoder", shape, steps, &network, on));
        }
        if let Some(size) = request.sizes.get(1) {
            let steps = &request.steps[before + 1];
            let shape = self.upsampler.shape(steps, cfg.count, *size);
            networks.extend(self.upsampler.plan("super-resolution", shape, steps.len(), on));
        }
        Ok(networks)
    }

    fn networks(&self) -> Vec<(String, Graph, &Weights)> {
        let prior = self.priors.diffusion.iter().map(|prior| ("prior", prior));
        let tokens = self.priors.autoregressive.iter();
        let tokens =
            tokens.map(|(prior, _)| ("prior_ar".to_string(), prior.config.graph(1), prior.weights()));
        let names = &["super_res_first", "super_res_last"];
        prior
            .chain([("decoder", &self.decoder)])
            .map(|(name, stage)| (name.to_string(), stage.kind.graph(), stage.weights()))
            .chain(self.upsampler.networks(names))
            .chain(tokens)
            .collect()
    }
}
