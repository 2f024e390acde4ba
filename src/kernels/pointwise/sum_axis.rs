//! Sums and means over one dimension, and their gradient, a value spread along it.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::simd::wide;
use crate::kernels::{Backward, Cost, INDEX, Kernel, Shader, element_grid};
use rayon::prelude::*;

params! {
    /// Elements of y.
    len: u32,
    /// Size of the dimension.
    count: u32,
    /// Product of the dimensions after it.
    inner: u32,
    /// 1: x lacks the dimension, y has it.
    spread: u32,
    /// Factor of the sums.
    scale: f32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "sum_axis",
    shaders: &[Shader::plain("sum_axis", wgsl!("pointwise/sum_axis"), &[INDEX], element_grid)],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    gradient: Some(gradient),
    cost: |_, inputs, output| Cost::streaming(inputs[0].iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// Σ_k x[o, k, i] for x seen as `[outer, count, inner]` → `shape`, of outer · inner elements.
#[track_caller]
pub fn sum_axis(g: &mut Graph, label: &str, x: &Tensor, seen: [usize; 3], shape: &[usize]) -> Tensor {
    let [outer, count, inner] = seen;
    assert_eq!(x.len(), outer * count * inner, "{label}: {:?} seen as {seen:?}", x.shape);
    assert_eq!(shape.iter().product::<usize>(), outer * inner, "{label}: the sums of {seen:?} as {shape:?}");
    record(g, label, x, shape, [count, inner], false, 1.0)
}

/// Sums of every `share` rows of x `[.., C]` that follow each other → `[rows / share, C]`.
#[track_caller]
pub fn sum_rows(g: &mut Graph, label: &str, x: &Tensor, share: usize) -> Tensor {
    of_rows(g, label, x, share, 1.0)
}

/// Means of every `share` rows of x `[.., C]` that follow each other → `[rows / share, C]`.
#[track_caller]
pub fn mean_rows(g: &mut Graph, label: &str, x: &Tensor, share: usize) -> Tensor {
    of_rows(g, label, x, share, 1.0 / share as f32)
}

#[track_caller]
fn of_rows(g: &mut Graph, label: &str, x: &Tensor, share: usize, scale: f32) -> Tensor {
    assert!(x.rows().is_multiple_of(share), "{label}: {:?} by {share} rows", x.shape);
    record(g, label, x, &[x.rows() / share, x.channels()], [share, x.channels()], false, scale)
}

/// x[o, i] · scale at each of `count` k, of x seen as `[outer, inner]` → `[outer, count, inner]`: the gradient of a sum.
#[track_caller]
pub fn spread_axis(g: &mut Graph, label: &str, x: &Tensor, count: usize, inner: usize, scale: f32) -> Tensor {
    assert!(x.len().is_multiple_of(inner), "{label}: {:?} in rows of {inner}", x.shape);
    record(g, label, x, &[x.len() / inner, count, inner], [count, inner], true, scale)
}

fn record(
    g: &mut Graph,
    label: &str,
    x: &Tensor,
    shape: &[usize],
    [count, inner]: [usize; 2],
    spread: bool,
    scale: f32,
) -> Tensor {
    let len: usize = shape.iter().product();
    let p =
        Params { len: len as u32, count: count as u32, inner: inner as u32, spread: spread.into(), scale };
    g.push(&KERNEL, label, p.bytes(), &[x], shape, Storage::Elem)
}

fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    let p = Params::read(&of.node.params);
    let (count, inner) = (p.count as usize, p.inner as usize);
    let x = of.input(g, 0);
    Ok(vec![Some(record(g, &of.label(), of.dy, &x.shape, [count, inner], p.spread == 0, p.scale))])
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let (count, inner, scale) = (p.count as usize, p.inner as usize, f64::from(p.scale));
    for (i, y) in y.iter_mut().enumerate() {
        let (row, col) = (i / inner, i % inner);
        *y = scale
            * if p.spread != 0 {
                inputs[0][row / count * inner + col]
            } else {
                (0..count).map(|k| inputs[0][(row * count + k) * inner + col]).sum()
            };
    }
}

/// Columns that a thread takes at a time.
const COLUMNS: usize = 4_096;

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (count, inner, x) = (p.count as usize, p.inner as usize, inputs[0]);
    if p.spread != 0 {
        y.par_chunks_mut(inner).enumerate().with_min_len((COLUMNS / inner).max(1)).for_each(|(row, y)| {
            y.iter_mut().zip(&x[row / count * inner..]).for_each(|(y, x)| *y = x * p.scale);
        });
        return;
    }
    if inner == 1 {
        y.par_iter_mut().zip(x.par_chunks(count)).for_each(|(y, x)| {
            *y = x.iter().map(|v| f64::from(*v)).sum::<f64>() as f32 * p.scale;
        });
        return;
    }
    y.par_chunks_mut(inner).zip(x.par_chunks(count * inner)).for_each(|(y, x)| {
        y.par_chunks_mut(COLUMNS).enumerate().for_each(|(i, y)| {
            wide(
                #[inline(always)]
                || {
                    y.fill(0.0);
                    for row in x.chunks_exact(inner) {
                        for (y, x) in y.iter_mut().zip(&row[i * COLUMNS..]) {
                            *y += x;
                        }
                    }
                    for y in y {
                        *y *= p.scale;
                    }
                },
            );
        });
    });
}
