//! Gradients of one batch after another added up, in place.

use crate::graph::{Graph, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, Shader, fold_grid};
use rayon::prelude::*;

params! {
    /// Elements.
    len: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "accumulate",
    shaders: &[Shader::plain("accumulate", wgsl!("training/accumulate"), &[INDEX], |params, _| {
        fold_grid(Params::read(params).len.div_ceil(64) as usize)
    })],
    fields: Params::FIELDS,
    reference: |_, x, y| y[0].iter_mut().zip(x[0]).for_each(|(y, x)| *y += x),
    cpu: |_, x, y| y[0].par_iter_mut().zip(x[0]).with_min_len(16_384).for_each(|(y, x)| *y += x),
    cost: |_, inputs, output| Cost::streaming(output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// y += x for the f32 input y of the graph, of x's size.
#[track_caller]
pub fn accumulate(g: &mut Graph, label: &str, x: &Tensor, y: &Tensor) {
    assert_eq!(x.len(), y.len(), "{label}: {:?} added to {:?}", x.shape, y.shape);
    g.push_into(&KERNEL, label, Params { len: x.len() as u32 }.bytes(), &[x], &[y]);
}
