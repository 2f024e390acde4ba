//! A trained process as samplers read it.

use super::schedule::Spacing;
use serde::{Deserialize, Serialize};

/// What the network's output means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PredictionType {
    /// The noise ε.
    Epsilon,
    /// The clean sample x_0.
    Sample,
    /// v = √ᾱ ε − √(1−ᾱ) x_0 (arXiv:2202.00512).
    VPrediction,
}

/// Which variance the ancestral step adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VarianceType {
    /// The posterior's, β̃ = β (1−ᾱ_prev)/(1−ᾱ).
    FixedSmall,
    /// The same by way of its logarithm.
    FixedSmallLog,
    /// β.
    FixedLarge,
    /// β by way of its logarithm. (diffusers takes the square root of that logarithm, which is NaN; here it
    /// gives √β like OpenAI's code.)
    FixedLargeLog,
    /// The network's extra channels are the variance.
    Learned,
    /// The network's extra channels v interpolate: log σ² = (v+1)/2·log β + (1−v)/2·log β̃
    /// (Nichol & Dhariwal 2021).
    LearnedRange,
}

/// What happens to x̂0 before the mean is formed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Thresholding {
    /// Nothing.
    None,
    /// Clamped to ±r.
    Range(f64),
    /// Dynamic thresholding (Imagen, arXiv:2205.11487): s = quantile of |x̂0| over each image, clamped to
    /// [1, max]; x̂0 clamped to ±s and divided by s.
    Dynamic {
        /// Which quantile, 0 to 1.
        ratio: f64,
        /// The largest s.
        max: f64,
    },
}

/// What a sampler's rule reads of a [`SchedulerConfig`](super::SchedulerConfig), whose members have these names.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "documented where they come from")]
pub struct Process {
    pub num_train_timesteps: usize,
    pub variance_type: VarianceType,
    pub clip: Thresholding,
    pub spacing: Spacing,
    pub set_alpha_to_one: bool,
    pub rederive_epsilon: bool,
}
