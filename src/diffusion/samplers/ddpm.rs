//! Ancestral sampling (Ho et al. 2020, arXiv:2006.11239), over whatever timesteps are chosen; Karlo's differs in α and β.

use super::class::Class;
use super::rule::{Method, Point, Rule};
use crate::diffusion::json::Json;
use crate::diffusion::process::{Process, Thresholding, VarianceType};
use crate::diffusion::schedule::{Schedule, Spacing};
use crate::diffusion::step::{Row, ScoreShifts, Variance};
use crate::error::Result;

/// Its diffusers scheduler.
pub(super) static CLASS: Class =
    Class { name: "DDPMScheduler", clip, spacing: Spacing::Leading, ..Class::SOLVER };

/// Karlo's.
pub(super) static UNCLIP: Class = Class {
    name: "UnCLIPScheduler",
    clip: |json| json.clip_sample(true),
    spacing: Spacing::Fractional,
    rescales: false,
    ..Class::SOLVER
};

/// Thresholding goes before clipping.
pub(super) fn clip(json: &Json<'_>) -> Result<Thresholding> {
    match json.thresholding()? {
        Thresholding::None => json.clip_sample(true),
        dynamic => Ok(dynamic),
    }
}

/// DDPM's.
pub struct Ddpm;

/// DDPM as Karlo's UnCLIPScheduler has it: the last step's predecessor is t − 1.
pub struct UnClip;

impl Method for Ddpm {
    fn rule(&self, process: &Process, point: &Point, last: bool) -> Result<Rule> {
        let variance = match (last, point.variance_before) {
            (true, None) => Variance::Fixed { sigma: 0.0 },
            (true, Some(before)) => last_variance(process, point, before),
            (false, _) => variance(process, point),
        };
        let next = posterior_mean(process, point);
        Ok(Rule { next, variance, adds_noise: !last, score_shifts: ScoreShifts::Mean })
    }
}

impl Method for UnClip {
    fn rule(&self, process: &Process, point: &Point, last: bool) -> Result<Rule> {
        Ddpm.rule(process, point, last)
    }

    fn before_last(&self, t: usize) -> Option<usize> {
        t.checked_sub(1)
    }

    /// Karlo's scheduler goes from β back to α, DDPM keeps the ratio.
    fn alpha_beta(&self, schedule: &Schedule, t: usize, previous: Option<usize>, ratio: f64) -> (f64, f64) {
        let q = |value: f64| schedule.arithmetic.round(value);
        match previous == t.checked_sub(1) {
            true => (q(1.0 - schedule.betas[t]), schedule.betas[t]),
            false => (q(1.0 - q(1.0 - ratio)), q(1.0 - ratio)),
        }
    }
}

/// The mean of q(x_{t−1} | x_t, x̂0), formula 7 of arXiv:2006.11239.
///
/// Without clipping x̂0 = (x − √(1−ᾱ) ε)/√ᾱ is put in, which gives the paper's algorithm 2,
/// x_{t−1} = (x_t − β_t/√(1−ᾱ_t) ε)/√α_t + σ_t z, for any prediction type.
fn posterior_mean(process: &Process, point: &Point) -> Row {
    let q = |value: f64| point.round(value);
    let mean_x0 = q(q(point.sqrt(point.alpha_bar_prev) * point.beta) / point.noise);
    let mean_x = q(q(point.sqrt(point.alpha) * point.noise_prev) / point.noise);
    if process.clip != Thresholding::None || point.alpha_bar == 0.0 {
        return Row::of(mean_x, mean_x0, 0.0);
    }
    let (signal, noise) = (point.sqrt(point.alpha_bar), point.sqrt(point.noise));
    Row::of(mean_x + mean_x0 / signal, 0.0, -mean_x0 * noise / signal)
}

fn variance(process: &Process, point: &Point) -> Variance {
    // diffusers' floor; it acts only where t > 0 has no step before it (β̃ = 0)
    let floor = 1e-20;
    let small = point.posterior_variance().max(floor);
    let log = |value: f64| point.round(value.ln());
    match process.variance_type {
        VarianceType::FixedSmall | VarianceType::FixedSmallLog => {
            Variance::Fixed { sigma: point.sqrt(small) }
        }
        VarianceType::FixedLarge | VarianceType::FixedLargeLog => {
            Variance::Fixed { sigma: point.sqrt(point.beta) }
        }
        VarianceType::LearnedRange => {
            Variance::LearnedRange { log_min: log(small), log_max: log(point.beta.max(floor)) }
        }
        VarianceType::Learned => Variance::Learned,
    }
}

/// The variance that scales guidance in the last step of OpenAI's loops, where no noise is added (`p_mean_variance`).
fn last_variance(process: &Process, point: &Point, before: f64) -> Variance {
    match process.variance_type {
        VarianceType::FixedSmall | VarianceType::FixedSmallLog => Variance::Fixed { sigma: 0.0 },
        VarianceType::FixedLarge | VarianceType::FixedLargeLog => {
            Variance::Fixed { sigma: point.sqrt(before) }
        }
        VarianceType::LearnedRange => {
            Variance::LearnedRange { log_min: before.ln(), log_max: point.beta.ln() }
        }
        VarianceType::Learned => Variance::Learned,
    }
}
