//! The denoising loop all systems share: noise in, one graph a step, pictures out.

use super::repaint::{Keeping, Kept, Move, alpha_bar_before, moves, noise_further};
use crate::device::{Device, Program, ProgramOptions, Transfer, Weights};
use crate::diffusion::{NoiseStream, Step, Thresholding, coefficients};
use crate::error::{Error, Result};
use crate::graph::hoist::hoist;
use crate::graph::{Graph, Storage, Tensor, TensorId};
use crate::guidance::{State, Weighted, steer};
use crate::kernels::quantile::quantile;
use crate::kernels::step::{StepInputs, step};
use crate::picture::Picture;
use std::sync::Arc;

/// Random numbers in the order the reference pipelines draw them.
pub trait Noise {
    /// Standard normal numbers `[pictures, channels, height, width]`, row-major.
    fn draw(&mut self, pictures: usize, channels: usize, height: usize, width: usize) -> Vec<f32>;
    /// Numbers from 0 to 1, 1 not among them, `[pictures, count]`: what a model draws that draws tokens.
    fn uniform(&mut self, pictures: usize, count: usize) -> Vec<f32>;
}

/// One PyTorch CPU generator for each picture, seeded `seed`, `seed + 1`, …: picture i of a batch is the picture a
/// single run with its own seed gives.
pub struct SeededNoise(Vec<NoiseStream>);

impl SeededNoise {
    /// Streams for `pictures` pictures.
    pub fn new(seed: u64, pictures: usize) -> Self {
        SeededNoise::of_candidate(seed, pictures, 0)
    }

    /// Streams for one of several candidates for each picture, by its number: picture i's are seeded
    /// `seed + i + number · 9E3779B9₁₆`, so that the first candidate is what there is where there is but one.
    pub fn of_candidate(seed: u64, pictures: usize, number: usize) -> Self {
        // Odd and of many bits: multiples of it lie far from the seeds of other pictures, in the generator's 32 bits.
        let first = seed.wrapping_add((number as u64).wrapping_mul(0x9e37_79b9));
        SeededNoise((0..pictures as u64).map(|i| NoiseStream::new(first.wrapping_add(i))).collect())
    }
}

impl Noise for SeededNoise {
    fn draw(&mut self, pictures: usize, channels: usize, height: usize, width: usize) -> Vec<f32> {
        self.0.iter_mut().take(pictures).flat_map(|s| s.normal(channels * height * width)).collect()
    }

    fn uniform(&mut self, pictures: usize, count: usize) -> Vec<f32> {
        let row = |s: &mut NoiseStream| (0..count).map(|_| s.uniform()).collect::<Vec<_>>();
        self.0.iter_mut().take(pictures).flat_map(row).collect()
    }
}

/// `[N, C, H, W]` to `[N, H, W, C]`.
pub fn channels_last(values: &[f32], channels: usize, height: usize, width: usize) -> Vec<f32> {
    let pixels = height * width;
    let mut out = Vec::with_capacity(values.len());
    for picture in values.chunks_exact(channels * pixels) {
        for pixel in 0..pixels {
            out.extend((0..channels).map(|c| picture[c * pixels + pixel]));
        }
    }
    out
}

/// What a step's callback learns.
pub struct StepDone<'a> {
    /// Steps done in this stage.
    pub done: f32,
    /// Steps of this stage.
    pub steps: usize,
    /// Reads the current estimate of the final pictures, x̂₀; only where a step has just been finished.
    pub estimate: Option<&'a mut dyn FnMut() -> Result<Vec<Picture>>>,
}

/// What leads a run where the network alone would not go.
pub struct Guided<'a> {
    /// Classifier-free guidance: how far from the unconditional output over the conditional one; 1 is none.
    pub scale: f64,
    /// What steers by gradients.
    pub by_gradients: Vec<Weighted<'a>>,
    /// What is kept of a picture.
    pub kept: Option<Kept>,
}

impl Guided<'_> {
    /// Classifier-free guidance alone.
    pub fn classifier_free(scale: f64) -> Self {
        Guided { scale, by_gradients: Vec::new(), kept: None }
    }

    /// Whether the step is taken a second time, from the same output of the network.
    fn corrects(&self) -> Correction {
        let known = self.kept.as_ref().is_some_and(|kept| kept.how == Keeping::Estimate);
        Correction { steer: !self.by_gradients.is_empty(), known }
    }
}

/// What a step's second taking reads besides what the first one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Correction {
    /// Directions by gradients.
    steer: bool,
    /// The known part of x̂₀.
    known: bool,
}

impl Correction {
    fn any(self) -> bool {
        self.steer || self.known
    }
}

/// Called several times a step; returning false cancels.
pub type OnStep<'a> = dyn FnMut(StepDone<'_>) -> bool + 'a;

/// Sizes of a sampling run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Pictures at once.
    pub pictures: usize,
    /// Rows of a picture.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Channels of the sample.
    pub channels: usize,
    /// Tokens of a prompt; 0 without text.
    pub tokens: usize,
    /// The network runs on an unconditional and a conditional half.
    pub guided: bool,
    /// The sampler thresholds dynamically.
    pub dynamic: bool,
}

impl Shape {
    /// Whether the steps need the quantile of |x̂₀|.
    pub fn is_dynamic(steps: &[Step]) -> bool {
        steps.iter().any(|s| matches!(s.coefficients.clip, Thresholding::Dynamic { .. }))
    }

    /// Items of the network's batch.
    pub fn batch(&self) -> usize {
        if self.guided { 2 * self.pictures } else { self.pictures }
    }

    /// `[pictures, height, width, channels]`.
    pub fn sample(&self) -> [usize; 4] {
        [self.pictures, self.height, self.width, self.channels]
    }
}

/// Records a network: the sample x `[N, H, W, C]` and timesteps t `[batch]` of a shape → the output
/// `[batch, H, W, OC]`. Items of the batch do not see each other. It may be recorded several times, with shapes that
/// differ in their number of pictures only.
pub type Network = dyn Fn(&mut Graph, Shape, &Tensor, &Tensor) -> Tensor + Send + Sync;

/// Inputs of a denoiser that are others at each step.
const PER_STEP: [&str; 4] = ["t", "x", "coefficients", "noise"];

/// What a denoiser computes, by how often: nothing is computed again that stays as it was.
///
/// A tensor that one part makes and another reads is an output of the one and an input of the other by one name.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Depends on what conditions the run: text keys and values, pooled text, noise level.
    pub once: Graph,
    /// Depends on the time, too, but not on the sample: time embeddings and what the blocks make of them, for
    /// [`Parts::steps_at_once`] steps in one pass. Row i·batch + n is step i, item n.
    pub times: Graph,
    /// All else: with the sampler's step, run at each step.
    pub step: Graph,
    /// Steps of one pass of `times`.
    pub steps_at_once: usize,
}

impl Parts {
    /// Records the parts for runs of up to `steps` steps. Where the embeddings of so many take more than 64 MiB, it is
    /// several passes.
    pub fn record(shape: Shape, steps: usize, network: &Network) -> Parts {
        const LARGEST_PASS: usize = 64 << 20;
        let parts_of = |shape: Shape| {
            let (once, rest) = hoist(&record(shape, network), &PER_STEP);
            let (times, step) = hoist(&rest, &PER_STEP[1..]);
            (once, rest, times, step)
        };
        let (once, rest, mut times, step) = parts_of(shape);
        let lens = || times.outputs.iter().map(|(_, id)| times.info(*id).len());
        // Slices of f16 with an odd number of elements would not begin at whole words; no published network has such.
        if lens().any(|len| len % 2 == 1) {
            return Parts { once, times: Graph::new(), step: rest, steps_at_once: 1 };
        }
        let steps_at_once = (LARGEST_PASS / (4 * lens().sum::<usize>()).max(1)).clamp(1, steps.max(1));
        if steps_at_once > 1 {
            times = parts_of(Shape { pictures: steps_at_once * shape.pictures, ..shape }).2;
        }
        Parts { once, times, step, steps_at_once }
    }
}

/// The network with the sampler's step after it.
fn record(shape: Shape, network: &Network) -> Graph {
    let mut g = Graph::new();
    let x = g.input("x", &shape.sample(), Storage::F32);
    let t = g.input("t", &[shape.batch()], Storage::F32);
    let numbers = g.input("coefficients", &[16], Storage::F32);
    let noise = g.input("noise", &shape.sample(), Storage::F32);
    let out = network(&mut g, shape, &x, &t);
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

/// The sampler's step alone, of a network's output that was computed before, with what corrects it.
fn record_corrected(shape: Shape, out: &[usize], by: Correction) -> Graph {
    let mut g = Graph::new();
    let x = g.input("x", &shape.sample(), Storage::F32);
    let out = g.input("out", out, Storage::Elem);
    let coefficients = g.input("coefficients", &[16], Storage::F32);
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
    network: Box<Network>,
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
    fn new(
        denoiser: (&Device, &Weights, &ProgramOptions),
        parts: Parts,
        once: &Graph,
    ) -> Result<(Times, Graph)> {
        let (device, weights, options) = denoiser;
        let steps_at_once = parts.steps_at_once;
        let program = device.program(parts.times, weights, options)?;
        // Rows of the batch repeat for each step; what has no batch does not.
        let mut from_once = Vec::new();
        for c in crossings(once, program.graph()) {
            let all = program.graph().info(c.to).len();
            from_once.extend((0..all / c.len).map(|i| Transfer { at: i * c.len, ..c }));
        }
        let to_step = crossings(program.graph(), &parts.step);
        Ok((Times { program, steps_at_once, ready: Vec::new(), from_once, to_step }, parts.step))
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
    /// Makes the programs of a network.
    pub fn new(
        device: &Device,
        weights: &Arc<Weights>,
        options: &ProgramOptions,
        shape: Shape,
        network: Box<Network>,
    ) -> Result<Self> {
        let inputs = record(shape, &network).input_names().map(str::to_string).collect();
        let mut parts = Parts::record(shape, 1, &network);
        let once = device.program(std::mem::take(&mut parts.once), weights, options)?;
        let (times, step) = Times::new((device, weights, options), parts, once.graph())?;
        let step = device.program(step, weights, options)?;
        let once_to_step = crossings(once.graph(), step.graph());
        Ok(Denoiser {
            device: device.clone(),
            weights: weights.clone(),
            options: *options,
            network,
            shape,
            once,
            once_to_step,
            fresh: false,
            times,
            step,
            corrected: None,
            inputs,
        })
    }

    /// The sizes it was made for.
    pub fn shape(&self) -> Shape {
        self.shape
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
            let parts = Parts::record(self.shape, upcoming.len(), &self.network);
            if parts.steps_at_once > self.times.steps_at_once {
                let denoiser = (&self.device, &*self.weights, &self.options);
                self.times = Times::new(denoiser, parts, self.once.graph())?.0;
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

    /// Runs all steps from noise; returns x_0 `[N, H, W, C]`.
    pub fn sample(
        &mut self,
        steps: &[Step],
        guidance: &mut Guided<'_>,
        noise: &mut dyn Noise,
        start: Vec<f32>,
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<f32>> {
        let Shape { pictures, height, width, channels, .. } = self.shape;
        let mut draw =
            || channels_last(&noise.draw(pictures, channels, height, width), channels, height, width);
        let correction = guidance.corrects();
        let kept = guidance.kept.take();
        let known = kept.as_ref().filter(|_| correction.known).map_or_else(Vec::new, Kept::known);
        let resampling = kept.as_ref().and_then(|kept| match kept.how {
            Keeping::Sample(resampling) => Some(resampling),
            Keeping::Estimate => None,
        });
        let list = moves(steps.len(), resampling);
        let (mut done, total) = (0, list.iter().filter(|m| matches!(m, Move::Step(_))).count());
        // Where nothing looks at the sample between two steps it stays on the device.
        let stays = !correction.any() && resampling.is_none();
        self.write("x", &start);
        let mut x = start;
        for next in list {
            let i = match next {
                Move::Step(i) => i,
                Move::Back { from, to } => {
                    let (from, to) = (alpha_bar_before(steps, from), alpha_bar_before(steps, to));
                    noise_further(&mut x, from, to, &draw());
                    self.step.write("x", &x);
                    continue;
                }
            };
            let step = &steps[i];
            let z = if step.draws_noise { draw() } else { vec![0.0; x.len()] };
            let mut monitor =
                |share| on_step(StepDone { done: done as f32 + share, steps: total, estimate: None });
            self.advance(&steps[i..], guidance.scale, &z, &mut monitor)?;
            if stays {
                self.step.feed_back("next", "x");
            } else {
                x = match correction.any() {
                    true => self.correct(step, guidance, (correction, &known), &z, &x, &mut monitor)?,
                    false => first_half(self.step.read("next")?),
                };
                if let (Some(_), Some(kept)) = (resampling, &kept) {
                    let alpha_bar = alpha_bar_before(steps, i + 1);
                    let z = if alpha_bar < 1.0 { draw() } else { vec![0.0; x.len()] };
                    kept.put(&mut x, alpha_bar, &z);
                }
                self.step.write("x", &x);
            }
            done += 1;
            let program = match &mut self.corrected {
                Some((by, program)) if correction.any() && *by == correction => program,
                _ => &mut self.step,
            };
            let mut estimate = || {
                let next = program.read("next")?;
                Ok(Picture::split(&next[next.len() / 2..], height, width, channels))
            };
            let done = StepDone { done: done as f32, steps: total, estimate: Some(&mut estimate) };
            if !on_step(done) {
                return Err(Error::Cancelled);
            }
        }
        if stays {
            x = first_half(self.step.read("next")?);
        }
        if x.iter().any(|v| !v.is_finite()) {
            return Err(Error::Device(
                "the picture came out as NaN or infinity; the weights or the device's arithmetic are at fault: try \
                 `--device cpu`"
                    .into(),
            ));
        }
        Ok(x)
    }

    /// Takes the step that was just taken from `x` once more, corrected; returns the next sample.
    fn correct(
        &mut self,
        step: &Step,
        guidance: &mut Guided<'_>,
        (by, known): (Correction, &[f32]),
        z: &[f32],
        x: &[f32],
        monitor: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Vec<f32>> {
        let mut steering = Vec::new();
        if by.steer {
            let unsteered = self.step.read("next")?;
            let at = State {
                x,
                x0: &unsteered[x.len()..],
                shape: self.shape.sample(),
                timestep: step.timestep,
                alpha_bar: step.alpha_bar,
            };
            // The share of the step that guidance takes is not known; the bar waits at its end.
            steering = steer(&mut guidance.by_gradients, &at, step, &mut |_| monitor(1.0))?;
        }
        let graph = self.step.graph();
        let out = graph.outputs.iter().find(|(name, _)| name == "out").map(|(_, id)| *id);
        let Some(out) = out else { return Err(Error::Device("the network has no output".into())) };
        let (_, program) = match self.corrected.take().filter(|(made_for, _)| *made_for == by) {
            Some(made) => self.corrected.insert(made),
            None => {
                let graph = record_corrected(self.shape, &graph.info(out).shape, by);
                self.corrected.insert((by, self.device.program(graph, &Weights::none(), &self.options)?))
            }
        };
        let copies = crossings(self.step.graph(), program.graph());
        program.copy_from(&self.step, &copies);
        program.write("x", x);
        program.write("coefficients", &coefficients(step, guidance.scale));
        program.write("noise", z);
        if by.steer {
            program.write("steer", &steering);
        }
        if by.known {
            program.write("known", known);
        }
        program.run(&mut |_| monitor(1.0))?;
        Ok(first_half(program.read("next")?))
    }

    /// One step from the sample in `x` with noise z `[N, H, W, C]`; outputs `out` and `next` can then be read.
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
}
