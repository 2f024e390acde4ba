//! What a sampler of the trained chain says of a step, and what it is told of the chain there.

use crate::diffusion::process::{PredictionType, Process};
use crate::diffusion::schedule::{Arithmetic, Schedule};
use crate::diffusion::step::{Row, ScoreShifts, Variance};
use crate::error::{Result, request};

/// What a sampler says of a step.
pub struct Rule {
    /// The mean of the next sample.
    pub next: Row,
    /// The noise added to the mean.
    pub variance: Variance,
    /// Whether any is.
    pub adds_noise: bool,
    /// What guidance by a score shifts.
    pub score_shifts: ScoreShifts,
}

/// A sampler of the trained chain. Everything but the rule itself has the usual answer.
pub trait Method {
    /// The rule of a step; `last` of a run.
    ///
    /// Errors: numbers of its own that make no sense.
    fn rule(&self, process: &Process, point: &Point, last: bool) -> Result<Rule>;

    /// Timesteps from one to the next in a run of `count`, where that is not to the next one visited.
    fn stride(&self, _process: &Process, _count: usize) -> Option<usize> {
        None
    }

    /// The timestep before `t`, where none is visited after it.
    fn before_last(&self, _t: usize) -> Option<usize> {
        None
    }

    /// ᾱ after the last step.
    fn last_alpha_bar(&self, _process: &Process, _schedule: &Schedule) -> f64 {
        1.0
    }

    /// α and β of the step from `t` to `previous`, of their ratio ᾱ_t / ᾱ_previous.
    fn alpha_beta(&self, schedule: &Schedule, _t: usize, _previous: Option<usize>, ratio: f64) -> (f64, f64) {
        (ratio, schedule.arithmetic.round(1.0 - ratio))
    }
}

/// The chain at one step: t and the timestep before it.
pub struct Point {
    pub t: usize,
    arithmetic: Arithmetic,
    pub alpha_bar: f64,
    pub alpha_bar_prev: f64,
    /// 1 − ᾱ_t.
    pub noise: f64,
    /// 1 − ᾱ of the step before.
    pub noise_prev: f64,
    /// β and α = 1 − β of the step from `t` to the one before it.
    pub beta: f64,
    pub alpha: f64,
    /// β̃ of the step before the last: OpenAI's code takes it where the last one's, 0, has no logarithm.
    pub variance_before: Option<f64>,
}

impl Point {
    pub fn new(
        schedule: &Schedule,
        process: &Process,
        method: &dyn Method,
        t: usize,
        previous: Option<usize>,
    ) -> Self {
        let arithmetic = schedule.arithmetic;
        let q = |value: f64| arithmetic.round(value);
        let last_alpha_bar = method.last_alpha_bar(process, schedule);
        let alpha_bar = schedule.alpha_bars[t];
        let alpha_bar_prev = previous.map_or(last_alpha_bar, |previous| schedule.alpha_bars[previous]);
        let (alpha, beta) = method.alpha_beta(schedule, t, previous, q(alpha_bar / alpha_bar_prev));
        let (noise, noise_prev) = (q(1.0 - alpha_bar), q(1.0 - alpha_bar_prev));
        let variance_before = None;
        Point { t, arithmetic, alpha_bar, alpha_bar_prev, noise, noise_prev, beta, alpha, variance_before }
    }

    pub fn round(&self, value: f64) -> f64 {
        self.arithmetic.round(value)
    }

    pub fn sqrt(&self, value: f64) -> f64 {
        self.round(value.sqrt())
    }

    /// β̃ = β (1−ᾱ_prev)/(1−ᾱ).
    pub fn posterior_variance(&self) -> f64 {
        self.round(self.round(self.noise_prev / self.noise) * self.beta)
    }
}

/// (x0_x, x0_out, eps_x, eps_out) at a timestep with √ᾱ and √(1−ᾱ).
pub fn prediction(prediction: PredictionType, t: f64, signal: f64, noise: f64) -> Result<[f64; 4]> {
    match prediction {
        PredictionType::Epsilon if signal == 0.0 => Err(request!(
            Steps,
            Unsupported,
            "timestep {t} has alpha_bar 0 (zero terminal SNR), where a predicted epsilon says nothing about the \
             picture: use a model with prediction_type v_prediction or sample, or timesteps that leave {t} out"
        )),
        PredictionType::Epsilon => Ok([1.0 / signal, -noise / signal, 0.0, 1.0]),
        PredictionType::Sample => Ok([0.0, 1.0, 1.0 / noise, -signal / noise]),
        PredictionType::VPrediction => Ok([signal, -noise, noise, signal]),
    }
}

/// ε of a call, from x and the clipped x̂0. (Beside a large x it has few digits; unclipped it is [`Row::EPS`].)
pub fn epsilon(signal: f64, noise: f64) -> Row {
    Row::X * (1.0 / noise) - Row::X0 * (signal / noise)
}
