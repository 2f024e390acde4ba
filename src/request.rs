//! A request: what the caller asks of a model, checked against it before anything is computed.

use crate::diffusion::{
    Arithmetic, Sampler, SchedulerConfig, Step, Thresholding, Timesteps, invertible_timesteps, steps,
};
use crate::edit::Mask;
use crate::engine::{OnProgress, OnStage, Progress};
use crate::error::{Error, Result};
use crate::guidance::Guidance;
use crate::latent::Latent;
use crate::layout::Defaults;
use crate::picture::Picture;
use crate::systems::repaint::Resampling;
use std::ops::Range;

/// Most pixels along a side: what the largest published cascades make, with room to spare.
const MAX_SIDE: usize = 8_192;
/// Most pictures at once.
pub const MAX_COUNT: usize = 256;
/// Largest guidance scale; 10 is a lot.
pub(crate) const MAX_GUIDANCE: f64 = 1e4;
/// Largest factor of an upsampler's first noise.
const MAX_TEMP: f64 = 10.0;
/// Most evaluations of the network in a step of an inversion.
const MAX_EVALUATIONS: usize = 100;
/// Most pixels of all pictures at once: one of the largest.
const MAX_PIXELS: usize = MAX_SIDE * MAX_SIDE;

/// Most candidates for a picture.
const MAX_CANDIDATES: usize = 64;
/// Most embeddings that a prior draws at once.
const MAX_EMBEDDINGS: usize = 1_024;

/// Which of unCLIP's priors draws a picture's embedding for a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriorKind {
    /// By denoising it.
    Diffusion,
    /// Token by token: its principal components, in buckets.
    Autoregressive,
}

impl std::fmt::Display for PriorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PriorKind::Diffusion => "diffusion",
            PriorKind::Autoregressive => "autoregressive",
        })
    }
}

/// What is drawn, and how. Unset values are the model's own defaults.
///
/// ```
/// # use ancestral::GenerateConfig;
/// let cfg = GenerateConfig::new().seed(7).steps([25]).guidance_scale([4.0]).count(2);
/// ```
#[derive(Default)]
pub struct GenerateConfig<'a> {
    pub(crate) seed: u64,
    pub(crate) count: usize,
    pub(crate) steps: Vec<usize>,
    pub(crate) respacing: Vec<String>,
    pub(crate) classes: Vec<String>,
    pub(crate) guidance_scale: Vec<f64>,
    pub(crate) negative_prompt: String,
    pub(crate) size: Option<Size>,
    pub(crate) stages: Option<usize>,
    pub(crate) sampler: Option<Sampler>,
    pub(crate) clip: Option<Thresholding>,
    pub(crate) clean_caption: bool,
    pub(crate) upsample_temp: Option<f64>,
    pub(crate) prior: Option<PriorKind>,
    pub(crate) candidates: usize,
    pub(crate) from: Vec<Picture>,
    pub(crate) image: Vec<Picture>,
    pub(crate) latents: Vec<Latent>,
    pub(crate) eta: Option<f64>,
    pub(crate) inversion: Option<usize>,
    pub(crate) init: Vec<Picture>,
    pub(crate) strength: Option<f64>,
    pub(crate) mask: Option<Mask>,
    pub(crate) resampling: Resampling,
    pub(crate) guides: Vec<(f64, Box<dyn Guidance + 'a>)>,
    pub(crate) on_progress: Option<OnProgress<'a>>,
    pub(crate) on_stage: Option<OnStage<'a>>,
}

impl<'a> GenerateConfig<'a> {
    /// One picture, seed 0, the model's defaults.
    pub fn new() -> Self {
        GenerateConfig { count: 1, candidates: 1, ..Default::default() }
    }

    /// Seed of the noise; picture i of several takes `seed + i`.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Pictures drawn at once.
    pub fn count(mut self, count: usize) -> Self {
        self.count = count;
        self
    }

    /// Denoising steps by stage; stages beyond the list keep their default. Of unCLIP the first is the prior, where it
    /// follows a prompt, then come decoder and super-resolution; an autoregressive prior's are its components, whatever is
    /// said.
    pub fn steps(mut self, steps: impl Into<Vec<usize>>) -> Self {
        self.steps = steps.into();
        self
    }

    /// Which of the training's timesteps are visited, by stage, in OpenAI's notation: `250`, `20,10,5` (so many of each
    /// equal section), `ddim25` (a whole stride), `fast27`. It goes before [`GenerateConfig::steps`].
    pub fn respacing<T: Into<String>>(mut self, respacing: impl IntoIterator<Item = T>) -> Self {
        self.respacing = respacing.into_iter().map(Into::into).collect();
        self
    }

    /// What a class-conditional model or a classifier-guided one draws: one class for all pictures, or one for each, by
    /// name or number.
    pub fn classes<T: ToString>(mut self, classes: impl IntoIterator<Item = T>) -> Self {
        self.classes = classes.into_iter().map(|class| class.to_string()).collect();
        self
    }

    /// Guidance scale by stage, as [`GenerateConfig::steps`] counts them; stages beyond the list keep their default. Classifier-free guidance begins above 1,
    /// classifier guidance above 0.
    pub fn guidance_scale(mut self, scale: impl Into<Vec<f64>>) -> Self {
        self.guidance_scale = scale.into();
        self
    }

    /// What the picture should not show; takes the place of the empty prompt.
    pub fn negative_prompt(mut self, prompt: impl Into<String>) -> Self {
        self.negative_prompt = prompt.into();
        self
    }

    /// Width and height of the final picture.
    pub fn size(mut self, width: usize, height: usize) -> Self {
        self.size = Some((width, height));
        self
    }

    /// Run this many stages: fewer stop early, more take optional ones, too, as the bundled models' upsampler to
    /// 1024×1024.
    pub fn stages(mut self, stages: usize) -> Self {
        self.stages = Some(stages);
        self
    }

    /// The sampler of every stage.
    pub fn sampler(mut self, sampler: Sampler) -> Self {
        self.sampler = Some(sampler);
        self
    }

    /// Clipping or dynamic thresholding of x̂₀ in every stage.
    pub fn thresholding(mut self, clip: Thresholding) -> Self {
        self.clip = Some(clip);
        self
    }

    /// Clean the prompt as DeepFloyd IF does by default (markup, addresses, hashtags); otherwise it is lower-cased.
    pub fn clean_caption(mut self, clean: bool) -> Self {
        self.clean_caption = clean;
        self
    }

    /// GLIDE: what the upsampler's first noise is multiplied by; 0.997 by default, as published. 1 is sharper but may
    /// grain, less is smoother.
    pub fn upsample_temp(mut self, factor: f64) -> Self {
        self.upsample_temp = Some(factor);
        self
    }

    /// Which of unCLIP's priors draws the embeddings; diffusion by default, where the model has both.
    pub fn prior(mut self, prior: PriorKind) -> Self {
        self.prior = Some(prior);
        self
    }

    /// How many embeddings unCLIP's prior draws for each picture; that whose dot product with the prompt's is the largest
    /// is kept (Ramesh et al. 2022, section 2.2, draw two). 1 by default. The first candidate is what there is without
    /// others; those after it take noise of [seeds of their own](crate::systems::denoise::SeededNoise::of_candidate).
    pub fn candidates(mut self, candidates: usize) -> Self {
        self.candidates = candidates;
        self
    }

    /// Go on from finished pictures of an earlier stage, one for each picture to draw: their size says which stage made
    /// them, and those after it enlarge them.
    pub fn from_pictures(mut self, pictures: impl Into<Vec<Picture>>) -> Self {
        self.from = pictures.into();
        self
    }

    /// The picture that a model of image variation (Karlo's) draws others of, of any size: CLIP sees its middle. One for
    /// all that are drawn, or one for each.
    pub fn image(mut self, pictures: impl Into<Vec<Picture>>) -> Self {
        self.image = pictures.into();
        self
    }

    /// unCLIP: what its decoder draws, in place of a prompt or a picture: one for all that are drawn, or one for each. The
    /// decoder then runs by DDIM (see [`latent`](crate::latent)); where a latent brings its noise, on timesteps of its own,
    /// unguided and unclipped unless the caller says otherwise, as the noise was found.
    pub fn latents(mut self, latents: impl Into<Vec<Latent>>) -> Self {
        self.latents = latents.into();
        self
    }

    /// DDIM's η where the decoder draws [`GenerateConfig::latents`]: 0, as by itself, gives one picture of a latent;
    /// more varies it, up to 1.
    pub fn eta(mut self, eta: f64) -> Self {
        self.eta = Some(eta);
        self
    }

    /// Evaluations of the network in each step of an [inversion](crate::Engine::invert): 1 is DDIM's inversion as it is
    /// usually done, more solve for the noise that leads back to the picture.
    pub fn inversion(mut self, evaluations: usize) -> Self {
        self.inversion = Some(evaluations);
        self
    }

    /// Picture to picture: begins at a picture, noised as far as the steps to come remove it (see
    /// [`GenerateConfig::strength`]). One picture for all that are drawn, or one for each, of any size: its middle is
    /// scaled to the model's.
    pub fn init(mut self, pictures: impl Into<Vec<Picture>>) -> Self {
        self.init = pictures.into();
        self
    }

    /// The share of the steps that are taken from the picture a run begins at, above 0, up to 1, where nothing of it is
    /// left: [`GenerateConfig::init`] takes 0.8 by itself, [`GenerateConfig::inpaint`] 1.
    pub fn strength(mut self, strength: f64) -> Self {
        self.strength = Some(strength);
        self
    }

    /// Draws only what `mask` says anew and keeps the rest of a picture; one for all that are drawn, or one for each.
    /// Models that were trained for it see the picture; others keep it by RePaint (see [`GenerateConfig::resampling`]).
    /// [`Engine::edit`](crate::Engine::edit) does so with pictures of any size.
    pub fn inpaint(mut self, pictures: impl Into<Vec<Picture>>, mask: Mask) -> Self {
        self.init = pictures.into();
        self.mask = Some(mask);
        self
    }

    /// How often RePaint goes through each stretch of the first stage's steps.
    pub fn resampling(mut self, resampling: Resampling) -> Self {
        self.resampling = resampling;
        self
    }

    /// Steers the first stage by what the caller brings, `weight` times as strongly as it says; several add up.
    pub fn guide(mut self, weight: f64, guidance: impl Guidance + 'a) -> Self {
        self.guides.push((weight, Box::new(guidance)));
        self
    }

    /// Called with the pictures of each stage but the last as it is finished, so that nothing is lost where a later one
    /// fails; [`GenerateConfig::from_pictures`] goes on from them.
    pub fn on_stage(mut self, on_stage: impl FnMut(usize, &[Picture]) + 'a) -> Self {
        self.on_stage = Some(Box::new(on_stage));
        self
    }

    /// Called several times a step; returning false cancels.
    pub fn on_progress(mut self, on_progress: impl FnMut(Progress<'_>) -> bool + 'a) -> Self {
        self.on_progress = Some(Box::new(on_progress));
        self
    }
}

/// How far a stage goes over its conditional output.
pub(crate) fn guidance_scale(defaults: &Defaults, cfg: &GenerateConfig<'_>, index: usize) -> f64 {
    cfg.guidance_scale.get(index).copied().unwrap_or(defaults.guidance_scale)
}

/// The steps of a stage by its scheduler, its defaults and the caller's settings.
pub(crate) fn stage_steps(
    scheduler: &SchedulerConfig,
    defaults: &Defaults,
    cfg: &GenerateConfig<'_>,
    index: usize,
) -> Result<Vec<Step>> {
    let mut scheduler = scheduler.clone();
    if let Some(clip) = &cfg.clip {
        scheduler.clip = *clip;
    }
    // What is kept enters a step by x̂₀, which ancestral steps leave out where nothing clips it.
    if cfg.mask.is_some() && scheduler.clip == Thresholding::None {
        scheduler.clip = Thresholding::Range(f32::MAX.into());
    }
    let mut sampler = cfg.sampler.or(defaults.sampler).unwrap_or(scheduler.sampler);
    if let Sampler::Ddim { rederive_epsilon, .. } = &mut sampler {
        *rederive_epsilon = scheduler.arithmetic == Arithmetic::Float64;
    }
    let default = defaults.respacing.as_ref().filter(|_| cfg.steps.get(index).is_none());
    if let Some(respacing) = cfg.respacing.get(index).or(default) {
        return steps(&scheduler, &sampler, Timesteps::Respaced(respacing.clone()));
    }
    let count = cfg.steps.get(index).copied().unwrap_or(defaults.steps.min(scheduler.num_train_timesteps));
    if count == 0 {
        return Err(Error::Request("0 steps make no picture: give 1 or more".into()));
    }
    steps(&scheduler, &sampler, scheduler.timesteps(&sampler, count))
}

/// The steps of unCLIP's decoder for latents: DDIM's; where they bring their noise without clipping, on timesteps whose
/// inversion is well-conditioned.
pub(crate) fn latent_steps(
    scheduler: &SchedulerConfig,
    defaults: &Defaults,
    cfg: &GenerateConfig<'_>,
    index: usize,
) -> Result<Vec<Step>> {
    let sampler = Sampler::Ddim {
        eta: cfg.eta.unwrap_or(0.0),
        rederive_epsilon: scheduler.arithmetic == Arithmetic::Float64,
    };
    let mut scheduler = scheduler.clone();
    let inverted = cfg.latents.iter().any(|latent| latent.noise.is_some());
    scheduler.clip = cfg.clip.unwrap_or(if inverted { Thresholding::None } else { scheduler.clip });
    let count = cfg.steps.get(index).copied().unwrap_or(defaults.steps.min(scheduler.num_train_timesteps));
    let timesteps = match cfg.respacing.get(index) {
        Some(respacing) => Timesteps::Respaced(respacing.clone()),
        None if inverted => invertible_timesteps(&scheduler, count)?,
        None => scheduler.timesteps(&sampler, count),
    };
    steps(&scheduler, &sampler, timesteps)
}

/// The first stage that runs: 0, or the one after that whose size the given pictures have.
pub(crate) fn first_stage(cfg: &GenerateConfig<'_>, sizes: &[Size]) -> Result<usize> {
    let Some(picture) = cfg.from.first() else { return Ok(0) };
    let sizes_before_last = &sizes[..sizes.len() - 1];
    let named = sizes_before_last.iter().map(|(w, h)| format!("{w}x{h}")).collect::<Vec<_>>().join(" or ");
    if sizes_before_last.is_empty() {
        return Err(Error::Request("there is no stage that enlarges a picture: leave `--from` out".into()));
    }
    if cfg.from.len() != cfg.count {
        let (given, count) = (cfg.from.len(), cfg.count);
        return Err(Error::Request(format!(
            "{given} pictures to go on from for {count} to draw: give one for each"
        )));
    }
    let size = (picture.width, picture.height);
    let alike = cfg.from.iter().all(|p| (p.width, p.height, p.channels) == (size.0, size.1, 3));
    match sizes_before_last.iter().position(|s| *s == size) {
        Some(stage) if alike => Ok(stage + 1),
        _ => Err(Error::Request(format!(
            "a picture of {}x{} pixels to go on from: the stages before the last make {named}, in colour",
            size.0, size.1
        ))),
    }
}

/// Which of the given stages run, and the widths and heights of the pictures that each makes. `alone` is the side of the
/// pictures that the first one enlarges, if it does: it goes on from pictures that another program made.
///
/// Errors: sizes that do not fit; nothing to go on from.
pub(crate) fn stages_and_sizes(
    cfg: &GenerateConfig<'_>,
    mut sides: Vec<StageSide>,
    alone: Option<usize>,
) -> Result<(Range<usize>, Vec<Size>)> {
    let count = sides.len();
    if let Some(side) = alone {
        sides.insert(0, StageSide { side, multiple: 1 });
    }
    let mut sizes = stage_sizes(&sides, cfg.size)?;
    let mut first = first_stage(cfg, &sizes)?;
    if alone.is_some() {
        if first == 0 {
            let what = "an upsampler enlarges a picture: give it by `--from PNG`, or a base model before it";
            return Err(Error::Request(what.into()));
        }
        sizes.remove(0);
        first -= 1;
    }
    Ok((first..count, sizes))
}

/// How many of the model's stages run.
pub(crate) fn stage_count(cfg: &GenerateConfig<'_>, have: usize) -> Result<usize> {
    stage_count_of(cfg, have, have)
}

/// How many stages run, of a model that runs `usual` of those that it has unless more or fewer are asked for.
pub(crate) fn stage_count_of(cfg: &GenerateConfig<'_>, have: usize, usual: usize) -> Result<usize> {
    for (what, given) in [
        ("numbers of steps", cfg.steps.len()),
        ("respacings", cfg.respacing.len()),
        ("guidance scales", cfg.guidance_scale.len()),
    ] {
        if given > have {
            return Err(Error::Request(format!(
                "{given} {what}: this model has {have} stage{}; give at most one for each",
                plural(have)
            )));
        }
    }
    let count = cfg.stages.unwrap_or(usual);
    if count == 0 || count > have {
        let range = if have == 1 { "only 1".into() } else { format!("1 to {have}") };
        return Err(Error::Request(format!("{count} stages: this model has {have}; give {range}")));
    }
    Ok(count)
}

/// Width and height.
pub(crate) type Size = (usize, usize);

/// What a stage needs of the final picture's size.
#[derive(Clone, Copy)]
pub(crate) struct StageSide {
    /// Side of the pictures the stage was trained on.
    pub side: usize,
    /// Its own sizes are multiples of this.
    pub multiple: usize,
}

/// Width and height of every stage: the networks' own, scaled so that the last has the size asked for.
pub(crate) fn stage_sizes(stages: &[StageSide], size: Option<Size>) -> Result<Vec<Size>> {
    let last = stages.last().map_or(1, |s| s.side.max(1));
    let (width, height) = size.unwrap_or((last, last));
    // The smallest final size that gives each stage a multiple of what it needs; all sizes are multiples of it.
    let unit = stages.iter().fold(1, |unit, s| {
        let needed = last * s.multiple / gcd(last * s.multiple, s.side.max(1));
        unit / gcd(unit, needed) * needed
    });
    if width % unit != 0 || height % unit != 0 || width == 0 || height == 0 {
        return Err(Error::Request(format!(
            "{width}x{height} pixels: this model's width and height are multiples of {unit}"
        )));
    }
    Ok(stages.iter().map(|s| (width * s.side / last, height * s.side / last)).collect())
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Refuses a picture whose values are not as many as its size says.
pub(crate) fn check_picture(p: &Picture) -> Result<()> {
    if !p.values.is_empty() && p.values.len() == p.width * p.height * p.channels {
        return Ok(());
    }
    let (values, (w, h, c)) = (p.values.len(), (p.width, p.height, p.channels));
    Err(Error::Request(format!("a picture of {w}x{h} pixels and {c} channels with {values} values")))
}

/// Refuses pictures to begin at that make no sense.
fn check_init(cfg: &GenerateConfig<'_>) -> Result<()> {
    let refuse = |what: String| Err(Error::Request(what));
    let given = cfg.init.len();
    if given > 1 && given != cfg.count {
        return refuse(format!(
            "{given} pictures to begin at for {} to draw: give one, or one for each",
            cfg.count
        ));
    }
    if let Some(strength) = cfg.strength.filter(|s| !(*s > 0.0 && *s <= 1.0)) {
        return refuse(format!("a strength of {strength}: give a number above 0, up to 1"));
    }
    cfg.init.iter().try_for_each(check_picture)?;
    if given > 0 && !cfg.from.is_empty() {
        return refuse("a picture to begin at and one to go on from: give one of them".into());
    }
    let Resampling { times, jump } = cfg.resampling;
    if !(1..=100).contains(&times) || !(1..=1_000).contains(&jump) {
        return refuse(format!(
            "going {times} times through stretches of {jump} steps: give 1 to 100, and 1 to 1000"
        ));
    }
    let Some(mask) = &cfg.mask else { return Ok(()) };
    let pictures = cfg.init.iter().map(|p| (p.width, p.height));
    pictures.chain([(mask.width(), mask.height())]).try_for_each(|size| mask.drawn_in(size).map(drop))
}

/// Refuses pictures of a size that are too large, or too many for it.
pub(crate) fn check_size(cfg: &GenerateConfig<'_>, size: Option<Size>) -> Result<()> {
    let refuse = |what: String| Err(Error::Request(what));
    let Some((w, h)) = size else { return Ok(()) };
    if w == 0 || h == 0 || w > MAX_SIDE || h > MAX_SIDE {
        return refuse(format!("{w}x{h} pixels: a side may have 1 to {MAX_SIDE}; give another `--size`"));
    }
    if cfg.count * w * h > MAX_PIXELS {
        return refuse(format!(
            "{} pictures of {w}x{h} pixels at once: give a smaller `--size` or `--count`",
            cfg.count
        ));
    }
    Ok(())
}

/// Refuses latents that make no sense, and what there cannot be beside them.
fn check_latents(cfg: &GenerateConfig<'_>) -> Result<()> {
    let refuse = |what: String| Err(Error::Request(what));
    let given = cfg.latents.len();
    if given > 1 && given != cfg.count {
        return refuse(format!(
            "{given} latents for {} pictures to draw: give one, or one for each",
            cfg.count
        ));
    }
    if let Some(eta) = cfg.eta.filter(|eta| !(0.0..=1.0).contains(eta)) {
        return refuse(format!("DDIM's eta of {eta}: give a number from 0 to 1"));
    }
    if let Some(evaluations) = cfg.inversion.filter(|n| !(1..=MAX_EVALUATIONS).contains(n)) {
        return refuse(format!(
            "{evaluations} evaluations in each step of an inversion: give 1 to {MAX_EVALUATIONS}"
        ));
    }
    if given == 0 {
        return Ok(());
    }
    let beside = [("image", &cfg.image), ("from_pictures", &cfg.from), ("init", &cfg.init)];
    if let Some((name, _)) = beside.iter().find(|(_, pictures)| !pictures.is_empty()) {
        return refuse(format!(
            "latents say what is drawn and where it begins: leave `GenerateConfig::{name}` out"
        ));
    }
    let numbers =
        |latent: &Latent| latent.embedding.iter().chain(latent.noise.iter().flatten()).all(|v| v.is_finite());
    match cfg.latents.iter().all(numbers) {
        true => Ok(()),
        false => refuse("a latent holds values that are not numbers".into()),
    }
}

pub(crate) fn check_request(cfg: &GenerateConfig<'_>) -> Result<()> {
    let refuse = |what: String| Err(Error::Request(what));
    if cfg.count == 0 || cfg.count > MAX_COUNT {
        return refuse(format!("{} pictures at once: give 1 to {MAX_COUNT}", cfg.count));
    }
    check_size(cfg, cfg.size)?;
    if let Some(scale) = cfg.guidance_scale.iter().find(|s| !(0.0..=MAX_GUIDANCE).contains(*s)) {
        return refuse(format!(
            "a guidance scale of {scale}: give a number from 0 to {MAX_GUIDANCE}; 1 is none"
        ));
    }
    if let Some(factor) = cfg.upsample_temp.filter(|factor| !(0.0..=MAX_TEMP).contains(factor)) {
        return refuse(format!(
            "an upsampling temperature of {factor}: give 0 to {MAX_TEMP}; 0.997 is usual"
        ));
    }
    if cfg.candidates == 0 || cfg.candidates > MAX_CANDIDATES {
        return refuse(format!("{} candidates for each picture: give 1 to {MAX_CANDIDATES}", cfg.candidates));
    }
    if cfg.candidates > 1 && cfg.count * cfg.candidates > MAX_EMBEDDINGS {
        return refuse(format!(
            "{} candidates for each of {} pictures at once: give fewer, {MAX_EMBEDDINGS} in all",
            cfg.candidates, cfg.count
        ));
    }
    let images = cfg.image.len();
    if images > 1 && images != cfg.count {
        return refuse(format!(
            "{images} pictures to vary for {} to draw: give one, or one for each",
            cfg.count
        ));
    }
    check_latents(cfg)?;
    check_init(cfg)?;
    match cfg.clip {
        Some(Thresholding::Range(r)) if !(r > 0.0 && r.is_finite()) => {
            refuse(format!("clipping to {r}: give a range above 0"))
        }
        Some(Thresholding::Dynamic { ratio, max })
            if !((0.0..=1.0).contains(&ratio) && max >= 1.0 && max.is_finite()) =>
        {
            refuse(format!(
                "thresholding at quantile {ratio}, at most {max}: give a quantile of 0 to 1, a limit of 1 or more"
            ))
        }
        _ => Ok(()),
    }
}
