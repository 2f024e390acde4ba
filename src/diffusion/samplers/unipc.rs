//! UniPC (Zhao et al. 2023, arXiv:2302.04867): a multistep predictor, and a corrector that takes the step before once more
//! with what the network says at its end, so that a call of the network serves both.

use super::class::Class;
use super::levels::{Grid, Levels, Sigmas, Times};
use super::solver::{Call, Solver, remembered};
use crate::diffusion::json::Json;
use crate::diffusion::process::Process;
use crate::diffusion::process::Thresholding;
use crate::diffusion::schedule::Spacing;
use crate::diffusion::step::Row;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Its diffusers scheduler.
pub(super) static CLASS: Class = Class {
    name: "UniPCMultistepScheduler",
    clip: |json| match json.boolean("predict_x0", true)? {
        true => json.thresholding(),
        // there it is read and not done
        false => Ok(Thresholding::None),
    },
    spacing: Spacing::Linspace,
    ..Class::SOLVER
};

/// B(h) of the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BFunction {
    /// h.
    Bh1,
    /// exp(h) − 1.
    Bh2,
}

/// Its settings, by the names of diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UniPc {
    /// 1 to 3.
    pub order: usize,
    /// `solver_type`.
    pub b: BFunction,
    /// The polynomial is one of x̂0; otherwise of ε.
    pub predict_x0: bool,
    /// The last steps are of lower orders.
    pub lower_order_final: bool,
    /// `disable_corrector`: a bit for each step whose result is not corrected, of the first 64.
    pub uncorrected: u64,
    /// Noise levels.
    pub sigmas: Sigmas,
}

impl Default for UniPc {
    fn default() -> Self {
        UniPc {
            order: 2,
            b: BFunction::Bh2,
            predict_x0: true,
            lower_order_final: true,
            uncorrected: 0,
            sigmas: Sigmas::default(),
        }
    }
}

pub fn read(json: &Json<'_>) -> Result<UniPc> {
    use BFunction::{Bh1, Bh2};
    let usual = UniPc::default();
    json.refuse("solver_p")?;
    // diffusers reads another solver's words as its own default
    let types = [("bh1", Bh1), ("bh2", Bh2), ("midpoint", Bh2), ("heun", Bh2), ("logrho", Bh2)];
    let mut uncorrected = 0;
    if let Some(list) = json.get("disable_corrector") {
        let what = || format!("expected a list of steps from 0 to 63, found {list}");
        let bit = |value: &Value| value.as_u64().filter(|step| *step < 64).map(|step| 1u64 << step);
        let bits: Option<Vec<u64>> = list.as_array().and_then(|list| list.iter().map(bit).collect());
        let bits = bits.ok_or_else(|| json.error("disable_corrector", what()))?;
        uncorrected = bits.into_iter().fold(0, |all, bit| all | bit);
    }
    Ok(UniPc {
        order: json.unsigned("solver_order", usual.order, 1..=3)?,
        b: json.choice("solver_type", Some(usual.b), &types)?,
        predict_x0: json.boolean("predict_x0", usual.predict_x0)?,
        lower_order_final: json.boolean("lower_order_final", usual.lower_order_final)?,
        uncorrected,
        sigmas: Sigmas { spread: Sigmas::read(json)?, last: Sigmas::read_last(json)? },
    })
}

impl Solver for UniPc {
    fn grid(&self, _: &Process) -> Grid {
        Grid { times: Times::Whole { rounded: true }, ends_at_own: true, ..Grid::fractions(self.sigmas) }
    }

    /// The sample before the last step, and what the network said in as many calls as the order.
    fn remembers(&self) -> usize {
        1 + self.order
    }

    fn calls(&self, at: &Levels, first: usize) -> Vec<Call> {
        (first..at.len()).map(|i| self.call(at, i, first)).collect()
    }
}

impl UniPc {
    fn order_at(&self, at: &Levels, i: usize, first: usize) -> usize {
        let highest = if self.lower_order_final { self.order.min(at.len() - i) } else { self.order };
        highest.min(i - first + 1)
    }

    fn call(&self, at: &Levels, i: usize, first: usize) -> Call {
        let (signal, noise) = (at.alpha(i), at.noise(i));
        let m = if self.predict_x0 { Row::X0 } else { at.epsilon(i) };
        let corrects = i > first && !(i <= 64 && self.uncorrected >> (i - 1) & 1 == 1);
        let sample = match corrects {
            true => {
                let outputs: Vec<Row> = (0..self.order).map(|k| Row::slot(1 + k)).collect();
                let order = self.order_at(at, i - 1, first);
                self.step(at, i - 1, order, (Row::slot(0), &outputs), Some(m))
            }
            false => Row::X,
        };
        let outputs: Vec<Row> = std::iter::once(m).chain((1..self.order).map(Row::slot)).collect();
        let next = self.step(at, i, self.order_at(at, i, first), (sample, &outputs), None);
        let kept: Vec<Row> = std::iter::once(sample).chain(outputs).collect();
        let memory = remembered(&kept);
        Call { step: i, time: at.times[i], signal, noise, next, memory, sigma: 0.0 }
    }

    /// The sample after step `i` of an order, from the one before and the network's outputs there and earlier; with the
    /// output at its end too, corrected by that.
    fn step(
        &self,
        at: &Levels,
        i: usize,
        order: usize,
        (x, outputs): (Row, &[Row]),
        end: Option<Row>,
    ) -> Row {
        let q = |value: f64| at.q(value);
        let h = q(at.lambda(i + 1) - at.lambda(i));
        let hh = if self.predict_x0 { -h } else { h };
        let (alpha, sigma) = (at.alpha(i + 1), at.noise(i + 1));
        let (of_x, of_m) = match self.predict_x0 {
            true => (q(sigma / at.noise(i)), alpha),
            false => (q(alpha / at.alpha(i)), sigma),
        };
        let phi = q(hh.exp_m1());
        let b_h = if self.b == BFunction::Bh1 { hh } else { phi };
        // Where the earlier outputs lie, in steps of h from here; the step's end at 1.
        let place = |k: usize| q(q(at.lambda(i - k) - at.lambda(i)) / h);
        let mut places: Vec<f64> = (1..order).map(place).collect();
        let mut slopes: Vec<Row> =
            (1..order).map(|k| (outputs[k] - outputs[0]) * (1.0 / places[k - 1])).collect();
        places.push(1.0);
        slopes.extend(end.map(|end| end - outputs[0]));
        let base = x * of_x - outputs[0] * q(of_m * phi);
        if slopes.is_empty() {
            return base;
        }
        // The order that the paper's simpler forms are of.
        let halves = if end.is_some() { order == 1 } else { order == 2 };
        let weights = match halves {
            true => vec![0.5],
            false => solve(&places[..slopes.len()], &moments(at, hh, phi, b_h, slopes.len())),
        };
        let weighted = slopes.iter().zip(weights).map(|(slope, weight)| *slope * q(weight));
        base - weighted.fold(Row::default(), |sum, row| sum + row) * q(of_m * b_h)
    }
}

/// k! φ_{k+1}(h)/B(h) for k = 1, 2, …: what the weights' moments must be.
fn moments(at: &Levels, hh: f64, phi: f64, b_h: f64, count: usize) -> Vec<f64> {
    let q = |value: f64| at.q(value);
    let (mut phi_k, mut factorial) = (q(q(phi / hh) - 1.0), 1.0);
    let moment = |k: usize| {
        let moment = q(q(phi_k * factorial) / b_h);
        factorial *= (k + 1) as f64;
        phi_k = q(q(phi_k / hh) - q(1.0 / factorial));
        moment
    };
    (1..=count).map(moment).collect()
}

/// The weights w with Σ_j w_j places_j^(k−1) = moments_k, by elimination with pivots.
fn solve(places: &[f64], moments: &[f64]) -> Vec<f64> {
    let n = places.len();
    let mut rows: Vec<Vec<f64>> = (0..n)
        .map(|k| places.iter().map(|place| place.powi(k as i32)).chain([moments[k]]).collect())
        .collect();
    for column in 0..n {
        let pivot = (column..n).max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()));
        rows.swap(column, pivot.unwrap_or(column));
        for row in 0..n {
            if row != column {
                let factor = rows[row][column] / rows[column][column];
                let lead = rows[column].clone();
                rows[row].iter_mut().zip(lead).skip(column).for_each(|(value, lead)| *value -= factor * lead);
            }
        }
    }
    (0..n).map(|k| rows[k][n] / rows[k][k]).collect()
}
