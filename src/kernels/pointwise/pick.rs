//! One column of each row, by number: the logit of a picture's class; and its gradient, a value at that column.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Backward, Cost, INDEX, Kernel, Shader, element_grid};

params! {
    /// Elements of y.
    len: u32,
    /// Columns.
    cols: u32,
    /// 1: x holds a value for each row, y the rows.
    scattered: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "pick",
    shaders: &[Shader::plain("pick", wgsl!("pointwise/pick"), &[INDEX], element_grid)],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y[0]),
    cpu: |p, x, y| compute(p, x, y[0]),
    gradient: Some(gradient),
    cost: |_, inputs, output| {
        let count = |s: &[usize]| s.iter().product::<usize>() as f64;
        Cost { flops: 0.0, reads: 2.0 * count(inputs[1]), writes: count(output) }
    },
    ..Kernel::PLAIN
};

/// Column `index[r]` of each row r of x `[.., C]` → `[..]`. Indices are f32 whole numbers; those beyond the last column
/// are the last.
#[track_caller]
pub fn pick(g: &mut Graph, label: &str, x: &Tensor, index: &Tensor) -> Tensor {
    assert_eq!(x.rows(), index.len(), "{label}: rows of {:?} by indices {:?}", x.shape, index.shape);
    record(g, label, x, index, &x.shape[..x.shape.len() - 1], x.channels(), false)
}

/// `[.., cols]` with `x[r]` at column `index[r]` of row r, 0 elsewhere: the gradient of [`pick`].
#[track_caller]
pub fn scatter(g: &mut Graph, label: &str, x: &Tensor, index: &Tensor, cols: usize) -> Tensor {
    assert_eq!(x.len(), index.len(), "{label}: {:?} by indices {:?}", x.shape, index.shape);
    let shape = [&x.shape[..], &[cols]].concat();
    record(g, label, x, index, &shape, cols, true)
}

fn record(
    g: &mut Graph,
    label: &str,
    x: &Tensor,
    index: &Tensor,
    shape: &[usize],
    cols: usize,
    scattered: bool,
) -> Tensor {
    let len: usize = shape.iter().product();
    let p = Params { len: len as u32, cols: cols as u32, scattered: scattered.into() };
    g.push(&KERNEL, label, p.bytes(), &[x, index], shape, Storage::Elem)
}

fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    of.refuse(&[(1, "the indices")])?;
    let p = Params::read(&of.node.params);
    let (index, cols, label) = (of.input(g, 1), p.cols as usize, of.label());
    let dx = if p.scattered == 0 {
        scatter(g, &label, of.dy, &index, cols)
    } else {
        let dy = g.reshape(of.dy, &[of.dy.len() / cols, cols]);
        pick(g, &label, &dy, &index)
    };
    Ok(vec![Some(dx), None])
}

fn compute<T: Copy + Default + Into<f64>>(params: &[u8], inputs: &[&[T]], y: &mut [T]) {
    let p = Params::read(params);
    let cols = p.cols as usize;
    let (x, index) = (inputs[0], inputs[1].iter().map(|&at| (at.into() as usize).min(cols - 1)));
    if p.scattered == 0 {
        for ((y, x), at) in y.iter_mut().zip(x.chunks_exact(cols)).zip(index) {
            *y = x[at];
        }
    } else {
        for ((y, x), at) in y.chunks_exact_mut(cols).zip(x).zip(index) {
            y.fill(T::default());
            y[at] = *x;
        }
    }
}
