//! DDIM from a picture to the noise it comes from (Song et al. 2020, arXiv:2010.02502; as in section 3 of unCLIP,
//! arXiv:2204.06125).
//!
//! A deterministic step without clipping takes x to x' = a x + b out(x). The sample before it, given x', solves
//! x = (x' − b out(x))/a, where out(x) is not known beforehand. DDIM's inversion as it is usually done takes out(x') for it.
//! Here the equation is solved by so many evaluations as the caller gives, of which that is the first (fixed points of
//! DDIM's steps: Pan et al. 2023, arXiv:2309.04907).

use super::config::SchedulerConfig;
use super::process::{PredictionType, Thresholding};
use super::step::{Coefficients, Row, Step, Variance};
use super::timesteps::Timesteps;
use crate::error::{Result, request};

/// ᾱ of the noisiest sample where the network predicts ε. Beyond it ε is the sample but for some thousandths, so that what
/// is left of them for the picture has no digits.
const LEAST_ALPHA_BAR: f64 = 1e-3;
/// Root mean square of a step's error from which on it is as good as solved.
pub(crate) const SETTLED: f32 = 1e-5;

/// `count` timesteps, evenly from the noisiest from which a picture can be told down to 0, so that DDIM's steps there can
/// be inverted.
///
/// Errors ([`Request`](crate::Error::Request)): none, or more than there are.
pub fn invertible_timesteps(config: &SchedulerConfig, count: usize) -> Result<Timesteps> {
    let schedule = config.schedule()?;
    let least = if config.prediction_type == PredictionType::Epsilon { LEAST_ALPHA_BAR } else { 0.0 };
    let last = schedule.alpha_bars.iter().rposition(|&alpha_bar| alpha_bar >= least).unwrap_or(0);
    if count == 0 || count > last + 1 {
        return Err(request!(Steps, OutOfRange, "{count} steps from latents: give 1 to {}", last + 1));
    }
    let stride = last as f64 / (count.max(2) - 1) as f64;
    Ok(Timesteps::Custom((0..count).map(|i| (last as f64 - i as f64 * stride).round() as usize).collect()))
}

/// The step whose result, from x with noise x', is (x' − b out(x))/a: a better guess of the sample that `step` takes to x'.
///
/// Errors ([`Request`](crate::Error::Request)): a step that clips or adds noise, or that x does not enter.
pub fn inverse(step: &Step) -> Result<Step> {
    let c = &step.coefficients;
    let deterministic = c.variance == Variance::Fixed { sigma: 0.0 } || !step.adds_noise;
    let a = c.next.x + c.next.x0 * c.x0_x + c.next.eps * c.eps_x;
    let b = c.next.x0 * c.x0_out + c.next.eps * c.eps_out;
    if c.memory_len > 0 || c.clip != Thresholding::None || !deterministic || a.abs() < 1e-6 {
        let t = step.timestep;
        return Err(request!(
            Sampler,
            Unsupported,
            "the step at timestep {t} cannot be inverted: only DDIM's can, with eta 0, without clipping"
        ));
    }
    let coefficients = Coefficients {
        eps_x: 0.0,
        eps_out: 1.0,
        next: Row::of(0.0, 0.0, -b / a),
        variance: Variance::Fixed { sigma: 1.0 / a },
        ..*c
    };
    Ok(Step { coefficients, draws_noise: true, adds_noise: true, ..*step })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{Sampler, steps};
    use std::path::Path;

    fn scheduler(kind: &str, prediction: &str) -> SchedulerConfig {
        let text = format!(
            r#"{{"_class_name": "{kind}", "num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2",
                "prediction_type": "{prediction}", "clip_sample": false}}"#
        );
        SchedulerConfig::from_json(Path::new("scheduler_config.json"), &text).expect("a scheduler")
    }

    const DDIM: Sampler = Sampler::Ddim { eta: 0.0 };

    /// The sample `step` makes of x, and the guess `inverse` makes.
    fn apply(step: &Step, x: f64, out: f64, z: f64) -> f64 {
        let c = &step.coefficients;
        let (x0, eps) = (c.x0_x * x + c.x0_out * out, c.eps_x * x + c.eps_out * out);
        let Variance::Fixed { sigma } = c.variance else { panic!("a fixed variance") };
        let noise = if step.adds_noise { sigma * z } else { 0.0 };
        c.next.x * x + c.next.x0 * x0 + c.next.eps * eps + noise
    }

    #[test]
    fn an_inverse_step_undoes_a_step() {
        for (kind, prediction) in
            [("UnCLIPScheduler", "epsilon"), ("DDPMScheduler", "v_prediction"), ("DDPMScheduler", "epsilon")]
        {
            let config = scheduler(kind, prediction);
            let list = steps(&config, &DDIM, invertible_timesteps(&config, 25).expect("timesteps"));
            for step in list.expect("steps") {
                let (x, out) = (0.37, -1.2);
                let next = apply(&step, x, out, 0.0);
                let back = apply(&inverse(&step).expect("an inverse"), x, out, next);
                assert!((back - x).abs() < 1e-5, "{prediction} at {}: {back}", step.timestep);
            }
        }
    }

    /// √ᾱ' (x − √(1−ᾱ) ε)/√ᾱ + √(1−ᾱ') ε with ᾱ' the noisier one: `DDIMInverseScheduler.step` of diffusers.
    #[test]
    fn the_first_guess_is_the_usual_inversion() {
        for prediction in [PredictionType::Epsilon, PredictionType::VPrediction] {
            let name = if prediction == PredictionType::Epsilon { "epsilon" } else { "v_prediction" };
            let config = scheduler("DDPMScheduler", name);
            let bars = config.schedule().expect("a schedule").alpha_bars;
            let list = [700, 350, 20];
            let found = steps(&config, &DDIM, Timesteps::Custom(list.to_vec())).expect("steps");
            for (i, step) in found.iter().enumerate() {
                let (noisier, cleaner) = (bars[list[i]], list.get(i + 1).map_or(1.0, |&t| bars[t]));
                let (x, epsilon) = (0.8, -0.3);
                // The sample at the noisier place, and there the output that means this ε.
                let x0 = (x - (1.0 - cleaner).sqrt() * epsilon) / cleaner.sqrt();
                let usual = noisier.sqrt() * x0 + (1.0 - noisier).sqrt() * epsilon;
                let out = match prediction {
                    PredictionType::VPrediction => {
                        (epsilon - (1.0 - noisier).sqrt() * usual) / noisier.sqrt()
                    }
                    _ => epsilon,
                };
                let guess = apply(&inverse(step).expect("an inverse"), 0.0, out, x);
                assert!((guess - usual).abs() < 1e-5, "{name} at {}: {guess}, {usual}", step.timestep);
            }
        }
    }

    #[test]
    fn timesteps_are_even_and_leave_the_noisiest_out() {
        let config = scheduler("UnCLIPScheduler", "epsilon");
        let bars = config.schedule().expect("a schedule").alpha_bars;
        let list = |count| match invertible_timesteps(&config, count) {
            Ok(Timesteps::Custom(list)) => list,
            other => panic!("{other:?}"),
        };
        for count in [1, 2, 7, 25, 500, 900] {
            let found = list(count);
            assert_eq!(found.len(), count);
            assert!(found.windows(2).all(|pair| pair[0] > pair[1]), "{found:?}");
            let first = found[0];
            assert!(bars[first] >= LEAST_ALPHA_BAR && bars[first + 1] < LEAST_ALPHA_BAR, "{first}");
            assert!(count == 1 || found.last() == Some(&0), "{found:?}");
        }
        let v = scheduler("DDPMScheduler", "v_prediction");
        assert_eq!(invertible_timesteps(&v, 3).expect("timesteps"), Timesteps::Custom(vec![999, 500, 0]));
        assert!(invertible_timesteps(&config, 0).is_err() && invertible_timesteps(&config, 1000).is_err());
    }

    #[test]
    fn what_cannot_be_inverted_is_told() {
        let mut config = scheduler("DDPMScheduler", "epsilon");
        let random = Sampler::Ddim { eta: 0.5 };
        let noisy = steps(&config, &random, 10).expect("steps");
        assert!(inverse(&noisy[0]).is_err());
        config.clip = Thresholding::Range(1.0);
        assert!(inverse(&steps(&config, &DDIM, 10).expect("steps")[0]).is_err());
        let sample = scheduler("UnCLIPScheduler", "sample");
        // The last step's result is the network's, whatever x is.
        let last = *steps(&sample, &DDIM, Timesteps::Custom(vec![0])).expect("steps").last().expect("a step");
        assert!(inverse(&last).is_err());
    }
}
