//! The gradient of [`crate::kernels::softmax`] and of its logarithm, from what they computed.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, REDUCE, REDUCE_SUBGROUP, Shader, row_grid};
use rayon::prelude::*;

params! {
    /// Rows.
    rows: u32,
    /// Innermost dimension.
    channels: u32,
    /// 1: of the logarithm.
    logarithm: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "softmax_gradient",
    shaders: &[
        Shader::plain("softmax_gradient", wgsl!("norms/softmax_gradient"), &[INDEX, REDUCE], row_grid),
        Shader::narrow(
            "softmax_gradient_subgroup",
            wgsl!("norms/softmax_gradient"),
            &[INDEX, REDUCE_SUBGROUP],
            row_grid,
        ),
    ],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    cost: |_, inputs, output| Cost::streaming(5.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// s (dy − Σ dy s) per row of s `[.., C]`, a softmax; of a log-softmax s, dy − e^s Σ dy.
#[track_caller]
pub fn softmax_gradient(g: &mut Graph, label: &str, s: &Tensor, dy: &Tensor, logarithm: bool) -> Tensor {
    assert_eq!(s.len(), dy.len(), "{label}: {:?} with a gradient of {:?}", s.shape, dy.shape);
    let p = Params { rows: s.rows() as u32, channels: s.channels() as u32, logarithm: logarithm.into() };
    g.push(&KERNEL, label, p.bytes(), &[s, dy], &s.shape, Storage::Elem)
}

/// The definition; on the CPU device too, for the few rows of logits that it is for.
fn compute<T: Copy + Into<f64>>(p: &Params, s: &[T], dy: &[T], dx: &mut [T], rounded: fn(f64) -> T) {
    let channels = p.channels as usize;
    let rows = s.chunks_exact(channels).zip(dy.chunks_exact(channels));
    for (dx, (s, dy)) in dx.chunks_exact_mut(channels).zip(rows) {
        let pairs = || s.iter().zip(dy).map(|(s, dy)| -> (f64, f64) { ((*s).into(), (*dy).into()) });
        let sum: f64 = pairs().map(|(s, dy)| if p.logarithm != 0 { dy } else { s * dy }).sum();
        for (dx, (s, dy)) in dx.iter_mut().zip(pairs()) {
            *dx = rounded(if p.logarithm != 0 { dy - s.exp() * sum } else { s * (dy - sum) });
        }
    }
}

fn reference(params: &[u8], inputs: &[&[f64]], dx: &mut [f64]) {
    compute(&Params::read(params), inputs[0], inputs[1], dx, |v| v);
}

fn cpu(params: &[u8], inputs: &[&[f32]], dx: &mut [f32]) {
    let p = Params::read(params);
    let rows = (16_384 / p.channels as usize).max(1) * p.channels as usize;
    let given = inputs[0].par_chunks(rows).zip(inputs[1].par_chunks(rows));
    dx.par_chunks_mut(rows).zip(given).for_each(|(dx, (s, dy))| compute(&p, s, dy, dx, |v| v as f32));
}
