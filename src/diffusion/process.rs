//! A trained process as samplers read it.

use super::schedule::{Arithmetic, BetaSchedule, Schedule, Spacing};
use crate::error::Result;
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

/// A trained process, as samplers read it.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// T.
    pub num_train_timesteps: usize,
    /// How β grows.
    pub beta_schedule: BetaSchedule,
    /// `rescale_betas_zero_snr`.
    pub rescale_betas_zero_snr: bool,
    /// float32 for diffusers, float64 for OpenAI's checkpoints.
    pub arithmetic: Arithmetic,
    /// What the network predicts.
    pub prediction_type: PredictionType,
    /// The ancestral step's variance.
    pub variance_type: VarianceType,
    /// What happens to x̂0 before it is used.
    pub clip: Thresholding,
    /// How a number of steps becomes timesteps.
    pub spacing: Spacing,
    /// A file says so; otherwise it is what its sampler usually takes, and another one takes its own.
    pub spacing_said: bool,
    /// Added to every timestep of the leading spacing.
    pub steps_offset: usize,
    /// DDIM: ᾱ after the last step is 1 (else ᾱ_0).
    pub set_alpha_to_one: bool,
    /// DDIM derives ε again from the clipped x̂0 (`use_clipped_model_output`): OpenAI's code does, diffusers' pipelines do
    /// not.
    pub rederive_epsilon: bool,
    /// OpenAI's loops draw noise in every step, used or not; a shared generator moves on accordingly.
    pub always_draws: bool,
}

impl Process {
    /// β and ᾱ. Errors: see [`Schedule::new`].
    pub fn schedule(&self) -> Result<Schedule> {
        let zero_snr = self.rescale_betas_zero_snr;
        Schedule::new(&self.beta_schedule, self.num_train_timesteps, self.arithmetic, zero_snr)
    }
}
