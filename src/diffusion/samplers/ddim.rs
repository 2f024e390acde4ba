//! DDIM (Song et al. 2020, arXiv:2010.02502), formulas 12 and 16.

use super::class::Class;
use super::rule::{Method, Point, Rule};
use crate::diffusion::process::Process;
use crate::diffusion::schedule::{Schedule, Spacing};
use crate::diffusion::step::{Row, ScoreShifts, Variance};
use crate::error::{Error, Problem, Result, Setting};

/// Its diffusers scheduler.
pub(super) static CLASS: Class =
    Class { name: "DDIMScheduler", clip: super::ddpm::clip, spacing: Spacing::Leading, ..Class::SOLVER };

/// DDIM's.
pub struct Ddim {
    /// 0 deterministic, 1 as random as DDPM.
    pub eta: f64,
}

impl Method for Ddim {
    fn rule(&self, process: &Process, point: &Point, _: bool) -> Result<Rule> {
        let (eta, q) = (self.eta, |value: f64| point.round(value));
        let refused = |what| Err(Error::request(Setting::Eta, Problem::OutOfRange, what));
        if !(eta.is_finite() && eta >= 0.0) {
            return refused(format!("DDIM's eta must be a number from 0 to 1, found {eta}"));
        }
        let sigma = q(eta * point.sqrt(point.posterior_variance()));
        let left = q(q(1.0 - point.alpha_bar_prev) - q(sigma * sigma));
        // exactly 0 may come out as a rounding error below it
        if left < -1e-6 {
            return refused(format!("DDIM's eta {eta} is too large; use 0 to 1"));
        }
        let direction = point.sqrt(left.max(0.0));
        let signal_prev = point.sqrt(point.alpha_bar_prev);
        let next = if process.rederive_epsilon {
            let (signal, noise) = (point.sqrt(point.alpha_bar), point.sqrt(point.noise));
            Row::of(direction / noise, signal_prev - direction * signal / noise, 0.0)
        } else {
            Row::of(0.0, signal_prev, direction)
        };
        let variance = Variance::Fixed { sigma };
        Ok(Rule { next, variance, adds_noise: eta > 0.0, score_shifts: ScoreShifts::Epsilon })
    }

    /// diffusers' steps down by T / n whichever of its spacings chose the timesteps.
    fn stride(&self, process: &Process, count: usize) -> Option<usize> {
        (process.spacing != Spacing::Fractional).then(|| process.num_train_timesteps / count)
    }

    fn last_alpha_bar(&self, process: &Process, schedule: &Schedule) -> f64 {
        if process.set_alpha_to_one { 1.0 } else { schedule.alpha_bars[0] }
    }
}
