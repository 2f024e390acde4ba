//! The last part of a [group norm](crate::kernels::group_norm) by parts: what
//! [`group_affine`](crate::kernels::group_affine) says of each channel, and the activation.

use super::group_blocks::{Affine, Blocks};
use super::group_quads::Shares;
use crate::graph::split::parts;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::epilogue::Activation;
use crate::kernels::group_norm;
use crate::kernels::{ACTIVATION, Cost, GROUP_QUADS, INDEX, Kernel, Shader, element_grid};
use rayon::prelude::*;

params! {
    /// Elements of y.
    len: u32,
    /// H·W.
    pixels: u32,
    /// Channels of the first input.
    in_a: u32,
    /// Channels of the second input, 0 if there is none.
    in_b: u32,
    /// Activation number.
    act: u32,
    /// Pixels of a strip; the last one of a picture may have fewer.
    strip: u32,
    /// Runs of channels that workgroups of quads divide.
    runs: u32,
}

impl Params {
    /// Of so many pictures.
    pub(crate) fn new(pictures: usize, pixels: usize, [in_a, in_b]: [usize; 2], act: Activation) -> Params {
        let channels = in_a + in_b;
        // A channel has a map of its own: any quads are a run.
        let Shares { strip, runs } = Shares::new(pixels, channels, channels);
        Params {
            len: (pictures * pixels * channels) as u32,
            pixels: pixels as u32,
            in_a: in_a as u32,
            in_b: in_b as u32,
            act: act as u32,
            strip,
            runs,
        }
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "group_apply",
    shaders: &[
        Shader::plain("group_apply", wgsl!("norms/group_apply"), &[INDEX, ACTIVATION], element_grid),
        Shader::plain(
            "group_apply_quads",
            wgsl!("norms/group_apply_quads"),
            &[ACTIVATION, GROUP_QUADS],
            |params, _| {
                let p = Params::read(params);
                [p.pixels.div_ceil(p.strip), p.runs, p.len / (p.pixels * (p.in_a + p.in_b))]
            },
        )
        .fitting(|params| {
            let p = Params::read(params);
            Shares { strip: p.strip, runs: p.runs }.has_quads(p.in_a, p.in_b, p.runs)
        }),
    ],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    of_item: |params, _| {
        let p = Params::read(params);
        Params { len: p.pixels * (p.in_a + p.in_b), ..p }.bytes()
    },
    split: Some(parts::group_apply),
    cost: |_, inputs, output| Cost::streaming(4.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// activate((x − mean) · gain + offset) of `[N, .., A]`, or of two inputs side by side, with mean, gain and offset of each
/// channel `[N, 3, C]` → `[N, .., C]`.
#[track_caller]
pub fn group_apply(
    g: &mut Graph,
    label: &str,
    (a, b): (&Tensor, Option<&Tensor>),
    affine: &Tensor,
    act: Activation,
) -> Tensor {
    let (in_a, in_b, n) = (a.channels(), b.map_or(0, Tensor::channels), a.dim(0));
    assert_eq!(affine.len(), n * 3 * (in_a + in_b), "{label}: {:?} by {:?}", a.shape, affine.shape);
    if let Some(b) = b {
        assert_eq!(b.rows(), a.rows(), "{label}: {:?} beside {:?}", b.shape, a.shape);
    }
    let mut shape = a.shape.clone();
    shape.pop();
    shape.push(in_a + in_b);
    let p = Params::new(n, a.rows() / n, [in_a, in_b], act);
    let empty = g.empty();
    g.push(&KERNEL, label, p.bytes(), &[a, b.unwrap_or(&empty), affine], &shape, Storage::Elem)
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let (in_a, in_b, act) = (p.in_a as usize, p.in_b as usize, Activation::from_number(p.act));
    let channels = in_a + in_b;
    for (row, y) in y.chunks_exact_mut(channels).enumerate() {
        let affine = &inputs[2][row / p.pixels as usize * 3 * channels..][..3 * channels];
        for (c, y) in y.iter_mut().enumerate() {
            let x = if c < in_a { inputs[0][row * in_a + c] } else { inputs[1][row * in_b + c - in_a] };
            *y = act.reference((x - affine[c]) * affine[channels + c] + affine[2 * channels + c]);
        }
    }
}

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let Params { pixels, in_a, in_b, act, .. } = Params::read(params);
    let (act, channels) = (Activation::from_number(act), (in_a + in_b) as usize);
    let norm = group_norm::Params { pixels, in_a, in_b, groups: 1, ..Default::default() };
    let blocks = Blocks::new(norm, &inputs[..2], y.len());
    let affine = inputs[2].chunks_exact(3 * channels).map(|affine| {
        let [mean, gain, offset] = [0, 1, 2].map(|i| affine[i * channels..][..channels].to_vec());
        Affine { mean, gain, offset, inverse_variance: Vec::new() }
    });
    let affine: Vec<Affine> = affine.collect();
    blocks.of(y).into_par_iter().enumerate().for_each(|(i, y)| blocks.normalise(&affine, i, y, act));
}
