//! The gradient of [`squared_error`](crate::kernels::squared_error) at the prediction.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, Shader, element_grid};
use rayon::prelude::*;

params! {
    /// Elements of the output.
    len: u32,
    /// Compared elements of an item.
    item: u32,
    /// Channels that are compared.
    channels: u32,
    /// Channels of the output.
    out_channels: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "squared_error_gradient",
    shaders: &[Shader::plain(
        "squared_error_gradient",
        wgsl!("training/squared_error_gradient"),
        &[INDEX],
        element_grid,
    )],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y[0], f64::from),
    cpu: |p, x, y| compute(p, x, y[0], |v| v as f32),
    cost: |_, inputs, output| Cost::streaming(4.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// At out `[.., OC]`, given goal `[.., C]`, w and dy `[N]`, all but out in f32 → out's shape.
pub fn squared_error_gradient(
    g: &mut Graph,
    label: &str,
    out: &Tensor,
    goal: &Tensor,
    w: &Tensor,
    dy: &Tensor,
) -> Tensor {
    let p = Params {
        len: out.len() as u32,
        item: (goal.len() / w.len()) as u32,
        channels: goal.channels() as u32,
        out_channels: out.channels() as u32,
    };
    g.push(&KERNEL, label, p.bytes(), &[out, goal, w, dy], &out.shape, Storage::Elem)
}

fn compute<T: Copy + Into<f64> + Send + Sync>(
    params: &[u8],
    inputs: &[&[T]],
    y: &mut [T],
    rounded: fn(f64) -> T,
) {
    let p = Params::read(params);
    let (item, channels, all) = (p.item as usize, p.channels as usize, p.out_channels as usize);
    y.par_chunks_mut(all).with_min_len((4_096 / all).max(1)).enumerate().for_each(|(row, y)| {
        let n = row / (item / channels);
        let factor = 2.0 * inputs[3][n].into() * inputs[2][n].into() / item as f64;
        for (c, y) in y.iter_mut().enumerate() {
            let difference =
                |c: usize| inputs[0][row * all + c].into() - inputs[1][row * channels + c].into();
            *y = rounded(if c < channels { factor * difference(c) } else { 0.0 });
        }
    });
}
