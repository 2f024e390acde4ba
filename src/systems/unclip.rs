//! unCLIP (DALL·E 2; Ramesh et al. 2022, arXiv:2204.06125) from Karlo's folders, as diffusers saves them: a prior draws a
//! picture's CLIP embedding for a prompt, a decoder draws a small picture of an embedding, super-resolution enlarges it.
//! `UnCLIPPipeline` begins at a prompt, `UnCLIPImageVariationPipeline` at a picture, whose embedding CLIP sees.
//!
//! Stages, as steps and guidance scales count them: from a prompt, 0 is the prior, 1 the decoder, 2 super-resolution; from
//! a picture, 0 is the decoder, 1 super-resolution, which is never guided. The last step of super-resolution is another
//! network's than those before it.

use super::denoise::{self, Denoiser, Guided, Noise, Shape, StepDone};
use super::start::{Place, Start, start};
use super::{Condition, Run, System, imagen, initial_noise, lent, progress};
use crate::clip::{Image, Preprocessor, Text, read_transformers};
use crate::device::{Device, ProgramOptions, Weights};
use crate::diffusion::{SchedulerConfig, Step};
use crate::error::{Error, Result};
use crate::estimate::{NetworkCost, Target};
use crate::graph::{Graph, Storage};
use crate::guidance::OPTIONS;
use crate::kernels::resample::{Resample, resample};
use crate::layout::Defaults;
use crate::models::check::require;
use crate::models::clip::{self, ImageEncoder};
use crate::models::{prior, text_proj, unet, unet2d};
use crate::picture::Picture;
use crate::request::{
    GenerateConfig, Size, StageSide, first_stage, guidance_scale, stage_count, stage_sizes, stage_steps,
};
use crate::systems::ddpm;
use crate::text::{ClipTokenizer, caption};
use crate::weights::{Checkpoint, read_json};
use std::path::Path;
use std::sync::Arc;

/// Stages that draw pictures: the decoder and super-resolution.
const PICTURE_STAGES: usize = 2;

/// Tokenizer and CLIP's text encoder of a folder.
pub struct TextEncoder {
    /// The encoder's config.
    pub config: clip::text::Config,
    tokenizer: ClipTokenizer,
    weights: Arc<Weights>,
}

/// What the networks see of prompts.
#[derive(Clone, Debug)]
pub struct Captions {
    /// States after the last norm `[prompts, L, E]`.
    pub states: Vec<f32>,
    /// The prompts' embeddings `[prompts, E]`.
    pub embeds: Vec<f32>,
    /// Added to the scores of their tokens `[prompts, L]`: [`prior::HIDDEN`] where there is padding.
    pub mask: Vec<f32>,
    /// A prompt was longer than the tokens it may have.
    pub truncated: bool,
}

impl TextEncoder {
    /// Reads `tokenizer/` and `text_encoder/` of a pipeline's folder; `variant` chooses e.g. the `fp16` files.
    ///
    /// Errors: files that are absent, broken, or of different models.
    pub fn load(folder: &Path, variant: Option<&str>) -> Result<Self> {
        let tokenizer = ClipTokenizer::load(&folder.join("tokenizer"))?;
        let encoder = folder.join("text_encoder");
        let found = read_transformers(folder, &encoder, variant)?.and_then(|parts| parts.text);
        let path = encoder.join("config.json");
        let Some(Text { config, weights, .. }) = found else {
            return Err(Error::file(path, "describes no text encoder of CLIP"));
        };
        let (rows, ids) = (config.vocab_size, tokenizer.vocab_size());
        require(&path, "vocab_size", ids <= rows, || {
            format!("{rows} rows, but the tokenizer has ids up to {}", ids - 1)
        })?;
        Ok(TextEncoder { config, tokenizer, weights })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &ClipTokenizer {
        &self.tokenizer
    }

    /// States and embeddings of prompts. Errors: a prompt that the tokenizer refuses; a device that fails.
    pub fn encode(&self, device: &Device, prompts: &[&str]) -> Result<Captions> {
        let length = self.config.context;
        let (mut ids, mut ends, mut mask, mut truncated) = (Vec::new(), Vec::new(), Vec::new(), false);
        for prompt in prompts {
            let tokens = self.tokenizer.encode(prompt, length)?;
            ends.push(self.config.end.place(&tokens.ids, tokens.len));
            ids.extend(tokens.ids.iter().map(|&id| id as f32));
            mask.extend((0..length).map(|at| if at < tokens.len { 0.0 } else { prior::HIDDEN }));
            truncated |= tokens.truncated;
        }
        let mut program = device.program(self.config.graph(length, &ends), &self.weights, &OPTIONS)?;
        program.write("ids", &ids);
        program.run(&mut |_| true)?;
        let (states, embeds) = (program.read("hidden")?, program.read("embeds")?);
        drop(program);
        self.weights.release_if_large();
        Ok(Captions { states, embeds, mask, truncated })
    }
}

/// CLIP's picture encoder of a folder.
pub struct PictureEncoder {
    /// The encoder's config.
    pub config: ImageEncoder,
    /// How pictures come to its size.
    pub preprocessor: Preprocessor,
    weights: Arc<Weights>,
}

impl PictureEncoder {
    /// Reads `image_encoder/` and, if it is there, `feature_extractor/` of a pipeline's folder.
    ///
    /// Errors: files that are absent, broken, or of different models.
    pub fn load(folder: &Path, variant: Option<&str>) -> Result<Self> {
        let encoder = folder.join("image_encoder");
        let found = read_transformers(folder, &encoder, variant)?.and_then(|parts| parts.image);
        let Some(Image { config, weights, .. }) = found else {
            return Err(Error::file(encoder.join("config.json"), "describes no picture encoder of CLIP"));
        };
        let (path, side) = (folder.join("feature_extractor/preprocessor_config.json"), config.image_size());
        let preprocessor = match path.exists() {
            true => Preprocessor::read(&path, side)?,
            false => Preprocessor::square(side),
        };
        Ok(PictureEncoder { config, preprocessor, weights })
    }

    /// Embeddings of pictures of any size `[pictures, E]`, of no particular length.
    ///
    /// Errors: see [`Preprocessor::apply`]; a device that fails.
    pub fn embed(&self, device: &Device, pictures: &[Picture]) -> Result<Vec<f32>> {
        let mut program = device.program(self.graph(pictures.len()), &self.weights, &OPTIONS)?;
        let mut values = Vec::new();
        for picture in pictures {
            values.extend(self.preprocessor.apply(picture)?.values);
        }
        program.write("x", &values);
        program.run(&mut |_| true)?;
        let embeds = program.read("embeds");
        drop(program);
        self.weights.release_if_large();
        embeds
    }

    fn graph(&self, pictures: usize) -> Graph {
        let (mut g, side) = (Graph::new(), self.config.image_size());
        let x = g.input("x", &[pictures, side, side, 3], Storage::F32);
        let seen = self.config.forward(&mut g, &x, None, false);
        g.output("embeds", &seen.embeds);
        g
    }
}

/// What tells the decoder of a picture's embedding and a caption.
pub struct Projection {
    /// Its config.
    pub config: text_proj::Config,
    weights: Arc<Weights>,
}

impl Projection {
    /// Reads `text_proj/` of a pipeline's folder.
    ///
    /// Errors: files that are absent, broken, or of another network.
    pub fn load(folder: &Path, variant: Option<&str>) -> Result<Self> {
        let folder = folder.join("text_proj");
        let path = folder.join("config.json");
        let config: text_proj::Config = read_json(&path)?;
        config.validate(&path)?;
        let checkpoint = Checkpoint::open(&folder, "diffusion_pytorch_model", variant)?;
        checkpoint.check(config.graph(1, true, 1).weights(), |_| false)?;
        Ok(Projection { config, weights: Arc::new(Weights::new(checkpoint)) })
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Embeddings of pictures `[M, E]`, of captions `[N, E]` and captions' states `[N, L, E]`, N = 2 M with the
    /// unconditional half first where there is guidance → the decoder's `context` `[N, X + L, T]` and `class_labels`
    /// `[N, D]`.
    ///
    /// Errors: a device that fails.
    pub fn run(
        &self,
        device: &Device,
        pictures: &[f32],
        captions: &[f32],
        states: &[f32],
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let columns = self.config.clip_embeddings_dim;
        let (count, tokens) = (pictures.len() / columns, states.len() / captions.len());
        let graph = self.config.graph(count, captions.len() > pictures.len(), tokens);
        let mut program = device.program(graph, &self.weights, &OPTIONS)?;
        program.write("pictures", pictures);
        program.write("captions", captions);
        program.write("states", states);
        program.run(&mut |_| true)?;
        Ok((program.read("context")?, program.read("time")?))
    }
}

/// What a stage's network is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// It draws embeddings.
    Prior(prior::Config),
    /// It draws pictures of embeddings.
    Decoder(unet::Config),
    /// It enlarges pictures.
    SuperResolution(unet2d::Config),
}

impl Kind {
    /// Reads the config of a folder's `part`.
    fn read(path: &Path, part: &str) -> Result<Kind> {
        match part {
            "prior" => {
                let config: prior::Config = read_json(path)?;
                config.validate(path)?;
                Ok(Kind::Prior(config))
            }
            "decoder" => {
                let config: unet::Config = read_json(path)?;
                config.validate(path)?;
                require(path, "class_embed_type", config.takes_embedding(), || {
                    "unCLIP's decoder has `identity`: a picture's embedding joins the time's".into()
                })?;
                Ok(Kind::Decoder(config))
            }
            _ => {
                let config: unet2d::Config = read_json(path)?;
                config.validate(path)?;
                require(path, "in_channels", config.is_super_resolution(), || {
                    format!("{} channels; a super-resolution network takes 6", config.in_channels)
                })?;
                Ok(Kind::SuperResolution(config))
            }
        }
    }

    /// The network alone, to list its weights or to compare devices.
    fn graph(&self) -> Graph {
        match self {
            Kind::Prior(config) => config.graph(),
            Kind::Decoder(config) => imagen::network_graph(config),
            Kind::SuperResolution(config) => ddpm::network_graph(config),
        }
    }

    /// The network as a denoiser records it.
    fn network(&self) -> Box<denoise::Network> {
        match self {
            Kind::Prior(config) => prior_network(config),
            Kind::Decoder(config) => imagen::network(config),
            Kind::SuperResolution(config) => ddpm::network(config),
        }
    }

    /// Channels of its sample and of its output.
    fn channels(&self) -> [usize; 2] {
        match self {
            Kind::Prior(config) => [config.embedding_dim; 2],
            Kind::Decoder(config) => [config.in_channels, config.out_channels],
            Kind::SuperResolution(config) => [config.sample_channels(), config.out_channels],
        }
    }

    fn side(&self) -> StageSide {
        match self {
            Kind::Prior(_) => StageSide { side: 1, multiple: 1 },
            Kind::Decoder(config) => StageSide { side: config.sample_size, multiple: config.size_multiple() },
            Kind::SuperResolution(config) => {
                StageSide { side: config.sample_size, multiple: config.size_multiple() }
            }
        }
    }
}

/// The prior as a denoiser records it. Inputs besides the sample `[N, 1, 1, E]`: `embeds` and `states` of the captions,
/// and the `mask` `[batch, L + 1]`.
pub fn prior_network(config: &prior::Config) -> Box<denoise::Network> {
    let config = config.clone();
    Box::new(move |g, shape, x, t| {
        let (batch, columns, tokens) = (shape.batch(), config.embedding_dim, config.num_embeddings);
        let embeds = g.input("embeds", &[batch, columns], Storage::Elem);
        let states = g.input("states", &[batch, tokens, columns], Storage::Elem);
        let mask = g.input("mask", &[batch, tokens + 1], Storage::F32);
        config.forward(g, &prior::Inputs { x, t, embeds: &embeds, states: &states, mask: &mask })
    })
}

/// A network with the process it was trained for.
pub struct Stage {
    /// The network.
    pub kind: Kind,
    /// How it was trained and is sampled.
    pub scheduler: SchedulerConfig,
    weights: Arc<Weights>,
    denoiser: Option<Denoiser>,
}

impl Stage {
    /// Reads a network's folder, `part` of a pipeline's (`prior`, `decoder`, `super_res_first`, `super_res_last`), and its
    /// scheduler, and checks every tensor.
    ///
    /// Errors: files that are absent, broken, or of another network.
    pub fn load(folder: &Path, part: &str, variant: Option<&str>) -> Result<Self> {
        let scheduler = match part {
            "prior" | "decoder" => format!("{part}_scheduler"),
            _ => "super_res_scheduler".into(),
        };
        let scheduler = SchedulerConfig::read(&folder.join(scheduler).join("scheduler_config.json"))?;
        let folder = folder.join(part);
        let path = folder.join("config.json");
        let kind = Kind::read(&path, part)?;
        let [sample, out] = kind.channels();
        scheduler.fits(&path, sample, out)?;
        let checkpoint = Checkpoint::open(&folder, "diffusion_pytorch_model", variant)?;
        checkpoint.check(kind.graph().weights(), |_| false)?;
        Ok(Stage { kind, scheduler, weights: Arc::new(Weights::new(checkpoint)), denoiser: None })
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The sizes of a run: of pictures of `width` by `height`, or of embeddings, with `tokens` tokens of a caption (and,
    /// for the decoder, of a picture).
    pub fn shape(
        &self,
        steps: &[Step],
        pictures: usize,
        (width, height): Size,
        tokens: usize,
        scale: f64,
    ) -> Shape {
        let (channels, dynamic) = (self.kind.channels()[0], Shape::is_dynamic(steps));
        Shape { pictures, height, width, channels, tokens, guided: scale > 1.0 && tokens > 0, dynamic }
    }

    /// The program for pictures or embeddings of a shape. Its inputs besides the sample: the prior's `embeds`, `states`
    /// and `mask`; the decoder's `context`, `class_labels` and `mask`; super-resolution's `low_res` `[N, H, W, 3]`.
    pub fn denoiser(
        &mut self,
        device: &Device,
        options: &ProgramOptions,
        shape: Shape,
    ) -> Result<&mut Denoiser> {
        let (kind, weights) = (&self.kind, &self.weights);
        Denoiser::reuse(&mut self.denoiser, shape, kind.side().multiple, || {
            Denoiser::new(device, weights, options, shape, kind.network())
        })
    }

    fn release_if_large(&mut self) {
        Denoiser::release_if_large(&mut self.denoiser, &self.weights);
    }

    /// What the prior has drawn `[N, E]` as CLIP has it. Errors: a device that fails.
    pub fn denormalised(&self, device: &Device, drawn: &[f32]) -> Result<Vec<f32>> {
        let Kind::Prior(config) = &self.kind else { return Ok(drawn.to_vec()) };
        let (mut g, columns) = (Graph::new(), config.embedding_dim);
        let x = g.input("x", &[drawn.len() / columns, columns], Storage::Elem);
        let y = config.denormalised(&mut g, &x);
        g.output("y", &y);
        let mut program = device.program(g, &self.weights, &OPTIONS)?;
        program.write("x", drawn);
        program.run(&mut |_| true)?;
        program.read("y")
    }
}

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

/// Where the embeddings come from.
enum Source {
    /// A prompt.
    Prior(Box<Stage>),
    /// A picture.
    Picture(Box<PictureEncoder>),
}

/// A loaded folder.
pub(crate) struct UnClip {
    text: TextEncoder,
    source: Source,
    projection: Projection,
    decoder: Stage,
    /// The network of all steps but the last, and the last one's.
    super_resolution: [Stage; 2],
    /// By stage.
    defaults: Vec<Defaults>,
}

/// A run's sizes and steps.
struct Request {
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
    /// Reads every part of a pipeline's folder, which begins at a picture or at a prompt.
    pub(crate) fn load(folder: &Path, from_picture: bool, variant: Option<&str>) -> Result<Self> {
        let text = TextEncoder::load(folder, variant)?;
        let projection = Projection::load(folder, variant)?;
        let decoder = Stage::load(folder, "decoder", variant)?;
        let stage = |part: &str| Stage::load(folder, part, variant);
        let super_resolution = [stage("super_res_first")?, stage("super_res_last")?];
        let source = match from_picture {
            true => Source::Picture(Box::new(PictureEncoder::load(folder, variant)?)),
            false => Source::Prior(Box::new(stage("prior")?)),
        };
        let all = [Defaults::of(25, 4.0, 0), Defaults::of(25, 8.0, 0), Defaults::of(7, 1.0, 0)];
        let defaults = all[usize::from(from_picture)..].to_vec();
        let model = UnClip { text, source, projection, decoder, super_resolution, defaults };
        model.check(folder)?;
        Ok(model)
    }

    /// Refuses parts that are not of one model.
    fn check(&self, folder: &Path) -> Result<()> {
        let file = |part: &str| folder.join(part).join("config.json");
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
        match &self.source {
            Source::Picture(encoder) => {
                same("image_encoder", "projection_dim", encoder.config.embed(), "text_proj", columns)
            }
            Source::Prior(stage) => {
                let Kind::Prior(prior) = &stage.kind else { return Ok(()) };
                same("prior", "embedding_dim", prior.embedding_dim, "text_proj", columns)?;
                same("prior", "num_embeddings", prior.num_embeddings, "the text encoder", text.context)
            }
        }
    }

    /// Stages before those that draw pictures: the prior, if there is one.
    fn before(&self) -> usize {
        self.defaults.len() - PICTURE_STAGES
    }

    /// A stage, by its index in a run.
    fn stage(&self, index: usize) -> &Stage {
        match (&self.source, index.checked_sub(self.before())) {
            (Source::Prior(prior), None) => prior,
            (_, Some(0) | None) => &self.decoder,
            (_, Some(_)) => &self.super_resolution[0],
        }
    }

    fn request(&self, cfg: &GenerateConfig<'_>) -> Result<Request> {
        let (before, stages) = (self.before(), self.defaults.len());
        let count = stage_count(cfg, stages)?;
        if count <= before {
            let what =
                format!("stage 1 is the prior, which draws no picture: give {} or {stages}", before + 1);
            return Err(Error::Request(format!("{count} stages: {what}")));
        }
        let sides: Vec<StageSide> = (before..count).map(|i| self.stage(i).kind.side()).collect();
        let sizes = stage_sizes(&sides, cfg.size)?;
        let first = first_stage(cfg, &sizes)?;
        let steps = (0..count).map(|i| stage_steps(&self.stage(i).scheduler, &self.defaults[i], cfg, i));
        let scale = |i: usize| guidance_scale(&self.defaults[i], cfg, i);
        Ok(Request {
            first,
            sizes,
            steps: steps.collect::<Result<_>>()?,
            scales: (0..count).map(scale).collect(),
        })
    }

    /// The sizes of a stage's run.
    fn shape(&self, request: &Request, index: usize, pictures: usize) -> Shape {
        let tokens = self.text.config.context;
        let (size, tokens) = match index.checked_sub(self.before()) {
            None => ((1, 1), tokens),
            Some(0) => (request.sizes[0], tokens + self.projection.config.clip_extra_context_tokens),
            Some(at) => (request.sizes[at], 0),
        };
        self.stage(index).shape(&request.steps[index], pictures, size, tokens, request.scales[index])
    }

    /// The prompt and what takes the place of none, as the networks see them; both empty where a picture is varied.
    fn captions(&self, device: &Device, prompt: &str, cfg: &GenerateConfig<'_>) -> Result<Captions> {
        let prompts = match &self.source {
            Source::Picture(_) => [String::new(), String::new()],
            Source::Prior(_) => [&cfg.negative_prompt, prompt].map(|text| match cfg.clean_caption {
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
        (device, options): (&Device, &ProgramOptions),
        request: &Request,
        captions: &Captions,
        cfg: &mut GenerateConfig<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Vec<f32>> {
        let (shape, length) = (self.shape(request, 0, cfg.count), self.text.config.context);
        let prior = match &mut self.source {
            Source::Prior(prior) => prior,
            Source::Picture(encoder) => {
                let embeds = encoder.embed(device, &cfg.image)?;
                return Ok(if cfg.image.len() == 1 { embeds.repeat(cfg.count) } else { embeds });
            }
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

    /// The decoder's pictures of embeddings `[N, h, w, 3]`.
    fn decode(
        &mut self,
        (device, options): (&Device, &ProgramOptions),
        request: &Request,
        (captions, embeddings): (&Captions, &[f32]),
        cfg: &mut GenerateConfig<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Vec<f32>> {
        let index = self.before();
        let shape = self.shape(request, index, cfg.count);
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

    /// The decoder's pictures enlarged `[N, H, W, 3]`.
    fn enlarge(
        &mut self,
        (device, options): (&Device, &ProgramOptions),
        request: &Request,
        small: &[f32],
        cfg: &mut GenerateConfig<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Vec<f32>> {
        let index = self.before() + 1;
        let shape = self.shape(request, index, cfg.count);
        // It is led by the small picture, in which all that is kept is to be seen.
        let before = Some((small, request.sizes[0]));
        let place = Place { stage: 1, shape, steps: &request.steps[index], sees: true, before };
        let Start { steps, mut x, kept } = start(cfg, &place, initial_noise(noise, shape))?;
        let low_res = enlarged(device, small, request.sizes[0], shape)?;
        let mut on_step = progress(cfg.on_progress.as_mut(), (index, request.steps.len()), request.sizes[1]);
        let (first, last) = steps.split_at(steps.len().saturating_sub(1));
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
        self.defaults.len()
    }

    fn condition(&self) -> Condition {
        match self.source {
            Source::Prior(_) => Condition::Prompt,
            Source::Picture(_) => Condition::Picture,
        }
    }

    fn fewest_steps(&self) -> usize {
        // Super-resolution's networks share two; UnCLIP's scheduler spaces no fewer.
        2
    }

    fn sizes(&self, cfg: &GenerateConfig<'_>) -> Result<Vec<Size>> {
        Ok(self.request(cfg)?.sizes)
    }

    fn draw(&mut self, run: Run<'_, '_>) -> Result<Vec<Picture>> {
        let Run { device, options, prompt, cfg, noise } = run;
        let request = self.request(cfg)?;
        if request.first == 0 && self.condition() == Condition::Picture && cfg.image.is_empty() {
            let what = "this model varies a picture: give it by `--image PICTURE` (GenerateConfig::image)";
            return Err(Error::Request(what.into()));
        }
        let at = (device, options);
        let ((mut width, mut height), mut pictures) = (request.sizes[0], Vec::new());
        if request.first == 0 {
            let captions = self.captions(device, prompt, cfg)?;
            let embeddings = self.embeddings(at, &request, &captions, cfg, noise)?;
            pictures = self.decode(at, &request, (&captions, &embeddings), cfg, noise)?;
        } else {
            pictures.extend(cfg.from.iter().flat_map(|picture| &picture.values));
        }
        if let Some(size) = request.sizes.get(1) {
            if let Some(on_stage) = cfg.on_stage.as_mut().filter(|_| request.first == 0) {
                on_stage(self.before(), &Picture::split(&pictures, height, width, 3));
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
        let (before, mut networks) = (self.before(), Vec::new());
        if request.first == 0 {
            networks.push(NetworkCost::of_text(self.text.config.graph(tokens, &[0; imagen::PROMPTS]), on));
            networks.push(match &self.source {
                Source::Prior(prior) => cost("prior", prior, 0, steps(0)),
                Source::Picture(encoder) => {
                    let pictures = cfg.image.len().max(1);
                    let sizes = format!("{pictures} pictures of {0}x{0}", encoder.config.image_size());
                    NetworkCost::of_once("picture encoder", sizes, encoder.graph(pictures), on)
                }
            });
            let guided = self.shape(&request, before, cfg.count).guided;
            let graph = self.projection.config.graph(cfg.count, guided, tokens);
            let sizes = format!("{} embeddings", cfg.count);
            networks.push(NetworkCost::of_once("text projection", sizes, graph, on));
            networks.push(cost("decoder", &self.decoder, before, steps(before)));
        }
        if request.sizes.len() == PICTURE_STAGES {
            let [first, last] = &self.super_resolution;
            let all = steps(before + 1);
            networks.push(cost("super-resolution", first, before + 1, all - 1));
            networks.push(cost("super-resolution, last step", last, before + 1, 1));
        }
        Ok(networks)
    }

    fn networks(&self) -> Vec<(String, Graph, &Weights)> {
        let mut stages = vec![("decoder", &self.decoder)];
        if let Source::Prior(prior) = &self.source {
            stages.insert(0, ("prior", prior));
        }
        let [first, last] = &self.super_resolution;
        stages.extend([("super_res_first", first), ("super_res_last", last)]);
        stages.iter().map(|(name, stage)| (name.to_string(), stage.kind.graph(), stage.weights())).collect()
    }
}
