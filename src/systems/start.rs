//! Where a stage's run begins: at noise, or at a picture that is noised as far as the steps to come remove it; and what
//! it keeps of that picture.

use super::denoise::{Noise, Shape, channels_last};
use super::repaint::{Keeping, Kept, Resampling};
use crate::diffusion::Step;
use crate::error::{Error, Result};
use crate::picture::Picture;
use crate::request::{GenerateConfig, Size};

/// Share of the steps that picture to picture takes by itself, as diffusers' pipelines do.
const STRENGTH: f64 = 0.8;

/// A stage of a run.
pub(crate) struct Place<'a> {
    /// Its index.
    pub stage: usize,
    /// Its sizes.
    pub shape: Shape,
    /// All of its steps.
    pub steps: &'a [Step],
    /// The network was trained to see a picture of which parts are kept; for any other the sampler keeps them.
    pub sees: bool,
    /// The pictures of the stage before, `[N, h, w, C]`, with width and height.
    pub before: Option<(&'a [f32], Size)>,
}

/// A stage's run before its first step.
pub(crate) struct Start {
    /// The steps to take.
    pub steps: Vec<Step>,
    /// The sample before the first of them `[N, H, W, C]`.
    pub x: Vec<f32>,
    /// What is kept of the picture it began with.
    pub kept: Option<Kept>,
}

/// Draws one stage's initial noise, channels last.
pub fn initial_noise(noise: &mut dyn Noise, shape: Shape) -> Vec<f32> {
    let Shape { pictures, height, width, channels, .. } = shape;
    channels_last(&noise.draw(pictures, channels, height, width), channels, height, width)
}

/// The last steps, `strength` of all of them; at least one.
fn last_steps(steps: &[Step], strength: f64) -> &[Step] {
    let count = ((steps.len() as f64 * strength) as usize).clamp(1, steps.len().max(1));
    &steps[steps.len() - count.min(steps.len())..]
}

/// Where a stage of a run begins, from its initial noise `z`.
///
/// Errors: a picture for a model whose pictures have neither 1 nor 3 channels.
pub(crate) fn start(cfg: &GenerateConfig<'_>, place: &Place<'_>, z: Vec<f32>) -> Result<Start> {
    let mut x = z;
    if cfg.init.is_empty() {
        return Ok(Start { steps: place.steps.to_vec(), x, kept: None });
    }
    let shape = place.shape;
    let Shape { pictures, height, width, .. } = shape;
    let picture = fitted(cfg, shape, (width, height))?;
    let strength = cfg.strength.unwrap_or(if cfg.mask.is_some() { 1.0 } else { STRENGTH });
    let steps = last_steps(place.steps, strength);
    if strength < 1.0
        && let Some(first) = steps.first()
    {
        let (signal, deviation) = (first.alpha_bar.sqrt() as f32, (1.0 - first.alpha_bar).sqrt() as f32);
        let changed = place.before.map(|before| changed(cfg, &picture, shape, before)).transpose()?;
        x.iter_mut()
            .zip(changed.as_ref().unwrap_or(&picture))
            .for_each(|(z, x0)| *z = signal * x0 + deviation * *z);
    }
    let kept = cfg.mask.as_ref().map(|mask| {
        let once = Resampling { times: 1, jump: 1 };
        let how = match place.sees {
            true => Keeping::Estimate,
            // A later stage is led by the one before; going back pays in the first.
            false => Keeping::Sample(if place.stage == 0 { cfg.resampling } else { once }),
        };
        Kept { picture, keep: mask.keep_at(width, height).repeat(pictures), how }
    });
    Ok(Start { steps: steps.to_vec(), x, kept })
}

/// The pictures a run begins at, `[N, H, W, C]`, at a size.
fn fitted(cfg: &GenerateConfig<'_>, shape: Shape, (width, height): Size) -> Result<Vec<f32>> {
    let mut values = Vec::with_capacity(shape.pictures * height * width * shape.channels);
    for picture in &cfg.init {
        let picture = picture.fitted(width, height).with_channels(shape.channels).ok_or_else(|| {
            let channels = shape.channels;
            Error::Request(format!("this model's pictures have {channels} channels; none can be given to it"))
        })?;
        values.extend(picture.values);
    }
    Ok(if cfg.init.len() == 1 { values.repeat(shape.pictures) } else { values })
}

/// The picture a stage begins at, `[N, H, W, C]`, with what the stage before changed in it: that stage's result less the
/// picture at its size, enlarged.
fn changed(
    cfg: &GenerateConfig<'_>,
    picture: &[f32],
    shape: Shape,
    (before, size): (&[f32], Size),
) -> Result<Vec<f32>> {
    let was = fitted(cfg, shape, size)?;
    // Halved, since enlarging clamps to [-1, 1].
    let change: Vec<f32> = before.iter().zip(&was).map(|(made, was)| (made - was) / 2.0).collect();
    let change = Picture::split(&change, size.1, size.0, shape.channels);
    let enlarged = change.iter().flat_map(|change| change.resized(shape.width, shape.height).values);
    Ok(picture.iter().zip(enlarged).map(|(v, change)| (v + 2.0 * change).clamp(-1.0, 1.0)).collect())
}
