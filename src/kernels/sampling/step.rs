//! One denoising step, fused: guidance, x̂₀, clipping or thresholding, posterior mean, variance and noise, and what a
//! sampler remembers.
//!
//! Every sampler of `diffusion` becomes some numbers; with its simplest ones the kernel computes
//! x_{t-1} = (x_t − β_t/√(1−ᾱ_t)·ε)/√α_t + σ_t z (Ho et al. 2020, arXiv:2006.11239, algorithm 2).

use crate::diffusion::numbers;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, PREDICT, Shader, fold_grid};
use rayon::prelude::*;
use std::ops::{Add, Div, Mul, Sub};
use std::sync::atomic::{AtomicBool, Ordering};

params! {
    /// Elements of x.
    len: u32,
    /// Elements of a picture.
    item: u32,
    /// Channels of a picture.
    channels: u32,
    /// Channels of the network's output.
    out_channels: u32,
    /// 1: the output holds an unconditional and a conditional half.
    guided: u32,
    /// 1: what steers the step is bound.
    steered: u32,
    /// 1: a picture of which parts are kept is bound.
    kept: u32,
    /// Where it begins in what leads the step.
    known_at: u32,
    /// Tensors of the memory.
    memory: u32,
    /// 1: x̂₀ is computed, the sample and the memory stay.
    held: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "step",
    shaders: &[Shader::plain("step", wgsl!("sampling/step"), &[INDEX, PREDICT], |_, x| {
        fold_grid(x.iter().product::<usize>().div_ceil(64))
    })],
    fields: Params::FIELDS,
    reference,
    cpu,
    cost: |_, inputs, x| Cost::streaming(20.0 * x.iter().product::<usize>() as f64, inputs, x),
    ..Kernel::PLAIN
};

/// How pictures lie in the network's output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prediction {
    pub channels: u32,
    pub out_channels: u32,
    pub guided: bool,
}

impl Prediction {
    #[track_caller]
    pub(crate) fn of(x: &Tensor, out: &Tensor) -> Self {
        let guided = out.dim(0) == 2 * x.dim(0);
        assert!(guided || out.dim(0) == x.dim(0), "step: output {:?} for {:?}", out.shape, x.shape);
        assert_eq!(
            out.rows() / out.dim(0),
            x.rows() / x.dim(0),
            "step: output {:?} for {:?}",
            out.shape,
            x.shape
        );
        assert!(out.channels() >= x.channels(), "step: output {:?} for {:?}", out.shape, x.shape);
        Prediction { channels: x.channels() as u32, out_channels: out.channels() as u32, guided }
    }

    /// Index in the (conditional half of the) output of element `i` of x, which has `len` elements.
    fn at(&self, i: usize, len: usize) -> usize {
        let (channels, out_channels) = (self.channels as usize, self.out_channels as usize);
        let half = if self.guided { len / channels * out_channels } else { 0 };
        half + i / channels * out_channels + i % channels
    }

    /// The guided output for element `i` of x.
    pub(crate) fn output(&self, out: &[f32], i: usize, len: usize, guidance: f32) -> f32 {
        let at = self.at(i, len);
        if !self.guided {
            return out[at];
        }
        let unconditional = out[at - len / self.channels as usize * self.out_channels as usize];
        unconditional + guidance * (out[at] - unconditional)
    }
}

/// What leads a step where the network alone would not go, in one tensor.
#[derive(Clone, Debug)]
pub struct Lead<'a> {
    /// What steers, then what is known.
    pub tensor: &'a Tensor,
    /// It begins with what steers `[4, B, H, W, C]`: added to the clipped x̂₀; to ε; to the next sample; and to it times σ².
    pub steered: bool,
    /// It ends with a picture and, as one more channel, how much of it x̂₀ becomes before it is clipped, 0 to 1:
    /// `[B, H, W, C + 1]` (inpainting of GLIDE, Nichol et al. 2021, arXiv:2112.10741).
    pub kept: bool,
}

impl Lead<'_> {
    /// Elements of one that leads samples of `[B, H, W, C]`.
    pub fn len_for(shape: &[usize], steered: bool, kept: bool) -> usize {
        let (len, channels) = (shape.iter().product::<usize>(), shape.last().copied().unwrap_or(1).max(1));
        let known = len / channels * (channels + 1);
        (if steered { 4 * len } else { 0 }) + if kept { known } else { 0 }
    }

    /// Where what is known begins.
    pub(crate) fn known_at(&self, x: &Tensor) -> usize {
        if self.steered { 4 * x.len() } else { 0 }
    }

    /// Refuses one of another size than x.
    #[track_caller]
    pub(crate) fn check(&self, x: &Tensor) {
        let expected = Lead::len_for(&x.shape, self.steered, self.kept);
        assert_eq!(self.tensor.len(), expected, "what leads {:?} is {:?}", x.shape, self.tensor.shape);
    }
}

/// What a [`step`] reads, and what it updates besides the sample.
#[derive(Clone, Debug)]
pub struct StepInputs<'a> {
    /// The network's output `[B or 2B, H, W, OC]`.
    pub out: &'a Tensor,
    /// Standard normal noise `[B, H, W, C]`.
    pub noise: &'a Tensor,
    /// The step's numbers `[64 + B]`: its [coefficients](numbers::coefficients), and where the sampler thresholds
    /// dynamically the [quantiles](crate::kernels::quantile) behind them.
    pub numbers: &'a Tensor,
    /// What leads it.
    pub lead: Option<Lead<'a>>,
    /// What the sampler remembers, `[K, B, H, W, C]`: updated.
    pub memory: Option<&'a Tensor>,
    /// `[1]`, becomes 1 where the network's output or the next sample is no number; else it stays.
    pub fault: &'a Tensor,
    /// Only x̂₀ is wanted, as it is before anything steers it: the sample and the memory stay.
    pub held: bool,
}

impl<'a> StepInputs<'a> {
    /// With nothing that leads the step and nothing remembered.
    pub fn plain(out: &'a Tensor, noise: &'a Tensor, numbers: &'a Tensor, fault: &'a Tensor) -> Self {
        StepInputs { out, noise, numbers, lead: None, memory: None, fault, held: false }
    }
}

/// Takes x `[B, H, W, C]` a step further, in place; returns the clipped x̂₀ `[B, H, W, C]`.
#[track_caller]
pub fn step(g: &mut Graph, x: &Tensor, inputs: &StepInputs<'_>) -> Tensor {
    let shape = Prediction::of(x, inputs.out);
    assert_eq!(inputs.noise.len(), x.len(), "step: noise {:?} for {:?}", inputs.noise.shape, x.shape);
    let expected = numbers::COUNT + x.dim(0);
    assert_eq!(inputs.numbers.len(), expected, "step: numbers {:?} for {:?}", inputs.numbers.shape, x.shape);
    let lead = inputs.lead.as_ref();
    lead.inspect(|lead| lead.check(x));
    let memory = inputs.memory.map_or(0, |memory| memory.len() / x.len());
    assert!(memory <= numbers::MEMORY, "step: a memory of {memory}");
    let p = Params {
        len: x.len() as u32,
        item: (x.len() / x.dim(0)) as u32,
        channels: shape.channels,
        out_channels: shape.out_channels,
        guided: shape.guided.into(),
        steered: lead.is_some_and(|lead| lead.steered && !inputs.held).into(),
        kept: lead.is_some_and(|lead| lead.kept).into(),
        known_at: lead.map_or(0, |lead| lead.known_at(x)) as u32,
        memory: memory as u32,
        held: inputs.held.into(),
    };
    let lead = lead.map_or_else(|| g.empty(), |lead| lead.tensor.clone());
    // Nobody reads the memory of a sampler without one.
    let memory = inputs.memory.cloned().unwrap_or_else(|| g.make(&[1], Storage::F32));
    let x0 = g.make(&x.shape, Storage::F32);
    let read = [inputs.out, inputs.noise, inputs.numbers, &lead];
    g.push_into(&KERNEL, "step", p.bytes(), &read, &[x, &memory, &x0, inputs.fault]);
    x0
}

fn reference(params: &[u8], inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
    let p = Params::read(params);
    let [x, memory, x0, fault] = outputs else { return };
    let len = p.len as usize;
    for i in 0..len {
        let mut remembered = [0.0; numbers::MEMORY];
        (0..p.memory as usize).for_each(|k| remembered[k] = memory[k * len + i]);
        let stepped = element(&p, inputs, i, x[i], &remembered);
        x0[i] = stepped.x0;
        if !stepped.finite {
            fault[0] = 1.0;
        }
        if p.held == 0 {
            x[i] = stepped.next;
            (0..p.memory as usize).for_each(|k| memory[k * len + i] = stepped.memory[k]);
        }
    }
}

/// Elements that one task of the CPU device takes.
const TASK: usize = 4096;

fn cpu(params: &[u8], inputs: &[&[f32]], outputs: &mut [&mut [f32]]) {
    let p = Params::read(params);
    let [x, memory, x0, fault] = outputs else { return };
    // A task's elements of every tensor of the memory.
    let mut slots: Vec<_> = memory
        .chunks_exact_mut(p.len as usize)
        .take(p.memory as usize)
        .map(|slot| slot.chunks_mut(TASK))
        .collect();
    let tasks: Vec<_> = x
        .chunks_mut(TASK)
        .zip(x0.chunks_mut(TASK))
        .map(|(x, x0)| (x, x0, slots.iter_mut().filter_map(Iterator::next).collect::<Vec<_>>()))
        .collect();
    let broken = AtomicBool::new(false);
    tasks.into_par_iter().enumerate().for_each(|(task, (x, x0, mut slots))| {
        for at in 0..x.len() {
            let mut remembered = [0.0; numbers::MEMORY];
            remembered.iter_mut().zip(&slots).for_each(|(m, slot)| *m = slot[at]);
            let stepped = element(&p, inputs, task * TASK + at, x[at], &remembered);
            x0[at] = stepped.x0;
            if !stepped.finite {
                broken.store(true, Ordering::Relaxed);
            }
            if p.held == 0 {
                x[at] = stepped.next;
                slots.iter_mut().zip(stepped.memory).for_each(|(slot, m)| slot[at] = m);
            }
        }
    });
    if broken.into_inner() {
        fault[0] = 1.0;
    }
}

/// f64 for the definition, f32 for the CPU device.
pub(crate) trait Real:
    Copy
    + From<f32>
    + Into<f64>
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
{
    /// The nearest to x.
    fn of(x: f64) -> Self;
    fn exp(self) -> Self;
    fn sqrt(self) -> Self;
}

impl Real for f32 {
    fn of(x: f64) -> Self {
        x as f32
    }

    fn exp(self) -> Self {
        f32::exp(self)
    }

    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
}

impl Real for f64 {
    fn of(x: f64) -> Self {
        x
    }

    fn exp(self) -> Self {
        f64::exp(self)
    }

    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
}

/// Element `i` of x̂₀ as `known`, `[.., C + 1]`, has it in its last channel's share.
pub(crate) fn keep<T: Real>(x0: T, known: &[T], i: usize, channels: usize) -> T {
    let pixel = &known[i / channels * (channels + 1)..][..=channels];
    let share = pixel[channels];
    share * pixel[i % channels] + (T::from(1.0) - share) * x0
}

/// x within [low, high].
fn clamp<T: Real>(x: T, low: T, high: T) -> T {
    if x < low {
        low
    } else if x > high {
        high
    } else {
        x
    }
}

/// What a step makes of an element.
struct Stepped<T> {
    next: T,
    x0: T,
    memory: [T; numbers::MEMORY],
    finite: bool,
}

/// Element `i` of a step, of the sample's and the memory's.
fn element<T: Real>(
    p: &Params,
    inputs: &[&[T]],
    i: usize,
    x: T,
    remembered: &[T; numbers::MEMORY],
) -> Stepped<T> {
    use numbers::*;
    let [out, noise, numbers, lead] = [inputs[0], inputs[1], inputs[2], inputs[3]];
    let (c, number) = (|k: usize| numbers[k], T::from);
    let (clip, variance): (f64, f64) = (c(CLIP).into(), c(VARIANCE).into());
    let shape = Prediction { channels: p.channels, out_channels: p.out_channels, guided: p.guided != 0 };
    let conditional = shape.at(i, p.len as usize);
    let mut o = out[conditional];
    if shape.guided {
        let unconditional = out[shape.at(i, 0)];
        o = unconditional + c(GUIDANCE) * (o - unconditional);
    }
    let mut x0 = c(X0_X) * x + c(X0_OUT) * o;
    if p.kept != 0 {
        x0 = keep(x0, &lead[p.known_at as usize..], i, p.channels as usize);
    }
    if clip == 1.0 {
        x0 = clamp(x0, number(0.0) - c(CLIP_RANGE), c(CLIP_RANGE));
    } else if clip == 2.0 {
        let one = number(1.0);
        let threshold = clamp(c(COUNT + i / p.item as usize), one, number(f32::MAX));
        let threshold = if threshold > c(CLIP_RANGE) { c(CLIP_RANGE) } else { threshold };
        x0 = clamp(x0, number(0.0) - threshold, threshold) / threshold;
    }
    let mut sigma = c(SIGMA);
    if variance != 0.0 {
        let v = out[conditional + p.channels as usize];
        sigma = if variance == 1.0 {
            let share = number(0.5) * (v + number(1.0));
            (number(0.5) * (share * c(LOG_MAX) + (number(1.0) - share) * c(LOG_MIN))).exp()
        } else {
            clamp(v, number(0.0), number(f32::MAX)).sqrt()
        };
    }
    let mut eps = c(EPS_X) * x + c(EPS_OUT) * o;
    let steer = |term: usize| lead[term * p.len as usize + i];
    if p.steered != 0 {
        (x0, eps) = (x0 + steer(0), eps + steer(1));
    }
    let used = p.memory as usize;
    let of_memory = |row: usize| {
        let takes = &numbers[NEXT + row * ROW + 3..][..used];
        takes.iter().zip(remembered).fold(number(0.0), |sum, (takes, m)| sum + *takes * *m)
    };
    let mut next = c(NEXT) * x + c(NEXT + 1) * x0 + c(NEXT + 2) * eps + c(NOISE) * sigma * noise[i];
    if used > 0 {
        next = next + of_memory(0);
    }
    if p.steered != 0 {
        next = next + steer(2) + sigma * sigma * steer(3);
    }
    let mut memory = [number(0.0); MEMORY];
    for (k, m) in memory.iter_mut().enumerate().take(used) {
        let row = NEXT + (k + 1) * ROW;
        *m = c(row) * x + c(row + 1) * x0 + c(row + 2) * eps + of_memory(k + 1);
    }
    let finite = |v: T| Into::<f64>::into(v).is_finite();
    Stepped { next, x0, memory, finite: finite(o) && finite(next) }
}
