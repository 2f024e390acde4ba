//! Where a solver calls the network: noise levels σ = √((1−ᾱ)/ᾱ) and their timesteps.
//!
//! Rounded as diffusers does: its table of σ is float32, what numpy makes of it float64, and the result float32 again.

use super::rule::epsilon;
use crate::diffusion::json::Json;
use crate::diffusion::numpy_log::log;
use crate::diffusion::process::Process;
use crate::diffusion::process::Thresholding;
use crate::diffusion::schedule::{Arithmetic, BetaSchedule, Spacing, trailing};
use crate::diffusion::step::Row;
use crate::diffusion::timesteps::Timesteps;
use crate::error::{Result, request};
use serde::{Deserialize, Serialize};

/// The exponent of Karras et al. 2022.
const RHO: f64 = 7.0;
/// What diffusers takes for ᾱ = 0 (zero terminal SNR), where σ would be infinite.
const LEAST_ALPHA_BAR: f64 = 1.0 / (1 << 24) as f64;

/// How noise levels are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spread {
    /// Those of the timesteps.
    #[default]
    Timesteps,
    /// Evenly in σ^(1/7) (Karras et al. 2022, arXiv:2206.00364, equation 5).
    Karras,
    /// Evenly in log σ.
    Exponential,
    /// Evenly in log σ, with whole timesteps (Lu et al. 2022).
    Lu,
}

/// Where the last step ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LastSigma {
    /// At the picture, σ = 0.
    #[default]
    Zero,
    /// At the smallest σ of the training.
    Min,
}

/// A solver's noise levels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sigmas {
    /// How they are chosen.
    pub spread: Spread,
    /// Where the last step ends.
    pub last: LastSigma,
}

impl Sigmas {
    /// `use_karras_sigmas` and its like, as far as they are built.
    pub fn read(json: &Json<'_>) -> Result<Spread> {
        json.refuse("use_beta_sigmas")?;
        json.refuse("use_flow_sigmas")?;
        let karras = json.boolean("use_karras_sigmas", false)?;
        let exponential = json.boolean("use_exponential_sigmas", false)?;
        match (karras, exponential) {
            (true, true) => {
                Err(json.error("use_karras_sigmas", "is true beside use_exponential_sigmas: one at most"))
            }
            (true, false) => Ok(Spread::Karras),
            (false, true) => Ok(Spread::Exponential),
            (false, false) => Ok(Spread::Timesteps),
        }
    }

    /// `final_sigmas_type`.
    pub fn read_last(json: &Json<'_>) -> Result<LastSigma> {
        let choices = [("zero", LastSigma::Zero), ("sigma_min", LastSigma::Min)];
        json.choice("final_sigmas_type", Some(LastSigma::Zero), &choices)
    }
}

/// How timesteps are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Whole ones, of which one more is spaced than are visited: the last step ends where the first of the others begins.
    Whole {
        /// Those of chosen σ are rounded; otherwise cut off.
        rounded: bool,
    },
    /// Fractions.
    Fractions,
}

/// What a solver's levels are made of.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// How they are chosen.
    pub sigmas: Sigmas,
    /// How timesteps are numbered.
    pub times: Times,
    /// The smallest level is the last one chosen, not the training's.
    pub ends_at_own: bool,
    /// The largest number of the noisiest level, as log(√ᾱ/√(1−ᾱ)).
    pub lambda_min: f64,
    /// Levels chosen by their σ lie between these instead of those of the timesteps.
    pub range: (Option<f64>, Option<f64>),
    /// Levels evenly in log σ, from the training's largest down to its smallest, whatever the timesteps.
    pub log_linear: bool,
}

impl Grid {
    /// One of fractions.
    pub fn fractions(sigmas: Sigmas) -> Grid {
        let times = Times::Fractions;
        let (range, lambda_min) = ((None, None), f64::NEG_INFINITY);
        Grid { sigmas, times, ends_at_own: false, lambda_min, range, log_linear: false }
    }
}

/// The levels of a run: one for each step, and that where the last one ends.
pub struct Levels {
    /// Timesteps.
    pub times: Vec<f64>,
    /// σ; one more.
    pub sigmas: Vec<f64>,
    arithmetic: Arithmetic,
    clips: bool,
}

impl Levels {
    /// Those of `timesteps`. Errors ([`Request`](crate::Error::Request)): timesteps that there cannot be, and such as do not
    /// go with levels chosen by σ.
    pub fn new(config: &Process, spacing: Spacing, grid: &Grid, timesteps: &Timesteps) -> Result<Levels> {
        let schedule = config.schedule()?;
        let q = |value: f64| config.arithmetic.round(value);
        let sigma = |bar: &f64| {
            let bar = if *bar == 0.0 { LEAST_ALPHA_BAR } else { *bar };
            q(q(q(1.0 - bar) / bar).sqrt())
        };
        let table: Vec<f64> = schedule.alpha_bars.iter().map(sigma).collect();
        let logs: Vec<f64> = table.iter().map(|sigma| numpy_log(config.arithmetic, *sigma)).collect();
        let chosen = grid.sigmas.spread != Spread::Timesteps;
        let mut times = match timesteps {
            Timesteps::Count(count) => spaced(config, spacing, grid, *count, &table)?,
            _ if chosen => {
                return Err(request!(
                    Steps,
                    Conflict,
                    "own timesteps beside a sampler that chooses noise levels by their size: give a number of steps"
                ));
            }
            given => given.resolve(config)?.into_iter().map(|t| t as f64).collect(),
        };
        let mut sigmas: Vec<f64> = times.iter().map(|t| interpolated(&table, *t)).collect();
        if grid.log_linear {
            let (most, least) = (logs[logs.len() - 1], logs[0]);
            let all = even(most, least, sigmas.len() + 1);
            sigmas = all.into_iter().map(|log| q(q(log).exp())).collect();
        }
        let (most, least) = match grid.times {
            Times::Whole { .. } => (table[table.len() - 1], table[0]),
            Times::Fractions => (sigmas[0], sigmas[sigmas.len() - 1]),
        };
        let (least, most) = (grid.range.0.unwrap_or(least), grid.range.1.unwrap_or(most));
        // As many as were asked for, though whole timesteps below the largest may be fewer.
        let count = if let Timesteps::Count(count) = timesteps { *count } else { times.len() };
        match grid.sigmas.spread {
            Spread::Timesteps => {}
            Spread::Karras => {
                let (most, least) = (most.powf(1.0 / RHO), least.powf(1.0 / RHO));
                let ramp = even(0.0, 1.0, count).into_iter();
                sigmas = ramp.map(|r| (most + r * (least - most)).powf(RHO)).collect();
            }
            Spread::Exponential => {
                sigmas = even(most.ln(), least.ln(), count).into_iter().map(f64::exp).collect();
            }
            Spread::Lu => {
                let (most, least) = (logs[logs.len() - 1], logs[0]);
                let ramp = even(0.0, 1.0, count).into_iter();
                sigmas = ramp.map(|r| (most + r * (least - most)).exp()).collect();
            }
        }
        if chosen {
            let whole = |t: f64| match grid.times {
                Times::Whole { rounded: true } if grid.sigmas.spread != Spread::Exponential => {
                    t.round_ties_even()
                }
                Times::Whole { .. } => t.trunc(),
                Times::Fractions => q(t),
            };
            times = sigmas.iter().map(|sigma| whole(timestep(&logs, *sigma, config.arithmetic))).collect();
        }
        sigmas.push(match grid.sigmas.last {
            LastSigma::Zero => 0.0,
            LastSigma::Min if chosen && grid.ends_at_own => sigmas[sigmas.len() - 1],
            LastSigma::Min => table[0],
        });
        sigmas.iter_mut().for_each(|sigma| *sigma = q(*sigma));
        let clips = config.clip != Thresholding::None;
        Ok(Levels { times, sigmas, arithmetic: config.arithmetic, clips })
    }

    /// How many steps.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Rounds as the arithmetic does.
    pub fn q(&self, value: f64) -> f64 {
        self.arithmetic.round(value)
    }

    /// `numpy.log`.
    pub fn numpy_log(&self, value: f64) -> f64 {
        numpy_log(self.arithmetic, value)
    }

    /// √ᾱ, rounded.
    pub fn alpha(&self, i: usize) -> f64 {
        let sigma = self.sigmas[i];
        self.q(1.0 / self.q(self.q(self.q(sigma * sigma) + 1.0).sqrt()))
    }

    /// √(1−ᾱ), rounded.
    pub fn noise(&self, i: usize) -> f64 {
        self.q(self.sigmas[i] * self.alpha(i))
    }

    /// log(√ᾱ/√(1−ᾱ)), rounded; infinite where σ is 0.
    pub fn lambda(&self, i: usize) -> f64 {
        self.q(self.q(self.alpha(i).ln()) - self.q(self.noise(i).ln()))
    }

    /// ε of a call; where x̂0 is clipped, from that.
    pub fn epsilon(&self, i: usize) -> Row {
        if self.clips { epsilon(self.alpha(i), self.noise(i)) } else { Row::EPS }
    }

    /// √(σ²+1): a sample in σ over ours.
    pub fn scale(&self, i: usize) -> f64 {
        self.sigmas[i].hypot(1.0)
    }
}

/// The timesteps of so many steps.
fn spaced(config: &Process, spacing: Spacing, grid: &Grid, count: usize, table: &[f64]) -> Result<Vec<f64>> {
    let (total, offset) = (config.num_train_timesteps, config.steps_offset);
    let whole = matches!(grid.times, Times::Whole { .. });
    if !whole && spacing == Spacing::Linspace && (1..=total).contains(&count) {
        let times = even(0.0, (total - 1) as f64, count);
        return Ok(times.into_iter().rev().map(|t| config.arithmetic.round(t)).collect());
    }
    if !whole {
        let list = spacing.timesteps(total, count, offset)?;
        return Ok(list.into_iter().map(|t| t as f64).collect());
    }
    // Levels above the limit are left out.
    let lambda = |sigma: f64| -sigma.ln();
    let total = total - table.iter().rev().take_while(|sigma| lambda(**sigma) < grid.lambda_min).count();
    if count == 0 || count >= total.max(2) {
        return Err(request!(
            Steps,
            OutOfRange,
            "{count} sampling steps asked for; this sampler takes 1 to {} of this model's timesteps",
            total.max(2) - 1
        ));
    }
    let mut list: Vec<usize> = match spacing {
        Spacing::Leading => (1..=count).map(|i| i * (total / (count + 1)) + offset).collect(),
        Spacing::Trailing => {
            let stride = config.num_train_timesteps as f64 / count as f64;
            let most = (total as f64 / stride - 1e-9).ceil() as usize;
            trailing(total, stride, most)
        }
        _ => even(0.0, (total - 1) as f64, count + 1)[1..]
            .iter()
            .map(|t| t.round_ties_even() as usize)
            .collect(),
    };
    list.reverse();
    match list.first() {
        Some(&first) if first < config.num_train_timesteps => {
            Ok(list.into_iter().map(|t| t as f64).collect())
        }
        _ => Err(request!(
            Steps,
            OutOfRange,
            "{count} steps with steps_offset {offset} start beyond the model's last timestep, {}; ask for fewer steps",
            config.num_train_timesteps - 1
        )),
    }
}

/// `numpy.linspace`.
fn even(first: f64, last: f64, count: usize) -> Vec<f64> {
    let step = (last - first) / (count.max(2) - 1) as f64;
    (0..count).map(|i| if i > 0 && i + 1 == count { last } else { i as f64 * step + first }).collect()
}

/// `numpy.interp` of a table at a place in it.
fn interpolated(table: &[f64], at: f64) -> f64 {
    let below = (at as usize).min(table.len() - 1);
    let above = (below + 1).min(table.len() - 1);
    (table[above] - table[below]) * (at - below as f64) + table[below]
}

/// The timestep of a σ, between those of the table, by its logarithm.
fn timestep(logs: &[f64], sigma: f64, arithmetic: Arithmetic) -> f64 {
    let log = sigma.max(1e-10).ln();
    let last = logs.len().saturating_sub(2);
    let below = logs.iter().rposition(|l| log - l >= 0.0).unwrap_or(0).min(last);
    let above = (below + 1).min(logs.len() - 1);
    let (low, high) = (logs[below], logs[above]);
    let w = ((low - log) / arithmetic.round(low - high)).clamp(0.0, 1.0);
    (1.0 - w) * below as f64 + w * above as f64
}

/// `numpy.log` of what float32 holds, or of float64.
pub fn numpy_log(arithmetic: Arithmetic, value: f64) -> f64 {
    match arithmetic {
        Arithmetic::Float32 => f64::from(log(value as f32)),
        Arithmetic::Float64 => value.ln(),
    }
}

/// Whether a scheduler's timesteps of chosen σ are rounded: all but those of the cosine schedule.
pub fn rounds(config: &Process) -> bool {
    config.beta_schedule != BetaSchedule::SquaredCosCapV2
}
