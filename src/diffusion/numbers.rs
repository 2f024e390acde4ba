//! A step as the numbers that one fused kernel reads (`shaders/shared/predict.wgsl`).

use super::process::Thresholding;
use super::step::{Step, Variance};

/// The guidance scale.
pub(crate) const GUIDANCE: usize = 0;
/// x̂₀ = this · x + the next · out.
pub(crate) const X0_X: usize = 1;
/// See [`X0_X`].
pub(crate) const X0_OUT: usize = 2;
/// ε = this · x + the next · out.
pub(crate) const EPS_X: usize = 3;
/// See [`EPS_X`].
pub(crate) const EPS_OUT: usize = 4;
/// The mean = this · x + the next · x̂₀ + the one after · ε.
pub(crate) const MEAN_X: usize = 5;
/// See [`MEAN_X`].
pub(crate) const MEAN_X0: usize = 6;
/// See [`MEAN_X`].
pub(crate) const MEAN_EPS: usize = 7;
/// 0: x̂₀ as it is; 1: clamped to a range; 2: to its quantile, and divided by that.
pub(crate) const CLIP: usize = 8;
/// The range, or the largest quantile.
pub(crate) const CLIP_RANGE: usize = 9;
/// Which quantile.
pub(crate) const QUANTILE: usize = 10;
/// 0: σ is given; 1: between two logarithms, by the network's own channels; 2: the root of these.
pub(crate) const VARIANCE: usize = 11;
/// σ.
pub(crate) const SIGMA: usize = 12;
/// The smaller logarithm.
pub(crate) const LOG_MIN: usize = 13;
/// The larger.
pub(crate) const LOG_MAX: usize = 14;
/// 1 where noise is added.
pub(crate) const NOISE: usize = 15;
/// How many there are.
pub(crate) const COUNT: usize = 16;

/// A step and the guidance scale as the array the kernels read, each number at its place.
pub fn coefficients(step: &Step, guidance_scale: f64) -> [f32; COUNT] {
    let c = &step.coefficients;
    let mut out = [0.0; COUNT];
    out[GUIDANCE] = guidance_scale;
    out[X0_X] = c.x0_x;
    out[X0_OUT] = c.x0_out;
    out[EPS_X] = c.eps_x;
    out[EPS_OUT] = c.eps_out;
    out[MEAN_X] = c.mean_x;
    out[MEAN_X0] = c.mean_x0;
    out[MEAN_EPS] = c.mean_eps;
    match c.clip {
        Thresholding::None => {}
        Thresholding::Range(range) => (out[CLIP], out[CLIP_RANGE]) = (1.0, range),
        Thresholding::Dynamic { ratio, max } => {
            (out[CLIP], out[CLIP_RANGE], out[QUANTILE]) = (2.0, max, ratio)
        }
    }
    match c.variance {
        Variance::Fixed { sigma } => out[SIGMA] = sigma,
        Variance::LearnedRange { log_min, log_max } => {
            (out[VARIANCE], out[LOG_MIN], out[LOG_MAX]) = (1.0, log_min, log_max);
        }
        Variance::Learned => out[VARIANCE] = 2.0,
    }
    out[NOISE] = if step.adds_noise { 1.0 } else { 0.0 };
    out.map(|v| v as f32)
}
