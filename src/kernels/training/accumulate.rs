//! Gradients of one batch after another added up, in place.

use crate::graph::{Graph, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, Shader, element_grid};
use rayon::prelude::*;

params! {
    /// Elements.
    len: u32,
    /// Factor of what is there: 0 begins anew.
    keep: f32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "accumulate",
    shaders: &[Shader::plain("accumulate", wgsl!("training/accumulate"), &[INDEX], element_grid)],
    fields: Params::FIELDS,
    reference: |p, x, y| {
        let keep = f64::from(Params::read(p).keep);
        y[0].iter_mut().zip(x[0]).for_each(|(y, x)| *y = if keep == 0.0 { *x } else { keep * *y + x });
    },
    cpu: |p, x, y| {
        let keep = Params::read(p).keep;
        let sum = |(y, x): (&mut f32, &f32)| *y = if keep == 0.0 { *x } else { keep * *y + x };
        y[0].par_iter_mut().zip(x[0]).with_min_len(16_384).for_each(sum);
    },
    cost: |_, inputs, output| Cost::streaming(2.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// y ← keep · y + x for the f32 input y of the graph, of x's size.
#[track_caller]
pub fn accumulate(g: &mut Graph, label: &str, x: &Tensor, y: &Tensor, keep: f32) {
    assert_eq!(x.len(), y.len(), "{label}: {:?} added to {:?}", x.shape, y.shape);
    g.push_into(&KERNEL, label, Params { len: x.len() as u32, keep }.bytes(), &[x], &[y]);
}
