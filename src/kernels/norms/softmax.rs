//! Softmax over the innermost dimension, and its logarithm.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::simd::{exp, wide};
use crate::kernels::softmax_gradient::softmax_gradient;
use crate::kernels::{Backward, Cost, INDEX, Kernel, REDUCE, REDUCE_SUBGROUP, Shader, row_grid};
use rayon::prelude::*;

params! {
    /// Rows.
    rows: u32,
    /// Innermost dimension.
    channels: u32,
    /// 1: the logarithm.
    logarithm: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "softmax",
    shaders: &[
        Shader::plain("softmax", wgsl!("norms/softmax"), &[INDEX, REDUCE], row_grid),
        Shader::narrow("softmax_subgroup", wgsl!("norms/softmax"), &[INDEX, REDUCE_SUBGROUP], row_grid),
    ],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    gradient: Some(gradient),
    cost: |_, inputs, output| Cost::streaming(6.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// e^x / Σ e^x over the innermost dimension of x `[.., C]`.
pub fn softmax(g: &mut Graph, label: &str, x: &Tensor) -> Tensor {
    record(g, label, x, false)
}

/// x − ln Σ e^x over the innermost dimension of x `[.., C]`: logits to log-probabilities.
pub fn log_softmax(g: &mut Graph, label: &str, x: &Tensor) -> Tensor {
    record(g, label, x, true)
}

fn record(g: &mut Graph, label: &str, x: &Tensor, logarithm: bool) -> Tensor {
    let p = Params { rows: x.rows() as u32, channels: x.channels() as u32, logarithm: logarithm.into() };
    g.push(&KERNEL, label, p.bytes(), &[x], &x.shape, Storage::Elem)
}

fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    let p = Params::read(&of.node.params);
    let s = of.output(g);
    Ok(vec![Some(softmax_gradient(g, &of.label(), &s, of.dy, p.logarithm != 0))])
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let channels = p.channels as usize;
    for (y, x) in y.chunks_exact_mut(channels).zip(inputs[0].chunks_exact(channels)) {
        let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = x.iter().map(|v| (v - top).exp()).sum();
        for (y, x) in y.iter_mut().zip(x) {
            *y = if p.logarithm != 0 { x - top - sum.ln() } else { (x - top).exp() / sum };
        }
    }
}

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let channels = p.channels as usize;
    let rows = (16_384 / channels).max(1) * channels;
    y.par_chunks_mut(rows).zip(inputs[0].par_chunks(rows)).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
            let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            wide(
                #[inline(always)]
                || {
                    for (y, x) in y.iter_mut().zip(x) {
                        *y = exp(x - top);
                    }
                },
            );
            let sum: f64 = y.iter().map(|v| f64::from(*v)).sum();
            let (scale, shift) = ((1.0 / sum) as f32, sum.ln() as f32);
            for (y, x) in y.iter_mut().zip(x) {
                *y = if p.logarithm != 0 { x - top - shift } else { *y * scale };
            }
        }
    });
}
