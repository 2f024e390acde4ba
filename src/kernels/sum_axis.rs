//! Sums over one dimension: what the gradient of a tensor that was read several times over is.

use super::simd::wide;
use super::{Cost, INDEX, Kernel, Shader, element_grid};
use crate::graph::{Call, Graph, Storage, Tensor};
use rayon::prelude::*;

params! {
    /// Elements of y.
    len: u32,
    /// Summed elements of x for each of y.
    count: u32,
    /// Product of the dimensions after the summed one.
    inner: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "sum_axis",
    shaders: &[Shader::plain("sum_axis", include_str!("../../shaders/sum_axis.wgsl"), &[INDEX], element_grid)],
    fields: Params::FIELDS,
    epilogue: false,
    reference,
    cpu,
    gradient: None,
    cost: |_, inputs, output| Cost::streaming(inputs[0].iter().product::<usize>() as f64, inputs, output),
};

/// Σ_k x[o, k, i] for x seen as `[outer, count, inner]` → `shape`, of outer · inner elements.
#[track_caller]
pub fn sum_axis(g: &mut Graph, label: &str, x: &Tensor, seen: [usize; 3], shape: &[usize]) -> Tensor {
    let [outer, count, inner] = seen;
    assert_eq!(x.len(), outer * count * inner, "{label}: {:?} seen as {seen:?}", x.shape);
    assert_eq!(shape.iter().product::<usize>(), outer * inner, "{label}: the sums of {seen:?} as {shape:?}");
    let p = Params { len: (outer * inner) as u32, count: count as u32, inner: inner as u32 };
    g.push(Call { kernel: &KERNEL, params: p.bytes(), inputs: &[x], shape, storage: Storage::Elem, label })
}

/// Sums of every `share` rows of x `[.., C]` that follow each other → `[rows / share, C]`.
#[track_caller]
pub fn sum_rows(g: &mut Graph, label: &str, x: &Tensor, share: usize) -> Tensor {
    assert!(x.rows().is_multiple_of(share), "{label}: {:?} by {share} rows", x.shape);
    let (rows, channels) = (x.rows() / share, x.channels());
    sum_axis(g, label, x, [rows, share, channels], &[rows, channels])
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let (count, inner) = (p.count as usize, p.inner as usize);
    for (i, y) in y.iter_mut().enumerate() {
        *y = (0..count).map(|k| inputs[0][(i / inner * count + k) * inner + i % inner]).sum();
    }
}

/// Columns that a thread takes at a time.
const COLUMNS: usize = 4_096;

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (count, inner) = (p.count as usize, p.inner as usize);
    if inner == 1 {
        y.par_iter_mut().zip(inputs[0].par_chunks(count)).for_each(|(y, x)| {
            *y = x.iter().map(|v| f64::from(*v)).sum::<f64>() as f32;
        });
        return;
    }
    y.par_chunks_mut(inner).zip(inputs[0].par_chunks(count * inner)).for_each(|(y, x)| {
        y.par_chunks_mut(COLUMNS).enumerate().for_each(|(i, y)| {
            wide(#[inline(always)] || {
                y.fill(0.0);
                for row in x.chunks_exact(inner) {
                    for (y, x) in y.iter_mut().zip(&row[i * COLUMNS..]) {
                        *y += x;
                    }
                }
            });
        });
    });
}
