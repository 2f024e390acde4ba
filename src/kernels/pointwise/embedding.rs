//! Rows of a table by their numbers: token embeddings, relative position biases.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, Shader, element_grid};

params! {
    /// Elements of y.
    len: u32,
    /// Columns of the table.
    channels: u32,
    /// Rows of the table.
    entries: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "embedding",
    shaders: &[Shader::plain("embedding", wgsl!("pointwise/embedding"), &[INDEX], element_grid)],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y[0]),
    cpu: |p, x, y| compute(p, x, y[0]),
    cost: |_, inputs, output| {
        let count = |s: &[usize]| s.iter().product::<usize>() as f64;
        Cost { flops: 0.0, reads: count(inputs[0]) + count(output), writes: count(output) }
    },
    ..Kernel::PLAIN
};

/// Rows of table `[entries, C]` numbered by ids `[..]` (f32 whole numbers) → `[.., C]`.
pub fn embedding(g: &mut Graph, label: &str, ids: &Tensor, table: &Tensor) -> Tensor {
    let mut shape = ids.shape.clone();
    shape.push(table.channels());
    let len: usize = shape.iter().product();
    let p = Params { len: len as u32, channels: table.channels() as u32, entries: table.dim(0) as u32 };
    g.push(&KERNEL, label, p.bytes(), &[ids, table], &shape, Storage::Elem)
}

fn compute<T: Copy + Into<f64>>(params: &[u8], inputs: &[&[T]], y: &mut [T]) {
    let p = Params::read(params);
    let channels = p.channels as usize;
    for (y, id) in y.chunks_exact_mut(channels).zip(inputs[0]) {
        let entry = ((*id).into() as usize).min(p.entries as usize - 1);
        y.copy_from_slice(&inputs[1][entry * channels..][..channels]);
    }
}
