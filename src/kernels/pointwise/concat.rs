//! A network's input from f32 tensors: the sample, a conditioning picture beside it, repeated along the batch.

use crate::graph::split::parts;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::cut::columns;
use crate::kernels::sum_axis::sum_axis;
use crate::kernels::{Backward, Cost, INDEX, Kernel, Shader, element_grid, quad_grid};

params! {
    /// Elements of y.
    len: u32,
    /// Channels of a.
    in_a: u32,
    /// Channels of b, 0 if there is none.
    in_b: u32,
    /// Rows (pixels, tokens) of one item.
    rows: u32,
    /// Items of a.
    batch_a: u32,
    /// Items of b; 1 if there is none.
    batch_b: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "concat",
    shaders: &[
        Shader::plain("concat", wgsl!("pointwise/concat"), &[INDEX], element_grid),
        Shader::plain("concat_quads", wgsl!("pointwise/concat_quads"), &[INDEX], quad_grid).fitting(|p| {
            let p = Params::read(p);
            p.in_a.is_multiple_of(4) && p.in_b.is_multiple_of(4)
        }),
    ],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y[0]),
    cpu: |p, x, y| compute(p, x, y[0]),
    gradient: Some(gradient),
    split: Some(parts::concat),
    cost: |_, inputs, output| Cost::streaming(0.0, inputs, output),
    ..Kernel::PLAIN
};

/// a `[NA, .., A]` and b `[NB, .., B]` side by side, each repeated to `batch` items → `[batch, .., A + B]`.
#[track_caller]
pub fn concat(g: &mut Graph, label: &str, a: &Tensor, b: Option<&Tensor>, batch: usize) -> Tensor {
    let rows = a.rows() / a.dim(0);
    if let Some(b) = b {
        assert_eq!(b.rows() / b.dim(0), rows, "{label}: {:?} and {:?} differ in size", a.shape, b.shape);
        assert_eq!(batch % b.dim(0), 0, "{label}: batch {batch} of {:?}", b.shape);
    }
    assert_eq!(batch % a.dim(0), 0, "{label}: batch {batch} of {:?}", a.shape);
    let mut shape = a.shape.clone();
    let last = shape.len() - 1;
    shape[0] = batch;
    shape[last] = a.channels() + b.map_or(0, Tensor::channels);
    let len: usize = shape.iter().product();
    let p = Params {
        len: len as u32,
        in_a: a.channels() as u32,
        in_b: b.map_or(0, Tensor::channels) as u32,
        rows: rows as u32,
        batch_a: a.dim(0) as u32,
        batch_b: b.map_or(1, |b| b.dim(0)) as u32,
    };
    let empty = g.empty();
    g.push(&KERNEL, label, p.bytes(), &[a, b.unwrap_or(&empty)], &shape, Storage::Elem)
}

/// Each input's part of dy, summed over the items it was repeated for.
fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    let p = Params::read(&of.node.params);
    let (in_a, in_b, label) = (p.in_a as usize, p.in_b as usize, of.label());
    let parts = [(0, in_a, p.batch_a), (in_a, in_b, p.batch_b)];
    let gradients = parts.iter().enumerate().map(|(i, &(first, count, batch))| {
        of.wants[i].then(|| {
            let part = if in_b == 0 { of.dy.clone() } else { columns(g, &label, of.dy, first, count) };
            let once = batch as usize * p.rows as usize * count;
            let copies = part.len() / once;
            if copies == 1 { part } else { sum_axis(g, &label, &part, [1, copies, once], &[once]) }
        })
    });
    Ok(gradients.collect())
}

fn compute<T: Copy>(params: &[u8], inputs: &[&[T]], y: &mut [T]) {
    let p = Params::read(params);
    let (in_a, in_b, rows) = (p.in_a as usize, p.in_b as usize, p.rows as usize);
    for (row, y) in y.chunks_exact_mut(in_a + in_b).enumerate() {
        let (n, at) = (row / rows, row % rows);
        y[..in_a].copy_from_slice(&inputs[0][(n % p.batch_a as usize * rows + at) * in_a..][..in_a]);
        y[in_a..].copy_from_slice(&inputs[1][(n % p.batch_b as usize * rows + at) * in_b..][..in_b]);
    }
}
