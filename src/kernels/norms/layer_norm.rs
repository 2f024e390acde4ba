//! Layer normalisation (Ba et al. 2016, arXiv:1607.06450) and RMS normalisation (Zhang & Sennrich 2019,
//! arXiv:1910.07467), over the innermost dimension.

use crate::graph::split::parts;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::column_sums::column_sums;
use crate::kernels::layer_norm_gradient::layer_norm_gradient;
use crate::kernels::{Backward, Cost, INDEX, Kernel, REDUCE, REDUCE_SUBGROUP, Shader, row_grid};
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
        Shader::plain("layer_norm", wgsl!("norms/layer_norm"), &[INDEX, REDUCE], row_grid),
        Shader::narrow("layer_norm_subgroup", wgsl!("norms/layer_norm"), &[INDEX, REDUCE_SUBGROUP], row_grid),
    ],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    of_item: |params, items| {
        let p = Params::read(params);
        Params { rows: p.rows.div_ceil(items), ..p }.bytes()
    },
    gradient: Some(gradient),
    split: Some(parts::layer_norm),
    cost: |_, inputs, output| Cost::streaming(7.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// Layer norm of `[.., C]` with `name.weight`, `name.bias`.
pub fn layer_norm(g: &mut Graph, name: &str, x: &Tensor, eps: f32) -> Tensor {
    let (weight, bias) =
        g.scope(name, |g| (g.vector("weight", &[x.channels()]), g.vector("bias", &[x.channels()])));
    record(g, name, x, &weight, Some(&bias), eps)
}

/// Layer norm of `[.., C]` with factors and bias `[C]` of any name.
pub fn layer_norm_of(
    g: &mut Graph,
    label: &str,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
) -> Tensor {
    record(g, label, x, weight, Some(bias), eps)
}

/// RMS norm of `[.., C]` with `name.weight` (T5).
pub fn rms_norm(g: &mut Graph, name: &str, x: &Tensor, eps: f32) -> Tensor {
    let weight = g.scope(name, |g| g.vector("weight", &[x.channels()]));
    record(g, name, x, &weight, None, eps)
}

/// x / √(‖x‖² + floor²) over the innermost dimension of `[.., C]`: rows of length 1, or 0 where x is. `floor` keeps the
/// division defined; PyTorch's `normalize` takes the larger of ‖x‖ and 1e-12.
pub fn l2_normalise(g: &mut Graph, label: &str, x: &Tensor, floor: f32) -> Tensor {
    // √(mean x² + eps) √C is the length.
    let channels = x.channels() as f32;
    let weight = g.constant(&[x.channels()], vec![1.0 / channels.sqrt(); x.channels()]);
    record(g, label, x, &weight, None, floor * floor / channels)
}

fn record(
    g: &mut Graph,
    label: &str,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    eps: f32,
) -> Tensor {
    let p = Params { rows: x.rows() as u32, channels: x.channels() as u32, rms: bias.is_none().into(), eps };
    let empty = g.empty();
    g.push(&KERNEL, label, p.bytes(), &[x, weight, bias.unwrap_or(&empty)], &x.shape, Storage::Elem)
}

fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    let p = Params::read(&of.node.params);
    let (x, weight) = (of.input(g, 0), of.input(g, 1));
    let x = g.reshape(&x, &of.dy.shape);
    let (label, rms) = (of.label(), p.rms != 0);
    let dx = of.wants[0].then(|| layer_norm_gradient(g, &label, &x, &weight, of.dy, rms, p.eps));
    let dweight = of.wants[1].then(|| {
        let (ones, zeros) = (g.constant(&weight.shape, vec![1.0; weight.len()]), vec![0.0; weight.len()]);
        let zeros = (!rms).then(|| g.constant(&weight.shape, zeros));
        let h = record(g, &label, &x, &ones, zeros.as_ref(), p.eps);
        column_sums(g, &label, of.dy, Some(&h))
    });
    let dbias = of.wants[2].then(|| column_sums(g, &label, of.dy, None));
    Ok(vec![dx, dweight, dbias])
}

/// The definition; on the CPU device too, where it costs little beside the products around it.
fn normalise<T: Copy + Into<f64>>(
    p: &Params,
    [x, weight, bias]: [&[T]; 3],
    y: &mut [T],
    rounded: fn(f64) -> T,
) {
    let channels = p.channels as usize;
    for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
        let x = || x.iter().map(|&v| v.into());
        let mean = if p.rms != 0 { 0.0 } else { x().sum::<f64>() / channels as f64 };
        let variance = x().map(|v| (v - mean).powi(2)).sum::<f64>() / channels as f64;
        for (c, (y, v)) in y.iter_mut().zip(x()).enumerate() {
            let v = (v - mean) / (variance + f64::from(p.eps)).sqrt() * weight[c].into();
            *y = rounded(v + if p.rms != 0 { 0.0 } else { bias[c].into() });
        }
    }
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    normalise(&Params::read(params), [inputs[0], inputs[1], inputs[2]], y, |v| v);
}

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let rows = (16_384 / p.channels as usize).max(1) * p.channels as usize;
    y.par_chunks_mut(rows).zip(inputs[0].par_chunks(rows)).for_each(|(y, x)| {
        normalise(&p, [x, inputs[1], inputs[2]], y, |v| v as f32);
    });
}
