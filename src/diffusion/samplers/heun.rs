//! Heun's method in σ (Karras et al. 2022, arXiv:2206.00364, algorithm 1 without churn): a step of Euler's, and then the
//! same step by the mean of the slopes at its two ends. The last step, to σ = 0, is Euler's.

use super::class::Class;
use super::levels::{Grid, LastSigma, Levels, Sigmas, Spread};
use super::solver::{Call, Solver, remembered};
use crate::diffusion::json::Json;
use crate::diffusion::process::Process;
use crate::diffusion::schedule::Spacing;
use crate::diffusion::step::Row;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Its diffusers scheduler.
pub(super) static CLASS: Class = Class {
    name: "HeunDiscreteScheduler",
    clip: |json| json.clip_sample(false),
    spacing: Spacing::Linspace,
    betas: (0.00085, 0.012),
    rescales: false,
    exp: true,
};

/// Its settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Heun {
    /// How noise levels are chosen.
    pub spread: Spread,
}

pub fn read(json: &Json<'_>) -> Result<Heun> {
    Ok(Heun { spread: Sigmas::read(json)? })
}

/// dx/dσ of a sample in σ, from ours at a level and x̂0.
pub(super) fn slope(at: &Levels, i: usize) -> Row {
    (Row::X * at.scale(i) - Row::X0) * (1.0 / at.sigmas[i])
}

impl Solver for Heun {
    fn grid(&self, _: &Process) -> Grid {
        Grid::fractions(Sigmas { spread: self.spread, last: LastSigma::Zero })
    }

    /// The slope at the step's beginning, and the sample there.
    fn remembers(&self) -> usize {
        2
    }

    fn begins_at_level(&self) -> bool {
        true
    }

    fn calls(&self, at: &Levels, first: usize) -> Vec<Call> {
        let call = |step: usize, level: usize, next: Row, memory: &[Row]| {
            let signal = 1.0 / at.scale(level);
            let noise = at.sigmas[level] * signal;
            let (time, memory) = (at.times[level], remembered(memory));
            Call { step, time, signal, noise, next, memory, sigma: 0.0 }
        };
        let of_step = |i: usize| {
            let (far, over) = (at.q(at.sigmas[i + 1] - at.sigmas[i]), 1.0 / at.scale(i + 1));
            let begins = slope(at, i);
            let euler = (Row::X * at.scale(i) + begins * far) * over;
            let mut calls = vec![call(i, i, euler, &[begins, Row::X])];
            if i + 1 < at.len() {
                let mean = (Row::slot(0) + slope(at, i + 1)) * 0.5;
                let heun = (Row::slot(1) * at.scale(i) + mean * far) * over;
                calls.push(call(i, i + 1, heun, &[]));
            }
            calls
        };
        (first..at.len()).flat_map(of_step).collect()
    }
}
