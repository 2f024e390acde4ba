//! DEIS (Zhang & Chen 2022, arXiv:2204.13902) in its log ρ form: ε is a polynomial in log σ through the last calls, whose
//! integral over σ is taken exactly.

use super::class::Class;
use super::levels::{Grid, LastSigma, Levels, Sigmas, Spread, Times};
use super::solver::{Call, Solver, remembered};
use crate::diffusion::json::Json;
use crate::diffusion::process::Process;
use crate::diffusion::schedule::Spacing;
use crate::diffusion::step::Row;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Its diffusers scheduler.
pub(super) static CLASS: Class = Class {
    name: "DEISMultistepScheduler",
    clip: |json| json.thresholding(),
    spacing: Spacing::Linspace,
    rescales: false,
    ..Class::SOLVER
};

/// Its settings, by the names of diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Deis {
    /// 1 to 3.
    pub order: usize,
    /// The last steps of a run of fewer than 15 are of lower orders.
    pub lower_order_final: bool,
    /// How noise levels are chosen; the last step ends at the smallest.
    pub spread: Spread,
}

impl Default for Deis {
    fn default() -> Self {
        Deis { order: 2, lower_order_final: true, spread: Spread::Timesteps }
    }
}

pub fn read(json: &Json<'_>) -> Result<Deis> {
    let usual = Deis::default();
    // diffusers reads other solvers' words as its own
    json.choice("algorithm_type", Some(()), &[("deis", ()), ("dpmsolver", ()), ("dpmsolver++", ())])?;
    let types = [("logrho", ()), ("midpoint", ()), ("heun", ()), ("bh1", ()), ("bh2", ())];
    json.choice("solver_type", Some(()), &types)?;
    Ok(Deis {
        order: json.unsigned("solver_order", usual.order, 1..=3)?,
        lower_order_final: json.boolean("lower_order_final", usual.lower_order_final)?,
        spread: Sigmas::read(json)?,
    })
}

impl Solver for Deis {
    fn grid(&self, _: &Process) -> Grid {
        let sigmas = Sigmas { spread: self.spread, last: LastSigma::Min };
        Grid { times: Times::Whole { rounded: true }, ends_at_own: true, ..Grid::fractions(sigmas) }
    }

    fn remembers(&self) -> usize {
        self.order - 1
    }

    fn calls(&self, at: &Levels, first: usize) -> Vec<Call> {
        let lower = self.lower_order_final && at.len() < 15;
        let order = |i: usize| match at.len() - i {
            left @ (1 | 2) if lower => self.order.min(i - first + 1).min(left),
            _ => self.order.min(i - first + 1),
        };
        (first..at.len()).map(|i| self.call(at, i, order(i))).collect()
    }
}

impl Deis {
    fn call(&self, at: &Levels, i: usize, order: usize) -> Call {
        let (signal, noise) = (at.alpha(i), at.noise(i));
        let q = |value: f64| at.q(value);
        let eps = at.epsilon(i);
        let (alpha_t, sigma_t) = (at.alpha(i + 1), at.noise(i + 1));
        let next = if order == 1 {
            let h = q(at.lambda(i + 1) - at.lambda(i));
            Row::X * q(alpha_t / signal) - eps * q(sigma_t * q(q(h.exp()) - 1.0))
        } else {
            let rho = |k: usize| q(at.noise(k) / at.alpha(k));
            let (end, start) = (rho(i + 1), rho(i));
            let places: Vec<f64> = (0..order).map(|k| rho(i - k)).collect();
            let outputs = [eps, Row::slot(0), Row::slot(1)];
            let mut sum = Row::X * (1.0 / signal);
            for (k, output) in outputs.iter().enumerate().take(order) {
                // Lagrange's polynomial of log ρ that is 1 at place k and 0 at the others.
                let others: Vec<f64> = (1..order).map(|j| places[(k + j) % order]).collect();
                let integral = |t: f64| match others[..] {
                    [c] => integral_of_1(at, t, places[k], c),
                    _ => integral_of_2(at, t, places[k], (others[0], others[1])),
                };
                sum = sum + *output * q(integral(end) - integral(start));
            }
            sum * alpha_t
        };
        let memory = remembered(&[eps, Row::slot(0)][..self.order - 1]);
        Call { step: i, time: at.times[i], signal, noise, next, memory, sigma: 0.0 }
    }
}

/// ∫ (log t − log c)/(log b − log c) dt.
fn integral_of_1(at: &Levels, t: f64, b: f64, c: f64) -> f64 {
    let q = |value: f64| at.q(value);
    let log = |value: f64| at.numpy_log(value);
    let inner = q(q(-log(c) + log(t)) - 1.0);
    q(q(t * inner) / q(log(b) - log(c)))
}

/// ∫ (log t − log c)(log t − log d)/((log b − log c)(log b − log d)) dt.
fn integral_of_2(at: &Levels, t: f64, b: f64, (c, d): (f64, f64)) -> f64 {
    let q = |value: f64| at.q(value);
    let log = |value: f64| at.numpy_log(value);
    let (b, c, d, of_t) = (log(b), log(c), log(d), log(t));
    let mut inner = q(c * q(q(d - of_t) + 1.0));
    inner = q(inner - q(d * of_t));
    inner = q(inner + d);
    inner = q(inner + q(of_t * of_t));
    inner = q(inner - 2.0 * of_t);
    inner = q(inner + 2.0);
    q(q(t * inner) / q(q(b - c) * q(b - d)))
}
