//! The optimiser's settings, and the numbers of each of its steps.

use crate::kernels::adamw::Moments;
use crate::kernels::optimiser_control::{HEAD, ROW};

/// How the learning rate goes on after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// It stays.
    Constant,
    /// It falls to 0 at the last step.
    Linear,
    /// It falls along half a cosine to 0 at the last step (Loshchilov & Hutter 2017, arXiv:1608.03983).
    Cosine,
    /// It stays for the first half, then falls along half a cosine to a fiftieth at the last step.
    LateCosine,
}

/// How the weights' moving average is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Average {
    /// decay · average + (1 − decay) · weights from the first step on.
    Constant(f64),
    /// diffusers' `EMAModel`: the decay of step t is 1 − (1 + t/`inv_gamma`)^−`power`, at most `most`; where `inv_gamma` is 0,
    /// (1 + t)/(10 + t).
    Warmed {
        /// The largest decay.
        most: f64,
        /// See there.
        inv_gamma: f64,
        /// See there.
        power: f64,
    },
    /// lucidrains' `ema_pytorch`: the weights themselves for `after` steps, then [`Average::Warmed`] counted from there, at
    /// every `every`th step only.
    Delayed {
        /// The largest decay.
        most: f64,
        /// See there.
        inv_gamma: f64,
        /// See there.
        power: f64,
        /// Steps before it begins.
        after: u64,
        /// Steps from one update to the next.
        every: u64,
    },
}

impl Average {
    /// The decay of a step, counted from 1.
    pub fn decay(self, step: u64) -> f64 {
        let warmed = |t: f64, most: f64, inv_gamma: f64, power: f64| match inv_gamma {
            0.0 => ((1.0 + t) / (10.0 + t)).min(most),
            _ => (1.0 - (1.0 + t / inv_gamma).powf(-power)).clamp(0.0, most),
        };
        match self {
            Average::Constant(decay) => decay,
            // diffusers counts the first update as 1 and asks for the step before.
            Average::Warmed { most, inv_gamma, power } => match step {
                0 | 1 => 0.0,
                _ => warmed((step - 1) as f64, most, inv_gamma, power),
            },
            Average::Delayed { .. } if step == 0 => 0.0,
            Average::Delayed { most, inv_gamma, power, after, every } => {
                // Its own counter is one behind when it asks.
                let t = step - 1;
                if !t.is_multiple_of(every.max(1)) {
                    1.0
                } else if t <= after {
                    0.0
                } else {
                    warmed((t - after - 1) as f64, most, inv_gamma, power)
                }
            }
        }
    }
}

/// AdamW, clipping, the schedule, the average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Optimiser {
    /// The largest learning rate.
    pub rate: f64,
    /// How it goes on.
    pub schedule: Rate,
    /// Steps over which it grows from nothing.
    pub warmup: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the second moment's root.
    pub eps: f64,
    /// Decay of the weights, times the rate.
    pub decay: f64,
    /// Largest norm of all gradients together; 0 clips nothing.
    pub clip: f64,
    /// The moving average.
    pub average: Average,
}

impl Default for Optimiser {
    /// What diffusers' training scripts begin with.
    fn default() -> Self {
        Optimiser {
            rate: 1e-4,
            schedule: Rate::Constant,
            warmup: 500,
            steps: 100_000,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            decay: 1e-2,
            clip: 1.0,
            average: Average::Warmed { most: 0.9999, inv_gamma: 1.0, power: 0.75 },
        }
    }
}

impl Optimiser {
    /// The learning rate of a step, counted from 0.
    pub fn rate_at(&self, step: u64) -> f64 {
        let warm = if self.warmup == 0 { 1.0 } else { ((step + 1) as f64 / self.warmup as f64).min(1.0) };
        let span = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let done = (step.saturating_sub(self.warmup) as f64 / span).min(1.0);
        let cosine = |done: f64| 0.5 * (1.0 + (std::f64::consts::PI * done.clamp(0.0, 1.0)).cos());
        let falls = match self.schedule {
            Rate::Constant => 1.0,
            Rate::Linear => 1.0 - done,
            Rate::Cosine => cosine(done),
            Rate::LateCosine => {
                let done = step as f64 / self.steps.max(1) as f64;
                0.02 + 0.98 * cosine((done - 0.5) / 0.5)
            }
        };
        self.rate * warm * falls
    }

    pub(super) fn moments(&self) -> Moments {
        Moments { beta1: self.beta1 as f32, beta2: self.beta2 as f32, eps: self.eps as f32 }
    }

    /// What the [control](crate::kernels::optimiser_control) reads of the steps from `first` on; every `interval` steps
    /// without an overflow the loss scale doubles, up to `largest`.
    pub(super) fn numbers(&self, first: u64, rows: usize, (interval, largest): (u64, f64)) -> Vec<f32> {
        let mut numbers = vec![first as f32, self.clip as f32, interval as f32, largest as f32];
        debug_assert_eq!(numbers.len(), HEAD);
        for step in first..first + rows as u64 {
            let (rate, t) = (self.rate_at(step), (step + 1) as i32);
            let correction = |beta: f64| 1.0 - beta.powi(t);
            let row = [
                rate,
                rate / correction(self.beta1),
                1.0 / correction(self.beta2).sqrt(),
                rate * self.decay,
                self.average.decay(step + 1),
                0.0,
                0.0,
                0.0,
            ];
            debug_assert_eq!(row.len(), ROW);
            numbers.extend(row.map(|v| v as f32));
        }
        numbers
    }
}
