//! The trainer: a network's loss, its gradients and the optimiser as programs on a device, weights updated in place.

use super::optimiser::Optimiser;
use super::parameters::{Parameter, parameters};
use crate::device::{Device, DeviceTensor, NodeTime, Program, ProgramOptions, Weights, Work};
use crate::diffusion::NoiseStream;
use crate::error::{Result, request};
use crate::graph::fuse::fuse;
use crate::graph::gradient::gradient_times;
use crate::graph::recompute::{peak, recompute};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::Precision;
use crate::kernels::accumulate::accumulate;
use crate::kernels::adamw::{Moved, adamw};
use crate::kernels::conv2d::compute_directly;
use crate::kernels::optimiser_control::{CONTROL, HEAD, ROW, STATE, optimiser_control};
use crate::kernels::sum_squares::{parts, sum_squares};
use crate::kernels::widen::widen;

/// Steps whose numbers are on the device at a time.
const ROWS: usize = 4;

/// What is trained, and how.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The optimiser.
    pub optimiser: Optimiser,
    /// Batches whose gradients make one step.
    pub accumulation: usize,
    /// Most bytes of activations alive at once; what is above is computed again on the way back.
    pub budget: Option<u64>,
    /// Faster arithmetic that rounds more: on a GPU that has it activations in f16, with the loss scaled, and on the CPU
    /// convolutions by Winograd's products. Weights and their gradients stay f32.
    pub mixed: bool,
    /// The first and largest loss scale of f16 activations.
    pub loss_scale: f64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            optimiser: Optimiser::default(),
            accumulation: 1,
            budget: None,
            mixed: false,
            loss_scale: 65_536.0,
        }
    }
}

/// What a batch or a step came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The sum of the batch's losses.
    pub loss: f64,
    /// Each item's part of it.
    pub losses: Vec<f32>,
    /// The norm of all gradients, before clipping; of the batch that ends a step.
    pub norm: Option<f64>,
    /// Whether the step was taken: gradients that are no numbers leave it out.
    pub taken: bool,
}

/// One parameter on the device.
pub(super) struct Value {
    pub parameter: Parameter,
    pub weight: DeviceTensor,
    pub first: DeviceTensor,
    pub second: DeviceTensor,
    pub average: DeviceTensor,
    /// Its gradient of several batches.
    sum: Option<DeviceTensor>,
}

/// A training run on a device.
pub struct Trainer {
    work: Work,
    options: Options,
    pub(super) values: Vec<Value>,
    /// Loss and gradients, and where every batch is a step the optimiser behind them.
    pub(super) batch: Program,
    /// The optimiser, after several batches.
    pub(super) update: Option<Program>,
    schedule: DeviceTensor,
    pub(super) state: DeviceTensor,
    control: DeviceTensor,
    /// Steps taken, as far as they are known.
    pub(super) steps: u64,
    /// Batches since the last step.
    pub(super) gathered: usize,
    half: bool,
    /// Bytes alive at once in the activations.
    activations: u64,
}

/// Names of the graph's inputs for a parameter.
fn name_of(kind: &str, parameter: &Parameter) -> String {
    format!("{kind} of {}", parameter.name)
}

/// The inputs that the optimiser shares.
struct Shared {
    squares: Tensor,
    schedule: Tensor,
    state: Tensor,
    control: Tensor,
    factors: Tensor,
}

impl Shared {
    fn new(g: &mut Graph, parameters: &[Parameter], items: usize) -> Self {
        let count = parameters.iter().map(|p| parts(p.tensor.len())).sum();
        let mut input = |name: &str, len: usize| g.input(name, &[len], Storage::F32);
        Shared {
            squares: input("squares", count),
            schedule: input("schedule", HEAD + ROW * ROWS),
            state: input("state", STATE),
            control: input("control", CONTROL),
            factors: input("factors", items),
        }
    }
}

/// Appends the optimiser: gradients in the parameters' order.
fn optimise(
    g: &mut Graph,
    parameters: &[Parameter],
    gradients: &[Tensor],
    shared: &Shared,
    options: &Options,
) {
    let mut first = 0;
    for (parameter, gradient) in parameters.iter().zip(gradients) {
        sum_squares(g, &parameter.name, gradient, &shared.squares, first);
        first += parts(gradient.len());
    }
    let Shared { squares, schedule, state, control, factors } = shared;
    optimiser_control(g, squares, schedule, [state, control, factors]);
    for (parameter, gradient) in parameters.iter().zip(gradients) {
        let len = [parameter.tensor.len()];
        let [first, second, average] =
            ["first", "second", "average"].map(|kind| g.input(&name_of(kind, parameter), &len, Storage::F32));
        let of = Moved { weight: parameter.tensor.clone(), first, second, average };
        adamw(g, &parameter.name, gradient, control, &of, options.optimiser.moments(), true);
    }
}

/// The graphs of a run.
pub struct Graphs {
    /// Loss and gradients of a batch, and where every batch is a step the optimiser behind them.
    pub batch: Graph,
    /// The optimiser, after several batches.
    pub update: Option<Graph>,
    /// What is trained.
    pub parameters: Vec<Parameter>,
    /// Bytes of activations and gradients alive at once, in f32.
    pub activations: u64,
    items: usize,
}

impl Graphs {
    /// Of what `record` makes; see [`Trainer::new`].
    ///
    /// # Errors
    /// A weight that has no gradient; a budget that cannot be kept.
    pub fn new(
        options: &Options,
        record: impl FnOnce(&mut Graph) -> Tensor,
        trained: impl Fn(&str) -> bool,
    ) -> Result<Graphs> {
        let mut g = Graph::new();
        let losses = record(&mut g);
        let items = losses.len();
        let parameters = parameters(&mut g, trained)?;
        if parameters.is_empty() {
            return Err(request!(Graph, Missing, "no weight of the network is to be trained"));
        }
        let shared = Shared::new(&mut g, &parameters, items);
        let inputs: Vec<&Tensor> = parameters.iter().map(|p| &p.tensor).collect();
        let gradients = gradient_times(&mut g, &losses, &shared.factors, &inputs)?;
        let gradients: Vec<Tensor> = gradients.iter().map(|d| widen(&mut g, "widen", d)).collect();
        let update = if options.accumulation > 1 {
            Some(gather(&mut g, &parameters, &gradients, items, options))
        } else {
            optimise(&mut g, &parameters, &gradients, &shared, options);
            None
        };
        g.output("losses", &losses);
        if !options.mixed {
            compute_directly(&mut g);
        }
        fuse(&mut g);
        let mut activations = peak(&g);
        if let Some(budget) = options.budget {
            activations = recompute(&mut g, losses.id, budget);
            if activations > budget {
                let what = format!("{} MiB at least", activations.div_ceil(1 << 20));
                let asked = format!("a budget of {} MiB for activations", budget >> 20);
                return Err(request!(Graph, OutOfRange, "{asked}: this batch needs {what}"));
            }
        }
        Ok(Graphs { batch: g, update, parameters, activations, items })
    }
}

/// Adds the gradients of a batch to those before it; the optimiser is a graph of its own, which reads their sums.
fn gather(
    g: &mut Graph,
    parameters: &[Parameter],
    gradients: &[Tensor],
    items: usize,
    options: &Options,
) -> Graph {
    let mut after = Graph::new();
    let shared = Shared::new(&mut after, parameters, items);
    let mut again = Vec::with_capacity(parameters.len());
    let mut sums = Vec::with_capacity(parameters.len());
    for (parameter, gradient) in parameters.iter().zip(gradients) {
        let name = name_of("gradient", parameter);
        let sum = g.input(&name, &[gradient.len()], Storage::F32);
        accumulate(g, &name, gradient, &sum);
        let storage = g.info(parameter.tensor.id).storage;
        let tensor = after.input(&parameter.name, &parameter.tensor.shape, storage);
        again.push(Parameter { tensor, ..parameter.clone() });
        sums.push(after.input(&name, &[gradient.len()], Storage::F32));
    }
    optimise(&mut after, &again, &sums, &shared, options);
    after
}

impl Trainer {
    /// A run on what `record` makes: the losses of a batch's items, `[N]` in f32, whose sum is minimised; graph inputs by
    /// name are what [`Trainer::batch`] is given. Weights whose names `trained` takes are trained; those that are not
    /// there are [begun anew](Parameter::initial) from the seed where `from_nothing` says so.
    ///
    /// # Errors
    /// A weight that has no gradient, is absent or of another shape; a device without the memory.
    pub fn new(
        device: &Device,
        weights: &Weights,
        options: Options,
        record: impl FnOnce(&mut Graph) -> Tensor,
        trained: impl Fn(&str) -> bool,
        from_nothing: Option<u64>,
    ) -> Result<Self> {
        let Graphs { batch, update, parameters, activations, items } =
            Graphs::new(&options, record, trained)?;
        let half = options.mixed && matches!(device, Device::Gpu(gpu) if gpu.has_f16());
        let precision = Precision { elem_f16: half, weight_f16: false };
        let program = ProgramOptions { precision, ..ProgramOptions::default() };
        let batch = device.program(batch, weights, &program)?;
        let none = Weights::none();
        let update = update.map(|graph| device.program(graph, &none, &program)).transpose()?;
        // The optimiser's own inputs are what is kept.
        let own = |name: &str| update.as_ref().unwrap_or(&batch).input(name);
        let mut noise = NoiseStream::new(from_nothing.unwrap_or(0));
        let mut values = Vec::with_capacity(parameters.len());
        for parameter in parameters {
            let begin = match from_nothing {
                Some(_) => parameter.initial(&mut noise),
                None => weights.values(&parameter.parts, parameter.repack)?,
            };
            if begin.len() != parameter.tensor.len() {
                let (name, shape) = (&parameter.name, &parameter.shape);
                let what = format!("of another shape: {shape:?} is needed");
                return Err(request!(Graph, Missing, "the weight `{name}` is {what}"));
            }
            let value = Value {
                weight: own(&parameter.name),
                first: own(&name_of("first", &parameter)),
                second: own(&name_of("second", &parameter)),
                average: own(&name_of("average", &parameter)),
                sum: update.as_ref().map(|_| own(&name_of("gradient", &parameter))),
                parameter,
            };
            value.weight.write(&begin)?;
            value.average.write(&begin)?;
            values.push(value);
        }
        let (state, control, schedule) = (own("state"), own("control"), own("schedule"));
        let (squares, factors) = (own("squares"), own("factors"));
        let scale = if half { options.loss_scale as f32 } else { 1.0 };
        state.write(&[0.0, scale, 0.0, 0.0])?;
        factors.write(&vec![scale; items])?;
        let mut trainer = Trainer {
            work: device.work(),
            options,
            values,
            batch,
            update,
            schedule,
            state,
            control,
            steps: 0,
            gathered: 0,
            half,
            activations,
        };
        trainer.bind(&squares, &factors)?;
        Ok(trainer)
    }

    /// Binds what is shared to both programs.
    fn bind(&mut self, squares: &DeviceTensor, factors: &DeviceTensor) -> Result<()> {
        for program in std::iter::once(&mut self.batch).chain(&mut self.update) {
            let mut bind = |name: &str, value: &DeviceTensor| match program.has(name) {
                true => program.bind(name, value),
                false => Ok(()),
            };
            for (name, value) in [
                ("squares", squares),
                ("schedule", &self.schedule),
                ("state", &self.state),
                ("control", &self.control),
                ("factors", factors),
            ] {
                bind(name, value)?;
            }
            for value in &self.values {
                let parameter = &value.parameter;
                bind(&parameter.name, &value.weight)?;
                bind(&name_of("first", parameter), &value.first)?;
                bind(&name_of("second", parameter), &value.second)?;
                bind(&name_of("average", parameter), &value.average)?;
                if let Some(sum) = &value.sum {
                    bind(&name_of("gradient", parameter), sum)?;
                }
            }
        }
        Ok(())
    }

    /// Trains on a batch: the values of each input of the recorded network, by name. The last batch of a step moves the
    /// weights.
    ///
    /// # Errors
    /// A device that fails.
    ///
    /// # Panics
    /// Where a name or a length is not the network's.
    pub fn batch(&mut self, inputs: &[(String, Vec<f32>)]) -> Result<Report> {
        for (name, values) in inputs {
            self.work.write(&self.batch.input(name), values)?;
        }
        if self.gathered == 0 {
            let interval = if self.half { 2000 } else { 0 };
            let numbers =
                self.options.optimiser.numbers(self.steps, ROWS, (interval, self.options.loss_scale));
            self.work.write(&self.schedule, &numbers)?;
            for sum in self.values.iter().filter_map(|value| value.sum.as_ref()) {
                self.work.clear(sum)?;
            }
        }
        self.batch.enqueue(&mut self.work, &mut |_| true)?;
        self.gathered += 1;
        let ends = self.gathered == self.options.accumulation.max(1);
        if ends && let Some(update) = &mut self.update {
            update.enqueue(&mut self.work, &mut |_| true)?;
        }
        let losses = self.work.read_later(&self.batch.output("losses"))?;
        let control = self.work.read_later(&self.control)?;
        let state = self.work.read_later(&self.state)?;
        self.work.finish()?;
        let losses = losses.values()?;
        let loss = losses.iter().map(|v| f64::from(*v)).sum();
        if !ends {
            return Ok(Report { loss, losses, norm: None, taken: false });
        }
        self.gathered = 0;
        let (control, state) = (control.values()?, state.values()?);
        self.steps = state[0] as u64;
        Ok(Report { loss, losses, norm: Some(f64::from(control[6])), taken: control[0] != 0.0 })
    }

    /// Seconds of each node of a batch.
    ///
    /// # Errors
    /// A device that fails.
    pub fn profile(&mut self) -> Result<Vec<NodeTime>> {
        self.batch.profile()
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Bytes of activations alive at once, in f32.
    pub fn activations(&self) -> u64 {
        self.activations
    }

    /// Numbers that are trained.
    pub fn parameters(&self) -> usize {
        self.values.iter().map(|value| value.weight.len()).sum()
    }
}
