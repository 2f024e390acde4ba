//! The loop over a stage's steps: noise in, one graph a step, the last sample out; and the same backwards.

use super::denoiser::{Correction, Denoiser, first_half};
use super::guidance::steer;
use crate::diffusion::inversion::FixedPoint;
use crate::diffusion::repaint::{Keeping, Kept, Move, alpha_bar_before, moves, noise_further};
use crate::diffusion::{Noise, Step, channels_last, coefficients, inverse};
use crate::error::{Error, Result};
use crate::models::network::Shape;
use crate::picture::Picture;
use crate::settings::guidance::{Guide, State};

/// Largest root mean square by which a step of an inversion may miss its fixed point unsaid.
const FOUND: f64 = 0.02;

/// What a step's callback learns.
pub struct StepDone<'a> {
    /// Steps done in this stage.
    pub done: f32,
    /// Steps of this stage.
    pub steps: usize,
    /// Reads the current estimate of the final pictures, x̂₀; only where a step has just been finished.
    pub estimate: Option<&'a mut dyn FnMut() -> Result<Vec<Picture>>>,
}

/// Called several times a step; returning false cancels.
pub type OnStep<'a> = dyn FnMut(StepDone<'_>) -> bool + 'a;

/// What leads a run where the network alone would not go.
#[derive(Default)]
pub struct Led<'a> {
    /// Classifier-free guidance: how far from the unconditional output over the conditional one; 1 is none.
    pub scale: f64,
    /// What steers by gradients.
    pub guides: &'a [Guide],
    /// What is kept of a picture.
    pub kept: Option<Kept>,
}

impl Led<'_> {
    /// Classifier-free guidance alone.
    pub fn classifier_free(scale: f64) -> Self {
        Led { scale, guides: &[], kept: None }
    }

    /// Whether the step is taken a second time, from the same output of the network.
    fn corrects(&self) -> Correction {
        correction(!self.guides.is_empty(), self.kept.as_ref().map(|kept| kept.how))
    }
}

/// Whether a run that is steered or not, and keeps a part of a picture so, takes its steps a second time.
pub(super) fn correction(steered: bool, keeps: Option<Keeping>) -> Correction {
    Correction { steer: steered, known: keeps == Some(Keeping::Estimate) }
}

/// What a run of so many steps does, one after another.
pub(super) fn moves_of(steps: usize, keeps: Option<Keeping>) -> Vec<Move> {
    moves(steps, if let Some(Keeping::Sample(resampling)) = keeps { Some(resampling) } else { None })
}

/// A stage's initial noise, channels last.
pub fn initial_noise(noise: &mut dyn Noise, shape: Shape) -> Vec<f32> {
    let Shape { pictures, height, width, channels, .. } = shape;
    channels_last(&noise.draw(pictures, channels, height, width), channels, height, width)
}

impl Denoiser {
    /// Runs all steps from `start` `[N, H, W, C]`; returns x_0.
    ///
    /// Errors: a device that fails, or computes what is no number; a callback that cancels; a guidance's own.
    pub fn sample(
        &mut self,
        steps: &[Step],
        led: &Led<'_>,
        noise: &mut dyn Noise,
        start: Vec<f32>,
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<f32>> {
        let Shape { height, width, channels, .. } = self.shape();
        let shape = self.shape();
        let mut draw = || initial_noise(noise, shape);
        let (correction, kept) = (led.corrects(), led.kept.as_ref());
        let known = kept.filter(|_| correction.known).map_or_else(Vec::new, Kept::known);
        // The sample is replaced after each step where it is kept so.
        let replaced = kept.filter(|kept| kept.how != Keeping::Estimate);
        let list = moves_of(steps.len(), kept.map(|kept| kept.how));
        let (mut done, total) = (0, list.iter().filter(|m| matches!(m, Move::Step(_))).count());
        // Where nothing looks at the sample between two steps it stays on the device.
        let stays = !correction.any() && replaced.is_none();
        self.write("x", &start);
        let mut x = start;
        for next in list {
            let i = match next {
                Move::Step(i) => i,
                Move::Back { from, to } => {
                    let (from, to) = (alpha_bar_before(steps, from), alpha_bar_before(steps, to));
                    noise_further(&mut x, from, to, &draw());
                    self.write("x", &x);
                    continue;
                }
            };
            let step = &steps[i];
            let z = if step.draws_noise { draw() } else { vec![0.0; x.len()] };
            let mut monitor =
                |share| on_step(StepDone { done: done as f32 + share, steps: total, estimate: None });
            self.advance(&steps[i..], led.scale, &z, &mut monitor)?;
            if stays {
                self.program().feed_back("next", "x");
            } else {
                x = match correction.any() {
                    true => self.correct(step, led, (correction, &known), &z, &x, &mut monitor)?,
                    false => first_half(self.program().read("next")?),
                };
                if let Some(kept) = replaced {
                    let alpha_bar = alpha_bar_before(steps, i + 1);
                    let z = if alpha_bar < 1.0 { draw() } else { vec![0.0; x.len()] };
                    kept.put(&mut x, alpha_bar, &z);
                }
                self.write("x", &x);
            }
            done += 1;
            let program = self.last(correction);
            let mut estimate = || {
                let next = program.read("next")?;
                Ok(Picture::split(&next[next.len() / 2..], height, width, channels))
            };
            let done = StepDone { done: done as f32, steps: total, estimate: Some(&mut estimate) };
            if !on_step(done) {
                return Err(Error::Cancelled);
            }
        }
        if stays {
            x = first_half(self.program().read("next")?);
        }
        finite(x, "the picture")
    }

    /// Takes the step that was just taken from `x` once more, corrected; returns the next sample.
    fn correct(
        &mut self,
        step: &Step,
        led: &Led<'_>,
        (by, known): (Correction, &[f32]),
        z: &[f32],
        x: &[f32],
        monitor: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Vec<f32>> {
        let mut steering = Vec::new();
        if by.steer {
            let unsteered = self.program().read("next")?;
            let (timestep, alpha_bar) = (step.timestep, step.alpha_bar);
            let shape = self.shape().sample();
            let at = State { x, x0: &unsteered[x.len()..], shape, timestep, alpha_bar };
            // The share of the step that guidance takes is not known; the bar waits at its end.
            steering = steer(led.guides, &at, step, &mut |_| monitor(1.0))?;
        }
        let program = self.corrected(by)?;
        program.write("x", x);
        program.write("coefficients", &coefficients(step, led.scale));
        program.write("noise", z);
        if by.steer {
            program.write("steer", &steering);
        }
        if by.known {
            program.write("known", known);
        }
        program.run(&mut |_| monitor(1.0))?;
        Ok(first_half(program.read("next")?))
    }

    /// The sample before the first of `steps`, DDIM's with η = 0 and no clipping, that ends at pictures `[N, H, W, C]`;
    /// see [`inversion`](crate::diffusion::inversion). Each step is solved by up to `evaluations` of the network.
    ///
    /// Errors: steps that cannot be inverted, a device that fails, a callback that cancels.
    pub fn invert(
        &mut self,
        steps: &[Step],
        guidance_scale: f64,
        evaluations: usize,
        pictures: &[f32],
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<f32>> {
        let inverses = steps.iter().rev().map(inverse).collect::<Result<Vec<_>>>()?;
        let item = (pictures.len() / self.shape().pictures).max(1);
        let (mut x, mut worst) = (pictures.to_vec(), 0.0);
        for i in 0..inverses.len() {
            let mut searches: Vec<FixedPoint> = x.chunks_exact(item).map(FixedPoint::new).collect();
            for k in 0..evaluations {
                if searches.iter().all(FixedPoint::settled) {
                    break;
                }
                let at: Vec<f32> = searches.iter().flat_map(FixedPoint::x).copied().collect();
                self.write("x", &at);
                let mut monitor = |share| {
                    let done = i as f32 + (k as f32 + share) / evaluations as f32;
                    on_step(StepDone { done, steps: inverses.len(), estimate: None })
                };
                self.advance(&inverses[i..], guidance_scale, &x, &mut monitor)?;
                let next = first_half(self.program().read("next")?);
                searches
                    .iter_mut()
                    .zip(next.chunks_exact(item))
                    .for_each(|(search, next)| search.learn(next));
            }
            x = searches.iter().flat_map(FixedPoint::answer).copied().collect();
            worst = searches.iter().map(FixedPoint::error).fold(worst, f64::max);
            if !worst.is_finite() {
                return Err(not_a_number("the picture's noise"));
            }
            if !on_step(StepDone { done: (i + 1) as f32, steps: inverses.len(), estimate: None }) {
                return Err(Error::Cancelled);
            }
        }
        if evaluations > 1 && worst > FOUND {
            log::warn!(
                "the noise that makes this picture is not found (a step is off by {worst:.2}): take a smaller guidance scale, \
                 or more evaluations"
            );
        }
        Ok(x)
    }
}

/// Refuses what is no number.
pub(super) fn finite(values: Vec<f32>, what: &str) -> Result<Vec<f32>> {
    if values.iter().all(|v| v.is_finite()) { Ok(values) } else { Err(not_a_number(what)) }
}

fn not_a_number(what: &str) -> Error {
    Error::device(format!(
        "{what} came out as NaN or infinity: these weights are broken, f16 does not hold their values, or the device's \
         arithmetic is at fault"
    ))
}
