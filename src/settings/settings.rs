//! The settings of a run.

use super::events::{Callback, CancelToken, OnProgress, OnStage, Progress};
use super::guidance::{Guidance, Guide};
use super::latent::{Latent, PromptEmbeds};
use super::per_stage::PerStage;
use super::source::{GlideSettings, SeedChoice, Source, Start, SystemSettings, UnClipSettings};
use crate::diffusion::repaint::Resampling;
use crate::diffusion::{Sampler, Thresholding};
use crate::picture::{Mask, Picture};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};

/// What is drawn, and how. What is unset is the model's own.
///
/// Plain data: cloned, sent to another thread, written down and read again by serde, but for the functions in it, which
/// clones share and serde leaves out.
///
/// ```
/// # use ancestral::Settings;
/// let settings = Settings::new().seed(7).steps(25).guidance_scale(4.0).count(2);
/// let by_name = Settings::new().steps([("decoder", 10), ("upscaler", 3)]);
/// ```
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Settings {
    /// What the picture is made from.
    pub source: Source,
    /// Where its steps begin.
    pub start: Start,
    /// What the picture should not show, in place of the empty prompt: none, one for all, or one for each.
    pub negative_prompts: Vec<String>,
    /// Seeds of the noise.
    pub seeds: SeedChoice,
    /// Pictures drawn at once; as many as there are prompts, seeds or pictures in lists if unset.
    pub count: Option<usize>,
    /// Width and height of the final picture.
    pub size: Option<(usize, usize)>,
    /// How many stages run.
    pub stages: Option<usize>,
    /// Denoising steps by stage.
    pub steps: PerStage<usize>,
    /// Visited timesteps by stage, in OpenAI's notation.
    pub respacing: PerStage<String>,
    /// Guidance scales by stage.
    pub guidance_scale: PerStage<f64>,
    /// The sampler of every stage.
    pub sampler: Option<Sampler>,
    /// DDIM's η.
    pub eta: Option<f64>,
    /// Clipping or dynamic thresholding of x̂₀ in every stage.
    pub thresholding: Option<Thresholding>,
    /// The share of the steps that are taken from a picture that the run begins at.
    pub strength: Option<f64>,
    /// How often RePaint goes through each stretch of the first stage's steps.
    pub resampling: Resampling,
    /// Whether prompts are cleaned as DeepFloyd IF does.
    pub clean_caption: bool,
    /// What one system alone knows.
    pub system: Option<SystemSettings>,
    #[serde(skip)]
    pub(crate) guides: Vec<Guide>,
    #[serde(skip)]
    pub(crate) on_progress: Option<OnProgress>,
    #[serde(skip)]
    pub(crate) on_stage: Option<OnStage>,
    #[serde(skip)]
    pub(crate) cancel: Option<CancelToken>,
}

impl Settings {
    /// One picture, seed 0, the model's defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Seed of the noise; picture i of several takes `seed + i`.
    ///
    /// On one machine (the same build, device, driver and width of vectors) a picture's bits follow from its seed and settings
    /// alone: not from the pictures drawn beside it, the number of threads, or earlier runs. On a GPU the kernels that were
    /// measured to be fastest are part of that: [`Engine::tune`](crate::Engine::tune) anew may change the last digits. Elsewhere
    /// the noise is the same, bit for bit, and the picture but for rounding.
    pub fn seed(self, seed: u64) -> Self {
        Settings { seeds: SeedChoice::From(seed), ..self }
    }

    /// A seed for each picture.
    pub fn seeds(self, seeds: impl Into<Vec<u64>>) -> Self {
        Settings { seeds: SeedChoice::Each(seeds.into()), ..self }
    }

    /// Pictures drawn at once; unset, as many as there are prompts, seeds or pictures in lists.
    pub fn count(self, count: usize) -> Self {
        Settings { count: Some(count), ..self }
    }

    /// Denoising steps by stage: `25` is the first stage's, `[25, 10]` the first two's, `[("decoder", 10)]` that one's. Of
    /// unCLIP the first is the prior, where it follows a prompt, then come decoder and super-resolution; an autoregressive
    /// prior's are its components, whatever is said.
    pub fn steps(self, steps: impl Into<PerStage<usize>>) -> Self {
        Settings { steps: steps.into(), ..self }
    }

    /// Which of the training's timesteps are visited, by stage, in OpenAI's notation: `250`, `20,10,5` (so many of each
    /// equal section), `ddim25` (a whole stride), `fast27`. It goes before [`Settings::steps`].
    pub fn respacing(self, respacing: impl Into<PerStage<String>>) -> Self {
        Settings { respacing: respacing.into(), ..self }
    }

    /// Guidance scale by stage, counted as [`Settings::steps`] are. Classifier-free guidance begins above 1, classifier
    /// guidance above 0.
    pub fn guidance_scale(self, scale: impl Into<PerStage<f64>>) -> Self {
        Settings { guidance_scale: scale.into(), ..self }
    }

    /// Several prompts, one for each picture, in place of the argument; of a class-conditional model, classes.
    pub fn prompts<T: Into<String>>(mut self, prompts: impl IntoIterator<Item = T>) -> Self {
        let given = prompts.into_iter().map(Into::into).collect();
        match &mut self.source {
            Source::Stage { prompts, .. } => *prompts = given,
            source => *source = Source::Prompts(given),
        }
        self
    }

    /// What a class-conditional model or a classifier-guided one draws: one class for all pictures, or one for each, by
    /// name or number.
    pub fn classes<T: ToString>(mut self, classes: impl IntoIterator<Item = T>) -> Self {
        let given = classes.into_iter().map(|class| class.to_string()).collect();
        match &mut self.source {
            Source::Stage { prompts, .. } => *prompts = given,
            source => *source = Source::Classes(given),
        }
        self
    }

    /// The picture that a model of image variation (Karlo's) draws others of: see [`Source::Image`].
    pub fn image(self, pictures: impl Into<Vec<Picture>>) -> Self {
        Settings { source: Source::Image(pictures.into()), ..self }
    }

    /// unCLIP: what its decoder draws, in place of a prompt or a picture. The decoder then runs by DDIM; where a latent
    /// brings its noise, on timesteps of its own, unguided and unclipped unless the caller says otherwise, as the noise was
    /// found.
    pub fn latents(self, latents: impl Into<Vec<Latent>>) -> Self {
        Settings { source: Source::Latents(latents.into()), ..self }
    }

    /// Text states in place of prompts, as [`Engine::encode_prompts`](crate::Engine::encode_prompts) gives them; `negative`
    /// ones take the place of the empty prompt's, which the model encodes itself where the list is empty.
    pub fn prompt_embeds(
        self,
        prompts: impl Into<Vec<PromptEmbeds>>,
        negative: impl Into<Vec<PromptEmbeds>>,
    ) -> Self {
        Settings { source: Source::Embeds { prompts: prompts.into(), negative: negative.into() }, ..self }
    }

    /// Go on from finished pictures of an earlier stage: see [`Source::Stage`].
    pub fn from_pictures(mut self, pictures: impl Into<Vec<Picture>>) -> Self {
        let prompts = match std::mem::take(&mut self.source) {
            Source::Prompts(given) | Source::Classes(given) | Source::Stage { prompts: given, .. } => given,
            _ => Vec::new(),
        };
        self.source = Source::Stage { pictures: pictures.into(), prompts };
        self
    }

    /// What the picture should not show; takes the place of the empty prompt.
    pub fn negative_prompt(self, prompt: impl Into<String>) -> Self {
        self.negative_prompts([prompt])
    }

    /// What each picture should not show.
    pub fn negative_prompts<T: Into<String>>(self, prompts: impl IntoIterator<Item = T>) -> Self {
        Settings { negative_prompts: prompts.into_iter().map(Into::into).collect(), ..self }
    }

    /// Width and height of the final picture.
    pub fn size(self, width: usize, height: usize) -> Self {
        Settings { size: Some((width, height)), ..self }
    }

    /// Run this many stages: fewer stop early, more take optional ones, too, as the bundled models' upsampler to
    /// 1024×1024.
    pub fn stages(self, stages: usize) -> Self {
        Settings { stages: Some(stages), ..self }
    }

    /// The sampler of every stage, in place of the model's own: [`Sampler::named`] has them with their usual settings.
    /// Clipping and thresholding stay the model's. Where [latents](Settings::latents) bring their noise only DDIM goes.
    pub fn sampler(self, sampler: Sampler) -> Self {
        Settings { sampler: Some(sampler), ..self }
    }

    /// DDIM's η in every stage that samples by DDIM, in place of its own: 0 draws one picture of a first noise, more varies
    /// it, up to 1, as random as DDPM. Where [latents](Settings::latents) are drawn it is the decoder's alone.
    pub fn eta(self, eta: f64) -> Self {
        Settings { eta: Some(eta), ..self }
    }

    /// Clipping or dynamic thresholding of x̂₀ in every stage.
    pub fn thresholding(self, thresholding: Thresholding) -> Self {
        Settings { thresholding: Some(thresholding), ..self }
    }

    /// Clean the prompt as DeepFloyd IF does by default (markup, addresses, hashtags); otherwise it is lower-cased.
    pub fn clean_caption(self, clean: bool) -> Self {
        Settings { clean_caption: clean, ..self }
    }

    /// What one system alone knows: [`GlideSettings`], [`UnClipSettings`]. Other models refuse it.
    pub fn system(self, settings: impl Into<SystemSettings>) -> Self {
        Settings { system: Some(settings.into()), ..self }
    }

    /// Picture to picture: begins at pictures of any size (see [`Start::Picture`]), with 0.8 as
    /// [`Settings::strength`] if that is unset.
    pub fn init(self, pictures: impl Into<Vec<Picture>>) -> Self {
        Settings { start: Start::Picture(pictures.into()), ..self }
    }

    /// The share of the steps that are taken from the picture a run begins at, above 0, up to 1, where nothing of it is
    /// left: [`Settings::init`] takes 0.8 by itself, [`Settings::inpaint`] 1.
    pub fn strength(self, strength: f64) -> Self {
        Settings { strength: Some(strength), ..self }
    }

    /// Draws only what `mask` says anew and keeps the rest of a picture; one for all that are drawn, or one for each.
    /// Models that were trained for it see the picture; others keep it by RePaint (see [`Settings::resampling`]).
    /// [`Engine::edit`](crate::Engine::edit) does so with pictures of any size.
    pub fn inpaint(self, pictures: impl Into<Vec<Picture>>, mask: Mask) -> Self {
        Settings { start: Start::Inpaint { pictures: pictures.into(), mask }, ..self }
    }

    /// How often RePaint goes through each stretch of the first stage's steps.
    pub fn resampling(self, resampling: Resampling) -> Self {
        Settings { resampling, ..self }
    }

    /// Steers the first stage by what the caller brings, `weight` times as strongly as it says; several add up.
    pub fn guide(mut self, weight: f64, guidance: impl Guidance + 'static) -> Self {
        self.guides.push(Guide::new(weight, guidance));
        self
    }

    /// Called with the pictures of each stage but the last as it is finished, so that nothing is lost where a later one
    /// fails; [`Settings::from_pictures`] goes on from them.
    pub fn on_stage(self, on_stage: impl FnMut(usize, &[Picture]) + Send + 'static) -> Self {
        Settings { on_stage: Some(Callback::new(Arc::new(Mutex::new(on_stage)))), ..self }
    }

    /// Called several times a step; returning false cancels.
    pub fn on_progress(self, on_progress: impl FnMut(Progress<'_>) -> bool + Send + 'static) -> Self {
        Settings { on_progress: Some(Callback::new(Arc::new(Mutex::new(on_progress)))), ..self }
    }

    /// A token that stops the run from elsewhere.
    pub fn cancel(self, token: &CancelToken) -> Self {
        Settings { cancel: Some(token.clone()), ..self }
    }

    /// How many pictures are drawn: as many as said, else as many as the longest list says.
    pub(crate) fn pictures(&self) -> usize {
        let seeds = if let SeedChoice::Each(seeds) = &self.seeds { seeds.len() } else { 1 };
        let made_from = match &self.source {
            Source::Prompt => 1,
            Source::Prompts(list) | Source::Classes(list) => list.len(),
            Source::Image(list) => list.len(),
            Source::Latents(list) => list.len(),
            Source::Embeds { prompts, .. } => prompts.len(),
            Source::Stage { pictures, .. } => pictures.len(),
        };
        let longest = seeds.max(made_from).max(self.start.pictures().len()).max(self.negative_prompts.len());
        self.count.unwrap_or(longest.max(1))
    }

    /// The share of a stage's steps that are taken: 1 from noise.
    pub(crate) fn begun_share(&self) -> f64 {
        // As diffusers' pipelines do.
        const OF_PICTURE: f64 = 0.8;
        match self.start {
            Start::Noise => 1.0,
            Start::Picture(_) => self.strength.unwrap_or(OF_PICTURE),
            Start::Inpaint { .. } => self.strength.unwrap_or(1.0),
        }
    }

    /// Latents to draw; none where something else is drawn from.
    pub(crate) fn given_latents(&self) -> &[Latent] {
        if let Source::Latents(latents) = &self.source { latents } else { &[] }
    }

    /// Pictures of an earlier stage to go on from.
    pub(crate) fn given_pictures(&self) -> &[Picture] {
        if let Source::Stage { pictures, .. } = &self.source { pictures } else { &[] }
    }

    /// unCLIP's own; its defaults where none are given.
    pub(crate) fn unclip(&self) -> UnClipSettings {
        if let Some(SystemSettings::UnClip(own)) = &self.system { own.clone() } else { Default::default() }
    }

    /// GLIDE's own; its defaults where none are given.
    pub(crate) fn glide(&self) -> GlideSettings {
        if let Some(SystemSettings::Glide(own)) = &self.system { own.clone() } else { Default::default() }
    }
}
