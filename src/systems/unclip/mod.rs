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
mod latents;
mod prior;
mod projection;
mod stage;

pub use ar_prior::{AutoregressivePrior, TokenDecoder, TokenSampling};
pub use encoders::{Captions, PictureEncoder, TextEncoder};
pub use prior::DrawnEmbedding;
pub use projection::Projection;
pub use stage::{Kind, Stage, prior_network};

use prior::{Asked, Priors};

use super::denoise::{Denoiser, Guided, Noise, Shape};
use super::start::{Place, Start, start};
use super::upsampler::{Chain, Stages, Upsampler, Upsamplers};
use super::{Condition, Run, System, imagen, initial_noise, lent, progress};
use crate::clip::Clip;
use crate::device::{Device, ProgramOptions, Weights};
use crate::diffusion::Step;
use crate::error::{Error, Result};
use crate::estimate::{NetworkCost, Target};
use crate::graph::Graph;
use crate::layout::{Defaults, UnClipFiles};
use crate::models::check::require;
use crate::picture::Picture;
use crate::request::{GenerateConfig, PriorKind, Size, guidance_scale, latent_steps, stage_steps};
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
    /// Super-resolution, and what enlarges its pictures further.
    upsamplers: Upsamplers,
    /// Of prior and decoder.
    defaults: [Defaults; 2],
}

/// A run's sizes and steps.
struct Request {
    /// What draws the embeddings, unless they are given, or pictures'.
    prior: Option<PriorKind>,
    /// The first stage of those that draw pictures: 0, or a later one where pictures to go on from are given.
    first: usize,
    /// Of the decoder's pictures and of each upsampler's that runs.
    sizes: Vec<Size>,
    /// By stage; none of an autoregressive prior.
    steps: Vec<Vec<Step>>,
    /// Guidance scales of prior and decoder.
    scales: Vec<f64>,
}

impl Request {
    /// Stages before those that draw pictures: the prior, if one draws.
    fn before(&self) -> usize {
        usize::from(self.prior.is_some())
    }

    /// What comes after the decoder.
    fn chain(&self) -> Chain<'_> {
        let before = self.before() + 1;
        let passed = self.first.saturating_sub(1);
        Chain { before, sizes: &self.sizes, passed, steps: &self.steps[before..] }
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
        let diffusion =
            files.prior.as_ref().map(|folder| Stage::load(folder, "prior", variant)).transpose()?;
        let tokens = files.prior_ar.as_ref();
        let tokens = tokens.map(|of| Ok((AutoregressivePrior::load(&of.folder, variant)?, of.sampling)));
        let priors = Priors { diffusion, autoregressive: tokens.transpose()? };
        let [defaults @ .., enlarging] = files.defaults.clone();
        let upsampler = Upsampler::load_karlo(folder, files.one_for_all_steps, variant)?;
        let upsamplers = Upsamplers::load(&files.upsamplers, variant)?.after(upsampler, enlarging);
        let model = UnClip { text, priors, pictures, projection, decoder, upsamplers, defaults };
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
        if let Some((prior, _)) = &self.priors.autoregressive {
            let (prior, width) = (&prior.config, text.transformer.width);
            same("prior_ar", "embedding_dim", prior.embedding_dim, "text_proj", columns)?;
            same("prior_ar", "text_states_dim", prior.text_states_dim, "the text encoder", width)?;
            same("prior_ar", "max_text_len", prior.max_text_len, "the text encoder", text.context)?;
        }
        if let Some(Kind::Prior(prior)) = self.priors.diffusion.as_ref().map(|stage| &stage.kind) {
            same("prior", "embedding_dim", prior.embedding_dim, "text_proj", columns)?;
            same("prior", "num_embeddings", prior.num_embeddings, "the text encoder", text.context)?;
        }
        Ok(())
    }

    fn request(&self, cfg: &GenerateConfig<'_>) -> Result<Request> {
        let prior = self.priors.of_run(cfg)?;
        let before = usize::from(prior.is_some());
        let side = self.decoder.kind.side();
        if let Some(count) = cfg.stages.filter(|count| (1..=before).contains(count)) {
            let what = format!("stage 1 is the prior, which draws no picture: give {} or more", before + 1);
            return Err(Error::Request(format!("{count} stages: {what}")));
        }
        let Stages { count, sizes, first } = self.upsamplers.stages(cfg, before, &[side])?;
        let [of_prior, of_decoder] = &self.defaults;
        let (mut steps, mut scales) = (Vec::new(), Vec::new());
        match (prior, &self.priors.diffusion, &self.priors.autoregressive) {
            (Some(PriorKind::Diffusion), Some(stage), _) => {
                steps.push(stage_steps(&stage.scheduler, of_prior, cfg, 0)?);
                scales.push(guidance_scale(of_prior, cfg, 0));
            }
            (Some(PriorKind::Autoregressive), _, Some((_, usual))) => {
                steps.push(Vec::new());
                scales.push(cfg.guidance_scale.first().copied().unwrap_or(usual.guidance_scale));
            }
            _ => {}
        }
        let decoder = &self.decoder.scheduler;
        steps.push(match cfg.latents.is_empty() {
            true => stage_steps(decoder, of_decoder, cfg, before)?,
            false => latent_steps(decoder, of_decoder, cfg, before)?,
        });
        steps.extend(self.upsamplers.steps(cfg, before + 1, count - before - 1)?);
        scales.push(match cfg.latents.iter().any(|latent| latent.noise.is_some()) {
            true => cfg.guidance_scale.get(before).copied().unwrap_or(1.0),
            false => guidance_scale(of_decoder, cfg, before),
        });
        self.check_latents(&cfg.latents, sizes[0])?;
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

    /// The embeddings `[N, E]` that the decoder draws pictures of: the prior's, or those of given pictures or latents.
    fn embeddings(
        &mut self,
        at: (&Device, &ProgramOptions),
        request: &Request,
        captions: &Captions,
        cfg: &mut GenerateConfig<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Vec<f32>> {
        let one_for_all = |given: Vec<f32>, of: usize| if of == 1 { given.repeat(cfg.count) } else { given };
        if !cfg.latents.is_empty() {
            let given = cfg.latents.iter().flat_map(|latent| &latent.embedding).copied().collect();
            return Ok(one_for_all(given, cfg.latents.len()));
        }
        if let (None, Some(encoder)) = (request.prior, &self.pictures) {
            return Ok(one_for_all(encoder.embed(at.0, &cfg.image)?, cfg.image.len()));
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
            return Err(Error::Request("no prior draws where embeddings or pictures are given".into()));
        };
        let (steps, guidance_scale) = (&request.steps[0][..], request.scales[0]);
        let asked = Asked { kind, captions, steps, guidance_scale, stages: request.steps.len() };
        self.priors.draw(at, &asked, cfg, noise)
    }

    /// The decoder for `count` pictures of embeddings `[count, E]` and captions.
    fn conditioned(
        &mut self,
        (device, options): (&Device, &ProgramOptions),
        request: &Request,
        (captions, embeddings): (&Captions, &[f32]),
        count: usize,
    ) -> Result<&mut Denoiser> {
        let shape = self.shape(request, count);
        let (embeds, states) = (halves(&captions.embeds, shape), halves(&captions.states, shape));
        let (context, labels) = self.projection.run(device, embeddings, &embeds, &states)?;
        let extra = self.projection.config.clip_extra_context_tokens;
        let mask = padded_mask(&halves(&captions.mask, shape), self.text.config.context, extra, 0);
        let denoiser = self.decoder.denoiser(device, options, shape)?;
        denoiser.write("context", &context);
        denoiser.write("class_labels", &labels);
        denoiser.write("mask", &mask);
        Ok(denoiser)
    }

    /// The decoder's pictures of embeddings `[N, h, w, 3]`.
    fn decode(
        &mut self,
        at: (&Device, &ProgramOptions),
        request: &Request,
        of: (&Captions, &[f32]),
        cfg: &mut GenerateConfig<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Vec<f32>> {
        let index = request.before();
        let shape = self.shape(request, cfg.count);
        let place = Place { stage: 0, shape, steps: &request.steps[index], sees: false, before: None };
        let mut z = initial_noise(noise, shape);
        let item = z.len() / cfg.count;
        for (i, z) in z.chunks_exact_mut(item).enumerate() {
            let latent = cfg.latents.get(if cfg.latents.len() == 1 { 0 } else { i });
            if let Some(noise) = latent.and_then(|latent| latent.noise.as_ref()) {
                z.copy_from_slice(noise);
            }
        }
        let Start { steps, x, kept } = start(cfg, &place, z)?;
        let denoiser = self.conditioned(at, request, of, cfg.count)?;
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
        self.priors.kinds().len().min(1) + 1 + self.upsamplers.len()
    }

    fn condition(&self) -> Condition {
        if self.priors.kinds().is_empty() { Condition::Picture } else { Condition::Prompt }
    }

    fn varies_pictures(&self) -> bool {
        self.pictures.is_some()
    }

    fn as_unclip(&mut self) -> Option<&mut UnClip> {
        Some(self)
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
        let given = !cfg.image.is_empty() || !cfg.latents.is_empty();
        if request.first == 0 && request.prior.is_none() && !given {
            let what = "this model varies a picture: give it by `--image PICTURE` (GenerateConfig::image)";
            return Err(Error::Request(what.into()));
        }
        let at = (device, options);
        let mut pictures: Vec<f32> = cfg.from.iter().flat_map(|picture| &picture.values).copied().collect();
        if request.first == 0 {
            let captions = self.captions(device, &request, prompt, cfg)?;
            let embeddings = self.embeddings(at, &request, &captions, cfg, noise)?;
            pictures = self.decode(at, &request, (&captions, &embeddings), cfg, noise)?;
            let (width, height) = request.sizes[0];
            if let Some(on_stage) = cfg.on_stage.as_mut().filter(|_| request.sizes.len() > 1) {
                on_stage(request.before(), &Picture::split(&pictures, height, width, 3));
            }
        }
        let pictures = self.upsamplers.run(at, &request.chain(), pictures, cfg, noise)?;
        let (width, height) = request.sizes[request.sizes.len() - 1];
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
                (_, _, Some(encoder)) if cfg.latents.is_empty() => {
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
        networks.extend(self.upsamplers.plan(&request.chain(), cfg.count, on));
        Ok(networks)
    }

    fn networks(&self) -> Vec<(String, Graph, &Weights)> {
        let prior = self.priors.diffusion.iter().map(|prior| ("prior", prior));
        let tokens = self.priors.autoregressive.iter();
        let tokens =
            tokens.map(|(prior, _)| ("prior_ar".to_string(), prior.config.graph(1), prior.weights()));
        prior
            .chain([("decoder", &self.decoder)])
            .map(|(name, stage)| (name.to_string(), stage.kind.graph(), stage.weights()))
            .chain(self.upsamplers.networks())
            .chain(tokens)
            .collect()
    }
}
