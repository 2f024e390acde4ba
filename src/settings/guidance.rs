//! Guidance by gradients: what steers a sampling run beside the denoiser's own condition.
//!
//! A [`Guidance`] sees x_t, t and x̂₀ at each step and says where to go: along a score ∇ log p(y | x_t), by a shift of ε,
//! or by a shift of the mean. Several are summed by their weights; closures are guidances.
//! Classifier-free guidance needs no gradient: the denoiser runs both halves in one batch.
//!
//! ```
//! use ancestral::guidance::{Direction, State};
//! use ancestral::{Engine, LoadOptions, Settings};
//!
//! let engine = Engine::bundled(&LoadOptions::default())?;
//! // Darker: a pull of every pixel towards -1.
//! let darker = |at: &State<'_>| Ok(Direction::Score(at.x0.iter().map(|v| -1.0 - v).collect()));
//! engine.generate("a green heart", Settings::new().steps([4, 2]).guide(0.5, darker))?;
//! # Ok::<(), ancestral::Error>(())
//! ```

use super::events::Callback;
use crate::device::{Device, DeviceTensor, Monitor, Work};
use crate::error::Result;
use crate::graph::Graph;
use std::sync::{Arc, Mutex};

/// Where a run stands when it asks for a direction.
#[derive(Clone, Copy, Debug)]
pub struct State<'a> {
    /// The sample x_t `[N, H, W, C]`.
    pub x: &'a [f32],
    /// The denoiser's estimate of the final picture, x̂₀, clipped as the sampler does: `[N, H, W, C]`.
    pub x0: &'a [f32],
    /// N, H, W, C.
    pub shape: [usize; 4],
    /// The timestep as the networks get it.
    pub timestep: f64,
    /// ᾱ_t: x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε.
    pub alpha_bar: f64,
}

/// Where to go, `[N, H, W, C]` each.
#[derive(Clone, Debug, PartialEq)]
pub enum Direction {
    /// g = ∇ log p(y | x_t): ancestral samplers add Σ g to the mean (arXiv:2105.05233, algorithm 1), DDIM subtracts
    /// √(1−ᾱ_t) g from ε (algorithm 2).
    Score(Vec<f32>),
    /// Added to ε; x̂₀ follows, and is not clipped again.
    Epsilon(Vec<f32>),
    /// Added to the mean of x_{t−1}.
    Mean(Vec<f32>),
}

/// Where a run stands, as values on its device.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct DeviceState<'a> {
    /// The device.
    pub device: &'a Device,
    /// [`State::x`].
    pub x: &'a DeviceTensor,
    /// [`State::x0`].
    pub x0: &'a DeviceTensor,
    /// [`State::shape`].
    pub shape: [usize; 4],
    /// [`State::timestep`].
    pub timestep: f64,
    /// [`State::alpha_bar`].
    pub alpha_bar: f64,
}

/// What a direction leads: see [`Direction`].
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    /// [`Direction::Score`].
    Score,
    /// [`Direction::Epsilon`].
    Epsilon,
    /// [`Direction::Mean`].
    Mean,
}

/// A direction that stays on the device.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct DeviceDirection {
    /// What it leads.
    pub toward: Toward,
    /// `[N, H, W, C]`.
    pub values: DeviceTensor,
    /// The direction is so much of them.
    pub factor: f64,
}

/// Something that steers a run. Closures over a [`State`] are one.
pub trait Guidance: Send {
    /// The direction at a state. `monitor` is told the share that is done and cancels by saying false.
    ///
    /// Errors end the run.
    fn direction(&mut self, at: &State<'_>, monitor: &mut Monitor<'_>) -> Result<Direction>;

    /// The direction as work on the run's own device, for the host not to wait: none where it has to be asked for by
    /// [`Guidance::direction`].
    #[doc(hidden)]
    fn enqueue(
        &mut self,
        _at: &DeviceState<'_>,
        _work: &mut Work,
        _monitor: &mut Monitor<'_>,
    ) -> Result<Option<DeviceDirection>> {
        Ok(None)
    }

    /// The graphs it runs for samples of a shape `[N, H, W, C]`, each with how often in a run of so many steps, so that a
    /// plan counts them. None where it is no graph.
    ///
    /// Errors: as [`Guidance::direction`].
    fn graphs(&self, _shape: [usize; 4], _steps: usize) -> Result<Vec<(usize, Graph)>> {
        Ok(Vec::new())
    }
}

impl<F: FnMut(&State<'_>) -> Result<Direction> + Send> Guidance for F {
    fn direction(&mut self, at: &State<'_>, _: &mut Monitor<'_>) -> Result<Direction> {
        self(at)
    }
}

/// A guidance and the factor of its direction.
#[derive(Clone, Debug)]
pub struct Guide {
    pub(crate) weight: f64,
    pub(crate) guidance: Callback<dyn Guidance>,
}

impl Guide {
    /// Any guidance.
    pub fn new(weight: f64, guidance: impl Guidance + 'static) -> Self {
        Guide { weight, guidance: Callback::new(Arc::new(Mutex::new(guidance))) }
    }
}
