//! A step as scalars, for one fused kernel.
//!
//! Written as linear maps so that all samplers, all prediction types and both arithmetics are one kernel: x̂0 and ε are
//! combinations of x and the network's output; the mean, and what a sampler remembers for later steps, are combinations of
//! x, x̂0, ε and what it remembers of earlier ones.
//!
//! Samples are x = √ᾱ x0 + √(1−ᾱ) ε, as the networks take them, for every sampler; those usually written in
//! σ = √((1−ᾱ)/ᾱ) have x/√(σ²+1) here.

use super::process::Thresholding;
use std::ops::{Add, Mul, Sub};

/// The standard deviation σ of the noise a step adds: x_{t−1} = mean + σ z.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Variance {
    /// The same σ everywhere.
    Fixed {
        /// Standard deviation; 0 adds none.
        sigma: f64,
    },
    /// σ = exp(½ (f log_max + (1−f) log_min)), f = (v+1)/2 of the network's variance channels v, not clamped.
    LearnedRange {
        /// log β̃.
        log_min: f64,
        /// log β.
        log_max: f64,
    },
    /// σ = √v of the network's variance channels v (diffusers' `learned`).
    Learned,
}

/// As many tensors of x's size as any sampler remembers (PNDM with its Runge–Kutta start).
pub const MEMORY: usize = 5;

/// A linear combination of x, the clipped x̂0, ε and the memory, all as they are before the step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Row {
    /// What it takes of x.
    pub x: f64,
    /// Of x̂0, clipped and steered.
    pub x0: f64,
    /// Of ε.
    pub eps: f64,
    /// Of each tensor of the memory.
    pub memory: [f64; MEMORY],
}

impl Row {
    /// x itself.
    pub const X: Row = Row { x: 1.0, x0: 0.0, eps: 0.0, memory: [0.0; MEMORY] };
    /// x̂0 itself.
    pub const X0: Row = Row { x: 0.0, x0: 1.0, eps: 0.0, memory: [0.0; MEMORY] };

    /// ε itself.
    pub const EPS: Row = Row { x: 0.0, x0: 0.0, eps: 1.0, memory: [0.0; MEMORY] };

    /// A tensor of the memory.
    pub fn slot(i: usize) -> Row {
        let mut row = Row::default();
        row.memory[i] = 1.0;
        row
    }

    /// All of its numbers.
    pub fn numbers(&self) -> impl Iterator<Item = f64> {
        [self.x, self.x0, self.eps].into_iter().chain(self.memory)
    }

    /// One that takes nothing of the memory.
    pub fn of(x: f64, x0: f64, eps: f64) -> Row {
        Row { x, x0, eps, memory: [0.0; MEMORY] }
    }
}

impl Add for Row {
    type Output = Row;

    fn add(self, other: Row) -> Row {
        Row {
            x: self.x + other.x,
            x0: self.x0 + other.x0,
            eps: self.eps + other.eps,
            memory: std::array::from_fn(|i| self.memory[i] + other.memory[i]),
        }
    }
}

impl Sub for Row {
    type Output = Row;

    fn sub(self, other: Row) -> Row {
        self + other * -1.0
    }
}

impl Mul<f64> for Row {
    type Output = Row;

    fn mul(self, factor: f64) -> Row {
        Row {
            x: self.x * factor,
            x0: self.x0 * factor,
            eps: self.eps * factor,
            memory: self.memory.map(|v| v * factor),
        }
    }
}

/// The scalars of one step. `out` is the network's output after guidance, without variance channels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coefficients {
    /// x̂0 = x0_x·x + x0_out·out, then [`Coefficients::clip`].
    pub x0_x: f64,
    /// See [`Coefficients::x0_x`].
    pub x0_out: f64,
    /// ε = eps_x·x + eps_out·out, from the network, whatever clipping did to x̂0.
    pub eps_x: f64,
    /// See [`Coefficients::eps_x`].
    pub eps_out: f64,
    /// The mean of the next sample. Terms with weight 0 may be skipped.
    pub next: Row,
    /// What each tensor of the memory becomes.
    pub memory: [Row; MEMORY],
    /// How many of them the sampler uses, 0 where it remembers nothing; the rows beyond are zeros.
    pub memory_len: usize,
    /// What happens to x̂0.
    pub clip: Thresholding,
    /// The noise added to the mean.
    pub variance: Variance,
}

/// One call of the network and what follows from it, as the fused kernel takes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Which of the run's steps it belongs to, from 0; some samplers call the network more than once in one.
    pub step: usize,
    /// Nothing that came before is remembered: a run begins here, or begins again where it has gone back.
    pub begins: bool,
    /// Fed to the network; between whole ones where a sampler's σ lie between the trained ones.
    pub timestep: f64,
    /// The step's scalars.
    pub coefficients: Coefficients,
    /// The reference implementation draws noise of x's size in this step.
    pub draws_noise: bool,
    /// The noise is added; otherwise a draw only moves the generator on, and the variance only scales guidance.
    pub adds_noise: bool,
    /// ᾱ_t of the sample before the step.
    pub alpha_bar: f64,
    /// ᾱ of the sample after it; 1 after the last.
    pub alpha_bar_after: f64,
    /// A run that begins at this step from standard normals z begins at this times z.
    pub start_scale: f64,
    /// What guidance by a score shifts in this sampler.
    pub score_shifts: ScoreShifts,
}

/// What a score ∇ log p(y | x_t) shifts (Dhariwal & Nichol 2021, arXiv:2105.05233).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreShifts {
    /// The mean of x_{t−1}, by variance times score: ancestral sampling.
    Mean,
    /// ε, by −√(1−ᾱ_t) times score: DDIM.
    Epsilon,
}
