//! Sums of columns in f32: the gradient of a bias, and, times what a norm made of its input, of a norm's weight.

use super::sum_parts::sum_parts;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::simd::wide;
use crate::kernels::{Cost, INDEX, Kernel, Shader, fold_grid};
use rayon::prelude::*;

params! {
    /// Rows of x.
    rows: u32,
    /// Columns of x.
    cols: u32,
    /// Parts that the rows are divided into.
    parts: u32,
    /// 1 if x is multiplied by another tensor.
    has_factor: u32,
}

/// Rows of a part, at least.
const ROWS: usize = 512;
/// Most parts.
const PARTS: usize = 64;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "column_sums",
    shaders: &[Shader::plain("column_sums", wgsl!("training/column_sums"), &[INDEX], |params, _| {
        let p = Params::read(params);
        fold_grid(p.parts as usize * p.cols.div_ceil(16) as usize)
    })],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    cost: |_, inputs, output| {
        Cost::streaming(2.0 * inputs[0].iter().product::<usize>() as f64, inputs, output)
    },
    ..Kernel::PLAIN
};

/// Σ_r x[r, c] · factor[r, c] over the rows of x `[.., C]`, both activations → `[C]` in f32.
#[track_caller]
pub fn column_sums(g: &mut Graph, label: &str, x: &Tensor, factor: Option<&Tensor>) -> Tensor {
    let parts = parts_of(g, label, x, factor, (x.rows() / ROWS).clamp(1, PARTS));
    if parts.dim(0) == 1 {
        g.reshape(&parts, &[x.channels()])
    } else {
        sum_parts(g, label, &parts, &[x.channels()])
    }
}

/// The same of each of so many parts of the rows → `[parts, C]`.
#[track_caller]
pub fn parts_of(g: &mut Graph, label: &str, x: &Tensor, factor: Option<&Tensor>, parts: usize) -> Tensor {
    if let Some(factor) = factor {
        assert_eq!(x.len(), factor.len(), "{label}: {:?} times {:?}", x.shape, factor.shape);
    }
    let (rows, cols) = (x.rows() as u32, x.channels() as u32);
    let p = Params { rows, cols, parts: parts as u32, has_factor: factor.is_some().into() };
    let empty = g.empty();
    let shape = [parts, x.channels()];
    g.push(&KERNEL, label, p.bytes(), &[x, factor.unwrap_or(&empty)], &shape, Storage::F32)
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let (cols, length) = (p.cols as usize, p.rows.div_ceil(p.parts) as usize);
    y.fill(0.0);
    for (i, x) in inputs[0].iter().enumerate() {
        let factor = if p.has_factor != 0 { inputs[1][i] } else { 1.0 };
        y[i / cols / length * cols + i % cols] += x * factor;
    }
}

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (cols, length) = (p.cols as usize, p.rows.div_ceil(p.parts) as usize);
    y.par_chunks_mut(cols).enumerate().for_each(|(part, y)| {
        let (first, end) = (part * length * cols, inputs[0].len().min((part + 1) * length * cols));
        y.fill(0.0);
        if first >= end {
            return;
        }
        let x = &inputs[0][first..end];
        let factor = if p.has_factor != 0 { &inputs[1][first..end] } else { &[] };
        wide(
            #[inline(always)]
            || {
                if factor.is_empty() {
                    for x in x.chunks_exact(cols) {
                        for c in 0..cols {
                            y[c] += x[c];
                        }
                    }
                } else {
                    for (x, f) in x.chunks_exact(cols).zip(factor.chunks_exact(cols)) {
                        for c in 0..cols {
                            y[c] += x[c] * f[c];
                        }
                    }
                }
            },
        );
    });
}
