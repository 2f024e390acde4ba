//! Diffusion arithmetic on the CPU: β schedules, timesteps, sampler steps as scalars, noise streams.
//!
//! - [`schedule`]: β, ᾱ and the timesteps a sampler visits.
//! - [`config`]: what a checkpoint's `scheduler_config.json` says.
//! - [`inversion`]: those of DDIM the other way, from a picture to the noise it comes from.
//! - [`scheduler`]: every sampler as a list of [`Step`]s for one fused kernel.
//! - [`numbers`]: a step as that kernel reads it.
//! - [`mod@reference`]: what that kernel computes, in f64.
//! - [`noise`]: PyTorch's CPU generator, bit for bit.

pub(crate) mod box_muller;
pub mod config;
pub mod inversion;
pub mod noise;
pub mod numbers;
pub mod reference;
pub mod schedule;
pub mod scheduler;
#[cfg(test)]
mod tests;

pub use config::{PredictionType, Sampler, SchedulerConfig, Thresholding, Timesteps, VarianceType};
pub use inversion::{inverse, invertible_timesteps};
pub use noise::NoiseStream;
pub use numbers::coefficients;
pub use schedule::{Arithmetic, BetaSchedule, Schedule, Spacing, space_timesteps};
pub use scheduler::{Coefficients, ScoreShifts, Step, Variance, add_noise, steps};
