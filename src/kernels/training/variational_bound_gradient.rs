//! The gradient of [`variational_bound`](crate::kernels::variational_bound) at the network's output.

use super::variational_bound::{self, LEAST, NUMBERS, TERM, Term, density};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, Shader, fold_grid};
use rayon::prelude::*;

params! {
    /// Elements of x₀.
    len: u32,
    /// Elements of an item.
    item: u32,
    /// Channels of x₀.
    channels: u32,
    /// Channels of the output.
    out_channels: u32,
    /// 1 if the output holds the variance's share behind the prediction.
    learned: u32,
    /// 1: nothing goes to the prediction.
    held: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "variational_bound_gradient",
    shaders: &[Shader::plain(
        "variational_bound_gradient",
        wgsl!("training/variational_bound_gradient"),
        &[INDEX, TERM],
        |params, _| fold_grid(Params::read(params).len.div_ceil(64) as usize),
    )],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y[0], f64::from),
    cpu: |p, x, y| compute(p, x, y[0], |v| v as f32),
    cost: |_, inputs, output| {
        Cost::streaming(40.0 * inputs[1].iter().product::<usize>() as f64, inputs, output)
    },
    ..Kernel::PLAIN
};

/// Given the bound's inputs and dy `[N]` in f32 → out's shape. Nothing goes to the prediction where it is `held`.
pub fn variational_bound_gradient(
    g: &mut Graph,
    label: &str,
    [out, x0, x_t, numbers]: &[Tensor; 4],
    dy: &Tensor,
    of: &variational_bound::Params,
    held: bool,
) -> Tensor {
    let p = Params {
        len: x0.len() as u32,
        item: of.item,
        channels: of.channels,
        out_channels: of.out_channels,
        learned: of.learned,
        held: held.into(),
    };
    g.push(&KERNEL, label, p.bytes(), &[out, x0, x_t, numbers, dy], &out.shape, Storage::Elem)
}

fn compute<T: Copy + Into<f64> + Send + Sync>(
    params: &[u8],
    inputs: &[&[T]],
    y: &mut [T],
    rounded: fn(f64) -> T,
) {
    let p = Params::read(params);
    let (item, channels, all) = (p.item as usize, p.channels as usize, p.out_channels as usize);
    let of = variational_bound::Params {
        item: p.item,
        channels: p.channels,
        out_channels: p.out_channels,
        learned: p.learned,
    };
    y.par_chunks_mut(all).enumerate().for_each(|(row, y)| {
        for channel in 0..channels {
            let at = row * channels + channel;
            let n = at / item;
            let c: [f64; NUMBERS] = std::array::from_fn(|i| inputs[3][n * NUMBERS + i].into());
            let t = Term::new(&of, inputs, at);
            let (by_mean, by_log_variance) = if c[6] != 0.0 {
                let bin = t.bin();
                let upper = if t.x0 > 0.999 { 0.0 } else { density(bin.upper) };
                let lower = if t.x0 < -0.999 { 0.0 } else { density(bin.lower) };
                let over_deviation = (-0.5 * t.log_variance).exp();
                match bin.mass > LEAST {
                    true => (
                        over_deviation * (upper - lower) / bin.mass,
                        0.5 * (upper * bin.upper - lower * bin.lower) / bin.mass,
                    ),
                    false => (0.0, 0.0),
                }
            } else {
                let (d, precision) = (t.true_mean - t.mean, (-t.log_variance).exp());
                (-d * precision, 0.5 * (1.0 - (c[4] - t.log_variance).exp() - d * d * precision))
            };
            let factor = inputs[4][n].into() * c[7] / (item as f64 * std::f64::consts::LN_2);
            y[channel] = rounded(if p.held != 0 { 0.0 } else { factor * by_mean * c[2] * c[1] });
            if p.learned != 0 {
                y[channels + channel] = rounded(factor * by_log_variance * 0.5 * (c[5] - c[4]));
            }
        }
    });
}
