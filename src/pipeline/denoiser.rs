//! A denoising network with the sampler's step after it, as programs: what is computed once a run, once for all steps, and
//! at each step. All of them pass values on the device to each other.

use super::stepper::{Kind, Stepper};
use crate::device::{Device, DeviceTensor, Program, ProgramOptions, Weights, Work};
use crate::diffusion::Step;
use crate::error::Result;
use crate::graph::hoist::hoist;
use crate::graph::{Graph, Storage};
use crate::kernels::hand_over::{HandOver, hand_over};
use crate::models::network::{DenoisingNetwork, Shape};
use std::sync::Arc;

/// Inputs of a network that are others at each step: the timesteps, and the sample.
const PER_STEP: [&str; 2] = ["t", "x"];

/// What a denoiser computes, by how often: nothing is computed again that stays as it was.
///
/// A tensor that one part makes and another reads is an output of the one and an input of the other by one name.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Depends on what conditions the run: text keys and values, pooled text, the enlarged picture.
    pub once: Graph,
    /// Depends on the time, too, but not on the sample: time embeddings and what the blocks make of them, for
    /// [`Parts::steps_at_once`] steps in one pass. Row i·batch + n is step i, item n.
    pub times: Graph,
    /// All else of the network, run at each step: from the sample `x` to its output `out`.
    pub step: Graph,
    /// Steps of one pass of `times`.
    pub steps_at_once: usize,
    /// The inputs of all three, `x` and `t` among them.
    pub inputs: Vec<String>,
}

impl Parts {
    /// Records the parts for runs of up to `steps` steps. Where the embeddings of so many take more than 64 MiB, it is
    /// several passes.
    pub fn record(shape: Shape, steps: usize, network: &dyn DenoisingNetwork) -> Parts {
        const LARGEST_PASS: usize = 64 << 20;
        let all = record(shape, network);
        let inputs = all.input_names().map(str::to_string).collect();
        let parts_of = |all: &Graph| {
            let (once, rest) = hoist(all, &PER_STEP);
            let (times, step) = hoist(&rest, &PER_STEP[1..]);
            (once, rest, times, step)
        };
        let (once, rest, mut times, step) = parts_of(&all);
        let lens = || times.outputs.iter().map(|(_, id)| times.info(*id).len());
        // Slices of f16 with an odd number of elements would not begin at whole words; no published network has such.
        if lens().any(|len| len % 2 == 1) {
            return Parts { once, times: Graph::new(), step: rest, steps_at_once: 1, inputs };
        }
        let steps_at_once = (LARGEST_PASS / (4 * lens().sum::<usize>()).max(1)).clamp(1, steps.max(1));
        if steps_at_once > 1 {
            let wide = Shape { pictures: steps_at_once * shape.pictures, ..shape };
            times = parts_of(&record(wide, network)).2;
        }
        Parts { once, times, step, steps_at_once, inputs }
    }

    /// The shape of the network's output.
    pub fn out(&self) -> &[usize] {
        self.step.find_output("out").map_or(&[], |id| &self.step.info(id).shape)
    }
}

/// The network.
fn record(shape: Shape, network: &dyn DenoisingNetwork) -> Graph {
    let mut g = Graph::new();
    let x = g.input("x", &shape.sample(), Storage::F32);
    let t = g.input("t", &[shape.batch()], Storage::F32);
    let out = network.record(&mut g, shape, &x, &t);
    g.output("out", &out);
    g
}

/// Pictures that a network enlarges, as they are handed over.
pub(super) fn record_hand_over(shape: Shape, how: HandOver) -> Graph {
    let mut g = Graph::new();
    let pictures = g.input("pictures", &shape.small(), Storage::F32);
    let low_res = hand_over(&mut g, &pictures, how);
    g.output("low_res", &low_res);
    g
}

/// A network and its sampler's step: a program that runs once a step, and those that run before and after it.
pub struct Denoiser {
    device: Device,
    weights: Arc<Weights>,
    options: ProgramOptions,
    network: Arc<dyn DenoisingNetwork>,
    shape: Shape,
    once: Program,
    /// Whether `once` has run since its inputs changed.
    fresh: bool,
    times: Times,
    step: Program,
    pub(super) stepper: Stepper,
    /// What hands it the pictures that it enlarges, once it has.
    hand_over: Option<(HandOver, Program)>,
    /// Every input of the network.
    inputs: Vec<String>,
}

/// The program of what depends on the time only, with the steps it has computed.
struct Times {
    program: Program,
    steps_at_once: usize,
    /// Timesteps whose rows are in the outputs.
    ready: Vec<f64>,
    /// Outputs of `once`, and where they are read.
    from_once: Vec<(DeviceTensor, DeviceTensor)>,
    /// Outputs, a row for each step, and the step's input that is such a row.
    to_step: Vec<(DeviceTensor, DeviceTensor)>,
}

impl Times {
    /// Of its graph and the programs that run before and after it.
    fn new(
        (device, weights, options): (&Device, &Weights, &ProgramOptions),
        (graph, steps_at_once): (Graph, usize),
        (once, step): (&Program, &Program),
    ) -> Result<Times> {
        let program = device.program(graph, weights, options)?;
        // Rows of the batch repeat for each step; what has no batch does not.
        let mut from_once = Vec::new();
        for (from, to) in shared(once, &program) {
            let len = from.len();
            from_once.extend((0..to.len() / len).map(|i| (from.clone(), to.part(i * len, len))));
        }
        let to_step = shared(&program, step);
        Ok(Times { program, steps_at_once, ready: Vec::new(), from_once, to_step })
    }
}

/// The timesteps of steps in their order, each once: what depends on the time alone is computed once for each.
pub(super) fn distinct(steps: &[Step]) -> Vec<f64> {
    let mut times: Vec<f64> = Vec::new();
    for step in steps {
        if !times.contains(&step.timestep) {
            times.push(step.timestep);
        }
    }
    times
}

/// The outputs of `source` that `target` has inputs for, and these.
fn shared(source: &Program, target: &Program) -> Vec<(DeviceTensor, DeviceTensor)> {
    let names = source.graph().outputs.iter().map(|(name, _)| name);
    let read = names.filter(|name| target.graph().find_input(name).is_some());
    read.map(|name| (source.value(name), target.value(name))).collect()
}

impl Denoiser {
    /// Makes the programs of a network for runs of so many steps; longer runs make some of it anew.
    ///
    /// Errors: weights that cannot be read; a device that fails, or does not allow the sizes.
    pub fn new(
        device: &Device,
        weights: &Arc<Weights>,
        options: &ProgramOptions,
        (shape, steps): (Shape, usize),
        network: &Arc<dyn DenoisingNetwork>,
    ) -> Result<Self> {
        let parts = Parts::record(shape, steps, &**network);
        let out_shape = parts.out().to_vec();
        let Parts { once, times, step, steps_at_once, inputs } = parts;
        let once = device.program(once, weights, options)?;
        let mut step = device.program(step, weights, options)?;
        for (name, _) in &once.graph().outputs {
            if step.graph().find_input(name).is_some() {
                step.bind(name, &once.value(name))?;
            }
        }
        let at = (device, &**weights, options);
        let times = Times::new(at, (times, steps_at_once), (&once, &step))?;
        let ends = [step.value("x"), step.value("out")];
        let stepper = Stepper::new(device, options, (shape, &out_shape), ends)?;
        let (device, weights, network) = (device.clone(), weights.clone(), network.clone());
        let (options, fresh, hand_over) = (*options, false, None);
        Ok(Denoiser {
            device,
            weights,
            options,
            network,
            shape,
            once,
            fresh,
            times,
            step,
            stepper,
            hand_over,
            inputs,
        })
    }

    /// The device it was made for.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// The sizes it was made for.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether it was made for a device, options and sizes.
    pub fn is_for(&self, device: &Device, options: &ProgramOptions, shape: Shape) -> bool {
        self.shape == shape && self.options == *options && self.device.is(device)
    }

    /// The network's program that runs at each step: its output is `out`.
    pub fn program(&mut self) -> &mut Program {
        &mut self.step
    }

    /// The sample `[N, H, W, C]`: what the next step begins at.
    pub fn sample_now(&self) -> &DeviceTensor {
        &self.stepper.x
    }

    /// The clipped x̂₀ `[N, H, W, C]` of the last step.
    pub fn estimate(&self) -> &DeviceTensor {
        self.stepper.estimate()
    }

    /// Bytes of all programs' activations, and the least that any plans could take.
    pub fn memory(&self) -> (u64, u64) {
        let all = [&self.once, &self.times.program, &self.step].map(Program::memory);
        all.iter().fold((0, 0), |sum, m| (sum.0 + m.0, sum.1 + m.1))
    }

    /// Whether the network has an input of that name.
    pub fn takes(&self, name: &str) -> bool {
        self.inputs.iter().any(|input| input == name)
    }

    /// Sets the sample `x` or what conditions the network.
    #[track_caller]
    pub fn write(&mut self, name: &str, values: &[f32]) {
        assert!(self.takes(name), "the network has no input `{name}`");
        for program in [&mut self.once, &mut self.times.program, &mut self.step] {
            if program.graph().find_input(name).is_some() {
                program.write(name, values);
                self.fresh &= PER_STEP.contains(&name);
            }
        }
    }

    /// Sets the pictures it enlarges, `[N, h, w, C]` in f32 on its device, as they are handed over.
    ///
    /// Errors: a device that fails.
    pub fn enlarge(&mut self, work: &mut Work, pictures: &DeviceTensor, how: HandOver) -> Result<()> {
        let program = match self.hand_over.take().filter(|(made_for, _)| *made_for == how) {
            Some(made) => self.hand_over.insert(made),
            None => {
                let graph = record_hand_over(self.shape, how);
                self.hand_over.insert((how, self.device.program(graph, &Weights::none(), &self.options)?))
            }
        };
        let program = &mut program.1;
        program.bind("pictures", pictures)?;
        let here = |program: &&Program| program.graph().find_input("low_res").is_some();
        for taker in [&self.once, &self.times.program, &self.step].into_iter().filter(here) {
            program.bind("low_res", &taker.input("low_res"))?;
            program.enqueue(work, &mut |_| true)?;
        }
        self.fresh = false;
        Ok(())
    }

    /// Computes what this run's steps share, unless it is there.
    fn refresh(&mut self, work: &mut Work, monitor: &mut dyn FnMut(f32) -> bool) -> Result<()> {
        if self.fresh {
            return Ok(());
        }
        self.once.enqueue(work, &mut |_| monitor(0.0))?;
        for (from, to) in &self.times.from_once {
            work.copy(from, to)?;
        }
        self.times.ready.clear();
        self.fresh = true;
        Ok(())
    }

    /// Gives the step what depends on the time of `upcoming`'s first; computes it for as many of them as one pass takes.
    fn set_time(
        &mut self,
        work: &mut Work,
        upcoming: &[Step],
        monitor: &mut dyn FnMut(f32) -> bool,
    ) -> Result<()> {
        let Some(timestep) = upcoming.first().map(|step| step.timestep) else { return Ok(()) };
        if !self.times.ready.contains(&timestep) {
            self.compute_times(work, upcoming, monitor)?;
        }
        if let Some(i) = self.times.ready.iter().position(|t| *t == timestep) {
            for (rows, row) in &self.times.to_step {
                work.copy(&rows.part(i * row.len(), row.len()), row)?;
            }
        }
        Ok(())
    }

    fn compute_times(
        &mut self,
        work: &mut Work,
        upcoming: &[Step],
        monitor: &mut dyn FnMut(f32) -> bool,
    ) -> Result<()> {
        let upcoming = distinct(upcoming);
        if self.times.steps_at_once < upcoming.len() {
            let parts = Parts::record(self.shape, upcoming.len(), &*self.network);
            if parts.steps_at_once > self.times.steps_at_once {
                let at = (&self.device, &*self.weights, &self.options);
                let programs = (&self.once, &self.step);
                self.times = Times::new(at, (parts.times, parts.steps_at_once), programs)?;
                for (from, to) in &self.times.from_once {
                    work.copy(from, to)?;
                }
            }
        }
        let (times, batch) = (&mut self.times, self.shape.batch());
        times.ready.clear();
        let ready: Vec<f64> = upcoming.into_iter().take(times.steps_at_once).collect();
        if times.program.graph().find_input("t").is_some() {
            // Rows beyond the last step compute what nobody reads.
            let rows = times.steps_at_once * batch;
            let t: Vec<f32> = (0..rows).map(|row| ready[(row / batch).min(ready.len() - 1)] as f32).collect();
            work.write(&times.program.value("t"), &t)?;
        }
        times.program.enqueue(work, &mut |_| monitor(0.0))?;
        times.ready = ready;
        Ok(())
    }

    /// Has the network see the sample at the first of `upcoming` steps, as a part of `work`.
    pub(super) fn see(
        &mut self,
        work: &mut Work,
        upcoming: &[Step],
        monitor: &mut dyn FnMut(f32) -> bool,
    ) -> Result<()> {
        let Some(step) = upcoming.first() else { return Ok(()) };
        self.refresh(work, monitor)?;
        self.set_time(work, upcoming, monitor)?;
        if self.step.graph().find_input("t").is_some() {
            work.write(&self.step.value("t"), &vec![step.timestep as f32; self.shape.batch()])?;
        }
        self.step.enqueue(work, monitor)
    }

    /// Takes one step from the sample in `x` with noise z `[N, H, W, C]`, by itself: with nothing remembered, and nothing
    /// that leads. Its results are the program's `out`, the [sample](Denoiser::sample_now) and the
    /// [estimate](Denoiser::estimate).
    ///
    /// Errors: a device that fails; a monitor that cancels.
    pub fn step(
        &mut self,
        step: &Step,
        guidance_scale: f64,
        z: &[f32],
        monitor: &mut dyn FnMut(f32) -> bool,
    ) -> Result<()> {
        let mut work = self.device.work();
        self.stepper.begin(&mut work, step.coefficients.memory_len, Default::default())?;
        self.see(&mut work, std::slice::from_ref(step), monitor)?;
        self.stepper.set(&mut work, step, guidance_scale)?;
        self.stepper.set_noise(&mut work, z)?;
        self.stepper.advance(&mut work, Kind::of(step), monitor)?;
        work.finish()
    }
}
