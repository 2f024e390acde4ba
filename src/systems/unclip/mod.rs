//! unCLIP (DALL·E 2; Ramesh et al. 2022, arXiv:2204.06125) from Karlo's folders, as diffusers saves them: a prior draws a
//! picture's CLIP embedding for a prompt, a decoder draws a small picture of an embedding, super-resolution enlarges it.
//! `UnCLIPPipeline` begins at a prompt, `UnCLIPImageVariationPipeline` at a picture, whose embedding CLIP sees.
//!
//! Stages, as steps and guidance scales count them: from a prompt, 0 is the prior, 1 the decoder, 2 super-resolution; from
//! a picture, 0 is the decoder, 1 super-resolution, which is never guided. The last step of super-resolution is another
//! network's than those before it.

mod ar_prior;
mod encoders;
mod latents;
mod projection;
mod stage;

pub use ar_prior::{AutoregressivePrior, TokenDecoder};
pub use encoders::{Captions, PictureEncoder, TextEncoder};
pub use projection::Projection;
pub use stage::{Kind, Stage, prior_network};

use super::denoise::{Denoiser, Guided, Noise, Shape, StepDone};
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
use crate::models::pca::Pca;
use crate::picture::Picture;
use crate::request::{GenerateConfig, Size, guidance_scale, latent_steps, stage_steps};
use crate::text::caption;
use crate::weights::Checkpoint;
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
    /// Draws embeddings for a prompt.
    prior: Option<Stage>,
    /// Sees the embeddings of pictures.
    pictures: Option<PictureEncoder>,
    projection: Projection,
    decoder: Stage,
    /// Super-resolution, and what enlarges its pictures further.
    upsamplers: Upsamplers,
    /// The principal components of embeddings, which the autoregressive prior's folder has.
    axes: Option<Pca>,
    /// Of prior and decoder.
    defaults: [Defaults; 2],
}

/// A run's sizes and steps.
struct Request {
    /// Stages before those that draw pictures: the prior, unless pictures are varied.
    before: usize,
    /// The first stage of those that draw pictures: 0, or a later one where pictures to go on from are given.
    first: usize,
    /// Of the decoder's pictures and of each upsampler's that runs.
    sizes: Vec<Size>,
    /// By stage.
    steps: Vec<Vec<Step>>,
    /// Guidance scales of prior and decoder.
    scales: Vec<f64>,
}

impl Request {
    /// What comes after the decoder.
    fn chain(&self) -> Chain<'_> {
        let before = self.before + 1;
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
        let prior = files.prior.as_ref().map(|folder| Stage::load(folder, "prior", variant)).transpose()?;
        let axes = Some(folder.join("prior_ar"))
            .filter(|folder| folder.is_dir())
            .map(|folder| Pca::read(&Checkpoint::open(&folder, "diffusion_pytorch_model", variant)?));
        let axes = axes.transpose()?;
        let [defaults @ .., enlarging] = files.defaults.clone();
        let upsampler = Upsampler::load_karlo(folder, files.one_for_all_steps, variant)?;
        let upsamplers = Upsamplers::load(&files.upsamplers, variant)?.after(upsampler, enlarging);
        let model = UnClip { text, prior, pictures, projection, decoder, axes, upsamplers, defaults };
        model.check(files)?;
        Ok(model)
    }

    /// Refuses parts that are not of one model.
    fn check(&self, files: &UnClipFiles) -> Result<()> {
        let of = |folder: &Path, part: &str| folder.join(part).join("config.json");
        let file = |part: &str| match (part, &files.prior, &files.pictures) {
            ("prior", Some(folder), _) | ("image_encoder", _, Some(folder)) => of(folder, part),
            _ => of(&files.folder, part),
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
        if let Some(axes) = &self.axes {
            same("prior_ar", "embedding_dim", axes.columns(), "text_proj", columns)?;
        }
        if let Some(Kind::Prior(prior)) = self.prior.as_ref().map(|stage| &stage.kind) {
            same("prior", "embedding_dim", prior.embedding_dim, "text_proj", columns)?;
            same("prior", "num_embeddings", prior.num_embeddings, "the text encoder", text.context)?;
        }
        Ok(())
    }

    /// The stages of a run before the upsamplers, in order, with their defaults.
    fn own_stages(&self, before: usize) -> impl Iterator<Item = (&Stage, &Defaults)> {
        let [prior, decoder] = &self.defaults;
        let prior = self.prior.iter().map(move |stage| (stage, prior));
        prior.take(before).chain([(&self.decoder, decoder)])
    }

    fn request(&self, cfg: &GenerateConfig<'_>) -> Result<Request> {
        let before = usize::from(self.prior.is_some() && cfg.image.is_empty() && cfg.latents.is_empty());
        let side = self.decoder.kind.side();
        if let Some(count) = cfg.stages.filter(|count| (1..=before).contains(count)) {
            let what = format!("stage 1 is the prior, which draws no picture: give {} or more", before + 1);
            return Err(Error::Request(format!("{count} stages: {what}")));
        }
        let Stages { count, sizes, first } = self.upsamplers.stages(cfg, before, &[side])?;
        let own = || self.own_stages(before).enumerate();
        let from_latents = |i: usize| i == before && !cfg.latents.is_empty();
        let steps = own().map(|(i, (stage, defaults))| match from_latents(i) {
            true => latent_steps(&stage.scheduler, defaults, cfg, i),
            false => stage_steps(&stage.scheduler, defaults, cfg, i),
        });
        let mut steps = steps.collect::<Result<Vec<_>>>()?;
        steps.extend(self.upsamplers.steps(cfg, before + 1, count - before - 1)?);
        let inverted = cfg.latents.iter().any(|latent| latent.noise.is_some());
        let scales = own().map(|(i, (_, defaults))| match from_latents(i) && inverted {
            true => cfg.guidance_scale.get(i).copied().unwrap_or(1.0),
            false => guidance_scale(defaults, cfg, i),
        });
        let scales = scales.collect();
        self.check_latents(&cfg.latents, sizes[0])?;
        Ok(Request { before, first, sizes, steps, scales })
    }

    /// The sizes of the prior's or the decoder's run.
    fn shape(&self, request: &Request, index: usize, pictures: usize) -> Shape {
        let tokens = self.text.config.context;
        let (stage, size, tokens) = match (&self.prior, index.checked_sub(request.before)) {
            (Some(prior), None) => (prior, (1, 1), tokens),
            _ => {
                let tokens = tokens + self.projection.config.clip_extra_context_tokens;
                (&self.decoder, request.sizes[0], tokens)
            }
        };
        stage.shape(&request.steps[index], pictures, size, tokens, request.scales[index])
    }

    /// The prompt and what takes the place of none, as the networks see them; both empty where a picture is varied.
    fn captions(
        &self,
        device: &Device,
        request: &Request,
        prompt: &str,
        cfg: &GenerateConfig<'_>,
    ) -> Result<Captions> {
        let prompts = match request.before {
            0 => [String::new(), String::new()],
            _ => [&cfg.negative_prompt, prompt].map(|text| match cfg.clean_caption {
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
        (device, options): (&Device, &ProgramOptions),
        request: &Request,
        captions: &Captions,
        cfg: &mut GenerateConfig<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Vec<f32>> {
        let (shape, length) = (self.shape(request, 0, cfg.count), self.text.config.context);
        let one_for_all = |given: Vec<f32>, of: usize| if of == 1 { given.repeat(cfg.count) } else { given };
        if !cfg.latents.is_empty() {
            let given = cfg.latents.iter().flat_map(|latent| &latent.embedding).copied().collect();
            return Ok(one_for_all(given, cfg.latents.len()));
        }
        let prior = match (&mut self.prior, &self.pictures) {
            (_, Some(encoder)) if request.before == 0 => {
                return Ok(one_for_all(encoder.embed(device, &cfg.image)?, cfg.image.len()));
            }
            (Some(prior), _) => prior,
            (None, _) => return Err(Error::Request("this model has no prior: give it a picture".into())),
        };
        let x = initial_noise(noise, shape);
        let denoiser = prior.denoiser(device, options, shape)?;
        denoiser.write("embeds", &halves(&captions.embeds, shape));
        denoiser.write("states", &halves(&captions.states, shape));
        denoiser.write("mask", &padded_mask(&halves(&captions.mask, shape), length, 0, 1));
        let mut guided = Guided::classifier_free(request.scales[0]);
        let mut on_step = progress(cfg.on_progress.as_mut(), (0, request.steps.len()), (1, 1));
        // An embedding is no picture to show.
        let mut blind = |step: StepDone<'_>| on_step(StepDone { estimate: None, ..step });
        let drawn = denoiser.sample(&request.steps[0], &mut guided, noise, x, &mut blind)?;
        let embeddings = prior.denormalised(device, &drawn);
        prior.release_if_large();
        embeddings
    }

    /// The decoder for `count` pictures of embeddings `[count, E]` and captions.
    fn conditioned(
        &mut self,
        (device, options): (&Device, &ProgramOptions),
        request: &Request,
        (captions, embeddings): (&Captions, &[f32]),
        count: usize,
    ) -> Result<&mut Denoiser> {
        let shape = self.shape(request, request.before, count);
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
        let index = request.before;
        let shape = self.shape(request, index, cfg.count);
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
        self.own_stages(1).count() + self.upsamplers.len()
    }

    fn condition(&self) -> Condition {
        if self.prior.is_some() { Condition::Prompt } else { Condition::Picture }
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
        if request.first == 0 && self.prior.is_none() && cfg.image.is_empty() && cfg.latents.is_empty() {
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
                on_stage(request.before, &Picture::split(&pictures, height, width, 3));
            }
        }
        let pictures = self.upsamplers.run(at, &request.chain(), pictures, cfg, noise)?;
        let (width, height) = request.sizes[request.sizes.len() - 1];
        Ok(Picture::split(&pictures, height, width, 3))
    }

    fn plan(&self, cfg: &GenerateConfig<'_>, on: &Target) -> Result<Vec<NetworkCost>> {
        let (request, tokens) = (self.request(cfg)?, self.text.config.context);
        let cost = |name: &str, stage: &Stage, index: usize, steps: usize| {
            let shape = self.shape(&request, index, cfg.count);
            NetworkCost::of_denoiser(name, shape, steps, &stage.kind.network(), on)
        };
        let steps = |index: usize| request.steps[index].len();
        let (before, mut networks) = (request.before, Vec::new());
        if request.first == 0 {
            networks.push(NetworkCost::of_text(self.text.config.graph(tokens, &[0; imagen::PROMPTS]), on));
            match (&self.prior, &self.pictures) {
                (_, Some(encoder)) if before == 0 && cfg.latents.is_empty() => {
                    let pictures = cfg.image.len().max(1);
                    let sizes = format!("{pictures} pictures of {0}x{0}", encoder.config.image_size());
                    networks.push(NetworkCost::of_once(
                        "picture encoder",
                        sizes,
                        encoder.graph(pictures),
                        on,
                    ));
                }
                (Some(prior), _) => networks.push(cost("prior", prior, 0, steps(0))),
                _ => {}
            }
            let guided = self.shape(&request, before, cfg.count).guided;
            let graph = self.projection.config.graph(cfg.count, guided, tokens);
            let sizes = format!("{} embeddings", cfg.count);
            networks.push(NetworkCost::of_once("text projection", sizes, graph, on));
            networks.push(cost("decoder", &self.decoder, before, steps(before)));
        }
        networks.extend(self.upsamplers.plan(&request.chain(), cfg.count, on));
        Ok(networks)
    }

    fn networks(&self) -> Vec<(String, Graph, &Weights)> {
        let prior = self.prior.iter().map(|prior| ("prior", prior));
        prior
            .chain([("decoder", &self.decoder)])
            .map(|(name, stage)| (name.to_string(), stage.kind.graph(), stage.weights()))
            .chain(self.upsamplers.networks())
            .collect()
    }
}
