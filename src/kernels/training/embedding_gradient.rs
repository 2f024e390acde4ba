//! The gradient of an [embedding](crate::kernels::embedding) at its table.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, Shader, element_grid};
use rayon::prelude::*;

params! {
    /// Elements of y.
    len: u32,
    /// Columns of the table.
    channels: u32,
    /// Rows of the table.
    entries: u32,
    /// Ids.
    count: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "embedding_gradient",
    shaders: &[Shader::plain(
        "embedding_gradient",
        wgsl!("training/embedding_gradient"),
        &[INDEX],
        element_grid,
    )],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    cost: |_, inputs, output| Cost::streaming(inputs[1].iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// ids `[..]` and the gradient dy `[.., C]` of their rows → that of the table, `[entries, C]` in f32.
#[track_caller]
pub fn embedding_gradient(g: &mut Graph, label: &str, ids: &Tensor, dy: &Tensor, entries: usize) -> Tensor {
    let channels = dy.channels();
    assert_eq!(dy.rows(), ids.len(), "{label}: {:?} for ids {:?}", dy.shape, ids.shape);
    let p = Params {
        len: (entries * channels) as u32,
        channels: channels as u32,
        entries: entries as u32,
        count: ids.len() as u32,
    };
    g.push(&KERNEL, label, p.bytes(), &[ids, dy], &[entries, channels], Storage::F32)
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let channels = p.channels as usize;
    y.fill(0.0);
    for (id, dy) in inputs[0].iter().zip(inputs[1].chunks_exact(channels)) {
        let entry = (*id as usize).min(p.entries as usize - 1);
        y[entry * channels..][..channels].iter_mut().zip(dy).for_each(|(y, dy)| *y += dy);
    }
}

/// Blocks of rows of the table, each from all ids, in their order.
fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (channels, last) = (p.channels as usize, p.entries as usize - 1);
    let rows = (p.entries as usize).div_ceil(4 * rayon::current_num_threads());
    y.par_chunks_mut(rows * channels).enumerate().for_each(|(block, y)| {
        y.fill(0.0);
        for (id, dy) in inputs[0].iter().zip(inputs[1].chunks_exact(channels)) {
            let entry = (*id as usize).min(last);
            if entry / rows == block {
                let y = &mut y[entry % rows * channels..][..channels];
                y.iter_mut().zip(dy).for_each(|(y, dy)| *y += dy);
            }
        }
    });
}
