//! What the fused step kernel computes, in f64, one value at a time.

use super::process::Thresholding;
use super::step::{Row, Step, Variance};

/// What one step gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Stepped {
    /// x_{t−1}, in x's order.
    pub x: Vec<f64>,
    /// x̂0 after clipping or thresholding, in x's order.
    pub x0: Vec<f64>,
    /// What the sampler remembers, in x's order.
    pub memory: Vec<Vec<f64>>,
}

/// What a step reads, besides its scalars.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Equal, contiguous pictures in any one layout.
    pub x: &'a [f32],
    /// The network's output after guidance, without variance channels.
    pub out: &'a [f32],
    /// The network's variance channels; may be empty where the step does not use them.
    pub variance: &'a [f32],
    /// Standard normals; may be empty where the step does not use them.
    pub noise: &'a [f32],
    /// What the step before remembered; empty before the first.
    pub memory: &'a [Vec<f64>],
    /// How many pictures these are.
    pub images: usize,
}

/// One step of a sampler that remembers nothing; see [`apply_remembering`].
#[track_caller]
pub fn apply(step: &Step, x: &[f32], out: &[f32], variance: &[f32], noise: &[f32], images: usize) -> Stepped {
    apply_remembering(step, Inputs { x, out, variance, noise, memory: &[], images })
}

/// One step; guidance is done before.
///
/// # Panics
/// When lengths do not fit.
#[track_caller]
pub fn apply_remembering(step: &Step, inputs: Inputs<'_>) -> Stepped {
    let Inputs { x, out, variance, noise, memory, images } = inputs;
    let c = &step.coefficients;
    assert!(images > 0 && x.len().is_multiple_of(images), "{} values are not {images} equal images", x.len());
    assert_eq!(x.len(), out.len(), "x and out must have the same length");
    let pairs = || x.iter().zip(out).map(|(&x, &out)| (f64::from(x), f64::from(out)));
    let mut x0: Vec<f64> = pairs().map(|(x, out)| c.x0_x * x + c.x0_out * out).collect();
    for image in x0.chunks_mut((x.len() / images).max(1)) {
        clip(image, c.clip);
    }
    let combined = |row: &Row| -> Vec<f64> {
        let each = pairs().zip(&x0).enumerate().map(|(i, ((x, out), x0))| {
            let epsilon = c.eps_x * x + c.eps_out * out;
            // a weight of 0 must not turn an infinite x̂0 into NaN
            let weighted = |weight: f64, value: f64| if weight == 0.0 { 0.0 } else { weight * value };
            let own = weighted(row.x, x) + weighted(row.x0, *x0) + weighted(row.eps, epsilon);
            memory.iter().zip(row.memory).fold(own, |sum, (slot, weight)| sum + weighted(weight, slot[i]))
        });
        each.collect()
    };
    let added = |i| if step.adds_noise { added_noise(c.variance, i, variance, noise) } else { 0.0 };
    let next = combined(&c.next).into_iter().enumerate().map(|(i, mean)| mean + added(i)).collect();
    let memory = c.memory[..c.memory_len].iter().map(combined).collect();
    Stepped { x: next, x0, memory }
}

#[track_caller]
fn added_noise(kind: Variance, i: usize, variance: &[f32], noise: &[f32]) -> f64 {
    let sigma = match kind {
        Variance::Fixed { sigma: 0.0 } => return 0.0,
        Variance::Fixed { sigma } => sigma,
        Variance::LearnedRange { log_min, log_max } => {
            let fraction = (f64::from(variance[i]) + 1.0) / 2.0;
            (0.5 * (fraction * log_max + (1.0 - fraction) * log_min)).exp()
        }
        Variance::Learned => f64::from(variance[i]).sqrt(),
    };
    sigma * f64::from(noise[i])
}

/// Clips one picture's x̂0 in place.
fn clip(image: &mut [f64], kind: Thresholding) {
    match kind {
        Thresholding::None => {}
        Thresholding::Range(range) => image.iter_mut().for_each(|value| *value = value.clamp(-range, range)),
        Thresholding::Dynamic { ratio, max } => {
            // NaN passes through, as in torch: max and min of the standard library would hide it
            let quantile = quantile_abs_f64(image, ratio);
            let s = if quantile.is_nan() { quantile } else { quantile.max(1.0).min(max) };
            for value in image {
                *value = if s.is_nan() { s } else { value.clamp(-s, s) / s };
            }
        }
    }
}

/// Where a quantile lies among `len` sorted values: index below, index above, weight of the one above.
///
/// torch.quantile computes the rank in the tensor's type, so in float32: 0.95·(len−1) is already rounded.
/// (So torch 2.7, bit for bit; 2.15 keeps more digits and differs by up to 5 ulp.)
pub fn quantile_rank(len: usize, ratio: f64) -> (usize, usize, f32) {
    let last = len.saturating_sub(1);
    let rank = (ratio as f32 * last as f32).clamp(0.0, last as f32);
    ((rank.floor() as usize).min(last), (rank.ceil() as usize).min(last), rank.fract())
}

/// `torch.quantile(values.abs(), ratio)` with linear interpolation, in float32.
/// NaN if any value is; 0 of none.
pub fn quantile_abs(values: &[f32], ratio: f64) -> f32 {
    let mut magnitudes: Vec<f32> = values.iter().map(|value| value.abs()).collect();
    magnitudes.sort_unstable_by(f32::total_cmp);
    // total order puts NaN last
    let Some(&largest) = magnitudes.last() else { return 0.0 };
    if largest.is_nan() {
        return largest;
    }
    let (below, above, weight) = quantile_rank(magnitudes.len(), ratio);
    let (a, b) = (magnitudes[below], magnitudes[above]);
    // torch.lerp counts from the nearer end
    if weight < 0.5 { a + weight * (b - a) } else { b - (b - a) * (1.0 - weight) }
}

/// [`quantile_abs`] of f64 values (the rank still as torch has it for float32 tensors).
pub fn quantile_abs_f64(values: &[f64], ratio: f64) -> f64 {
    let mut magnitudes: Vec<f64> = values.iter().map(|value| value.abs()).collect();
    magnitudes.sort_unstable_by(f64::total_cmp);
    let Some(&largest) = magnitudes.last() else { return 0.0 };
    if largest.is_nan() {
        return largest;
    }
    let (below, above, weight) = quantile_rank(magnitudes.len(), ratio);
    magnitudes[below] + f64::from(weight) * (magnitudes[above] - magnitudes[below])
}
