//! L_simple: the weighted mean squared error of each item's prediction (Ho et al. 2020, arXiv:2006.11239, eq. 14).

use super::squared_error_gradient::squared_error_gradient;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Backward, Cost, Kernel, REDUCE, REDUCE_SUBGROUP, Shader};
use rayon::prelude::*;

params! {
    /// Compared elements of an item.
    item: u32,
    /// Channels that are compared.
    channels: u32,
    /// Channels of the output.
    out_channels: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "squared_error",
    shaders: &[
        Shader::plain("squared_error", wgsl!("training/squared_error"), &[REDUCE], grid),
        Shader::narrow("squared_error_subgroup", wgsl!("training/squared_error"), &[REDUCE_SUBGROUP], grid),
    ],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y[0], f64::from),
    cpu: |p, x, y| compute(p, x, y[0], |v| v as f32),
    gradient: Some(gradient),
    cost: |_, inputs, output| {
        Cost::streaming(3.0 * inputs[1].iter().product::<usize>() as f64, inputs, output)
    },
    ..Kernel::PLAIN
};

/// A workgroup for every item.
fn grid(_: &[u8], output: &[usize]) -> [u32; 3] {
    [output[0] as u32, 1, 1]
}

/// w · mean (out − goal)² of each item over the first channels of out `[N, .., OC]`, as many as goal `[N, .., C]` in f32
/// has; w `[N]` → `[N]` in f32.
#[track_caller]
pub fn squared_error(g: &mut Graph, label: &str, out: &Tensor, goal: &Tensor, w: &Tensor) -> Tensor {
    let n = out.dim(0);
    assert_eq!(out.rows(), goal.rows(), "{label}: {:?} for {:?}", out.shape, goal.shape);
    assert!(goal.channels() <= out.channels() && w.len() == n, "{label}: {:?}, w {:?}", out.shape, w.shape);
    let p = Params {
        item: (goal.len() / n) as u32,
        channels: goal.channels() as u32,
        out_channels: out.channels() as u32,
    };
    g.push(&KERNEL, label, p.bytes(), &[out, goal, w], &[n], Storage::F32)
}

fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    of.refuse(&[(1, "the goal"), (2, "the weight of the loss")])?;
    let p = Params::read(&of.node.params);
    let [out, goal, w] = [0, 1, 2].map(|i| of.input(g, i));
    let out = g.reshape(&out, &[out.len() / p.out_channels as usize, p.out_channels as usize]);
    let goal = g.reshape(&goal, &[goal.len() / p.channels as usize, p.channels as usize]);
    Ok(vec![Some(squared_error_gradient(g, &of.label(), &out, &goal, &w, of.dy)), None, None])
}

fn compute<T: Copy + Into<f64> + Send + Sync>(
    params: &[u8],
    inputs: &[&[T]],
    y: &mut [T],
    rounded: fn(f64) -> T,
) {
    let p = Params::read(params);
    let (item, channels, all) = (p.item as usize, p.channels as usize, p.out_channels as usize);
    y.par_iter_mut().enumerate().for_each(|(n, y)| {
        let out = inputs[0][n * item / channels * all..].chunks_exact(all);
        let goal = inputs[1][n * item..][..item].chunks_exact(channels);
        let error = |(out, goal): (&T, &T)| ((*out).into() - (*goal).into()).powi(2);
        let sum: f64 = out.zip(goal).flat_map(|(out, goal)| out.iter().zip(goal).map(error)).sum();
        *y = rounded(inputs[2][n].into() * sum / item as f64);
    });
}
