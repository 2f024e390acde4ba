//! Samplers of the trained chain, whose steps each follow from the place in it alone.

use super::rule::{Method, Point, prediction};
use crate::diffusion::process::Process;
use crate::diffusion::schedule::Arithmetic;
use crate::diffusion::step::{Coefficients, Step};
use crate::diffusion::timesteps::Timesteps;
use crate::error::Result;

/// The steps of one run, from `first` on.
///
/// Scalars are those of diffusers (float32 rounding, the variance's floor of 1e-20, no noise at t = 0) or of
/// OpenAI's float64 code, as `config.arithmetic` says.
pub fn steps(
    config: &Process,
    method: &dyn Method,
    timesteps: &Timesteps,
    first: usize,
) -> Result<Vec<Step>> {
    let schedule = config.schedule()?;
    let list = timesteps.resolve(config)?;
    let stride = if let Timesteps::Count(count) = timesteps { method.stride(config, *count) } else { None };
    let openai = config.arithmetic == Arithmetic::Float64;
    let step = |i: usize| {
        let t = list[i];
        let previous = match stride {
            Some(stride) => t.checked_sub(stride),
            None => list.get(i + 1).copied().or_else(|| method.before_last(t)),
        };
        let last = if openai { i + 1 == list.len() } else { t == 0 };
        let mut point = Point::new(&schedule, config, method, t, previous);
        if openai && last && i > 0 {
            let before = Point::new(&schedule, config, method, list[i - 1], Some(t));
            point.variance_before = Some(before.posterior_variance());
        }
        let (signal, noise) = (point.sqrt(point.alpha_bar), point.sqrt(point.noise));
        let [x0_x, x0_out, eps_x, eps_out] =
            prediction(config.prediction_type, point.t as f64, signal, noise)?;
        let rule = method.rule(config, &point, last)?;
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
            step: i,
            begins: false,
            timestep: t as f64,
            coefficients,
            draws_noise: rule.adds_noise || config.always_draws,
            adds_noise: rule.adds_noise,
            alpha_bar: point.alpha_bar,
            alpha_bar_after: 1.0,
            start_scale: 1.0,
            score_shifts: rule.score_shifts,
        })
    };
    (first..list.len()).map(step).collect()
}
