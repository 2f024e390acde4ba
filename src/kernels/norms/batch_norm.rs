//! Batch normalisation in evaluation, by stored statistics (Ioffe & Szegedy 2015, arXiv:1502.03167).

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::epilogue::Epilogue;
use crate::kernels::simd::wide;
use crate::kernels::{ACTIVATION, Backward, Cost, EPILOGUE, INDEX, Kernel, STORE_AT, Shader, element_grid};
use rayon::prelude::*;

params! {
    /// Elements of x and y.
    len: u32,
    /// Innermost dimension.
    channels: u32,
    /// Added to the variance.
    eps: f32;
    epilogue
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "batch_norm",
    shaders: &[Shader::plain(
        "batch_norm",
        wgsl!("norms/batch_norm"),
        &[INDEX, ACTIVATION, EPILOGUE, STORE_AT],
        element_grid,
    )],
    fields: Params::FIELDS,
    epilogue: true,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    gradient: Some(gradient),
    cost: |_, inputs, output| Cost::streaming(5.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// (x − `name.running_mean`) / √(`name.running_var` + eps) · `name.weight` + `name.bias` of x `[.., C]`.
pub fn batch_norm(g: &mut Graph, name: &str, x: &Tensor, eps: f32) -> Tensor {
    let vectors = g.scope(name, |g| {
        ["running_mean", "running_var", "weight", "bias"].map(|vector| g.vector(vector, &[x.channels()]))
    });
    record(g, name, x, &vectors, eps)
}

/// `vectors`: mean, variance, weight, bias.
fn record(g: &mut Graph, label: &str, x: &Tensor, vectors: &[Tensor; 4], eps: f32) -> Tensor {
    let p = Params { len: x.len() as u32, channels: x.channels() as u32, eps, epilogue: Epilogue::default() };
    let empty = g.empty();
    let [mean, variance, weight, bias] = vectors;
    g.push(&KERNEL, label, p.bytes(), &[x, mean, variance, weight, bias, &empty], &x.shape, Storage::Elem)
}

/// The same factors without mean and bias.
fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    of.refuse(&[(1, "the mean"), (2, "the variance"), (3, "the norm's weight"), (4, "the norm's bias")])?;
    let p = Params::read(&of.node.params);
    let channels = p.channels as usize;
    let zeros = g.constant(&[channels], vec![0.0; channels]);
    let vectors = [zeros.clone(), of.input(g, 2), of.input(g, 3), zeros];
    let dy = g.reshape(of.dy, &[of.dy.len() / channels, channels]);
    let dx = record(g, &of.label(), &dy, &vectors, p.eps);
    Ok(vec![Some(dx), None, None, None, None, None])
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let (epilogue, channels) = (Epilogue::read(params), p.channels as usize);
    for (i, y) in y.iter_mut().enumerate() {
        let c = i % channels;
        let normal = (inputs[0][i] - inputs[1][c]) / (inputs[2][c] + f64::from(p.eps)).sqrt();
        *y = epilogue.reference(normal * inputs[3][c] + inputs[4][c], inputs[5], i / channels, c, channels);
    }
}

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (epilogue, channels) = (Epilogue::read(params), p.channels as usize);
    let [mean, bias] = [inputs[1], inputs[4]];
    let gain: Vec<f32> = inputs[2].iter().zip(inputs[3]).map(|(v, w)| w / (v + p.eps).sqrt()).collect();
    let rows = (16_384 / channels).max(1);
    let given = inputs[0].par_chunks(rows * channels);
    y.par_chunks_mut(rows * channels).zip(given).enumerate().for_each(|(i, (y, x))| {
        wide(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                    for c in 0..channels {
                        y[c] = (x[c] - mean[c]) * gain[c] + bias[c];
                    }
                }
            },
        );
        epilogue.apply(y, i * rows, channels, None, inputs[5]);
    });
}
