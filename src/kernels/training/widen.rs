//! Activations to f32.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::elementwise::as_elem;
use crate::kernels::{Cost, INDEX, Kernel, Shader, fold_grid};

params! {
    /// Elements.
    len: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "widen",
    shaders: &[Shader::plain("widen", wgsl!("training/widen"), &[INDEX], |params, _| {
        fold_grid(Params::read(params).len.div_ceil(64) as usize)
    })],
    fields: Params::FIELDS,
    reference: |_, x, y| y[0].copy_from_slice(x[0]),
    cpu: |_, x, y| y[0].copy_from_slice(x[0]),
    gradient: Some(|g, of| Ok(vec![Some(as_elem(g, of.dy))])),
    cost: |_, inputs, output| Cost::streaming(0.0, inputs, output),
    ..Kernel::PLAIN
};

/// x in f32; what is there already.
pub fn widen(g: &mut Graph, label: &str, x: &Tensor) -> Tensor {
    match g.info(x.id).storage {
        Storage::F32 => x.clone(),
        _ => g.push(&KERNEL, label, Params { len: x.len() as u32 }.bytes(), &[x], &x.shape, Storage::F32),
    }
}
