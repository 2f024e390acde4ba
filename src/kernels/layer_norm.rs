//! Layer normalisation (Ba et al. 2016, arXiv:1607.06450) and RMS normalisation (Zhang & Sennrich 2019,
//! arXiv:1910.07467), over the innermost dimension.

use super::{Cost, INDEX, Kernel, Needs, REDUCE, REDUCE_SUBGROUP, Shader, row_grid};
use crate::graph::{Call, Graph, Storage, Tensor};
use rayon::prelude::*;

params! {
    /// Rows.
    rows: u32,
    /// Innermost dimension.
    channels: u32,
    /// 1: no mean subtraction, no bias.
    rms: u32,
    /// Added to the variance.
    eps: f32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "layer_norm",
    shaders: &[
        Shader::plain("layer_norm", include_str!("../../shaders/layer_norm.wgsl"), &[INDEX, REDUCE], row_grid),
        Shader {
            name: "layer_norm_subgroup",
            wgsl: include_str!("../../shaders/layer_norm.wgsl"),
            shared: &[INDEX, REDUCE_SUBGROUP],
            constants: &[("WG", 8.0)],
            needs: Needs::SUBGROUP8,
            fits: |_| true,
            grid: row_grid,
        },
    ],
    fields: Params::FIELDS,
    epilogue: false,
    reference,
    cpu,
    cost: |_, inputs, output| Cost::streaming(7.0 * output.iter().product::<usize>() as f64, inputs, output),
};

/// Layer norm of `[.., C]` with `name.weight`, `name.bias`.
pub fn layer_norm(g: &mut Graph, name: &str, x: &Tensor, eps: f32) -> Tensor {
    let (weight, bias) = g.scope(name, |g| {
        (g.vector("weight", &[x.channels()]), g.vector("bias", &[x.channels()]))
    });
    record(g, name, x, &weight, Some(&bias), eps)
}

/// RMS norm of `[.., C]` with `name.weight` (T5).
pub fn rms_norm(g: &mut Graph, name: &str, x: &Tensor, eps: f32) -> Tensor {
    let weight = g.scope(name, |g| g.vector("weight", &[x.channels()]));
    record(g, name, x, &weight, None, eps)
}

fn record(g: &mut Graph, label: &str, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f32) -> Tensor {
    let p = Params { rows: x.rows() as u32, channels: x.channels() as u32, rms: bias.is_none().into(), eps };
    let empty = g.empty();
    g.push(Call {
        kernel: &KERNEL,
        params: p.bytes(),
        inputs: &[x, weight, bias.unwrap_or(&empty)],
        shape: &x.shape,
        storage: Storage::Elem,
        label,
    })
}

fn reference(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let channels = p.channels as usize;
    for (y, x) in y.chunks_exact_mut(channels).zip(inputs[0].chunks_exact(channels)) {
        let sum: f64 = x.iter().map(|&v| f64::from(v)).sum();
        let mean = if p.rms != 0 { 0.0 } else { sum / channels as f64 };
        let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / channels as f64;
        for c in 0..channels {
            let v = (f64::from(x[c]) - mean) / (variance + f64::from(p.eps)).sqrt() * f64::from(inputs[1][c]);
            y[c] = (v + if p.rms != 0 { 0.0 } else { f64::from(inputs[2][c]) }) as f32;
        }
    }
}

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let channels = p.channels as usize;
    let rows = (16_384 / channels).max(1) * channels;
    // The definition costs little beside the products around it; only spread it over the threads.
    y.par_chunks_mut(rows).zip(inputs[0].par_chunks(rows)).for_each(|(y, x)| {
        reference(params, &[x, inputs[1], inputs[2]], y);
    });
}
