//! Every sampler as a list of [`Step`]s: the scalars one fused kernel needs to go from x_t to x_{t−1}.
//!
//! Written as linear maps so that DDPM, DDIM and UnCLIP, all prediction types and both arithmetics are one
//! kernel: x̂0 and ε are combinations of x and the network's output, the mean one of x, x̂0 and ε.

use super::config::{PredictionType, Sampler, SchedulerConfig, Thresholding, Timesteps, VarianceType};
use super::schedule::{Arithmetic, Schedule, Spacing};
use crate::error::{Error, Result};

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

/// The steps of one sampling run, first (noisiest) to last.
///
/// Scalars are those of diffusers (float32 rounding, the variance's floor of 1e-20, no noise at t = 0) or of
/// OpenAI's float64 code, as `config.arithmetic` says. Errors: [`Error::Request`] for impossible numbers of
/// steps or η, and where ᾱ_t = 0 (zero terminal SNR) leaves x̂0 undetermined by a predicted ε.
pub fn steps(
    config: &SchedulerConfig,
    sampler: &Sampler,
    timesteps: impl Into<Timesteps>,
) -> Result<Vec<Step>> {
    let timesteps = timesteps.into();
    let schedule = config.schedule()?;
    let list = timesteps.resolve(config)?;
    if let Sampler::Ddim { eta, .. } = sampler
        && !(eta.is_finite() && *eta >= 0.0)
    {
        return Err(Error::Request(format!("DDIM's eta must be a number from 0 to 1, found {eta}")));
    }
    let stride = match timesteps {
        // diffusers' DDIM steps down by T / n whichever of its spacings chose the timesteps
        Timesteps::Count(count)
            if matches!(sampler, Sampler::Ddim { .. }) && config.spacing != Spacing::Fractional =>
        {
            Some(schedule.betas.len() / count)
        }
        _ => None,
    };
    let step = |i: usize| {
        let t = list[i];
        let previous = match (stride, sampler) {
            (Some(stride), _) => t.checked_sub(stride),
            (None, Sampler::UnClip) => list.get(i + 1).copied().or_else(|| t.checked_sub(1)),
            (None, _) => list.get(i + 1).copied(),
        };
        let last = if config.arithmetic == Arithmetic::Float64 { i + 1 == list.len() } else { t == 0 };
        let mut point = Point::new(&schedule, config, sampler, t, previous);
        if config.arithmetic == Arithmetic::Float64 && last && i > 0 {
            let before = Point::new(&schedule, config, sampler, list[i - 1], Some(t));
            point.variance_before = Some(before.posterior_variance());
        }
        one_step(config, sampler, &point, last)
    };
    (0..list.len()).map(step).collect()
}

/// The scalars (√ᾱ_t, √(1−ᾱ_t)) of the forward process x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε, as
/// `image_noising_scheduler.add_noise` has them.
///
/// Errors ([`Error::Request`]) when `timestep` is not one the model was trained with.
pub fn add_noise(config: &SchedulerConfig, timestep: usize) -> Result<(f64, f64)> {
    let schedule = config.schedule()?;
    let Some(&alpha_bar) = schedule.alpha_bars.get(timestep) else {
        return Err(Error::Request(format!(
            "noise level {timestep} is out of range: this model takes 0 to {}",
            schedule.alpha_bars.len() - 1
        )));
    };
    let q = |value: f64| config.arithmetic.round(value);
    Ok((q(alpha_bar.sqrt()), q(q(1.0 - alpha_bar).sqrt())))
}

/// The chain at one step: t and the timestep before it.
struct Point {
    t: usize,
    arithmetic: Arithmetic,
    alpha_bar: f64,
    alpha_bar_prev: f64,
    /// 1 − ᾱ_t.
    noise: f64,
    /// 1 − ᾱ of the step before.
    noise_prev: f64,
    /// β and α = 1 − β of the step from `t` to the one before it.
    beta: f64,
    alpha: f64,
    /// β̃ of the step before the last: OpenAI's code takes it where the last one's, 0, has no logarithm.
    variance_before: Option<f64>,
}

impl Point {
    fn new(
        schedule: &Schedule,
        config: &SchedulerConfig,
        sampler: &Sampler,
        t: usize,
        previous: Option<usize>,
    ) -> Self {
        let arithmetic = schedule.arithmetic;
        let q = |value: f64| arithmetic.round(value);
        let ddim = matches!(sampler, Sampler::Ddim { .. });
        let last_alpha_bar = if ddim && !config.set_alpha_to_one { schedule.alpha_bars[0] } else { 1.0 };
        let alpha_bar = schedule.alpha_bars[t];
        let alpha_bar_prev = previous.map_or(last_alpha_bar, |previous| schedule.alpha_bars[previous]);
        let ratio = q(alpha_bar / alpha_bar_prev);
        let (alpha, beta) = match sampler {
            Sampler::UnClip if previous == t.checked_sub(1) => {
                (q(1.0 - schedule.betas[t]), schedule.betas[t])
            }
            // Karlo's scheduler goes from β back to α, DDPM keeps the ratio
            Sampler::UnClip => (q(1.0 - q(1.0 - ratio)), q(1.0 - ratio)),
            _ => (ratio, q(1.0 - ratio)),
        };
        let (noise, noise_prev) = (q(1.0 - alpha_bar), q(1.0 - alpha_bar_prev));
        Point {
            t,
            arithmetic,
            alpha_bar,
            alpha_bar_prev,
            noise,
            noise_prev,
            beta,
            alpha,
            variance_before: None,
        }
    }

    fn round(&self, value: f64) -> f64 {
        self.arithmetic.round(value)
    }

    fn sqrt(&self, value: f64) -> f64 {
        self.round(value.sqrt())
    }

    /// (x0_x, x0_out, eps_x, eps_out).
    fn prediction(&self, prediction: PredictionType) -> Result<[f64; 4]> {
        let (signal, noise) = (self.sqrt(self.alpha_bar), self.sqrt(self.noise));
        match prediction {
            PredictionType::Epsilon if self.alpha_bar == 0.0 => Err(Error::Request(format!(
                "timestep {} has alpha_bar 0 (zero terminal SNR), where a predicted epsilon says nothing \
                 about the picture: use a model with prediction_type v_prediction or sample, or timesteps \
                 that leave {} out",
                self.t, self.t
            ))),
            PredictionType::Epsilon => Ok([1.0 / signal, -noise / signal, 0.0, 1.0]),
            PredictionType::Sample => Ok([0.0, 1.0, 1.0 / noise, -signal / noise]),
            PredictionType::VPrediction => Ok([signal, -noise, noise, signal]),
        }
    }

    /// β̃ = β (1−ᾱ_prev)/(1−ᾱ).
    fn posterior_variance(&self) -> f64 {
        self.round(self.round(self.noise_prev / self.noise) * self.beta)
    }
}

fn one_step(config: &SchedulerConfig, sampler: &Sampler, point: &Point, last: bool) -> Result<Step> {
    let [x0_x, x0_out, eps_x, eps_out] = point.prediction(config.prediction_type)?;
    let (mean, variance, draws_noise) = match *sampler {
        Sampler::Ddim { eta, rederive_epsilon } => ddim(point, eta, rederive_epsilon)?,
        Sampler::Ddpm | Sampler::UnClip => {
            let variance = match (last, point.variance_before) {
                (true, None) => Variance::Fixed { sigma: 0.0 },
                (true, Some(before)) => last_variance(config, point, before),
                (false, _) => ancestral_variance(config, point),
            };
            (posterior_mean(config, point), variance, !last)
        }
    };
    let [mean_x, mean_x0, mean_eps] = mean;
    let clip = config.clip;
    let coefficients =
        Coefficients { x0_x, x0_out, eps_x, eps_out, mean_x, mean_x0, mean_eps, clip, variance };
    let adds_noise = draws_noise;
    let draws_noise = draws_noise || config.always_draws;
    let score_shifts = match sampler {
        Sampler::Ddim { .. } => ScoreShifts::Epsilon,
        Sampler::Ddpm | Sampler::UnClip => ScoreShifts::Mean,
    };
    let (timestep, alpha_bar) = (point.t as f64, point.alpha_bar);
    Ok(Step { timestep, coefficients, draws_noise, adds_noise, alpha_bar, score_shifts })
}

/// (mean_x, mean_x0, mean_eps) of q(x_{t−1} | x_t, x̂0), formula 7 of arXiv:2006.11239.
///
/// Without clipping x̂0 = (x − √(1−ᾱ) ε)/√ᾱ is put in, which gives the paper's algorithm 2,
/// x_{t−1} = (x_t − β_t/√(1−ᾱ_t) ε)/√α_t + σ_t z, for any prediction type.
fn posterior_mean(config: &SchedulerConfig, point: &Point) -> [f64; 3] {
    let q = |value: f64| point.round(value);
    let mean_x0 = q(q(point.sqrt(point.alpha_bar_prev) * point.beta) / point.noise);
    let mean_x = q(q(point.sqrt(point.alpha) * point.noise_prev) / point.noise);
    if config.clip != Thresholding::None || point.alpha_bar == 0.0 {
        return [mean_x, mean_x0, 0.0];
    }
    let (signal, noise) = (point.sqrt(point.alpha_bar), point.sqrt(point.noise));
    [mean_x + mean_x0 / signal, 0.0, -mean_x0 * noise / signal]
}

fn ancestral_variance(config: &SchedulerConfig, point: &Point) -> Variance {
    // diffusers' floor; it acts only where t > 0 has no step before it (β̃ = 0)
    let floor = 1e-20;
    let small = point.posterior_variance().max(floor);
    let log = |value: f64| point.round(value.ln());
    match config.variance_type {
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
fn last_variance(config: &SchedulerConfig, point: &Point, before: f64) -> Variance {
    match config.variance_type {
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

/// Formulas 12 and 16 of arXiv:2010.02502.
fn ddim(point: &Point, eta: f64, rederive_epsilon: bool) -> Result<([f64; 3], Variance, bool)> {
    let q = |value: f64| point.round(value);
    let sigma = q(eta * point.sqrt(point.posterior_variance()));
    let left = q(q(1.0 - point.alpha_bar_prev) - q(sigma * sigma));
    // exactly 0 may come out as a rounding error below it
    if left < -1e-6 {
        return Err(Error::Request(format!("DDIM's eta {eta} is too large; use 0 to 1")));
    }
    let direction = point.sqrt(left.max(0.0));
    let signal_prev = point.sqrt(point.alpha_bar_prev);
    let mean = if rederive_epsilon {
        let (signal, noise) = (point.sqrt(point.alpha_bar), point.sqrt(point.noise));
        [direction / noise, signal_prev - direction * signal / noise, 0.0]
    } else {
        [0.0, signal_prev, direction]
    };
    Ok((mean, Variance::Fixed { sigma }, eta > 0.0))
}
