//! Group normalisation (Wu & He 2018, arXiv:1803.08494), with a time embedding's scale and shift and an activation.

use super::epilogue::Activation;
use super::{ACTIVATION, Cost, Kernel, Shader, REDUCE};
use crate::graph::{Call, Graph, Storage, Tensor};
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
    shaders: &[Shader::plain("group_norm", include_str!("../../shaders/group_norm.wgsl"), &[ACTIVATION, REDUCE], |params, output| {
        [Params::read(params).groups, output[0] as u32, 1]
    })],
    fields: Params::FIELDS,
    epilogue: false,
    reference,
    cpu,
    cost: |_, inputs, output| Cost::streaming(8.0 * output.iter().product::<usize>() as f64, inputs, output),
};

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
        assert!(groups > 0 && channels.is_multiple_of(groups), "{name}: {channels} channels in {groups} groups");
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
    assert_eq!(norm.weight.len(), in_a + in_b, "{label}: {in_a}+{in_b} channels, norm of {:?}", norm.weight.shape);
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
    g.push(Call {
        kernel: &KERNEL,
        params: p.bytes(),
        inputs: &[a, b.unwrap_or(&empty), &norm.weight, &norm.bias, emb.unwrap_or(&empty)],
        shape: &shape,
        storage: Storage::Elem,
        label,
    })
}

/// The two inputs as one, by pixel and channel.
struct Pair<'a> {
    p: Params,
    a: &'a [f32],
    b: &'a [f32],
}

impl Pair<'_> {
    fn channels(&self) -> usize {
        (self.p.in_a + self.p.in_b) as usize
    }

    fn at(&self, pixel: usize, c: usize) -> f32 {
        let (in_a, in_b) = (self.p.in_a as usize, self.p.in_b as usize);
        if c < in_a { self.a[pixel * in_a + c] } else { self.b[pixel * in_b + c - in_a] }
    }

    /// Copies one pixel's channels.
    fn gather(&self, pixel: usize, row: &mut [f32]) {
        let (in_a, in_b) = (self.p.in_a as usize, self.p.in_b as usize);
        row[..in_a].copy_from_slice(&self.a[pixel * in_a..][..in_a]);
        row[in_a..].copy_from_slice(&self.b[pixel * in_b..][..in_b]);
    }
}

fn reference(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let x = Pair { p, a: inputs[0], b: inputs[1] };
    let (channels, pixels) = (x.channels(), p.pixels as usize);
    let width = channels / p.groups as usize;
    let act = Activation::from_number(p.act);
    for (group, n) in (0..y.len() / (channels * pixels)).flat_map(|n| (0..p.groups as usize).map(move |g| (g, n))) {
        let members = || {
            (0..pixels * width).map(|i| (n * pixels + i / width, group * width + i % width))
        };
        let len = (pixels * width) as f64;
        let mean = members().map(|(i, c)| f64::from(x.at(i, c))).sum::<f64>() / len;
        let variance = members().map(|(i, c)| (f64::from(x.at(i, c)) - mean).powi(2)).sum::<f64>() / len;
        for (i, c) in members() {
            let mut v = (f64::from(x.at(i, c)) - mean) / (variance + f64::from(p.eps)).sqrt();
            v = v * f64::from(inputs[2][c]) + f64::from(inputs[3][c]);
            if p.has_emb != 0 {
                let emb = &inputs[4][n * 2 * channels..][..2 * channels];
                v = v * (1.0 + f64::from(emb[c])) + f64::from(emb[channels + c]);
            }
            y[i * channels + c] = act.reference(v) as f32;
        }
    }
}

/// Per picture: sums by channel over blocks of pixels in parallel, then one affine map per channel.
fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let x = Pair { p, a: inputs[0], b: inputs[1] };
    let (channels, pixels) = (x.channels(), p.pixels as usize);
    let act = Activation::from_number(p.act);
    let block = (8_192 / channels).clamp(1, pixels.div_ceil(rayon::current_num_threads()).max(1));
    for (n, y) in y.chunks_exact_mut(pixels * channels).enumerate() {
        // Copies x into y on the way, so that the later passes read one tensor.
        let means = group_means(&p, y, block, |row, sums, pixel| {
            x.gather(n * pixels + pixel, row);
            sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
        });
        let means: Vec<f32> = means.iter().map(|m| *m as f32).collect();
        let variances = group_means(&p, y, block, |row, sums, _| {
            for ((s, v), m) in sums.iter_mut().zip(row).zip(&means) {
                let d = *v - m;
                *s += f64::from(d * d);
            }
        });
        let affine = affine(&p, &variances, inputs, n);
        y.par_chunks_mut(block * channels).for_each(|y| {
            for row in y.chunks_exact_mut(channels) {
                for ((v, (gain, offset)), mean) in row.iter_mut().zip(&affine).zip(&means) {
                    *v = act.apply((*v - mean) * gain + offset);
                }
            }
        });
    }
}

/// What `add` sums by channel over all pixels, averaged over each group and given to each of its channels. Blocks are
/// summed up in their order, so that the same numbers come out whichever thread was first.
fn group_means(
    p: &Params,
    y: &mut [f32],
    block: usize,
    add: impl Fn(&mut [f32], &mut [f64], usize) + Sync,
) -> Vec<f64> {
    let channels = (p.in_a + p.in_b) as usize;
    let width = channels / p.groups as usize;
    let blocks: Vec<Vec<f64>> = y
        .par_chunks_mut(block * channels)
        .enumerate()
        .map(|(i, y)| {
            let mut sums = vec![0.0; channels];
            for (r, row) in y.chunks_exact_mut(channels).enumerate() {
                add(row, &mut sums, i * block + r);
            }
            sums
        })
        .collect();
    let group_mean = |c: usize| {
        let group = c / width * width..(c / width + 1) * width;
        let sum: f64 = blocks.iter().map(|sums| sums[group.clone()].iter().sum::<f64>()).sum();
        sum / (p.pixels as usize * width) as f64
    };
    (0..channels).map(group_mean).collect()
}

/// Factor and offset of each channel of x less its mean.
fn affine(p: &Params, variances: &[f64], inputs: &[&[f32]], n: usize) -> Vec<(f32, f32)> {
    let channels = variances.len();
    let channel = |c: usize| {
        let mut gain = f64::from(inputs[2][c]) / (variances[c] + f64::from(p.eps)).sqrt();
        let mut offset = f64::from(inputs[3][c]);
        if p.has_emb != 0 {
            let emb = &inputs[4][n * 2 * channels..][..2 * channels];
            gain *= 1.0 + f64::from(emb[c]);
            offset = offset * (1.0 + f64::from(emb[c])) + f64::from(emb[channels + c]);
        }
        (gain as f32, offset as f32)
    };
    (0..channels).map(channel).collect()
}
