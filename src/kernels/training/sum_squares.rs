//! Squares of a gradient, added up in parts: what the norm of all gradients is made of.

use crate::graph::{Graph, Tensor};
use crate::kernels::{Cost, Kernel, REDUCE, REDUCE_SUBGROUP, Shader};
use rayon::prelude::*;

params! {
    /// Elements of x.
    len: u32,
    /// Parts of x.
    parts: u32,
    /// Place of the first part's sum.
    first: u32,
}

/// Elements of a part, at least.
const LEAST: usize = 4_096;
/// Most parts.
const PARTS: usize = 64;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "sum_squares",
    shaders: &[
        Shader::plain("sum_squares", wgsl!("training/sum_squares"), &[REDUCE], grid),
        Shader::narrow("sum_squares_subgroup", wgsl!("training/sum_squares"), &[REDUCE_SUBGROUP], grid),
    ],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y[0], f64::from),
    cpu: |p, x, y| compute(p, x, y[0], |v| v as f32),
    cost: |_, inputs, _| {
        let count = inputs[0].iter().product::<usize>() as f64;
        Cost { flops: 2.0 * count, reads: count, writes: 1.0 }
    },
    ..Kernel::PLAIN
};

/// A workgroup for every part.
fn grid(params: &[u8], _: &[usize]) -> [u32; 3] {
    [Params::read(params).parts, 1, 1]
}

/// How many sums x of `len` elements has.
pub fn parts(len: usize) -> usize {
    (len / LEAST).clamp(1, PARTS)
}

/// The [sums](parts) of x, f32, at `first` and behind it in the graph's f32 input y.
#[track_caller]
pub fn sum_squares(g: &mut Graph, label: &str, x: &Tensor, y: &Tensor, first: usize) {
    let parts = parts(x.len());
    assert!(first + parts <= y.len(), "{label}: {parts} sums from {first} of {:?}", y.shape);
    let p = Params { len: x.len() as u32, parts: parts as u32, first: first as u32 };
    g.push_into(&KERNEL, label, p.bytes(), &[x], &[y]);
}

fn compute<T: Copy + Into<f64> + Send + Sync>(
    params: &[u8],
    inputs: &[&[T]],
    y: &mut [T],
    rounded: fn(f64) -> T,
) {
    let p = Params::read(params);
    let square = |v: &T| {
        let v: f64 = (*v).into();
        v * v
    };
    let parts = inputs[0].par_chunks(p.len.div_ceil(p.parts) as usize);
    let y = y[p.first as usize..].par_iter_mut();
    y.zip(parts).for_each(|(y, x)| *y = rounded(x.iter().map(square).sum()));
}
