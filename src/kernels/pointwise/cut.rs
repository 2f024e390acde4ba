//! A part of an axis, and its gradient: the same part among zeros.

use crate::graph::split::parts;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Backward, Cost, INDEX, Kernel, Shader, element_grid, quad_grid};
use rayon::prelude::*;

params! {
    /// Elements of y.
    len: u32,
    /// Columns of x: the axis and all dimensions after it.
    from_cols: u32,
    /// Columns of y.
    to_cols: u32,
    /// Column of x that is y's first; before x's first where the sum with a column wraps to less.
    shift: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "cut",
    shaders: &[
        Shader::plain("cut", wgsl!("pointwise/cut"), &[INDEX], element_grid),
        Shader::plain("cut_quads", wgsl!("pointwise/cut_quads"), &[INDEX], quad_grid).fitting(|p| {
            let p = Params::read(p);
            [p.from_cols, p.to_cols, p.shift].iter().all(|n| n.is_multiple_of(4))
        }),
    ],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y[0]),
    cpu: |p, x, y| compute(p, x, y[0]),
    gradient: Some(gradient),
    split: Some(parts::cut),
    cost: |_, inputs, output| {
        let count = |s: &[usize]| s.iter().product::<usize>() as f64;
        Cost { flops: 0.0, reads: count(inputs[0]).min(count(output)), writes: count(output) }
    },
    ..Kernel::PLAIN
};

/// Indices `first` to `first + count` of dimension `axis` of x.
#[track_caller]
pub fn cut(g: &mut Graph, label: &str, x: &Tensor, axis: usize, first: usize, count: usize) -> Tensor {
    assert!(count > 0 && first + count <= x.dim(axis), "{label}: {count} from {first} of {:?}", x.shape);
    let inner: usize = x.shape[axis + 1..].iter().product();
    record(g, label, x, axis, count, (first * inner) as u32)
}

/// x among zeros: dimension `axis` of x becomes `size`, with x from `first` on. The gradient of [`cut`].
#[track_caller]
pub fn place(g: &mut Graph, label: &str, x: &Tensor, axis: usize, first: usize, size: usize) -> Tensor {
    assert!(first + x.dim(axis) <= size, "{label}: {:?} from {first} of {size}", x.shape);
    let inner: usize = x.shape[axis + 1..].iter().product();
    record(g, label, x, axis, size, 0_u32.wrapping_sub((first * inner) as u32))
}

/// Columns `first` to `first + count` of x `[.., C]`.
#[track_caller]
pub fn columns(g: &mut Graph, label: &str, x: &Tensor, first: usize, count: usize) -> Tensor {
    cut(g, label, x, x.shape.len() - 1, first, count)
}

fn record(g: &mut Graph, label: &str, x: &Tensor, axis: usize, size: usize, shift: u32) -> Tensor {
    let inner: usize = x.shape[axis + 1..].iter().product();
    let mut shape = x.shape.clone();
    shape[axis] = size;
    let len: usize = shape.iter().product();
    let p = Params {
        len: len as u32,
        from_cols: (x.dim(axis) * inner) as u32,
        to_cols: (size * inner) as u32,
        shift,
    };
    g.push(&KERNEL, label, p.bytes(), &[x], &shape, Storage::Elem)
}

fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    let p = Params::read(&of.node.params);
    let [from, to] = [p.from_cols, p.to_cols].map(|n| n as usize);
    let dy = g.reshape(of.dy, &[of.dy.len() / to, to]);
    Ok(vec![Some(record(g, &of.label(), &dy, 1, from, 0_u32.wrapping_sub(p.shift)))])
}

fn compute<T: Copy + Default + Send + Sync>(params: &[u8], inputs: &[&[T]], y: &mut [T]) {
    let p = Params::read(params);
    let (from, to, shift) = (p.from_cols as usize, p.to_cols as usize, p.shift as i32 as i64);
    // Columns of y that x has.
    let first = (-shift).clamp(0, to as i64) as usize;
    let end = (from as i64 - shift).clamp(first as i64, to as i64) as usize;
    let rows = (16_384 / to).max(1);
    let given = inputs[0].par_chunks(rows * from);
    y.par_chunks_mut(rows * to).zip(given).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(to).zip(x.chunks_exact(from)) {
            y[..first].fill(T::default());
            y[end..].fill(T::default());
            if first < end {
                let start = (first as i64 + shift) as usize;
                y[first..end].copy_from_slice(&x[start..][..end - first]);
            }
        }
    });
}
