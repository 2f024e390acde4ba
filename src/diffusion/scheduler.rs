//! Every sampler as a list of [`Step`]s: the scalars one fused kernel needs to go from x_t to x_{t−1}.

use super::config::{SchedulerConfig, Timesteps};
use super::samplers::{Point, Sampler};
use super::schedule::Arithmetic;
use super::step::{Coefficients, Step};
use crate::error::{Result, request};

/// The steps of one sampling run, first (noisiest) to last.
///
/// Scalars are those of diffusers (float32 rounding, the variance's floor of 1e-20, no noise at t = 0) or of
/// OpenAI's float64 code, as `config.arithmetic` says. Errors: [`Request`](crate::Error::Request) for impossible numbers of
/// steps or η, and where ᾱ_t = 0 (zero terminal SNR) leaves x̂0 undetermined by a predicted ε.
pub fn steps(
    config: &SchedulerConfig,
    sampler: &Sampler,
    timesteps: impl Into<Timesteps>,
) -> Result<Vec<Step>> {
    let timesteps = timesteps.into();
    let (schedule, process, method) = (config.schedule()?, config.process(), sampler.method());
    let list = timesteps.resolve(config)?;
    let stride = if let Timesteps::Count(count) = timesteps { method.stride(&process, count) } else { None };
    let openai = config.arithmetic == Arithmetic::Float64;
    let step = |i: usize| {
        let t = list[i];
        let previous = match stride {
            Some(stride) => t.checked_sub(stride),
            None => list.get(i + 1).copied().or_else(|| method.before_last(t)),
        };
        let last = if openai { i + 1 == list.len() } else { t == 0 };
        let mut point = Point::new(&schedule, &process, &*method, t, previous);
        if openai && last && i > 0 {
            let before = Point::new(&schedule, &process, &*method, list[i - 1], Some(t));
            point.variance_before = Some(before.posterior_variance());
        }
        let [x0_x, x0_out, eps_x, eps_out] = point.prediction(config.prediction_type)?;
        let rule = method.rule(&process, &point, last)?;
        let coefficients = Coefficients {
            x0_x,
            x0_out,
            eps_x,
            eps_out,
            next: rule.next,
            memory: Default::default(),
            memory_len: 0,
            clip: config.clip,
            variance: rule.variance,
        };
        Ok(Step {
            timestep: t as f64,
            coefficients,
            draws_noise: rule.adds_noise || config.always_draws,
            adds_noise: rule.adds_noise,
            alpha_bar: point.alpha_bar,
            start_scale: 1.0,
            score_shifts: rule.score_shifts,
        })
    };
    (0..list.len()).map(step).collect()
}

/// The scalars (√ᾱ_t, √(1−ᾱ_t)) of the forward process x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε, as
/// `image_noising_scheduler.add_noise` has them.
///
/// Errors ([`Request`](crate::Error::Request)) when `timestep` is not one the model was trained with.
pub fn add_noise(config: &SchedulerConfig, timestep: usize) -> Result<(f64, f64)> {
    let schedule = config.schedule()?;
    let Some(&alpha_bar) = schedule.alpha_bars.get(timestep) else {
        let most = schedule.alpha_bars.len() - 1;
        return Err(request!(
            Model,
            OutOfRange,
            "noise level {timestep} is out of range: this model takes 0 to {most}"
        ));
    };
    let q = |value: f64| config.arithmetic.round(value);
    Ok((q(alpha_bar.sqrt()), q(q(1.0 - alpha_bar).sqrt())))
}
