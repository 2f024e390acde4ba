//! Euler's method in σ (Karras et al. 2022, arXiv:2206.00364), and with as much noise added in each step as makes its sample
//! one of the next level.

use super::class::Class;
use super::heun::slope;
use super::levels::{Grid, LastSigma, Levels, Sigmas};
use super::solver::{Call, Solver, remembered};
use crate::diffusion::json::Json;
use crate::diffusion::process::Process;
use crate::diffusion::schedule::Spacing;
use crate::diffusion::step::Row;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Its diffusers scheduler.
pub(super) static CLASS: Class =
    Class { name: "EulerDiscreteScheduler", spacing: Spacing::Linspace, ..Class::SOLVER };

/// That with noise.
pub(super) static ANCESTRAL: Class =
    Class { name: "EulerAncestralDiscreteScheduler", spacing: Spacing::Linspace, ..Class::SOLVER };

/// σ between the trained timesteps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Interpolation {
    /// Linear in the timestep.
    #[default]
    Linear,
    /// Evenly in log σ over the whole range, whatever the timesteps.
    LogLinear,
}

/// Its settings, by the names of diffusers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Euler {
    /// Noise levels.
    pub sigmas: Sigmas,
    /// The smallest level where they are chosen by their size; none: that of the timesteps.
    pub sigma_min: Option<f64>,
    /// The largest.
    pub sigma_max: Option<f64>,
    /// `interpolation_type`.
    pub interpolation: Interpolation,
}

pub fn read(json: &Json<'_>) -> Result<Euler> {
    let continuous =
        json.choice("timestep_type", Some(false), &[("discrete", false), ("continuous", true)])?;
    if continuous && json.get("prediction_type").and_then(|v| v.as_str()) == Some("v_prediction") {
        let what = "\"continuous\" is not supported with v_prediction; supported: discrete";
        return Err(json.error("timestep_type", what));
    }
    let given = |key: &str| json.get(key).map(|_| json.positive(key, 1.0)).transpose();
    let types = [("linear", Interpolation::Linear), ("log_linear", Interpolation::LogLinear)];
    Ok(Euler {
        sigmas: Sigmas { spread: Sigmas::read(json)?, last: Sigmas::read_last(json)? },
        sigma_min: given("sigma_min")?,
        sigma_max: given("sigma_max")?,
        interpolation: json.choice("interpolation_type", Some(Interpolation::Linear), &types)?,
    })
}

impl Solver for Euler {
    fn grid(&self, _: &Process) -> Grid {
        Grid {
            range: (self.sigma_min, self.sigma_max),
            log_linear: self.interpolation == Interpolation::LogLinear,
            ..Grid::fractions(self.sigmas)
        }
    }

    fn remembers(&self) -> usize {
        0
    }

    fn begins_at_level(&self) -> bool {
        true
    }

    fn calls(&self, at: &Levels, first: usize) -> Vec<Call> {
        (first..at.len()).map(|i| call(at, i, at.sigmas[i + 1], 0.0)).collect()
    }
}

/// A step along the slope down to σ `down`, and up to the next level by noise of σ `up`.
fn call(at: &Levels, i: usize, down: f64, up: f64) -> Call {
    let signal = 1.0 / at.scale(i);
    let (noise, over) = (at.sigmas[i] * signal, 1.0 / at.scale(i + 1));
    let next = (Row::X * at.scale(i) + slope(at, i) * at.q(down - at.sigmas[i])) * over;
    Call { step: i, time: at.times[i], signal, noise, next, memory: remembered(&[]), sigma: up * over }
}

/// That with noise.
pub(super) struct EulerAncestral;

impl Solver for EulerAncestral {
    fn grid(&self, _: &Process) -> Grid {
        Grid::fractions(Sigmas { last: LastSigma::Zero, ..Sigmas::default() })
    }

    fn remembers(&self) -> usize {
        0
    }

    fn draws(&self) -> bool {
        true
    }

    fn begins_at_level(&self) -> bool {
        true
    }

    fn calls(&self, at: &Levels, first: usize) -> Vec<Call> {
        let q = |value: f64| at.q(value);
        let of_step = |i: usize| {
            let (from, to) = (q(at.sigmas[i].powi(2)), q(at.sigmas[i + 1].powi(2)));
            let up = q(q(q(to * q(from - to)) / from).sqrt());
            let down = q(q(to - q(up * up)).max(0.0).sqrt());
            call(at, i, down, up)
        };
        (first..at.len()).map(of_step).collect()
    }
}
