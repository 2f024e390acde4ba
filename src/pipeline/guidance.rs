//! Steering by gradients: the sum of what guides say, and the score of any recorded network.

use super::stepper::Stepper;
use crate::device::{
    Device, DeviceTensor, Keep, Monitor, Program, ProgramOptions, Shelf, Variants, Weights, Work, number,
};
use crate::diffusion::{ScoreShifts, Step};
use crate::error::{Result, request};
use crate::graph::fuse::fuse;
use crate::graph::gradient::gradient;
use crate::graph::recompute::recompute;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::Precision;
use crate::models::network::Shape;
use crate::settings::guidance::{DeviceDirection, DeviceState, Direction, Guidance, Guide, State, Toward};
use std::sync::Arc;

/// What guides say of a step.
pub(super) struct Lead<'a> {
    pub guides: &'a [Guide],
    pub step: &'a Step,
    pub shape: Shape,
}

/// Adds all directions to what leads a step, whose x̂₀ was computed before. Guides that compute on the run's device add theirs
/// there; the others are asked on the host, which waits for the sample.
pub(super) fn steer(
    lead: &Lead<'_>,
    device: &Device,
    stepper: &mut Stepper,
    work: &mut Work,
    monitor: &mut Monitor<'_>,
) -> Result<()> {
    let (step, shape) = (lead.step, lead.shape.sample());
    let (x, x0) = (stepper.x.clone(), stepper.held_estimate().clone());
    let (timestep, alpha_bar) = (step.timestep, step.alpha_bar);
    let mut on_host: Option<[Vec<f32>; 2]> = None;
    let mut begins = true;
    for Guide { weight, guidance } in lead.guides.iter().filter(|guide| guide.weight != 0.0) {
        let at = DeviceState { device, x: &x, x0: &x0, shape, timestep, alpha_bar };
        let there = guidance.with(|guidance| guidance.enqueue(&at, work, monitor))?;
        let direction = match there {
            Some(direction) => direction,
            None => {
                if on_host.is_none() {
                    work.submit()?;
                    on_host = Some([x.read()?, x0.read()?]);
                }
                let Some([x, x0]) = &on_host else { continue };
                let at = State { x, x0, shape, timestep, alpha_bar };
                let direction = guidance.with(|guidance| guidance.direction(&at, monitor))?;
                let (toward, values) = match &direction {
                    Direction::Score(values) => (Toward::Score, values),
                    Direction::Epsilon(values) => (Toward::Epsilon, values),
                    Direction::Mean(values) => (Toward::Mean, values),
                };
                let (given, expected) = (values.len(), x.len());
                if given != expected {
                    return Err(request!(
                        Guide,
                        Mismatch,
                        "a guidance gave {given} values for a sample of {expected}"
                    ));
                }
                let to = stepper.direction(expected)?;
                work.write(&to, values)?;
                DeviceDirection { toward, values: to, factor: 1.0 }
            }
        };
        let factors = factors(direction.toward, step).map(|factor| factor * weight * direction.factor);
        stepper.steer(work, &direction.values, factors, begins)?;
        begins = false;
    }
    if begins {
        // Nobody says anything.
        stepper.steer(work, &x, [0.0; 4], true)?;
    }
    Ok(())
}

/// How much of a direction is added to x̂₀, to ε, to the next sample, and times σ² to it.
fn factors(toward: Toward, step: &Step) -> [f64; 4] {
    let (signal, noise) = (step.alpha_bar.sqrt(), (1.0 - step.alpha_bar).sqrt());
    // x̂₀ = (x − √(1−ᾱ) ε)/√ᾱ; at zero terminal SNR, ε says nothing about it.
    let of_epsilon = if signal > 0.0 { -noise / signal } else { 0.0 };
    let by_epsilon = |factor: f64| [of_epsilon * factor, factor, 0.0, 0.0];
    match (toward, step.score_shifts) {
        (Toward::Mean, _) => [0.0, 0.0, 1.0, 0.0],
        (Toward::Epsilon, _) => by_epsilon(1.0),
        (Toward::Score, ScoreShifts::Epsilon) => by_epsilon(-noise),
        (Toward::Score, ScoreShifts::Mean) => [0.0, 0.0, 0.0, 1.0],
    }
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
    /// The number of these inputs' values: no others have it.
    version: u64,
    budget: u64,
    idle: Arc<Shelf<Made>>,
}

/// A program for samples of a shape.
struct Made {
    shape: [usize; 4],
    program: Program,
    /// What its sample is where a caller brings one.
    own: DeviceTensor,
    /// Whose values its other inputs hold.
    version: Option<u64>,
}

/// In f32, since small gradients leave f16's range.
pub(crate) const OPTIONS: ProgramOptions =
    ProgramOptions { precision: Precision::F32, keep: Keep::Outputs, variants: Variants::Measured };

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
        let version = number();
        GraphGuidance { device, weights, scalar, inputs, version, budget: MEMORY_BUDGET, idle }
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
        self.version = number();
    }

    /// The program for samples of a shape, with all inputs set but the sample and its timestep.
    fn take(&mut self, shape: [usize; 4]) -> Result<Made> {
        let kept = self.idle.take(&self.device.memory(), |made| made.shape == shape);
        let made = match kept {
            Some(kept) => kept,
            None => {
                let graph = score_graph(shape, &*self.scalar, self.budget)?;
                let program = self.device.program(graph, &self.weights, &OPTIONS)?;
                Made { shape, own: program.value("x"), program, version: None }
            }
        };
        for (name, values) in &self.inputs {
            let graph = made.program.graph();
            let input = graph.find_input(name).map(|id| graph.info(id).len());
            if input != Some(values.len()) {
                let expected = input.map_or("no such input".into(), |len| format!("{len} values"));
                return Err(request!(
                    Guide,
                    Mismatch,
                    "guidance's input `{name}`: {} values, expected {expected}",
                    values.len()
                ));
            }
        }
        Ok(made)
    }

    /// Has the program run on a sample on the device.
    fn run(
        &self,
        made: &mut Made,
        x: &DeviceTensor,
        timestep: f64,
        (work, monitor): (&mut Work, &mut Monitor<'_>),
    ) -> Result<()> {
        let program = &mut made.program;
        program.bind("x", x)?;
        if made.version != Some(self.version) {
            for (name, values) in &self.inputs {
                work.write(&program.value(name), values)?;
            }
            made.version = Some(self.version);
        }
        if program.has("t") {
            work.write(&program.value("t"), &vec![timestep as f32; made.shape[0]])?;
        }
        program.enqueue(work, monitor)
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
        let mut made = self.take(shape)?;
        let mut work = self.device.work();
        let own = made.own.clone();
        work.write(&own, x)?;
        self.run(&mut made, &own, timestep, (&mut work, monitor))?;
        work.finish()?;
        let found = (made.program.read("scalar")?, made.program.read("gradient")?);
        self.idle.put(&self.device.memory(), made);
        Ok(found)
    }

    /// Bytes of activations, and the least any plan could take, once it has run.
    pub fn memory(&self) -> Option<(u64, u64)> {
        self.idle.look(&self.device.memory(), |made| made.program.memory())
    }
}

impl Guidance for GraphGuidance {
    fn direction(&mut self, at: &State<'_>, monitor: &mut Monitor<'_>) -> Result<Direction> {
        Ok(Direction::Score(self.evaluate(at.x, at.shape, at.timestep, monitor)?.1))
    }

    fn enqueue(
        &mut self,
        at: &DeviceState<'_>,
        work: &mut Work,
        monitor: &mut Monitor<'_>,
    ) -> Result<Option<DeviceDirection>> {
        if !self.device.is(at.device) {
            return Ok(None);
        }
        let mut made = self.take(at.shape)?;
        self.run(&mut made, at.x, at.timestep, (work, monitor))?;
        let values = made.program.value("gradient");
        self.idle.put(&self.device.memory(), made);
        Ok(Some(DeviceDirection { toward: Toward::Score, values, factor: 1.0 }))
    }

    fn graphs(&self, shape: [usize; 4], steps: usize) -> Result<Vec<(usize, Graph)>> {
        Ok(vec![(steps, score_graph(shape, &*self.scalar, self.budget)?)])
    }
}
