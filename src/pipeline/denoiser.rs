//! A denoising network with the sampler's step after it, as programs: what is computed once a run, once for all steps, and
//! at each step.

use crate::device::{Device, Program, ProgramOptions, Transfer, Weights};
use crate::diffusion::{Step, coefficients, numbers};
use crate::error::Result;
use crate::graph::hoist::hoist;
use crate::graph::{Graph, Storage, Tensor, TensorId};
use crate::kernels::quantile::quantile;
use crate::kernels::step::{StepInputs, step};
use crate::models::network::{DenoisingNetwork, Shape};
use std::sync::Arc;

/// Inputs of a denoiser that are others at each step.
const PER_STEP: [&str; 4] = ["t", "x", "coefficients", "noise"];

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
    /// All else: with the sampler's step, run at each step.
    pub step: Graph,
    /// Steps of one pass of `times`.
    pub steps_at_once: usize,
    /// The inputs of all three, `x`, `t`, `coefficients` and `noise` among them.
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

    /// The sampler's step alone, of a network's output that was computed before, with what corrects it.
    pub(super) fn corrected(&self, shape: Shape, by: Correction) -> Graph {
        record_corrected(&self.step, shape, by)
    }
}

/// What a step's second taking reads besides what the first one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Correction {
    /// Directions by gradients.
    pub steer: bool,
    /// The known part of x̂₀.
    pub known: bool,
}

impl Correction {
    pub fn any(self) -> bool {
        self.steer || self.known
    }
}

/// The network with the sampler's step after it.
fn record(shape: Shape, network: &dyn DenoisingNetwork) -> Graph {
    let mut g = Graph::new();
    let x = g.input("x", &shape.sample(), Storage::F32);
    let t = g.input("t", &[shape.batch()], Storage::F32);
    let numbers = g.input("coefficients", &[numbers::COUNT], Storage::F32);
    let noise = g.input("noise", &shape.sample(), Storage::F32);
    let out = network.record(&mut g, shape, &x, &t);
    g.output("out", &out);
    record_step(&mut g, shape, &x, &out, [&numbers, &noise], [None, None]);
    g
}

/// The sampler's step after a network's output.
fn record_step(
    g: &mut Graph,
    shape: Shape,
    x: &Tensor,
    out: &Tensor,
    [coefficients, noise]: [&Tensor; 2],
    [steer, known]: [Option<&Tensor>; 2],
) {
    let quantile = shape.dynamic.then(|| quantile(g, x, out, coefficients, known));
    let next =
        step(g, x, &StepInputs { out, noise, coefficients, quantile: quantile.as_ref(), steer, known });
    g.output("next", &next);
}

/// The sampler's step of what `step` puts out, with what corrects it.
fn record_corrected(step: &Graph, shape: Shape, by: Correction) -> Graph {
    let out = step.find_output("out").map_or(&[][..], |id| &step.info(id).shape);
    let mut g = Graph::new();
    let x = g.input("x", &shape.sample(), Storage::F32);
    let out = g.input("out", out, Storage::Elem);
    let coefficients = g.input("coefficients", &[numbers::COUNT], Storage::F32);
    let noise = g.input("noise", &shape.sample(), Storage::F32);
    let [n, h, w, c] = shape.sample();
    let steer = by.steer.then(|| g.input("steer", &[3, n, h, w, c], Storage::F32));
    let known = by.known.then(|| g.input("known", &[n, h, w, c + 1], Storage::F32));
    record_step(&mut g, shape, &x, &out, [&coefficients, &noise], [steer.as_ref(), known.as_ref()]);
    g
}

/// A network and its sampler's step: a program that runs once a step, and those that run before it.
pub struct Denoiser {
    device: Device,
    weights: Arc<Weights>,
    options: ProgramOptions,
    network: Arc<dyn DenoisingNetwork>,
    shape: Shape,
    once: Program,
    /// `once`'s outputs that `step` reads.
    once_to_step: Vec<Transfer>,
    /// Whether `once` has run since its inputs changed.
    fresh: bool,
    times: Times,
    step: Program,
    /// The sampler's step once more, corrected; made when a run needs it.
    corrected: Option<(Correction, Program)>,
    /// Every input of the network.
    inputs: Vec<String>,
}

/// The program of what depends on the time only, with the steps it has computed.
struct Times {
    program: Program,
    steps_at_once: usize,
    /// Timesteps whose rows are in the outputs.
    ready: Vec<f64>,
    from_once: Vec<Transfer>,
    /// The first step's rows.
    to_step: Vec<Transfer>,
}

impl Times {
    /// Of graphs of the times' and of what runs before and after it.
    fn new(
        (device, weights, options): (&Device, &Weights, &ProgramOptions),
        (graph, steps_at_once): (Graph, usize),
        (once, step): (&Graph, &Graph),
    ) -> Result<Times> {
        let program = device.program(graph, weights, options)?;
        // Rows of the batch repeat for each step; what has no batch does not.
        let mut from_once = Vec::new();
        for c in crossings(once, program.graph()) {
            let all = program.graph().info(c.to).len();
            from_once.extend((0..all / c.len).map(|i| Transfer { at: i * c.len, ..c }));
        }
        let to_step = crossings(program.graph(), step);
        Ok(Times { program, steps_at_once, ready: Vec::new(), from_once, to_step })
    }
}

/// The next sample, of a step's output: x̂₀ lies behind it.
pub(super) fn first_half(mut next: Vec<f32>) -> Vec<f32> {
    next.truncate(next.len() / 2);
    next
}

/// What `target` reads of `source`'s outputs: as many elements as the smaller of output and input has.
fn crossings(source: &Graph, target: &Graph) -> Vec<Transfer> {
    let crossing = |(name, from): &(String, TensorId)| {
        let to = target.find_input(name)?;
        let len = source.info(*from).len().min(target.info(to).len());
        Some(Transfer { from: *from, first: 0, to, at: 0, len })
    };
    source.outputs.iter().filter_map(crossing).collect()
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
        let Parts { once, times, step, steps_at_once, inputs } = Parts::record(shape, steps, &**network);
        let once = device.program(once, weights, options)?;
        let at = (device, &**weights, options);
        let times = Times::new(at, (times, steps_at_once), (once.graph(), &step))?;
        let step = device.program(step, weights, options)?;
        let once_to_step = crossings(once.graph(), step.graph());
        let (device, weights, network) = (device.clone(), weights.clone(), network.clone());
        let (options, fresh, corrected) = (*options, false, None);
        Ok(Denoiser {
            device,
            weights,
            options,
            network,
            shape,
            once,
            once_to_step,
            fresh,
            times,
            step,
            corrected,
            inputs,
        })
    }

    /// The sizes it was made for.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether it was made for a device, options and sizes.
    pub fn is_for(&self, device: &Device, options: &ProgramOptions, shape: Shape) -> bool {
        self.shape == shape && self.options == *options && self.device.is(device)
    }

    /// The program that runs at each step, to read its outputs: `out`, and `next` (the next sample, then x̂₀).
    pub fn program(&mut self) -> &mut Program {
        &mut self.step
    }

    /// Bytes of all programs' activations, and the least that any plans could take.
    pub fn memory(&self) -> (u64, u64) {
        let all = [&self.once, &self.times.program, &self.step].map(Program::memory);
        all.iter().fold((0, 0), |sum, m| (sum.0 + m.0, sum.1 + m.1))
    }

    /// Whether the network, or the sampler's step after it, has an input of that name.
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

    /// Computes what this run's steps share, unless it is there.
    fn refresh(&mut self, monitor: &mut dyn FnMut(f32) -> bool) -> Result<()> {
        if self.fresh {
            return Ok(());
        }
        self.once.run(&mut |_| monitor(0.0))?;
        self.step.copy_from(&self.once, &self.once_to_step);
        self.times.program.copy_from(&self.once, &self.times.from_once);
        self.times.ready.clear();
        self.fresh = true;
        Ok(())
    }

    /// Gives the step what depends on the time of `upcoming`'s first; computes it for as many of them as one pass takes.
    fn set_time(&mut self, upcoming: &[Step], monitor: &mut dyn FnMut(f32) -> bool) -> Result<()> {
        let Some(timestep) = upcoming.first().map(|step| step.timestep) else { return Ok(()) };
        if !self.times.ready.contains(&timestep) {
            self.compute_times(upcoming, monitor)?;
        }
        if let Some(i) = self.times.ready.iter().position(|t| *t == timestep) {
            // Row i of what has rows for each step.
            let slice = |c: &Transfer| Transfer { first: i * c.len, ..*c };
            let copies: Vec<Transfer> = self.times.to_step.iter().map(slice).collect();
            self.step.copy_from(&self.times.program, &copies);
        }
        Ok(())
    }

    fn compute_times(&mut self, upcoming: &[Step], monitor: &mut dyn FnMut(f32) -> bool) -> Result<()> {
        if self.times.steps_at_once < upcoming.len() {
            let parts = Parts::record(self.shape, upcoming.len(), &*self.network);
            if parts.steps_at_once > self.times.steps_at_once {
                let at = (&self.device, &*self.weights, &self.options);
                let graphs = (self.once.graph(), self.step.graph());
                self.times = Times::new(at, (parts.times, parts.steps_at_once), graphs)?;
                self.times.program.copy_from(&self.once, &self.times.from_once);
            }
        }
        let (times, batch) = (&mut self.times, self.shape.batch());
        times.ready.clear();
        let ready: Vec<f64> = upcoming.iter().take(times.steps_at_once).map(|s| s.timestep).collect();
        if times.program.graph().find_input("t").is_some() {
            // Rows beyond the last step compute what nobody reads.
            let rows = times.steps_at_once * batch;
            let t: Vec<f32> = (0..rows).map(|row| ready[(row / batch).min(ready.len() - 1)] as f32).collect();
            times.program.write("t", &t);
        }
        times.program.run(&mut |_| monitor(0.0))?;
        times.ready = ready;
        Ok(())
    }

    /// One step from the sample in `x` with noise z `[N, H, W, C]`; outputs `out` and `next` can then be read.
    ///
    /// Errors: a device that fails; a monitor that cancels.
    pub fn step(
        &mut self,
        step: &Step,
        guidance_scale: f64,
        z: &[f32],
        monitor: &mut dyn FnMut(f32) -> bool,
    ) -> Result<()> {
        self.advance(std::slice::from_ref(step), guidance_scale, z, monitor)
    }

    /// The first of `upcoming` steps.
    pub(super) fn advance(
        &mut self,
        upcoming: &[Step],
        guidance_scale: f64,
        z: &[f32],
        monitor: &mut dyn FnMut(f32) -> bool,
    ) -> Result<()> {
        let Some(step) = upcoming.first() else { return Ok(()) };
        self.refresh(monitor)?;
        self.set_time(upcoming, monitor)?;
        if self.step.graph().find_input("t").is_some() {
            self.step.write("t", &vec![step.timestep as f32; self.shape.batch()]);
        }
        self.step.write("coefficients", &coefficients(step, guidance_scale));
        self.step.write("noise", z);
        self.step.run(monitor)
    }

    /// The program of the sampler's step once more, `by` what corrects it, with the network's last output in it.
    pub(super) fn corrected(&mut self, by: Correction) -> Result<&mut Program> {
        let (_, program) = match self.corrected.take().filter(|(made_for, _)| *made_for == by) {
            Some(made) => self.corrected.insert(made),
            None => {
                let graph = record_corrected(self.step.graph(), self.shape, by);
                self.corrected.insert((by, self.device.program(graph, &Weights::none(), &self.options)?))
            }
        };
        let copies = crossings(self.step.graph(), program.graph());
        program.copy_from(&self.step, &copies);
        Ok(program)
    }

    /// The program whose `next` is the last step's result: the corrected one, where a run corrects.
    pub(super) fn last(&mut self, by: Correction) -> &mut Program {
        match &mut self.corrected {
            Some((made_for, program)) if by.any() && *made_for == by => program,
            _ => &mut self.step,
        }
    }
}
