//! Group normalisation (Wu & He 2018, arXiv:1803.08494), with a time embedding's scale and shift and an activation.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::activation_gradient::activation_gradient;
use crate::kernels::cut::{columns, place};
use crate::kernels::elementwise::{add, mul};
use crate::kernels::epilogue::Activation;
use crate::kernels::group_norm_gradient::group_norm_gradient;
use crate::kernels::simd::{load, store, wide};
use crate::kernels::sum_axis::sum_rows;
use crate::kernels::{ACTIVATION, Backward, Cost, GROUP_WALK, Kernel, REDUCE, REDUCE_SUBGROUP, Shader};
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
    /// Activation number.
    act: u32,
    /// Added to the variance.
    eps: f32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "group_norm",
    shaders: &[
        Shader::plain("group_norm", wgsl!("norms/group_norm"), &[ACTIVATION, GROUP_WALK, REDUCE], grid),
        Shader::narrow(
            "group_norm_subgroup",
            wgsl!("norms/group_norm"),
            &[ACTIVATION, GROUP_WALK, REDUCE_SUBGROUP],
            grid,
        ),
    ],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    gradient: Some(gradient),
    cost: |_, inputs, output| Cost::streaming(8.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// A workgroup for every group of every picture.
fn grid(params: &[u8], output: &[usize]) -> [u32; 3] {
    [Params::read(params).groups, output[0] as u32, 1]
}

/// A group norm's weights and numbers.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    /// Weight `[C]`.
    pub weight: Tensor,
    /// Bias `[C]`.
    pub bias: Tensor,
    /// Number of groups; divides C.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl GroupNorm {
    /// `name.weight`, `name.bias` of `channels`.
    #[track_caller]
    pub fn new(g: &mut Graph, name: &str, channels: usize, groups: usize, eps: f32) -> Self {
        assert!(
            groups > 0 && channels.is_multiple_of(groups),
            "{name}: {channels} channels in {groups} groups"
        );
        g.scope(name, |g| GroupNorm {
            weight: g.vector("weight", &[channels]),
            bias: g.vector("bias", &[channels]),
            groups,
            eps,
        })
    }
}

/// activate(norm of `[N, .., A]`, or of two inputs side by side, scaled and shifted by `emb` `[N, 2C]`) →
/// `[N, .., C]`.
#[track_caller]
pub fn group_norm(
    g: &mut Graph,
    label: &str,
    (a, b): (&Tensor, Option<&Tensor>),
    norm: &GroupNorm,
    emb: Option<&Tensor>,
    act: Activation,
) -> Tensor {
    let n = a.dim(0);
    let (in_a, in_b) = (a.channels(), b.map_or(0, Tensor::channels));
    assert_eq!(
        norm.weight.len(),
        in_a + in_b,
        "{label}: {in_a}+{in_b} channels, norm of {:?}",
        norm.weight.shape
    );
    if let Some(b) = b {
        assert_eq!(b.rows(), a.rows(), "{label}: {:?} beside {:?}", b.shape, a.shape);
    }
    if let Some(emb) = emb {
        assert_eq!(emb.len(), n * 2 * (in_a + in_b), "{label}: scale and shift {:?}", emb.shape);
    }
    let pixels = a.rows() / n;
    let p = Params {
        pixels: pixels as u32,
        in_a: in_a as u32,
        in_b: in_b as u32,
        groups: norm.groups as u32,
        has_emb: emb.is_some().into(),
        act: act as u32,
        eps: norm.eps,
    };
    let empty = g.empty();
    let mut shape = a.shape.clone();
    shape.pop();
    shape.push(in_a + in_b);
    g.push(
        &KERNEL,
        label,
        p.bytes(),
        &[a, b.unwrap_or(&empty), &norm.weight, &norm.bias, emb.unwrap_or(&empty)],
        &shape,
        Storage::Elem,
    )
}

/// Of the inputs by a kernel of its own, cut where there are two; of the embedding by what it adds up to: v = h (1 +
/// scale) + shift for the plain norm h, so that d shift = Σ dv and d scale = Σ dv h over the pixels.
fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    of.refuse(&[(2, "the norm's weight"), (3, "the norm's bias")])?;
    let p = Params::read(&of.node.params);
    let (in_a, in_b, pixels) = (p.in_a as usize, p.in_b as usize, p.pixels as usize);
    let (channels, label) = (in_a + in_b, of.label());
    let [a, b, weight, bias, emb] = [0, 1, 2, 3, 4].map(|i| of.input(g, i));
    let n = of.dy.len() / (pixels * channels);
    let a = g.reshape(&a, &[n, pixels, in_a]);
    let b = (in_b > 0).then(|| g.reshape(&b, &[n, pixels, in_b]));
    let dy = g.reshape(of.dy, &[n, pixels, channels]);
    let emb = (p.has_emb != 0).then_some(emb);
    let norm = GroupNorm { weight, bias, groups: p.groups as usize, eps: p.eps };
    let act = Activation::from_number(p.act);
    let mut gradients = vec![None; 5];
    if of.wants[0] || of.wants[1] {
        let dx = group_norm_gradient(g, &label, (&a, b.as_ref()), &norm, emb.as_ref(), act, &dy);
        for (i, first, count) in [(0, 0, in_a), (1, in_a, in_b)] {
            if of.wants[i] {
                gradients[i] =
                    Some(if in_b == 0 { dx.clone() } else { columns(g, &label, &dx, first, count) });
            }
        }
    }
    if let (true, Some(emb)) = (of.wants[4], &emb) {
        let v = group_norm(g, &label, (&a, b.as_ref()), &norm, Some(emb), Activation::Identity);
        let h = group_norm(g, &label, (&a, b.as_ref()), &norm, None, Activation::Identity);
        let dv = activation_gradient(g, &label, &v, &dy, act);
        let by_h = mul(g, &dv, &h);
        let [scale, shift] = [(by_h, 0), (dv, channels)].map(|(summed, first)| {
            let sum = sum_rows(g, &label, &summed, pixels);
            place(g, &label, &sum, 1, first, 2 * channels)
        });
        gradients[4] = Some(add(g, &scale, &shift));
    }
    Ok(gradients)
}

/// The two inputs as one, by pixel and channel.
struct Pair<'a> {
    p: Params,
    a: &'a [f64],
    b: &'a [f64],
}

impl Pair<'_> {
    fn channels(&self) -> usize {
        (self.p.in_a + self.p.in_b) as usize
    }

    fn at(&self, pixel: usize, c: usize) -> f64 {
        let (in_a, in_b) = (self.p.in_a as usize, self.p.in_b as usize);
        if c < in_a { self.a[pixel * in_a + c] } else { self.b[pixel * in_b + c - in_a] }
    }
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let x = Pair { p, a: inputs[0], b: inputs[1] };
    let (channels, pixels) = (x.channels(), p.pixels as usize);
    let width = channels / p.groups as usize;
    let act = Activation::from_number(p.act);
    for (group, n) in
        (0..y.len() / (channels * pixels)).flat_map(|n| (0..p.groups as usize).map(move |g| (g, n)))
    {
        let members = || (0..pixels * width).map(|i| (n * pixels + i / width, group * width + i % width));
        let len = (pixels * width) as f64;
        let mean = members().map(|(i, c)| x.at(i, c)).sum::<f64>() / len;
        let variance = members().map(|(i, c)| (x.at(i, c) - mean).powi(2)).sum::<f64>() / len;
        for (i, c) in members() {
            let mut v = (x.at(i, c) - mean) / (variance + f64::from(p.eps)).sqrt();
            v = v * inputs[2][c] + inputs[3][c];
            if p.has_emb != 0 {
                let emb = &inputs[4][n * 2 * channels..][..2 * channels];
                v = v * (1.0 + emb[c]) + emb[channels + c];
            }
            y[i * channels + c] = act.reference(v);
        }
    }
}

/// Floats of x that a thread takes at a time, few enough to stay in its caches between passes.
const BLOCK: usize = 4_096;

/// Means and variances of blocks of pixels in parallel, put together to the groups'; then one affine map per channel.
fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let act = Activation::from_number(p.act);
    let blocks = Blocks::new(p, inputs, y.len());
    let affine = blocks.affine();
    blocks.of(y).into_par_iter().enumerate().for_each(|(i, y)| {
        blocks.normalise(&affine, i, y);
        wide(
            #[inline(always)]
            || act.apply_all(y),
        );
    });
}

/// The pictures of a norm's two inputs in blocks of pixels, those of a picture one after another.
pub(crate) struct Blocks<'a> {
    p: Params,
    /// As the kernel binds them: a, b, weight, bias, emb.
    inputs: &'a [&'a [f32]],
    pictures: usize,
    /// Pixels of a block; the last one of a picture may have fewer.
    block: usize,
    /// Blocks of a picture.
    pub blocks: usize,
}

impl<'a> Blocks<'a> {
    /// `len` is the number of elements of both inputs together.
    pub(crate) fn new(p: Params, inputs: &'a [&'a [f32]], len: usize) -> Self {
        let (channels, pixels) = ((p.in_a + p.in_b) as usize, p.pixels as usize);
        let block = (BLOCK / channels).clamp(1, pixels.div_ceil(rayon::current_num_threads()).max(1));
        Blocks { p, inputs, pictures: len / (pixels * channels), block, blocks: pixels.div_ceil(block) }
    }

    /// Block `i` of each input.
    pub(crate) fn cut(&self, i: usize) -> (&'a [f32], &'a [f32]) {
        let (in_a, in_b, pixels) = (self.p.in_a as usize, self.p.in_b as usize, self.p.pixels as usize);
        let (picture, first) = (i / self.blocks * pixels, i % self.blocks * self.block);
        let (start, end) = (picture + first, picture + pixels.min(first + self.block));
        (&self.inputs[0][start * in_a..end * in_a], &self.inputs[1][start * in_b..end * in_b])
    }

    /// The blocks of y `[N, HW, C]`.
    pub(crate) fn of<'y>(&self, y: &'y mut [f32]) -> Vec<&'y mut [f32]> {
        let channels = (self.p.in_a + self.p.in_b) as usize;
        let pictures = y.chunks_mut(self.p.pixels as usize * channels);
        pictures.flat_map(|y| y.chunks_mut(self.block * channels)).collect()
    }

    /// What the norm does to each picture's channels.
    pub(crate) fn affine(&self) -> Vec<Affine> {
        let (in_a, in_b, groups) = (self.p.in_a as usize, self.p.in_b as usize, self.p.groups as usize);
        let of_blocks: Vec<Vec<Moments>> = (0..self.pictures * self.blocks)
            .into_par_iter()
            .map(|i| {
                let (a, b) = self.cut(i);
                let mut moments = Arch::new().dispatch(ChannelMoments { x: a, channels: in_a });
                moments.extend(Arch::new().dispatch(ChannelMoments { x: b, channels: in_b }));
                moments
                    .chunks_exact((in_a + in_b) / groups)
                    .map(|group| Moments::together(group.iter()))
                    .collect()
            })
            .collect();
        // In the order of the blocks, so that the same numbers come out whichever thread was first.
        let pictures = of_blocks.chunks_exact(self.blocks).enumerate();
        pictures
            .map(|(n, of_blocks)| {
                let group = |g: usize| Moments::together(of_blocks.iter().map(move |block| &block[g]));
                Affine::new(&self.p, &(0..groups).map(group).collect::<Vec<_>>(), self.inputs, n)
            })
            .collect()
    }

    /// Block `i`, normalised, scaled and shifted, into y.
    #[inline(always)]
    pub(crate) fn normalise(&self, affine: &[Affine], i: usize, y: &mut [f32]) {
        let (a, b) = self.cut(i);
        let affine = &affine[i / self.blocks];
        let in_a = self.p.in_a as usize;
        Arch::new().dispatch(Map { affine, x: a, channels: in_a, first: 0, y });
        Arch::new().dispatch(Map { affine, x: b, channels: self.p.in_b as usize, first: in_a, y });
    }
}

/// Count, mean, and sum of the squared distances from it.
#[derive(Clone, Copy)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Of all the numbers that `parts` describe.
    fn together<'a>(parts: impl Iterator<Item = &'a Moments> + Clone) -> Moments {
        let count: f64 = parts.clone().map(|m| m.count).sum();
        let mean = parts.clone().map(|m| m.count * m.mean).sum::<f64>() / count;
        let squares = parts.map(|m| m.squares + m.count * (m.mean - mean).powi(2)).sum();
        Moments { count, mean, squares }
    }
}

/// Finds the moments of each channel of x `[pixels, channels]`.
struct ChannelMoments<'a> {
    x: &'a [f32],
    channels: usize,
}

impl WithSimd for ChannelMoments<'_> {
    type Output = Vec<Moments>;

    /// The mean in f32, then the distances from it and their squares, which also correct it.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<Moments> {
        let mut moments = Vec::with_capacity(self.channels);
        // A vector of channels at a time, with the sums in registers.
        for first in (0..self.channels).step_by(S::F32_LANES) {
            let cut = first..self.channels.min(first + S::F32_LANES);
            let pixels = self.x.len() / self.channels;
            let mut near = simd.splat_f32s(0.0);
            for row in self.x.chunks_exact(self.channels) {
                near = simd.add_f32s(near, load(simd, &row[cut.clone()]));
            }
            near = simd.mul_f32s(near, simd.splat_f32s(1.0 / pixels as f32));
            let (mut sums, mut squares) = (simd.splat_f32s(0.0), simd.splat_f32s(0.0));
            for row in self.x.chunks_exact(self.channels) {
                let distance = simd.sub_f32s(load(simd, &row[cut.clone()]), near);
                sums = simd.add_f32s(sums, distance);
                squares = simd.mul_add_e_f32s(distance, distance, squares);
            }
            let mut values = [[0.0; LANES]; 3];
            store(simd, &mut values[0][..cut.len()], near);
            store(simd, &mut values[1][..cut.len()], sums);
            store(simd, &mut values[2][..cut.len()], squares);
            let count = pixels as f64;
            let [near, sums, squares] = &values;
            for ((near, sum), squares) in near.iter().zip(sums).zip(squares).take(cut.len()) {
                let (near, sum, squares) = (f64::from(*near), f64::from(*sum), f64::from(*squares));
                let (mean, squares) = (near + sum / count, squares - sum * sum / count);
                moments.push(Moments { count, mean, squares });
            }
        }
        moments
    }
}

/// Floats of the widest vectors.
pub(crate) const LANES: usize = 16;

/// (x - mean) · gain + offset by channel, and 1 / (variance + eps).
pub(crate) struct Affine {
    pub mean: Vec<f32>,
    pub gain: Vec<f32>,
    offset: Vec<f32>,
    pub inverse_variance: Vec<f64>,
}

impl Affine {
    fn new(p: &Params, groups: &[Moments], inputs: &[&[f32]], n: usize) -> Self {
        let channels = (p.in_a + p.in_b) as usize;
        let mut affine =
            Affine { mean: Vec::new(), gain: Vec::new(), offset: Vec::new(), inverse_variance: Vec::new() };
        for c in 0..channels {
            let group = &groups[c / (channels / groups.len())];
            let inverse_variance = 1.0 / (group.squares / group.count + f64::from(p.eps));
            let mut gain = f64::from(inputs[2][c]) * inverse_variance.sqrt();
            let mut offset = f64::from(inputs[3][c]);
            if p.has_emb != 0 {
                let emb = &inputs[4][n * 2 * channels..][..2 * channels];
                gain *= 1.0 + f64::from(emb[c]);
                offset = offset * (1.0 + f64::from(emb[c])) + f64::from(emb[channels + c]);
            }
            let mean = group.mean as f32;
            affine.mean.push(mean);
            affine.gain.push(gain as f32);
            affine.inverse_variance.push(inverse_variance);
            // With what the mean lost in f32.
            affine.offset.push((offset - (group.mean - f64::from(mean)) * gain) as f32);
        }
        affine
    }
}

/// Writes the channels of x `[pixels, channels]`, mapped, into y from channel `first` on.
struct Map<'a> {
    affine: &'a Affine,
    x: &'a [f32],
    channels: usize,
    first: usize,
    y: &'a mut [f32],
}

impl WithSimd for Map<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (width, lanes) = (self.affine.mean.len(), S::F32_LANES);
        let to = self.first..self.first + self.channels;
        let affine = self.affine;
        let [mean, gain, offset] =
            [&affine.mean[to.clone()], &affine.gain[to.clone()], &affine.offset[to.clone()]];
        if self.channels == 0 {
            return;
        }
        for (x, y) in self.x.chunks_exact(self.channels).zip(self.y.chunks_exact_mut(width)) {
            let affine = mean.chunks(lanes).zip(gain.chunks(lanes)).zip(offset.chunks(lanes));
            for ((x, y), ((mean, gain), offset)) in
                x.chunks(lanes).zip(y[to.clone()].chunks_mut(lanes)).zip(affine)
            {
                let distance = simd.sub_f32s(load(simd, x), load(simd, mean));
                store(simd, y, simd.mul_add_e_f32s(distance, load(simd, gain), load(simd, offset)));
            }
        }
    }
}
