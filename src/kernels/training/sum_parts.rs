//! Second pass of sums that were computed in parts.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, Shader, fold_grid};
use rayon::prelude::*;

params! {
    /// Parts.
    parts: u32,
    /// Elements of y.
    len: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "sum_parts",
    shaders: &[Shader::plain("sum_parts", wgsl!("training/sum_parts"), &[INDEX], |params, _| {
        fold_grid(Params::read(params).len.div_ceil(64) as usize)
    })],
    fields: Params::FIELDS,
    reference: |_, x, y| compute(x, y[0], f64::from),
    cpu: |_, x, y| compute(x, y[0], |sum| sum as f32),
    cost: |_, inputs, output| Cost::streaming(inputs[0].iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// The sum of the parts of x `[parts, ..]`, f32 → `shape`.
#[track_caller]
pub fn sum_parts(g: &mut Graph, label: &str, x: &Tensor, shape: &[usize]) -> Tensor {
    let parts = x.dim(0);
    assert_eq!(shape.iter().product::<usize>() * parts, x.len(), "{label}: parts {:?} to {shape:?}", x.shape);
    let p = Params { parts: parts as u32, len: (x.len() / parts) as u32 };
    g.push(&KERNEL, label, p.bytes(), &[x], shape, Storage::F32)
}

fn compute<T: Copy + Into<f64> + Send + Sync>(inputs: &[&[T]], y: &mut [T], rounded: fn(f64) -> T) {
    let len = y.len();
    y.par_iter_mut().with_min_len(4096).enumerate().for_each(|(i, y)| {
        *y = rounded(inputs[0][i..].iter().step_by(len).map(|v| -> f64 { (*v).into() }).sum());
    });
}
