//! Rows and columns exchanged.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Backward, Cost, INDEX, Kernel, Shader, fold_grid};
use rayon::prelude::*;

params! {
    /// Matrices.
    batch: u32,
    /// Rows of x.
    rows: u32,
    /// Columns of x.
    cols: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "transpose",
    shaders: &[Shader::plain("transpose", wgsl!("pointwise/transpose"), &[INDEX], grid)],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y[0]),
    cpu: |p, x, y| compute(p, x, y[0]),
    gradient: Some(gradient),
    cost: |_, inputs, output| Cost::streaming(0.0, inputs, output),
    ..Kernel::PLAIN
};

/// A workgroup for every 8 by 8 elements.
fn grid(params: &[u8], _: &[usize]) -> [u32; 3] {
    let p = Params::read(params);
    let [batch, rows, cols] = [p.batch, p.rows, p.cols].map(|n| n as usize);
    fold_grid(batch * rows.div_ceil(8) * cols.div_ceil(8))
}

/// x `[B, R, C]` → `[B, C, R]`.
#[track_caller]
pub fn transpose(g: &mut Graph, label: &str, x: &Tensor) -> Tensor {
    let &[batch, rows, cols] = &x.shape[..] else {
        panic!("{label}: [B, R, C] is needed, {:?} given", x.shape)
    };
    let p = Params { batch: batch as u32, rows: rows as u32, cols: cols as u32 };
    g.push(&KERNEL, label, p.bytes(), &[x], &[batch, cols, rows], Storage::Elem)
}

fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    let p = Params::read(&of.node.params);
    let dy = g.reshape(of.dy, &[p.batch as usize, p.cols as usize, p.rows as usize]);
    Ok(vec![Some(transpose(g, &of.label(), &dy))])
}

fn compute<T: Copy + Send + Sync>(params: &[u8], inputs: &[&[T]], y: &mut [T]) {
    let p = Params::read(params);
    let (rows, cols) = (p.rows as usize, p.cols as usize);
    y.par_chunks_mut(rows).enumerate().with_min_len((4_096 / rows).max(1)).for_each(|(line, y)| {
        let x = &inputs[0][line / cols * rows * cols + line % cols..];
        for (y, x) in y.iter_mut().zip(x.iter().step_by(cols)) {
            *y = *x;
        }
    });
}
