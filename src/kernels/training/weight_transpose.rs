//! A weight that is trained, as the pass back reads it: `[cols, inner]` of a product's, flipped filters of a convolution's.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, Shader, fold_grid};
use rayon::prelude::*;

params! {
    /// Matrices.
    batch: u32,
    /// Rows of x.
    rows: u32,
    /// Columns of x.
    cols: u32,
    /// 1: the last matrix of x is y's first.
    reversed: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "weight_transpose",
    shaders: &[Shader::plain(
        "weight_transpose",
        wgsl!("training/weight_transpose"),
        &[INDEX],
        |params, _| {
            let p = Params::read(params);
            fold_grid(p.batch as usize * p.rows.div_ceil(16) as usize * p.cols.div_ceil(16) as usize)
        },
    )],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y[0]),
    cpu: |p, x, y| compute(p, x, y[0]),
    cost: |_, inputs, output| Cost::streaming(0.0, inputs, output),
    ..Kernel::PLAIN
};

/// x `[B, R, C]`, a weight, → `[B, C, R]`, its matrices in the other order if `reversed`: in a buffer of its own, which
/// products read as they read a weight.
#[track_caller]
pub fn weight_transpose(g: &mut Graph, label: &str, x: &Tensor, reversed: bool) -> Tensor {
    let &[batch, rows, cols] = &x.shape[..] else {
        panic!("{label}: [B, R, C] is needed, {:?} given", x.shape)
    };
    let p = Params { batch: batch as u32, rows: rows as u32, cols: cols as u32, reversed: reversed.into() };
    let name = format!("{} (turned) {}", g.path(label), g.nodes.len());
    let y = g.input(&name, &[batch, cols, rows], Storage::Weight);
    g.push_into(&KERNEL, label, p.bytes(), &[x], &[&y]);
    y
}

fn compute<T: Copy + Send + Sync>(params: &[u8], inputs: &[&[T]], y: &mut [T]) {
    let p = Params::read(params);
    let (batch, rows, cols) = (p.batch as usize, p.rows as usize, p.cols as usize);
    y.par_chunks_mut(rows).enumerate().with_min_len((4_096 / rows).max(1)).for_each(|(line, y)| {
        let matrix = if p.reversed != 0 { batch - 1 - line / cols } else { line / cols };
        let x = &inputs[0][matrix * rows * cols + line % cols..];
        for (y, x) in y.iter_mut().zip(x.iter().step_by(cols)) {
            *y = *x;
        }
    });
}
