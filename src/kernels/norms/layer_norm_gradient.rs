//! The gradient of [`crate::kernels::layer_norm`], layer and RMS norms alike.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::epilogue::Epilogue;
use crate::kernels::{
    ACTIVATION, Cost, EPILOGUE, INDEX, Kernel, REDUCE, REDUCE_SUBGROUP, STORE_AT, Shader, row_grid,
};
use rayon::prelude::*;

params! {
    /// Rows.
    rows: u32,
    /// Innermost dimension.
    channels: u32,
    /// 1: no mean subtraction.
    rms: u32,
    /// Added to the variance.
    eps: f32;
    epilogue
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "layer_norm_gradient",
    shaders: &[
        Shader::plain(
            "layer_norm_gradient",
            wgsl!("norms/layer_norm_gradient"),
            &[INDEX, ACTIVATION, EPILOGUE, STORE_AT, REDUCE],
            row_grid,
        ),
        Shader::narrow(
            "layer_norm_gradient_subgroup",
            wgsl!("norms/layer_norm_gradient"),
            &[INDEX, ACTIVATION, EPILOGUE, STORE_AT, REDUCE_SUBGROUP],
            row_grid,
        ),
    ],
    fields: Params::FIELDS,
    epilogue: true,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    cost: |_, inputs, output| Cost::streaming(14.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// The gradient at x `[.., C]` of its norm with weight `[C]`, given that of the result, dy, of x's shape.
#[track_caller]
pub fn layer_norm_gradient(
    g: &mut Graph,
    label: &str,
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    rms: bool,
    eps: f32,
) -> Tensor {
    assert_eq!(x.len(), dy.len(), "{label}: {:?} with a gradient of {:?}", x.shape, dy.shape);
    assert_eq!(x.channels(), weight.len(), "{label}: {:?} with a weight of {:?}", x.shape, weight.shape);
    let p = Params {
        rows: x.rows() as u32,
        channels: x.channels() as u32,
        rms: rms.into(),
        eps,
        epilogue: Epilogue::default(),
    };
    let empty = g.empty();
    g.push(&KERNEL, label, p.bytes(), &[x, weight, dy, &empty], &x.shape, Storage::Elem)
}

/// The definition but for the epilogue; on the CPU device too, where it costs little beside the products around it.
fn compute<T: Copy + Into<f64>>(p: &Params, [x, weight, dy]: [&[T]; 3], dx: &mut [T], rounded: fn(f64) -> T) {
    let channels = p.channels as usize;
    let rows = x.chunks_exact(channels).zip(dy.chunks_exact(channels));
    for (dx, (x, dy)) in dx.chunks_exact_mut(channels).zip(rows) {
        let x = || x.iter().map(|&v| v.into());
        let gradients = || dy.iter().zip(weight).map(|(&dy, &w)| dy.into() * w.into());
        let centre = |of: f64| if p.rms != 0 { 0.0 } else { of / channels as f64 };
        let mean = centre(x().sum());
        let variance = x().map(|v| (v - mean).powi(2)).sum::<f64>() / channels as f64;
        let rstd = 1.0 / (variance + f64::from(p.eps)).sqrt();
        let level = centre(gradients().sum());
        let slope = x().zip(gradients()).map(|(v, g)| g * (v - mean) * rstd).sum::<f64>() / channels as f64;
        for ((dx, v), g) in dx.iter_mut().zip(x()).zip(gradients()) {
            *dx = rounded(rstd * (g - level - (v - mean) * rstd * slope));
        }
    }
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let (epilogue, channels) = (Epilogue::read(params), p.channels as usize);
    compute(&p, [inputs[0], inputs[1], inputs[2]], y, |v| v);
    for (i, y) in y.iter_mut().enumerate() {
        *y = epilogue.reference(*y, inputs[3], i / channels, i % channels, channels);
    }
}

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (epilogue, channels) = (Epilogue::read(params), p.channels as usize);
    let rows = (16_384 / channels).max(1);
    let given = inputs[0].par_chunks(rows * channels).zip(inputs[2].par_chunks(rows * channels));
    y.par_chunks_mut(rows * channels).zip(given).enumerate().for_each(|(i, (y, (x, dy)))| {
        compute(&p, [x, inputs[1], dy], y, |v| v as f32);
        epilogue.apply(y, i * rows, channels, None, inputs[3]);
    });
}
