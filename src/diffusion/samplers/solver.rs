//! Solvers of the equation that takes noise to pictures, on noise levels σ.

use super::levels::{Grid, Levels};
use super::rule::prediction;
use crate::diffusion::process::Process;
use crate::diffusion::schedule::Spacing;
use crate::diffusion::step::{Coefficients, MEMORY, Row, ScoreShifts, Step, Variance};
use crate::diffusion::timesteps::Timesteps;
use crate::error::{Result, request};

/// A call of the network, and what follows from it.
pub struct Call {
    /// Which step it belongs to.
    pub step: usize,
    /// The timestep it is told.
    pub time: f64,
    /// √ᾱ there.
    pub signal: f64,
    /// √(1−ᾱ).
    pub noise: f64,
    /// The mean of the next sample.
    pub next: Row,
    /// What the memory becomes.
    pub memory: [Row; MEMORY],
    /// The standard deviation of the noise added.
    pub sigma: f64,
}

/// What a solver says of itself.
pub trait Solver {
    /// Its noise levels.
    fn grid(&self, process: &Process) -> Grid;

    /// How many tensors it remembers.
    fn remembers(&self) -> usize;

    /// It draws noise in each call, though it may add none.
    fn draws(&self) -> bool {
        false
    }

    /// Noise that begins a run is as strong as its first level, not of variance 1.
    fn begins_at_level(&self) -> bool {
        false
    }

    /// Every call from step `first` on, of a run that begins there.
    fn calls(&self, at: &Levels, first: usize) -> Vec<Call>;
}

/// A run that is asked for of a sampler that solves an equation.
pub struct Asked<'a> {
    pub process: &'a Process,
    /// The process' file names this sampler.
    pub own: bool,
    /// What the sampler is called.
    pub name: &'static str,
    pub timesteps: &'a Timesteps,
    /// The step it begins at.
    pub first: usize,
}

impl Asked<'_> {
    /// The spacing of its timesteps: the file's own, where it says one or is this sampler's; else the usual one.
    pub fn spacing(&self, usual: Spacing) -> Spacing {
        if self.process.spacing_said || self.own { self.process.spacing } else { usual }
    }

    /// Its calls by a solver.
    ///
    /// Errors: timesteps that there cannot be; settings that do not go together.
    pub fn steps(&self, solver: &dyn Solver) -> Result<Vec<Step>> {
        let spacing = self.spacing(Spacing::Linspace);
        let levels = Levels::new(self.process, spacing, &solver.grid(self.process), self.timesteps)?;
        let scaled = solver.begins_at_level() && spacing != Spacing::Leading;
        let calls = solver.calls(&levels, self.first);
        let traits = (solver.remembers(), solver.draws(), scaled);
        calls.into_iter().map(|call| self.assembled(call, traits)).collect()
    }

    /// A call as the fused kernel takes it: how much it remembers, whether it draws, whether a run begins at its noise level.
    ///
    /// Errors ([`Request`](crate::Error::Request)): numbers that are none, where settings do not go together.
    pub fn assembled(&self, call: Call, (memory_len, draws, scaled): (usize, bool, bool)) -> Result<Step> {
        let Call { step, time, signal, noise, next, memory, sigma } = call;
        let [x0_x, x0_out, eps_x, eps_out] = prediction(self.process.prediction_type, time, signal, noise)?;
        let rows = std::iter::once(&next).chain(&memory);
        if !rows.flat_map(Row::numbers).chain([sigma]).all(f64::is_finite) {
            return Err(request!(
                Sampler,
                Unsupported,
                "{} cannot step from timestep {time} with these settings: where the noise ends at none, its last step is of the \
                 first order (lower_order_final), and no two steps may have the same timestep",
                self.name
            ));
        }
        let (clip, variance) = (self.process.clip, Variance::Fixed { sigma });
        let coefficients =
            Coefficients { x0_x, x0_out, eps_x, eps_out, next, memory, memory_len, clip, variance };
        Ok(Step {
            step,
            begins: false,
            timestep: time,
            coefficients,
            draws_noise: draws || self.process.always_draws,
            adds_noise: sigma > 0.0,
            alpha_bar: signal * signal,
            alpha_bar_after: 1.0,
            start_scale: if scaled { noise } else { 1.0 },
            score_shifts: ScoreShifts::Epsilon,
        })
    }
}

/// A memory of these tensors.
pub fn remembered(rows: &[Row]) -> [Row; MEMORY] {
    std::array::from_fn(|i| rows.get(i).copied().unwrap_or_default())
}
