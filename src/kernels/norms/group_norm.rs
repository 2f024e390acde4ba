//! Group normalisation (Wu & He 2018, arXiv:1803.08494), with a time embedding's scale and shift and an activation.

use super::group_blocks::Blocks;
use crate::graph::rewrites::NORM_STRIPS;
use crate::graph::split::parts;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::cut::columns;
use crate::kernels::epilogue::Activation;
use crate::kernels::group_norm_affine_gradient::group_norm_affine_gradient;
use crate::kernels::group_norm_gradient::group_norm_gradient;
use crate::kernels::group_norm_sums::group_norm_sums;
use crate::kernels::{
    ACTIVATION, Backward, Cost, GROUP_WALK, Kernel, REDUCE, REDUCE_SUBGROUP, Rewrites, Shader,
};
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

impl Params {
    /// Of a picture of the output.
    pub(crate) fn elements(&self) -> usize {
        self.pixels as usize * (self.in_a + self.in_b) as usize
    }
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
    rewrites: Rewrites { others: &[NORM_STRIPS], ..Rewrites::NONE },
    split: Some(parts::group_norm),
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

/// Of the inputs by a kernel of its own, cut where there are two; of all that is affine from the sums over the pixels.
fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
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
    if of.wants[2] || of.wants[3] || of.wants[4] {
        let sums = group_norm_sums(g, &label, (&a, b.as_ref()), &norm, emb.as_ref(), act, &dy);
        let affine = group_norm_affine_gradient(g, &label, &sums, &norm, emb.as_ref());
        for (i, gradient) in affine.into_iter().enumerate().filter(|(i, _)| of.wants[2 + i]) {
            gradients[2 + i] = Some(gradient);
        }
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

/// Means and variances of blocks of pixels in parallel, put together to the groups'; then one affine map per channel.
fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let act = Activation::from_number(p.act);
    let blocks = Blocks::new(p, inputs, y.len());
    let affine = blocks.affine();
    blocks.of(y).into_par_iter().enumerate().for_each(|(i, y)| {
        blocks.normalise(&affine, i, y, act);
    });
}
