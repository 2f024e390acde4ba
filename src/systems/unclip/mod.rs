//! unCLIP (DALL·E 2; Ramesh et al. 2022, arXiv:2204.06125) from Karlo's folders, as diffusers saves them: a prior draws a
//! picture's CLIP embedding for a prompt, a decoder draws a small picture of an embedding, super-resolution enlarges it.
//! `UnCLIPPipeline` begins at a prompt, `UnCLIPImageVariationPipeline` at a picture, whose embedding CLIP sees.
//!
//! Stages, as steps and guidance scales count them: from a prompt, 0 is the prior, 1 the decoder, 2 super-resolution; from
//! a picture, 0 is the decoder, 1 super-resolution, which is never guided. The last step of super-resolution is another
//! network's than those before it.

mod encoders;
mod latents;
mod projection;
mod stage;

pub use encoders::{Captions, PictureEncoder, TextEncoder};
pub use projection::Projection;
pub use stage::{Kind, Stage, prior_network};

use super::denoise::{Denoiser, Guided, Noise, Shape, StepDone};
use super::start::{Place, Start, start};
use super::{Condition, Run, System, imagen, initial_noise, lent, progress};
use crate::clip::Clip;
use crate::device::{Device, ProgramOptions, Weights};
use crate::diffusion::Step;
use crate::error::{Error, Result};
use crate::estimate::{NetworkCost, Target};
use crate::graph::{Graph, Storage};
use crate::guidance::OPTIONS;
use crate::kernels::resample::{Resample, resample};
use crate::layout::{Defaults, UnClipFiles};
use crate::models::check::require;
use crate::models::pca::Pca;
use crate::picture::Picture;
use crate::request::{
    GenerateConfig, Size, StageSide, first_stage, guidance_scale, latent_steps, stage_count, stage_sizes,
    stage_steps,
};
use crate::text::caption;
use crate::weights::Checkpoint;
use std::path::Path;

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
    /// The principal components of embeddings, which the autoregressive prior's folder has.
    axes: Option<Pca>,
    /// The network of all steps, or of all but the last, and then the last one's.
    super_resolution: Vec<Stage>,
    /// Of prior, decoder and super-resolution.
    defaults: [Defaults; 3],
}

/// A run's sizes and steps.
struct Request {
    /// Stages before those that draw pictures: the prior, unless pictures are varied.
    before: usize,
    /// The first stage of those that draw pictures: 0, or 1 where a picture of the decoder is given.
    first: usize,
    /// Of the decoder's pictures and, if it runs, of super-resolution's.
    sizes: Vec<Size>,
    /// By stage.
    steps: Vec<Vec<Step>>,
    /// Guidance scales by stage.
    scales: Vec<f64>,
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
        let count = if files.one_for_all_steps { 1 } else { 2 };
        let parts = ["super_res_first", "super_res_last"].into_iter().take(count);
        let super_resolution = parts.map(|part| Stage::load(folder, part, variant)).collect::<Result<_>>()?;
        let prior = files.prior.as_ref().map(|folder| Stage::load(folder, "prior", variant)).transpose()?;
        let axes = Some(folder.join("prior_ar"))
            .filter(|folder| folder.is_dir())
            .map(|folder| Pca::read(&Checkpoint::open(&folder, "diffusion_pytorch_model", variant)?));
        let (defaults, axes) = (files.defaults.clone(), axes.transpose()?);
        let model = UnClip { text, prior, pictures, projection, decoder, axes, super_resolution, defaults };
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

    /// The stages of a run, in order, with their defaults.
    fn run_stages(&self, before: usize) -> impl Iterator<Item = (&Stage, &Defaults)> {
        let [prior, decoder, enlarger] = &self.defaults;
        let prior = self.prior.iter().map(move |stage| (stage, prior));
        let enlargers = self.super_resolution.iter().take(1).map(move |stage| (stage, enlarger));
        prior.take(before).chain([(&self.decoder, decoder)]).chain(enlargers)
    }

    fn request(&self, cfg: &GenerateConfig<'_>) -> Result<Request> {
        let before = usize::from(self.prior.is_some() && cfg.image.is_empty() && cfg.latents.is_empty());
        let stages: Vec<(&Stage, &Defaults)> = self.run_stages(before).collect();
        let count = stage_count(cfg, stages.len())?;
        if count <= before {
            let (least, most) = (before + 1, stages.len());
            let what = format!("stage 1 is the prior, which draws no picture: give {least} or {most}");
            return Err(Error::Request(format!("{count} stages: {what}")));
        }
        let stages = &stages[..count];
        let sides: Vec<StageSide> = stages[before..].iter().map(|(stage, _)| stage.kind.side()).collect();
        let sizes = stage_sizes(&sides, cfg.size)?;
        let first = first_stage(cfg, &sizes)?;
        let numbered = || stages.iter().enumerate();
        let from_latents = |i: usize| i == before && !cfg.latents.is_empty();
        let steps = numbered().map(|(i, (stage, defaults))| match from_latents(i) {
            true => latent_steps(&stage.scheduler, defaults, cfg, i),
            false => stage_steps(&stage.scheduler, defaults, cfg, i),
        });
        let inverted = cfg.latents.iter().any(|latent| latent.noise.is_some());
        let scales = numbered().map(|(i, (_, defaults))| match from_latents(i) && inverted {
            true => cfg.guidance_scale.get(i).copied().unwrap_or(1.0),
            false => guidance_scale(defaults, cfg, i),
        });
        self.check_latents(&cfg.latents, sizes[0])?;
        Ok(Request { before, first, sizes, steps: steps.collect::<Result<_>>()?, scales: scales.collect() })
    }

    /// The sizes of a stage's run.
    fn shape(&self, request: &Request, index: usize, pictures: usize) -> Shape {
        let tokens = self.text.config.context;
        let (stage, size, tokens) = match (&self.prior, index.checked_sub(request.before)) {
            (Some(prior), None) => (prior, (1, 1), tokens),
            (_, Some(0) | None) => {
                let tokens = tokens + self.projection.config.clip_extra_context_tokens;
                (&self.decoder, request.sizes[0], tokens)
            }
            (_, Some(at)) => (&self.super_resolution[0], request.sizes[at], 0),
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

    /// The decoder's pictures enlarged `[N, H, W, 3]`.
    fn enlarge(
        &mut self,
        (device, options): (&Device, &ProgramOptions),
        request: &Request,
        small: &[f32],
        cfg: &mut GenerateConfig<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Vec<f32>> {
        let index = request.before + 1;
        let shape = self.shape(request, index, cfg.count);
        // It is led by the small picture, in which all that is kept is to be seen.
        let before = Some((small, request.sizes[0]));
        let place = Place { stage: 1, shape, steps: &request.steps[index], sees: true, before };
        let Start { steps, mut x, kept } = start(cfg, &place, initial_noise(noise, shape))?;
        let low_res = enlarged(device, small, request.sizes[0], shape)?;
        let mut on_step = progress(cfg.on_progress.as_mut(), (index, request.steps.len()), request.sizes[1]);
        let (first, last) = steps.split_at(steps.len() - (self.super_resolution.len() - 1).min(steps.len()));
        let mut done = 0.0;
        for (stage, part) in self.super_resolution.iter_mut().zip([first, last]) {
            if part.is_empty() {
                continue;
            }
            let denoiser = stage.denoiser(device, options, shape)?;
            denoiser.write("low_res", &low_res);
            let mut guided = Guided { kept: kept.clone(), ..Guided::classifier_free(1.0) };
            let mut of_both = |step: StepDone<'_>| {
                on_step(StepDone { done: done + step.done, steps: steps.len(), estimate: step.estimate })
            };
            x = denoiser.sample(part, &mut guided, noise, x, &mut of_both)?;
            stage.release_if_large();
            done += part.len() as f32;
        }
        Ok(x)
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
        self.run_stages(1).count()
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
                on_stage(request.before, &Picture::split(&pictures, height, width, 3));
            }
            pictures = self.enlarge(at, &request, &pictures, cfg, noise)?;
            (width, height) = *size;
        }
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
        if request.sizes.len() > 1 {
            let index = before + 1;
            match &self.super_resolution[..] {
                [first, last] => {
                    networks.push(cost("super-resolution", first, index, steps(index) - 1));
                    networks.push(cost("super-resolution, last step", last, index, 1));
                }
                all => {
                    networks.extend(all.iter().map(|one| cost("super-resolution", one, index, steps(index))))
                }
            }
        }
        Ok(networks)
    }

    fn networks(&self) -> Vec<(String, Graph, &Weights)> {
        let prior = self.prior.iter().map(|prior| ("prior", prior));
        let enlargers = ["super_res_first", "super_res_last"].into_iter().zip(&self.super_resolution);
        prior
            .chain([("decoder", &self.decoder)])
            .chain(enlargers)
            .map(|(name, stage)| (name.to_string(), stage.kind.graph(), stage.weights()))
            .collect()
    }
}
