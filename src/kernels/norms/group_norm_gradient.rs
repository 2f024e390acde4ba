//! The gradient of [`crate::kernels::group_norm`] with respect to its input.

#![expect(
    clippy::needless_range_loop,
    reason = "plain loops over arrays of vectors are unrolled early enough"
)]

use super::group_blocks::{Affine, Blocks, LANES};
use crate::graph::rewrites::{NORM_GRADIENT_STRIPS, Rewrites};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::epilogue::{Activation, Epilogue};
use crate::kernels::group_norm::{self, GroupNorm};
use crate::kernels::scratch::scratch;
use crate::kernels::simd::{load, read, store, wide, write};
use crate::kernels::{
    ACTIVATION, ACTIVATION_DERIVATIVE, Cost, EPILOGUE, GROUP_WALK, Kernel, REDUCE, REDUCE_SUBGROUP, STORE_AT,
    Shader,
};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

params! {
    /// H·W.
    pixels: u32,
    /// Channels of the first input.
    in_a: u32,
    /// Channels of the second input, 0 if there is none.
    in_b: u32,
    /// Number of groups.
    groups: u32,
    /// 1 if scale and shift are bound.
    has_emb: u32,
    /// Number of the activation after the norm.
    activation: u32,
    /// Added to the variance.
    eps: f32;
    epilogue
}

impl Params {
    /// The norm's.
    fn norm(&self) -> group_norm::Params {
        group_norm::Params {
            pixels: self.pixels,
            in_a: self.in_a,
            in_b: self.in_b,
            groups: self.groups,
            has_emb: self.has_emb,
            act: self.activation,
            eps: self.eps,
        }
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "group_norm_gradient",
    shaders: &[
        Shader::plain(
            "group_norm_gradient",
            wgsl!("norms/group_norm_gradient"),
            &[ACTIVATION, ACTIVATION_DERIVATIVE, EPILOGUE, GROUP_WALK, STORE_AT, REDUCE],
            grid,
        ),
        Shader::narrow(
            "group_norm_gradient_subgroup",
            wgsl!("norms/group_norm_gradient"),
            &[ACTIVATION, ACTIVATION_DERIVATIVE, EPILOGUE, GROUP_WALK, STORE_AT, REDUCE_SUBGROUP],
            grid,
        ),
    ],
    fields: Params::FIELDS,
    epilogue: true,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    rewrites: Rewrites { others: &[NORM_GRADIENT_STRIPS], ..Rewrites::NONE },
    cost: |_, inputs, output| Cost::streaming(24.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// A workgroup for every group of every picture.
fn grid(params: &[u8], output: &[usize]) -> [u32; 3] {
    [Params::read(params).groups, output[0] as u32, 1]
}

/// The gradient of [`group_norm`](crate::kernels::group_norm::group_norm) at its input `[N, .., A]`, or at its two inputs side
/// by side, given that of its result, dy `[N, .., C]` → `[N, .., C]`.
#[track_caller]
pub fn group_norm_gradient(
    g: &mut Graph,
    label: &str,
    (a, b): (&Tensor, Option<&Tensor>),
    norm: &GroupNorm,
    emb: Option<&Tensor>,
    act: Activation,
    dy: &Tensor,
) -> Tensor {
    let (n, in_a, in_b) = (a.dim(0), a.channels(), b.map_or(0, Tensor::channels));
    assert_eq!(
        dy.len(),
        a.rows() * (in_a + in_b),
        "{label}: {:?} with a gradient of {:?}",
        a.shape,
        dy.shape
    );
    let p = Params {
        pixels: (a.rows() / n) as u32,
        in_a: in_a as u32,
        in_b: in_b as u32,
        groups: norm.groups as u32,
        has_emb: emb.is_some().into(),
        activation: act as u32,
        eps: norm.eps,
        epilogue: Epilogue::default(),
    };
    let empty = g.empty();
    let mut shape = a.shape.clone();
    shape.pop();
    shape.push(in_a + in_b);
    let (b, emb) = (b.unwrap_or(&empty), emb.unwrap_or(&empty));
    g.push(
        &KERNEL,
        label,
        p.bytes(),
        &[a, b, &norm.weight, &norm.bias, emb, dy, &empty],
        &shape,
        Storage::Elem,
    )
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let epilogue = Epilogue::read(params);
    let (in_a, in_b, pixels) = (p.in_a as usize, p.in_b as usize, p.pixels as usize);
    let channels = in_a + in_b;
    let width = channels / p.groups as usize;
    let x = |pixel: usize, c: usize| {
        if c < in_a { inputs[0][pixel * in_a + c] } else { inputs[1][pixel * in_b + c - in_a] }
    };
    let act = Activation::from_number(p.activation);
    for (group, n) in
        (0..y.len() / (channels * pixels)).flat_map(|n| (0..p.groups as usize).map(move |g| (g, n)))
    {
        let members = || (0..pixels * width).map(|i| (n * pixels + i / width, group * width + i % width));
        let len = (pixels * width) as f64;
        let mean = members().map(|(i, c)| x(i, c)).sum::<f64>() / len;
        let variance = members().map(|(i, c)| (x(i, c) - mean).powi(2)).sum::<f64>() / len;
        let rstd = 1.0 / (variance + f64::from(p.eps)).sqrt();
        let normal = |i, c| (x(i, c) - mean) * rstd;
        let gradient = |i, c| {
            let (mut v, mut factor) = (normal(i, c) * inputs[2][c] + inputs[3][c], inputs[2][c]);
            if p.has_emb != 0 {
                let emb = &inputs[4][n * 2 * channels..][..2 * channels];
                v = v * (1.0 + emb[c]) + emb[channels + c];
                factor *= 1.0 + emb[c];
            }
            inputs[5][i * channels + c] * act.derivative_reference(v) * factor
        };
        let level = members().map(|(i, c)| gradient(i, c)).sum::<f64>() / len;
        let slope = members().map(|(i, c)| gradient(i, c) * normal(i, c)).sum::<f64>() / len;
        for (i, c) in members() {
            let dx = rstd * (gradient(i, c) - level - normal(i, c) * slope);
            y[i * channels + c] = epilogue.reference(dx, inputs[6], i, c, channels);
        }
    }
}

/// Picture by picture, so that what one pass reads is in a cache for the next; in blocks, as the norm itself: its map; then
/// what the activation passes of dy, into y, with sums by channel; and when the groups' means are known, the gradient from y
/// and x.
fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let epilogue = Epilogue::read(params);
    let (channels, pixels) = ((p.in_a + p.in_b) as usize, p.pixels as usize);
    y.par_chunks_mut(pixels * channels).enumerate().for_each(|(n, y)| {
        let operand = inputs[6];
        let inputs = of_picture(&p.norm(), inputs, n);
        let blocks = Blocks::new(p.norm(), &inputs, y.len());
        let affine = &blocks.affine()[0];
        let mut parts = blocks.of(y);
        let starts = starts(&parts);
        let sums = block_sums(&p.norm(), &blocks, affine, (&mut parts, &starts), inputs[5]);
        let lines = &Lines::new(&p, &sums, affine);
        parts.into_par_iter().enumerate().for_each(|(i, y)| {
            let (a, b) = blocks.cut(i);
            let in_a = p.in_a as usize;
            Arch::new().dispatch(Finish { affine, lines, x: a, channels: in_a, first: 0, y });
            Arch::new().dispatch(Finish { affine, lines, x: b, channels: p.in_b as usize, first: in_a, y });
            epilogue.apply(y, n * pixels + starts[i] / channels, channels, None, operand);
        });
    });
}

/// a, b, weight, bias, emb and dy of picture `n`.
fn of_picture<'a>(p: &group_norm::Params, inputs: &[&'a [f32]], n: usize) -> [&'a [f32]; 6] {
    let (in_a, in_b, pixels) = (p.in_a as usize, p.in_b as usize, p.pixels as usize);
    let part = |i: usize, len: usize| &inputs[i][n * len..][..len];
    let emb = if p.has_emb != 0 { part(4, 2 * (in_a + in_b)) } else { inputs[4] };
    let [a, b, dy] = [(0, in_a), (1, in_b), (5, in_a + in_b)].map(|(i, c)| part(i, pixels * c));
    [a, b, inputs[2], inputs[3], emb, dy]
}

/// Where each block starts in y.
fn starts(parts: &[&mut [f32]]) -> Vec<usize> {
    let start = |next: &mut usize, part: &&mut [f32]| Some(std::mem::replace(next, *next + part.len()));
    parts.iter().scan(0, start).collect()
}

/// What the activation passes of a picture's blocks of dy, into those of y, which start there; of each block by channel the
/// sum, and that times x's distance from the mean.
fn block_sums(
    p: &group_norm::Params,
    blocks: &Blocks<'_>,
    affine: &Affine,
    (parts, starts): (&mut [&mut [f32]], &[usize]),
    dy: &[f32],
) -> Vec<Vec<[f64; 2]>> {
    let act = Activation::from_number(p.act);
    let (mean, in_a, in_b) = (&affine.mean, p.in_a as usize, p.in_b as usize);
    let of_block = |(i, y): (usize, &mut &mut [f32])| {
        let dy = &dy[starts[i]..][..y.len()];
        if act == Activation::Identity {
            y.copy_from_slice(dy);
        } else {
            blocks.normalise(std::slice::from_ref(affine), i, y, Activation::Identity);
            wide(
                #[inline(always)]
                || act.differentiate_all(y, dy),
            );
        }
        let (a, b) = blocks.cut(i);
        let mut sums = Arch::new().dispatch(Sums { mean, x: a, channels: in_a, first: 0, y });
        sums.extend(Arch::new().dispatch(Sums { mean, x: b, channels: in_b, first: in_a, y }));
        sums
    };
    parts.par_iter_mut().enumerate().map(of_block).collect()
}

/// Of each picture by channel: the sum over the pixels of what the activation passes of dy, and of that times the plain norm.
/// Inputs are a, b, weight, bias, emb and dy.
pub(crate) fn channel_sums(p: group_norm::Params, inputs: &[&[f32]]) -> Vec<Vec<[f64; 2]>> {
    let len = (p.in_a + p.in_b) as usize * p.pixels as usize;
    let of_picture = |n: usize| {
        let inputs = of_picture(&p, inputs, n);
        let mut passed = scratch(len);
        let blocks = Blocks::new(p, &inputs, len);
        let affine = &blocks.affine()[0];
        let mut parts = blocks.of(&mut passed);
        let starts = starts(&parts);
        let sums = block_sums(&p, &blocks, affine, (&mut parts, &starts), inputs[5]);
        let channel = |c: usize| {
            let total = |i: usize| sums.iter().map(|block| block[c][i]).sum::<f64>();
            [total(0), total(1) * affine.inverse_variance[c].sqrt()]
        };
        (0..affine.mean.len()).map(channel).collect()
    };
    (0..inputs[5].len() / len).into_par_iter().map(of_picture).collect()
}

/// What the gradient loses by channel: (x - mean) · slope + level, the same for all channels of a group.
struct Lines {
    slope: Vec<f32>,
    level: Vec<f32>,
}

impl Lines {
    /// From the sums of a picture's blocks.
    fn new(p: &Params, sums: &[Vec<[f64; 2]>], affine: &Affine) -> Self {
        let channels = (p.in_a + p.in_b) as usize;
        let width = channels / p.groups as usize;
        let count = width as f64 * f64::from(p.pixels);
        let mut lines = Lines { slope: Vec::with_capacity(channels), level: Vec::with_capacity(channels) };
        for first in (0..channels).step_by(width) {
            let mut total = [0.0; 2];
            for c in first..first + width {
                let gain = f64::from(affine.gain[c]);
                for block in sums {
                    total[0] += gain * block[c][0];
                    total[1] += gain * block[c][1];
                }
            }
            let slope = total[1] / count * affine.inverse_variance[first];
            lines.level.extend(std::iter::repeat_n((total[0] / count) as f32, width));
            lines.slope.extend(std::iter::repeat_n(slope as f32, width));
        }
        lines
    }
}

/// Sums over the pixels of the channels of y from `first` on, plain and times their x's distance from the mean.
struct Sums<'a> {
    mean: &'a [f32],
    x: &'a [f32],
    channels: usize,
    first: usize,
    y: &'a [f32],
}

impl WithSimd for Sums<'_> {
    type Output = Vec<[f64; 2]>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<[f64; 2]> {
        let mut found = Vec::with_capacity(self.channels);
        let mut start = 0;
        // Some vectors of channels at a time, with the sums in registers.
        while start < self.channels {
            start += if self.channels - start >= 4 * S::F32_LANES {
                self.strip::<S, 4>(simd, start, S::F32_LANES, &mut found)
            } else {
                self.strip::<S, 1>(simd, start, S::F32_LANES.min(self.channels - start), &mut found)
            };
        }
        found
    }
}

impl Sums<'_> {
    /// Those of `V` vectors of `count` channels each from `start` on; says how many channels they are.
    #[inline(always)]
    fn strip<S: Simd, const V: usize>(
        &self,
        simd: S,
        start: usize,
        count: usize,
        found: &mut Vec<[f64; 2]>,
    ) -> usize {
        let (channels, width) = (self.channels, self.mean.len());
        let first = self.first + start;
        let mut mean = [simd.splat_f32s(0.0); V];
        let (mut plain, mut by_distance) = (mean, mean);
        for v in 0..V {
            mean[v] = load(simd, &self.mean[first + v * count..first + (v + 1) * count]);
        }
        for (x, y) in self.x.chunks_exact(channels).zip(self.y.chunks_exact(width)) {
            let (x, y) = (&x[start..start + V * count], &y[first..first + V * count]);
            for v in 0..V {
                // SAFETY: both have so many channels.
                let (x, y) = unsafe {
                    (
                        read(simd, x.as_ptr().add(v * count), count),
                        read(simd, y.as_ptr().add(v * count), count),
                    )
                };
                plain[v] = simd.add_f32s(plain[v], y);
                by_distance[v] = simd.mul_add_e_f32s(y, simd.sub_f32s(x, mean[v]), by_distance[v]);
            }
        }
        for v in 0..V {
            let mut values = [[0.0; LANES]; 2];
            store(simd, &mut values[0][..count], plain[v]);
            store(simd, &mut values[1][..count], by_distance[v]);
            for c in 0..count {
                found.push([f64::from(values[0][c]), f64::from(values[1][c])]);
            }
        }
        V * count
    }
}

/// The channels of y from `first` on become gradients.
struct Finish<'a> {
    affine: &'a Affine,
    lines: &'a Lines,
    x: &'a [f32],
    channels: usize,
    first: usize,
    y: &'a mut [f32],
}

impl WithSimd for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.channels == 0 {
            return;
        }
        let (width, lanes) = (self.affine.mean.len(), S::F32_LANES);
        let to = self.first..self.first + self.channels;
        let (mean, gain) = (&self.affine.mean[to.clone()], &self.affine.gain[to.clone()]);
        let (slope, level) = (&self.lines.slope[to.clone()], &self.lines.level[to.clone()]);
        for (x, y) in self.x.chunks_exact(self.channels).zip(self.y.chunks_exact_mut(width)) {
            let y = &mut y[to.clone()];
            for c in (0..self.channels).step_by(lanes) {
                let count = lanes.min(self.channels - c);
                // SAFETY: all of them have so many channels from c on.
                unsafe {
                    let distance = read(simd, x.as_ptr().add(c), count);
                    let distance = simd.sub_f32s(distance, read(simd, mean.as_ptr().add(c), count));
                    let level = read(simd, level.as_ptr().add(c), count);
                    let slope = read(simd, slope.as_ptr().add(c), count);
                    let line = simd.mul_add_e_f32s(distance, slope, level);
                    let g = read(simd, y.as_ptr().add(c), count);
                    let gained = simd.mul_f32s(g, read(simd, gain.as_ptr().add(c), count));
                    write(simd, y.as_mut_ptr().add(c), count, simd.sub_f32s(gained, line));
                }
            }
        }
    }
}
