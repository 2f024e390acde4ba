//! Sums of what stays f32: gradients of a weight that is read in several places.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, Shader, fold_grid};
use rayon::prelude::*;

params! {
    /// Elements.
    len: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "add_f32",
    shaders: &[Shader::plain("add_f32", wgsl!("training/add_f32"), &[INDEX], |params, _| {
        fold_grid(Params::read(params).len.div_ceil(64) as usize)
    })],
    fields: Params::FIELDS,
    reference: |_, x, y| y[0].iter_mut().zip(x[0]).zip(x[1]).for_each(|((y, a), b)| *y = a + b),
    cpu: |_, x, y| {
        let of = y[0].par_iter_mut().zip(x[0]).zip(x[1]).with_min_len(16_384);
        of.for_each(|((y, a), b)| *y = a + b);
    },
    gradient: Some(|_, of| Ok(of.wants.iter().map(|wanted| wanted.then(|| of.dy.clone())).collect())),
    cost: |_, inputs, output| Cost::streaming(output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// a + b, both in f32 and of one size → a's shape.
#[track_caller]
pub fn add_f32(g: &mut Graph, label: &str, a: &Tensor, b: &Tensor) -> Tensor {
    assert_eq!(a.len(), b.len(), "{label}: {:?} and {:?}", a.shape, b.shape);
    g.push(&KERNEL, label, Params { len: a.len() as u32 }.bytes(), &[a, b], &a.shape, Storage::F32)
}
