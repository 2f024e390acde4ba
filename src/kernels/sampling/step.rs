//! One denoising step, fused: guidance, x̂₀, clipping or thresholding, posterior mean, variance and noise.
//!
//! Every sampler of `diffusion` becomes sixty-four numbers; with its simplest ones the kernel computes
//! x_{t-1} = (x_t − β_t/√(1−ᾱ_t)·ε)/√α_t + σ_t z (Ho et al. 2020, arXiv:2006.11239, algorithm 2).

use crate::diffusion::numbers;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, PREDICT, Shader, fold_grid};
use rayon::prelude::*;
use std::ops::{Add, Div, Mul, Sub};

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
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "step",
    shaders: &[Shader::plain("step", wgsl!("sampling/step"), &[INDEX, PREDICT], |_, output| {
        // x_{t-1} and x̂₀, two elements an invocation
        fold_grid(output.iter().product::<usize>().div_ceil(128))
    })],
    fields: Params::FIELDS,
    reference,
    cpu,
    cost: |_, inputs, output| Cost::streaming(10.0 * output.iter().product::<usize>() as f64, inputs, output),
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

/// What [`step`] reads besides the sample.
#[derive(Clone, Debug)]
pub struct StepInputs<'a> {
    /// The network's output `[B or 2B, H, W, OC]`.
    pub out: &'a Tensor,
    /// Standard normal noise `[B, H, W, C]`.
    pub noise: &'a Tensor,
    /// The step's numbers `[64]`, from [`coefficients`](numbers::coefficients).
    pub coefficients: &'a Tensor,
    /// Quantiles `[B]`, where the sampler thresholds dynamically.
    pub quantile: Option<&'a Tensor>,
    /// What steers the step `[3, B, H, W, C]`: added to the clipped x̂₀; to the next sample; and to it times σ².
    pub steer: Option<&'a Tensor>,
    /// A picture and, as one more channel, how much of it x̂₀ becomes before it is clipped, 0 to 1: `[B, H, W, C + 1]`
    /// (inpainting of GLIDE, Nichol et al. 2021, arXiv:2112.10741).
    pub known: Option<&'a Tensor>,
}

/// Refuses a known picture of another size than x.
#[track_caller]
pub(crate) fn check_known(x: &Tensor, known: Option<&Tensor>) {
    if let Some(known) = known {
        let expected = x.rows() * (x.channels() + 1);
        assert_eq!(known.len(), expected, "a known picture of {:?} for {:?}", known.shape, x.shape);
    }
}

/// x `[B, H, W, C]` → `[2, B, H, W, C]`: the next sample, then the clipped x̂₀.
#[track_caller]
pub fn step(g: &mut Graph, x: &Tensor, inputs: &StepInputs<'_>) -> Tensor {
    let shape = Prediction::of(x, inputs.out);
    assert_eq!(inputs.noise.len(), x.len(), "step: noise {:?} for {:?}", inputs.noise.shape, x.shape);
    let p = Params {
        len: x.len() as u32,
        item: (x.len() / x.dim(0)) as u32,
        channels: shape.channels,
        out_channels: shape.out_channels,
        guided: shape.guided.into(),
        steered: inputs.steer.is_some().into(),
        kept: inputs.known.is_some().into(),
    };
    check_known(x, inputs.known);
    if let Some(steer) = inputs.steer {
        assert_eq!(steer.len(), 3 * x.len(), "step: steer {:?} for {:?}", steer.shape, x.shape);
    }
    let empty = g.empty();
    let mut out_shape = vec![2];
    out_shape.extend(&x.shape);
    g.push(
        &KERNEL,
        "step",
        p.bytes(),
        &[
            x,
            inputs.out,
            inputs.noise,
            inputs.coefficients,
            inputs.quantile.unwrap_or(&empty),
            inputs.steer.unwrap_or(&empty),
            inputs.known.unwrap_or(&empty),
        ],
        &out_shape,
        Storage::F32,
    )
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let len = p.len as usize;
    for i in 0..len {
        (y[i], y[len + i]) = element(&p, inputs, i);
    }
}

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (next, x0) = y.split_at_mut(p.len as usize);
    next.par_iter_mut().zip(x0).enumerate().with_min_len(4096).for_each(|(i, (next, x0))| {
        (*next, *x0) = element(&p, inputs, i);
    });
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
    fn exp(self) -> Self;
    fn sqrt(self) -> Self;
}

impl Real for f32 {
    fn exp(self) -> Self {
        f32::exp(self)
    }

    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
}

impl Real for f64 {
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

/// Element `i` of the next sample and of the clipped x̂₀.
fn element<T: Real>(p: &Params, inputs: &[&[T]], i: usize) -> (T, T) {
    use numbers::*;
    let c = |k: usize| inputs[3][k];
    let number = T::from;
    let (clip, variance): (f64, f64) = (c(CLIP).into(), c(VARIANCE).into());
    let shape = Prediction { channels: p.channels, out_channels: p.out_channels, guided: p.guided != 0 };
    let conditional = shape.at(i, p.len as usize);
    let x = inputs[0][i];
    let mut out = inputs[1][conditional];
    if shape.guided {
        let unconditional = inputs[1][shape.at(i, 0)];
        out = unconditional + c(GUIDANCE) * (out - unconditional);
    }
    let mut x0 = c(X0_X) * x + c(X0_OUT) * out;
    if p.kept != 0 {
        x0 = keep(x0, inputs[6], i, p.channels as usize);
    }
    if clip == 1.0 {
        x0 = clamp(x0, number(0.0) - c(CLIP_RANGE), c(CLIP_RANGE));
    } else if clip == 2.0 {
        let one = number(1.0);
        let threshold = clamp(inputs[4][i / p.item as usize], one, number(f32::MAX));
        let threshold = if threshold > c(CLIP_RANGE) { c(CLIP_RANGE) } else { threshold };
        x0 = clamp(x0, number(0.0) - threshold, threshold) / threshold;
    }
    let mut sigma = c(SIGMA);
    if variance != 0.0 {
        let v = inputs[1][conditional + p.channels as usize];
        sigma = if variance == 1.0 {
            let share = number(0.5) * (v + number(1.0));
            (number(0.5) * (share * c(LOG_MAX) + (number(1.0) - share) * c(LOG_MIN))).exp()
        } else {
            clamp(v, number(0.0), number(f32::MAX)).sqrt()
        };
    }
    let steer = |part: usize| inputs[5][part * p.len as usize + i];
    if p.steered != 0 {
        x0 = x0 + steer(0);
    }
    let eps = c(EPS_X) * x + c(EPS_OUT) * out;
    let mut next = c(NEXT) * x + c(NEXT + 1) * x0 + c(NEXT + 2) * eps + c(NOISE) * sigma * inputs[2][i];
    if p.steered != 0 {
        next = next + steer(1) + sigma * sigma * steer(2);
    }
    (next, x0)
}
