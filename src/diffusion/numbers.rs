//! A step as the numbers that one fused kernel reads (`shaders/shared/predict.wgsl`).

use super::process::Thresholding;
pub use super::step::MEMORY;
use super::step::{Row, Step, Variance};

/// The guidance scale.
pub const GUIDANCE: usize = 0;
/// x̂₀ = this · x + the next · out.
pub const X0_X: usize = 1;
/// See [`X0_X`].
pub const X0_OUT: usize = 2;
/// ε = this · x + the next · out.
pub const EPS_X: usize = 3;
/// See [`EPS_X`].
pub const EPS_OUT: usize = 4;
/// 0: x̂₀ as it is; 1: clamped to a range; 2: to its quantile, and divided by that.
pub const CLIP: usize = 5;
/// The range, or the largest quantile.
pub const CLIP_RANGE: usize = 6;
/// Which quantile.
pub const QUANTILE: usize = 7;
/// 0: σ is given; 1: between two logarithms, by the network's own channels; 2: the root of these.
pub const VARIANCE: usize = 8;
/// σ.
pub const SIGMA: usize = 9;
/// The smaller logarithm.
pub const LOG_MIN: usize = 10;
/// The larger.
pub const LOG_MAX: usize = 11;
/// 1 where noise is added.
pub const NOISE: usize = 12;
/// How many tensors of the memory the sampler uses.
pub const REMEMBERED: usize = 13;
/// The next sample's row: what it takes of x, of x̂₀, of ε, and of each tensor of the memory.
pub const NEXT: usize = 16;
/// Numbers of a row; the memory's follow the next sample's.
pub const ROW: usize = 3 + MEMORY;
/// How many there are.
pub const COUNT: usize = NEXT + (1 + MEMORY) * ROW;

/// A step and the guidance scale as the array the kernels read, each number at its place.
pub fn coefficients(step: &Step, guidance_scale: f64) -> [f32; COUNT] {
    let c = &step.coefficients;
    let mut out = [0.0; COUNT];
    out[GUIDANCE] = guidance_scale;
    out[X0_X] = c.x0_x;
    out[X0_OUT] = c.x0_out;
    out[EPS_X] = c.eps_x;
    out[EPS_OUT] = c.eps_out;
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
    out[REMEMBERED] = c.memory_len as f64;
    for (row, out) in std::iter::once(&c.next).chain(&c.memory).zip(out[NEXT..].chunks_exact_mut(ROW)) {
        let Row { x, x0, eps, memory } = row;
        out[..3].copy_from_slice(&[*x, *x0, *eps]);
        out[3..].copy_from_slice(memory);
    }
    out.map(|v| v as f32)
}
