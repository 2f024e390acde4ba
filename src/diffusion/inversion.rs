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
const SETTLED: f64 = 1e-5;

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

/// A fixed point x = g(x), by Anderson's acceleration (1965) from the last two evaluations: the next x is what would be best
/// on the line through them if g were linear. Longer memories were no better on trained decoders.
pub(crate) struct FixedPoint {
    /// Where g is evaluated next.
    x: Vec<f32>,
    /// Where it was found nearest to x, and the root mean square of g(x) − x there.
    nearest: Vec<f32>,
    error: f64,
    /// The last evaluation was that one.
    improves: bool,
    /// g(x) and g(x) − x of the last evaluation.
    last: Option<(Vec<f64>, Vec<f64>)>,
}

impl FixedPoint {
    /// The search from a first guess.
    pub fn new(first: &[f32]) -> Self {
        let (x, nearest) = (first.to_vec(), first.to_vec());
        FixedPoint { x, nearest, error: f64::INFINITY, improves: false, last: None }
    }

    /// Where g is to be evaluated.
    pub fn x(&self) -> &[f32] {
        &self.x
    }

    /// The answer: what follows from the last evaluation, unless an earlier one was nearer.
    pub fn answer(&self) -> &[f32] {
        if self.improves { &self.x } else { &self.nearest }
    }

    /// The root mean square of g(x) − x where it was smallest.
    pub fn error(&self) -> f64 {
        self.error
    }

    /// Nothing is to be gained by going on.
    pub fn settled(&self) -> bool {
        self.error <= SETTLED
    }

    /// Learns g(x).
    pub fn learn(&mut self, g: &[f32]) {
        let g: Vec<f64> = g.iter().map(|g| f64::from(*g)).collect();
        let f: Vec<f64> = g.iter().zip(&self.x).map(|(g, x)| g - f64::from(*x)).collect();
        let error = (dot(&f, &f) / f.len().max(1) as f64).sqrt();
        self.improves = error < self.error;
        let next = self.follows(&g, &f);
        let evaluated = std::mem::replace(&mut self.x, next);
        if self.improves {
            (self.error, self.nearest) = (error, evaluated);
        }
        self.last = Some((g, f));
    }

    /// g − γ (g − g'), with g' the evaluation before and the γ for which the same of g(x) − x is shortest.
    fn follows(&self, g: &[f64], f: &[f64]) -> Vec<f32> {
        let plain = || g.iter().map(|g| *g as f32).collect();
        let Some((g_before, f_before)) = &self.last else { return plain() };
        let change: Vec<f64> = f.iter().zip(f_before).map(|(f, before)| f - before).collect();
        let gamma = dot(f, &change) / dot(&change, &change);
        let mixed = g.iter().zip(g_before).map(|(g, before)| (g - gamma * (g - before)) as f32);
        let mixed: Vec<f32> = mixed.collect();
        if mixed.iter().all(|x| x.is_finite()) { mixed } else { plain() }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
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

    /// x = m x + b, searched for by so many evaluations.
    fn search(m: &[f32], b: &[f32], evaluations: usize) -> Vec<f32> {
        let mut search = FixedPoint::new(&vec![0.0; m.len()]);
        for _ in 0..evaluations {
            let g: Vec<f32> = search.x().iter().zip(m.iter().zip(b)).map(|(x, (m, b))| m * x + b).collect();
            search.learn(&g);
        }
        search.answer().to_vec()
    }

    #[test]
    fn fixed_points_are_found_where_evaluating_again_and_again_would_not() {
        // Along one direction two evaluations and the line through them do; where g pushes off, the second was worse than
        // the first, and a third must show that what follows is better.
        for (m, evaluations) in [(0.95, 2), (-0.9, 2), (1.3, 3), (-2.0, 3)] {
            let (found, expected) = (search(&[m], &[1.5], evaluations)[0], 1.5 / (1.0 - m));
            assert!((found - expected).abs() < 1e-4 * expected.abs(), "{m}: {found} for {expected}");
        }
        // Of one slow direction among quick ones little is left after five, where 0.95⁵ of it would be.
        let (m, b) = ([0.95, 0.1, -0.1, 0.05], [1.0, 2.0, -0.5, 0.3]);
        let off = |found: &[f32]| {
            let expected = m.iter().zip(b).map(|(m, b)| b / (1.0 - m));
            found.iter().zip(expected).map(|(x, e)| (x - e).abs()).fold(0.0, f32::max)
        };
        let accelerated = off(&search(&m, &b, 5));
        let plain = (1.0 / 0.05) * 0.95f32.powi(5);
        assert!(accelerated < 0.01 * plain, "{accelerated}, without acceleration {plain}");
    }

    #[test]
    fn a_search_keeps_what_was_nearest() {
        // The first guess alone.
        let mut search = FixedPoint::new(&[4.0]);
        search.learn(&[2.5]);
        assert_eq!(search.answer(), [2.5]);
        // What follows turns out worse: back to the nearest.
        search.learn(&[90.0]);
        assert_eq!(search.answer(), [4.0]);
        // Values that are no numbers are never an answer.
        search.learn(&[f32::NAN]);
        assert_eq!(search.answer(), [4.0]);
        let mut settles = FixedPoint::new(&[1.0]);
        settles.learn(&[1.0]);
        assert!(settles.settled() && settles.answer() == [1.0]);
    }
}
