//! Of a [group norm](crate::kernels::group_norm), by picture and channel: the sums over the pixels that the gradients of its
//! weight, bias, scale and shift are made of.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::epilogue::Activation;
use crate::kernels::group_norm::{self, GroupNorm};
use crate::kernels::group_norm_gradient::channel_sums;
use crate::kernels::{
    ACTIVATION, ACTIVATION_DERIVATIVE, Cost, GROUP_WALK, Kernel, REDUCE, REDUCE_SUBGROUP, Shader,
};

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
    eps: f32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "group_norm_sums",
    shaders: &[
        Shader::plain(
            "group_norm_sums",
            wgsl!("training/group_norm_sums"),
            &[ACTIVATION, ACTIVATION_DERIVATIVE, GROUP_WALK, REDUCE],
            grid,
        ),
        Shader::narrow(
            "group_norm_sums_subgroup",
            wgsl!("training/group_norm_sums"),
            &[ACTIVATION, ACTIVATION_DERIVATIVE, GROUP_WALK, REDUCE_SUBGROUP],
            grid,
        ),
    ],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    cost: |_, inputs, output| {
        Cost::streaming(16.0 * inputs[5].iter().product::<usize>() as f64, inputs, output)
    },
    ..Kernel::PLAIN
};

/// A workgroup for every group of every picture.
fn grid(params: &[u8], output: &[usize]) -> [u32; 3] {
    [Params::read(params).groups, output[0] as u32, 1]
}

/// Of the norm of `[N, .., A]`, or of two inputs side by side, given the gradient dy `[N, .., C]` of its result: what the
/// activation passes of dy, summed, then times the plain norm, summed → `[N, 2, C]` in f32.
#[track_caller]
pub fn group_norm_sums(
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
    };
    let empty = g.empty();
    let (b, emb) = (b.unwrap_or(&empty), emb.unwrap_or(&empty));
    let inputs = [a, b, &norm.weight, &norm.bias, emb, dy];
    g.push(&KERNEL, label, p.bytes(), &inputs, &[n, 2, in_a + in_b], Storage::F32)
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let (in_a, in_b, pixels) = (p.in_a as usize, p.in_b as usize, p.pixels as usize);
    let channels = in_a + in_b;
    let width = channels / p.groups as usize;
    let act = Activation::from_number(p.activation);
    let x = |pixel: usize, c: usize| {
        if c < in_a { inputs[0][pixel * in_a + c] } else { inputs[1][pixel * in_b + c - in_a] }
    };
    for n in 0..y.len() / (2 * channels) {
        for c in 0..channels {
            let first = c / width * width;
            let members =
                || (n * pixels..(n + 1) * pixels).flat_map(|i| (first..first + width).map(move |c| x(i, c)));
            let count = (pixels * width) as f64;
            let mean = members().sum::<f64>() / count;
            let variance = members().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
            let (mut scale, mut shift) = (1.0, 0.0);
            if p.has_emb != 0 {
                let emb = &inputs[4][n * 2 * channels..][..2 * channels];
                (scale, shift) = (1.0 + emb[c], emb[channels + c]);
            }
            let mut sums = [0.0; 2];
            for i in n * pixels..(n + 1) * pixels {
                let h = (x(i, c) - mean) / (variance + f64::from(p.eps)).sqrt();
                let v = (h * inputs[2][c] + inputs[3][c]) * scale + shift;
                let passed = inputs[5][i * channels + c] * act.derivative_reference(v);
                sums[0] += passed;
                sums[1] += passed * h;
            }
            y[n * 2 * channels + c] = sums[0];
            y[(n * 2 + 1) * channels + c] = sums[1];
        }
    }
}

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let norm = group_norm::Params {
        pixels: p.pixels,
        in_a: p.in_a,
        in_b: p.in_b,
        groups: p.groups,
        has_emb: p.has_emb,
        act: p.activation,
        eps: p.eps,
    };
    let channels = (p.in_a + p.in_b) as usize;
    let sums = channel_sums(norm, inputs);
    for (y, sums) in y.chunks_exact_mut(2 * channels).zip(sums) {
        for (c, [plain, by_h]) in sums.into_iter().enumerate() {
            (y[c], y[channels + c]) = (plain as f32, by_h as f32);
        }
    }
}
