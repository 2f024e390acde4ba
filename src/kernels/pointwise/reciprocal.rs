//! Reciprocals of what is no less than zero: what makes differences shares of a size.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, Shader, element_grid};

params! {
    /// Elements of x and y.
    len: u32,
    /// Below this, x is this.
    least: f32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "reciprocal",
    shaders: &[Shader::plain("reciprocal", wgsl!("pointwise/reciprocal"), &[INDEX], element_grid)],
    fields: Params::FIELDS,
    reference: |p, x, y| {
        let least = f64::from(Params::read(p).least);
        y[0].iter_mut().zip(x[0]).for_each(|(y, x)| *y = 1.0 / x.max(least));
    },
    cpu: |p, x, y| {
        let least = Params::read(p).least;
        y[0].iter_mut().zip(x[0]).for_each(|(y, x)| *y = 1.0 / x.max(least));
    },
    cost: |_, inputs, output| Cost::streaming(output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// 1 / max(x, least), any shape, in f32.
#[track_caller]
pub fn reciprocal(g: &mut Graph, label: &str, x: &Tensor, least: f32) -> Tensor {
    assert!(least > 0.0, "{label}: no less than {least}");
    let p = Params { len: x.len() as u32, least };
    g.push(&KERNEL, label, p.bytes(), &[x], &x.shape, Storage::F32)
}
