//! A step as scalars, for one fused kernel.
//!
//! Written as linear maps so that all samplers, all prediction types and both arithmetics are one kernel: x̂0 and ε are
//! combinations of x and the network's output, the mean one of x, x̂0 and ε.

use super::process::Thresholding;

/// The standard deviation σ of the noise a step adds: x_{t−1} = mean + σ z.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Variance {
    /// The same σ everywhere.
    Fixed {
        /// Standard deviation; 0 adds none.
        sigma: f64,
    },
    /// σ = exp(½ (f log_max + (1−f) log_min)), f = (v+1)/2 of the network's variance channels v, not clamped.
    LearnedRange {
        /// log β̃.
        log_min: f64,
        /// log β.
        log_max: f64,
    },
    /// σ = √v of the network's variance channels v (diffusers' `learned`).
    Learned,
}

/// The scalars of one step. `out` is the network's output after guidance, without variance channels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coefficients {
    /// x̂0 = x0_x·x + x0_out·out, then [`Coefficients::clip`].
    pub x0_x: f64,
    /// See [`Coefficients::x0_x`].
    pub x0_out: f64,
    /// ε = eps_x·x + eps_out·out, from the network, whatever clipping did to x̂0.
    pub eps_x: f64,
    /// See [`Coefficients::eps_x`].
    pub eps_out: f64,
    /// mean = mean_x·x + mean_x0·clip(x̂0) + mean_eps·ε. Terms with weight 0 may be skipped.
    pub mean_x: f64,
    /// See [`Coefficients::mean_x`].
    pub mean_x0: f64,
    /// See [`Coefficients::mean_x`].
    pub mean_eps: f64,
    /// What happens to x̂0.
    pub clip: Thresholding,
    /// The noise added to the mean.
    pub variance: Variance,
}

/// One denoising step as the fused kernel takes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Fed to the network.
    pub timestep: f64,
    /// The step's scalars.
    pub coefficients: Coefficients,
    /// The reference implementation draws noise of x's size in this step.
    pub draws_noise: bool,
    /// The noise is added; otherwise a draw only moves the generator on, and the variance only scales guidance.
    pub adds_noise: bool,
    /// ᾱ_t.
    pub alpha_bar: f64,
    /// What guidance by a score shifts in this sampler.
    pub score_shifts: ScoreShifts,
}

/// What a score ∇ log p(y | x_t) shifts (Dhariwal & Nichol 2021, arXiv:2105.05233).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreShifts {
    /// The mean of x_{t−1}, by variance times score: ancestral sampling.
    Mean,
    /// ε, by −√(1−ᾱ_t) times score: DDIM.
    Epsilon,
}
