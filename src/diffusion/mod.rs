//! Diffusion arithmetic on the CPU: β schedules, timesteps, sampler steps as scalars, noise streams.
//!
//! - [`schedule`]: β, ᾱ and the timesteps a sampler visits.
//! - [`config`]: what a checkpoint's `scheduler_config.json` says.
//! - [`inversion`]: those of DDIM the other way, from a picture to the noise it comes from.
//! - [`samplers`]: how x_{t−1} is drawn, a file each. - [`scheduler`]: a run of one as a list of [`Step`]s for one fused kernel.
//! - [`numbers`]: a step as that kernel reads it.
//! - [`mod@reference`]: what that kernel computes, in f64.
//! - [`noise`]: PyTorch's CPU generator, bit for bit. - [`draws`]: a run's random numbers.
//! - [`repaint`]: what a run does besides its steps to keep a part of a picture.
//! - [`vectors`]: directions and the ways between them.

pub(crate) mod box_muller;
pub mod config;
pub mod draws;
pub mod inversion;
mod json;
pub mod noise;
pub mod numbers;
mod numpy_log;
pub mod process;
pub mod reference;
pub mod repaint;
pub mod samplers;
pub mod schedule;
pub mod scheduler;
pub mod step;
#[cfg(test)]
mod tests;
pub mod timesteps;
pub mod vectors;

pub use config::SchedulerConfig;
pub use draws::{Noise, SeededNoise, channels_last, stream_seed};
pub use inversion::{inverse, invertible_timesteps};
pub use noise::NoiseStream;
pub use numbers::coefficients;
pub use process::{PredictionType, Thresholding, VarianceType};
pub use samplers::Sampler;
pub use schedule::{Arithmetic, BetaSchedule, Schedule, Spacing, space_timesteps};
pub use scheduler::{add_noise, steps, steps_from};
pub use step::{Coefficients, MEMORY, Row, ScoreShifts, Step, Variance};
pub use timesteps::Timesteps;
