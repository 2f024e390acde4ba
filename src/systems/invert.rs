//! A denoiser's run the other way: from pictures to the noise that DDIM makes them of.

use super::denoise::{Denoiser, OnStep, StepDone, first_half};
use crate::diffusion::inversion::FixedPoint;
use crate::diffusion::{Step, inverse};
use crate::error::{Error, Result};

/// Largest root mean square by which a step may miss its fixed point unsaid.
const FOUND: f64 = 0.02;

impl Denoiser {
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
                let what = "the picture's noise came out as NaN or infinity: these weights are broken, or f16 does not hold \
                            their values; try `--device cpu`";
                return Err(Error::Device(what.into()));
            }
            if !on_step(StepDone { done: (i + 1) as f32, steps: inverses.len(), estimate: None }) {
                return Err(Error::Cancelled);
            }
        }
        if evaluations > 1 && worst > FOUND {
            log::warn!(
                "the noise that makes this picture is not found (a step is off by {worst:.2}): take a smaller guidance scale, \
                 or more evaluations (`--inversion`)"
            );
        }
        Ok(x)
    }
}
