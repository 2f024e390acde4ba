//! DPM-Solver and DPM-Solver++, multistep (Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095): between two noise levels
//! the equation is solved exactly but for ε or x̂0, which is a polynomial in λ = log(√ᾱ/√(1−ᾱ)) through the last calls.

use super::class::Class;
use super::levels::{Grid, LastSigma, Levels, Sigmas, Spread, Times, rounds};
use super::solver::{Call, Solver, remembered};
use crate::diffusion::json::Json;
use crate::diffusion::process::Process;
use crate::diffusion::schedule::Spacing;
use crate::diffusion::step::Row;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Its diffusers scheduler.
pub(super) static CLASS: Class = Class {
    name: "DPMSolverMultistepScheduler",
    clip: |json| json.thresholding(),
    spacing: Spacing::Linspace,
    ..Class::SOLVER
};

/// What is a polynomial, and whether noise is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// x̂0, none.
    PlusPlus,
    /// x̂0, with noise.
    SdePlusPlus,
    /// ε, none.
    Epsilon,
    /// ε, with noise.
    SdeEpsilon,
}

impl Algorithm {
    pub(super) fn name(self) -> &'static str {
        match self {
            Algorithm::PlusPlus => "dpmsolver++",
            Algorithm::SdePlusPlus => "sde-dpmsolver++",
            Algorithm::Epsilon => "dpmsolver",
            Algorithm::SdeEpsilon => "sde-dpmsolver",
        }
    }

    fn stochastic(self) -> bool {
        matches!(self, Algorithm::SdePlusPlus | Algorithm::SdeEpsilon)
    }

    fn of_epsilon(self) -> bool {
        matches!(self, Algorithm::Epsilon | Algorithm::SdeEpsilon)
    }
}

/// How a step of the second order weighs the polynomial's slope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SolverType {
    /// As at the step's middle.
    Midpoint,
    /// By its integral.
    Heun,
}

/// Its settings, by the names of diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DpmSolver {
    /// 1 to 3.
    pub order: usize,
    /// `algorithm_type`.
    pub algorithm: Algorithm,
    /// `solver_type`.
    pub solver_type: SolverType,
    /// The last steps of a run of fewer than 15 are of lower orders.
    pub lower_order_final: bool,
    /// The last step is of the first order.
    pub euler_at_final: bool,
    /// Noise levels.
    pub sigmas: Sigmas,
    /// Noisier levels are left out, as log(√ᾱ/√(1−ᾱ)).
    pub lambda_min_clipped: Option<f64>,
}

impl Default for DpmSolver {
    fn default() -> Self {
        DpmSolver {
            order: 2,
            algorithm: Algorithm::PlusPlus,
            solver_type: SolverType::Midpoint,
            lower_order_final: true,
            euler_at_final: false,
            sigmas: Sigmas::default(),
            lambda_min_clipped: None,
        }
    }
}

pub fn read(json: &Json<'_>) -> Result<DpmSolver> {
    use SolverType::{Heun, Midpoint};
    let usual = DpmSolver::default();
    let algorithms = [
        ("dpmsolver++", Algorithm::PlusPlus),
        ("sde-dpmsolver++", Algorithm::SdePlusPlus),
        ("dpmsolver", Algorithm::Epsilon),
        ("sde-dpmsolver", Algorithm::SdeEpsilon),
        // diffusers reads another solver's words as its own defaults
        ("deis", Algorithm::PlusPlus),
    ];
    let types =
        [("midpoint", Midpoint), ("heun", Heun), ("logrho", Midpoint), ("bh1", Midpoint), ("bh2", Midpoint)];
    let algorithm = json.choice("algorithm_type", Some(usual.algorithm), &algorithms)?;
    let order = json.unsigned("solver_order", usual.order, 1..=3)?;
    if algorithm == Algorithm::SdeEpsilon && order > 2 {
        return Err(json.error("solver_order", "3 is not supported with sde-dpmsolver; supported: 1, 2"));
    }
    let mut spread = Sigmas::read(json)?;
    if spread != Spread::Karras && json.boolean("use_lu_lambdas", false)? {
        spread = Spread::Lu;
    }
    let last = Sigmas::read_last(json)?;
    if algorithm.of_epsilon() && last == LastSigma::Zero {
        let what = format!("\"zero\" is not supported with {}; supported: sigma_min", algorithm.name());
        return Err(json.error("final_sigmas_type", what));
    }
    let clipped =
        json.get("lambda_min_clipped").map(|_| json.number("lambda_min_clipped", 0.0)).transpose()?;
    Ok(DpmSolver {
        order,
        algorithm,
        solver_type: json.choice("solver_type", Some(usual.solver_type), &types)?,
        lower_order_final: json.boolean("lower_order_final", usual.lower_order_final)?,
        euler_at_final: json.boolean("euler_at_final", usual.euler_at_final)?,
        sigmas: Sigmas { spread, last },
        lambda_min_clipped: clipped,
    })
}

impl Solver for DpmSolver {
    fn grid(&self, config: &Process) -> Grid {
        Grid {
            times: Times::Whole { rounded: rounds(config) },
            lambda_min: self.lambda_min_clipped.unwrap_or(f64::NEG_INFINITY),
            ..Grid::fractions(self.sigmas)
        }
    }

    fn remembers(&self) -> usize {
        self.order - 1
    }

    fn draws(&self) -> bool {
        self.algorithm.stochastic()
    }

    fn calls(&self, at: &Levels, first: usize) -> Vec<Call> {
        (first..at.len())
            .map(|i| self.call(at, i, self.order_at(i - first, at.len() - i, at.len())))
            .collect()
    }
}

impl DpmSolver {
    /// The order of a step after so many, with so many left, of so many.
    fn order_at(&self, before: usize, left: usize, all: usize) -> usize {
        let lower = self.lower_order_final && all < 15;
        let last = left == 1 && (self.euler_at_final || lower || self.sigmas.last == LastSigma::Zero);
        match (left, last) {
            (_, true) => 1,
            (2, _) if lower => self.order.min(before + 1).min(2),
            _ => self.order.min(before + 1),
        }
    }

    fn call(&self, at: &Levels, i: usize, order: usize) -> Call {
        let (signal, noise) = (at.alpha(i), at.noise(i));
        let m = if self.algorithm.of_epsilon() { at.epsilon(i) } else { Row::X0 };
        // The polynomial's value and slopes, from this call's m and those before.
        let lambda = |k: usize| at.lambda(k);
        let q = |value: f64| at.q(value);
        let h = q(lambda(i + 1) - lambda(i));
        let mut terms = vec![m];
        if order > 1 {
            let r0 = q(q(lambda(i) - lambda(i - 1)) / h);
            let slope = (m - Row::slot(0)) * q(1.0 / r0);
            terms.push(slope);
            if order > 2 {
                let r1 = q(q(lambda(i - 1) - lambda(i - 2)) / h);
                let before = (Row::slot(0) - Row::slot(1)) * q(1.0 / r1);
                let both = q(r0 + r1);
                terms[1] = slope + (slope - before) * q(r0 / both);
                terms.push((slope - before) * q(1.0 / both));
            }
        }
        let (of_x, weights, sigma) = self.weights(at, i, h, order);
        let next = terms.iter().zip(weights).fold(Row::X * of_x, |sum, (term, weight)| sum + *term * weight);
        let memory = remembered(&[m, Row::slot(0)][..self.order - 1]);
        Call { step: i, time: at.times[i], signal, noise, next, memory, sigma }
    }

    /// What the next sample takes of x and of the polynomial's value and slopes, and the noise added.
    fn weights(&self, at: &Levels, i: usize, h: f64, order: usize) -> (f64, [f64; 3], f64) {
        let q = |value: f64| at.q(value);
        let exp = |value: f64| q(value.exp());
        let (alpha, sigma) = (at.alpha(i + 1), at.noise(i + 1));
        let midpoint = order == 2 && self.solver_type == SolverType::Midpoint;
        match self.algorithm {
            Algorithm::PlusPlus => {
                let e = q(exp(-h) - 1.0);
                let value = -q(alpha * e);
                let slope = if midpoint { 0.5 * value } else { q(alpha * q(q(e / h) + 1.0)) };
                let second = -q(alpha * q(q(q(e + h) / q(h * h)) - 0.5));
                (q(sigma / at.noise(i)), [value, slope, second], 0.0)
            }
            Algorithm::Epsilon => {
                let e = q(exp(h) - 1.0);
                let value = -q(sigma * e);
                let slope = if midpoint { 0.5 * value } else { -q(sigma * q(q(e / h) - 1.0)) };
                let second = -q(sigma * q(q(q(e - h) / q(h * h)) - 0.5));
                (q(alpha / at.alpha(i)), [value, slope, second], 0.0)
            }
            Algorithm::SdePlusPlus => {
                let (e, twice) = (q(1.0 - exp(-2.0 * h)), 2.0 * h);
                let value = q(alpha * e);
                let slope = if midpoint { 0.5 * value } else { q(alpha * q(q(e / -twice) + 1.0)) };
                let second = q(alpha * q(q(q(e - twice) / q(twice * twice)) - 0.5));
                let of_x = q(q(sigma / at.noise(i)) * exp(-h));
                (of_x, [value, slope, second], q(sigma * q(e.sqrt())))
            }
            Algorithm::SdeEpsilon => {
                let e = q(exp(h) - 1.0);
                let value = -2.0 * q(sigma * e);
                let slope = if midpoint { 0.5 * value } else { -2.0 * q(sigma * q(q(e / h) - 1.0)) };
                let added = q(sigma * q(q(exp(2.0 * h) - 1.0).sqrt()));
                (q(alpha / at.alpha(i)), [value, slope, 0.0], added)
            }
        }
    }
}
