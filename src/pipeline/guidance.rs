//! Steering by gradients: the sum of what guides say, and the score of any recorded network.

use crate::device::{Device, Keep, Monitor, Program, ProgramOptions, Variants, Weights};
use crate::diffusion::{ScoreShifts, Step};
use crate::error::{Result, request};
use crate::graph::fuse::fuse;
use crate::graph::gradient::gradient;
use crate::graph::recompute::recompute;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::Precision;
use crate::settings::guidance::{Direction, Guidance, Guide, State};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The sum of all directions, as [`kernels::step`](crate::kernels::step) takes it: `[3, N, H, W, C]`, what is added to
/// the clipped x̂₀, to the next sample, and to the next sample times its variance.
pub(crate) fn steer(
    guides: &[Guide],
    at: &State<'_>,
    step: &Step,
    monitor: &mut Monitor<'_>,
) -> Result<Vec<f32>> {
    let len = at.x.len();
    let mut sums = vec![0.0; 3 * len];
    let (signal, noise) = (at.alpha_bar.sqrt(), (1.0 - at.alpha_bar).sqrt());
    // x̂₀ = (x − √(1−ᾱ) ε)/√ᾱ; at zero terminal SNR, ε says nothing about it.
    let of_epsilon = if signal > 0.0 { -noise / signal } else { 0.0 };
    for Guide { weight, guidance } in guides.iter().filter(|g| g.weight != 0.0) {
        let direction = guidance.with(|guidance| guidance.direction(at, monitor))?;
        let (Direction::Score(values) | Direction::Epsilon(values) | Direction::Mean(values)) = &direction;
        if values.len() != len {
            return Err(request!(
                Guide,
                Mismatch,
                "a guidance gave {} values for a sample of {len}",
                values.len()
            ));
        }
        let by_epsilon = |factor: f64| [of_epsilon * factor, step.coefficients.next.eps * factor, 0.0];
        let parts = match (&direction, step.score_shifts) {
            (Direction::Mean(_), _) => [0.0, 1.0, 0.0],
            (Direction::Epsilon(_), _) => by_epsilon(1.0),
            (Direction::Score(_), ScoreShifts::Epsilon) => by_epsilon(-noise),
            (Direction::Score(_), ScoreShifts::Mean) => [0.0, 0.0, 1.0],
        };
        for (sums, factor) in sums.chunks_exact_mut(len).zip(parts).filter(|(_, factor)| *factor != 0.0) {
            let factor = (factor * *weight) as f32;
            sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += factor * v);
        }
    }
    Ok(sums)
}

/// Records a scalar for each picture, `[N]`, whose gradient steers: from the sample `x` `[N, H, W, C]` and the
/// timesteps `t` `[N]`.
pub type Scalar = dyn Fn(&mut Graph, &Tensor, &Tensor) -> Tensor + Send + Sync;

/// The gradient of a recorded network's scalar as a score. Clones have inputs of their own, and use one another's programs
/// when those are idle.
#[derive(Clone)]
pub struct GraphGuidance {
    device: Device,
    weights: Arc<Weights>,
    scalar: Arc<Scalar>,
    inputs: Vec<(String, Vec<f32>)>,
    budget: u64,
    idle: Arc<Mutex<Option<Made>>>,
}

/// A program for samples of a shape.
type Made = ([usize; 4], Program);

/// In f32, since small gradients leave f16's range, and accurately, since a score is small beside what it is made of.
pub(crate) const OPTIONS: ProgramOptions = ProgramOptions {
    precision: Precision::F32,
    keep: Keep::Outputs,
    variants: Variants::Measured,
    accurate: true,
};

/// Bytes of activations that a guidance may take where the caller does not say: 1 GiB.
pub const MEMORY_BUDGET: u64 = 1 << 30;

/// The forward of a network's scalar and its gradient with respect to `x`, as [`GraphGuidance`] runs it: inputs `x` and
/// `t`, outputs `scalar` and `gradient`. Where its activations exceed `budget` bytes, some are computed twice instead.
///
/// Errors: see [`gradient`].
pub fn score_graph(
    shape: [usize; 4],
    scalar: &dyn Fn(&mut Graph, &Tensor, &Tensor) -> Tensor,
    budget: u64,
) -> Result<Graph> {
    let mut g = Graph::new();
    let x = g.input("x", &shape, Storage::F32);
    let t = g.input("t", &shape[..1], Storage::F32);
    let value = scalar(&mut g, &x, &t);
    let score = gradient(&mut g, &value, &[&x])?;
    g.output("scalar", &value);
    g.output("gradient", &score[0]);
    fuse(&mut g);
    let peak = recompute(&mut g, value.id, budget);
    if peak > budget {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        log::warn!("guidance takes {} MiB at least, beyond its budget of {}", mib(peak), mib(budget));
    }
    Ok(g)
}

impl GraphGuidance {
    /// The score of a network with `weights`; `scalar` may record inputs besides `x` and `t`, whose values are set by
    /// [`GraphGuidance::set`].
    pub fn new(device: &Device, weights: Arc<Weights>, scalar: Arc<Scalar>) -> Self {
        let (device, inputs, idle) = (device.clone(), Vec::new(), Arc::default());
        GraphGuidance { device, weights, scalar, inputs, budget: MEMORY_BUDGET, idle }
    }

    fn idle(&self) -> MutexGuard<'_, Option<Made>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of activations it may take, [`MEMORY_BUDGET`] if this is not called; less takes more time.
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.budget = bytes;
        self
    }

    /// Sets an input that `scalar` records: a class, an embedding to compare with.
    pub fn set(&mut self, input: &str, values: Vec<f32>) {
        self.inputs.retain(|(name, _)| name != input);
        self.inputs.push((input.to_string(), values));
    }

    /// Computes the scalars `[N]` and their gradient at x_t.
    ///
    /// Errors: a scalar without a gradient; inputs of the wrong size; a device that fails.
    pub fn evaluate(
        &mut self,
        x: &[f32],
        shape: [usize; 4],
        timestep: f64,
        monitor: &mut Monitor<'_>,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let kept = self.idle().take().filter(|(made_for, _)| *made_for == shape);
        let (_, mut program) = match kept {
            Some(kept) => kept,
            None => {
                let graph = score_graph(shape, &*self.scalar, self.budget)?;
                (shape, self.device.program(graph, &self.weights, &OPTIONS)?)
            }
        };
        for (name, values) in &self.inputs {
            let input = program.graph().find_input(name).map(|id| program.graph().info(id).len());
            if input != Some(values.len()) {
                let expected = input.map_or("no such input".into(), |len| format!("{len} values"));
                return Err(request!(
                    Guide,
                    Mismatch,
                    "guidance's input `{name}`: {} values, expected {expected}",
                    values.len()
                ));
            }
            program.write(name, values);
        }
        program.write("x", x);
        if program.graph().find_input("t").is_some() {
            program.write("t", &vec![timestep as f32; shape[0]]);
        }
        program.run(monitor)?;
        let found = (program.read("scalar")?, program.read("gradient")?);
        *self.idle() = Some((shape, program));
        Ok(found)
    }

    /// Bytes of activations, and the least any plan could take, once it has run.
    pub fn memory(&self) -> Option<(u64, u64)> {
        self.idle().as_ref().map(|(_, program)| program.memory())
    }
}

impl Guidance for GraphGuidance {
    fn direction(&mut self, at: &State<'_>, monitor: &mut Monitor<'_>) -> Result<Direction> {
        Ok(Direction::Score(self.evaluate(at.x, at.shape, at.timestep, monitor)?.1))
    }

    fn graphs(&self, shape: [usize; 4], steps: usize) -> Result<Vec<(usize, Graph)>> {
        Ok(vec![(steps, score_graph(shape, &*self.scalar, self.budget)?)])
    }
}
