//! Every sampler as a list of [`Step`]s: the scalars one fused kernel needs from one call of the network to the next.

use super::config::SchedulerConfig;
use super::samplers::Sampler;
use super::step::Step;
use super::timesteps::Timesteps;
use crate::error::{Result, request};

/// The calls of the network in one sampling run, first (noisiest) to last.
///
/// Errors: [`Request`](crate::Error::Request) for impossible numbers of steps or η, where ᾱ_t = 0 (zero terminal SNR) leaves
/// x̂0 undetermined by a predicted ε, and where a sampler's own settings do not go together.
pub fn steps(
    config: &SchedulerConfig,
    sampler: &Sampler,
    timesteps: impl Into<Timesteps>,
) -> Result<Vec<Step>> {
    steps_from(config, sampler, timesteps, 0)
}

/// The calls of [`steps`] from step `first` on ([`Step::step`]), of a run that begins there: nothing is remembered of steps
/// before it, so that a sampler with a memory begins as it does at the very first one.
///
/// Errors: those of [`steps`].
pub fn steps_from(
    config: &SchedulerConfig,
    sampler: &Sampler,
    timesteps: impl Into<Timesteps>,
    first: usize,
) -> Result<Vec<Step>> {
    let own = std::mem::discriminant(&config.sampler) == std::mem::discriminant(sampler);
    let mut list = sampler.steps(&config.process, own, &timesteps.into(), first)?;
    for i in 1..list.len() {
        list[i - 1].alpha_bar_after = list[i].alpha_bar;
    }
    list.iter_mut().take(1).for_each(|step| step.begins = true);
    Ok(list)
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
