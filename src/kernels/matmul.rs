//! Matrix product with epilogue: linear layers, 1×1 convolutions of channels-last pictures.

use super::epilogue::Epilogue;
use super::{ACTIVATION, Cost, EPILOGUE, INDEX, Kernel, TILE, tile_grid};
use crate::graph::{Call, Graph, Storage, Tensor};
use rayon::prelude::*;

params! {
    /// Rows of x and y.
    rows: u32,
    /// Columns of x, rows of w.
    inner: u32,
    /// Columns of w and y.
    cols: u32,
    /// 1 if a bias is bound.
    has_bias: u32,
    /// Activation number.
    act: u32,
    /// Operand operation number.
    operand_op: u32,
    /// Rows of y that share a row of the operand.
    operand_rows: u32,
    /// Factor at the end.
    scale: f32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "matmul",
    wgsl: include_str!("../../shaders/matmul.wgsl"),
    shared: &[INDEX, TILE, ACTIVATION, EPILOGUE],
    fields: Params::FIELDS,
    epilogue: true,
    reference,
    cpu,
    cost: |params, inputs, output| {
        let p = Params::read(params);
        let flops = 2.0 * f64::from(p.rows) * f64::from(p.inner) * f64::from(p.cols);
        Cost::streaming(flops, inputs, output)
    },
};

/// x `[.., inner]` · w `[inner, cols]` + bias `[cols]` → `[.., cols]`.
#[track_caller]
pub fn matmul(g: &mut Graph, label: &str, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Tensor {
    assert_eq!(w.shape.len(), 2, "{label}: a matrix is needed, {:?} given", w.shape);
    assert_eq!(x.channels(), w.dim(0), "{label}: x {:?} and w {:?} differ in the inner size", x.shape, w.shape);
    let (rows, cols) = (x.rows(), w.dim(1));
    if let Some(bias) = bias {
        assert_eq!(bias.len(), cols, "{label}: bias {:?} for {cols} columns", bias.shape);
    }
    let epilogue = Epilogue::default();
    let p = Params {
        rows: rows as u32,
        inner: w.dim(0) as u32,
        cols: cols as u32,
        has_bias: bias.is_some().into(),
        act: epilogue.act,
        operand_op: epilogue.operand_op,
        operand_rows: epilogue.operand_rows,
        scale: epilogue.scale,
    };
    let empty = g.empty();
    let mut shape = x.shape.clone();
    shape.pop();
    shape.push(cols);
    g.push(Call {
        kernel: &KERNEL,
        params: p.bytes(),
        inputs: &[x, w, bias.unwrap_or(&empty), &empty],
        shape: &shape,
        storage: Storage::Elem,
        grid: tile_grid(rows, cols),
        label,
    })
}

fn reference(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (x, w, bias, operand) = (inputs[0], inputs[1], inputs[2], inputs[3]);
    let (inner, cols) = (p.inner as usize, p.cols as usize);
    let epilogue = Epilogue::read(params);
    for (i, y) in y.iter_mut().enumerate() {
        let (row, col) = (i / cols, i % cols);
        let mut sum = if p.has_bias != 0 { f64::from(bias[col]) } else { 0.0 };
        for k in 0..inner {
            sum += f64::from(x[row * inner + k]) * f64::from(w[k * cols + col]);
        }
        *y = epilogue.reference(sum, operand, row, col, cols) as f32;
    }
}

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (x, w, bias, operand) = (inputs[0], inputs[1], inputs[2], inputs[3]);
    let (rows, inner, cols) = (p.rows as usize, p.inner as usize, p.cols as usize);
    let epilogue = Epilogue::read(params);
    let bias = (p.has_bias != 0).then_some(bias);
    // Blocks of rows, a product and its epilogue each, so that sums are still in the cache when they are finished.
    let threads = rayon::current_num_threads();
    let block = rows.div_ceil(threads).clamp(1, 256);
    if rows >= threads {
        y.par_chunks_mut(block * cols).enumerate().for_each(|(i, y)| {
            let rows = y.len() / cols;
            gemm_rows(y, &x[i * block * inner..][..rows * inner], w, inner, cols);
            epilogue.apply(y, i * block, cols, bias, operand);
        });
    } else {
        gemm_rows(y, x, w, inner, cols);
        epilogue.apply(y, 0, cols, bias, operand);
    }
}

/// y `[rows, cols]` = x `[rows, inner]` · w `[inner, cols]`, all contiguous, on this thread.
pub(crate) fn gemm_rows(y: &mut [f32], x: &[f32], w: &[f32], inner: usize, cols: usize) {
    let rows = y.len() / cols;
    gemm_strided(y, cols, false, x, inner, (w, cols, 1), [rows, inner, cols], 1.0);
}

/// y (+)= alpha · x · w on this thread; `w` comes with its strides along the inner and the column axis.
#[expect(clippy::too_many_arguments, reason = "a matrix product has this many sizes")]
pub(crate) fn gemm_strided(
    y: &mut [f32],
    y_stride: usize,
    accumulate: bool,
    x: &[f32],
    x_stride: usize,
    (w, w_inner, w_col): (&[f32], usize, usize),
    [rows, inner, cols]: [usize; 3],
    alpha: f32,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    let last = |n: usize, stride: usize| n.saturating_sub(1) * stride;
    assert!(last(rows, y_stride) + cols <= y.len(), "product's output is too small");
    assert!(inner == 0 || last(rows, x_stride) + inner <= x.len(), "product's left side is too small");
    assert!(inner == 0 || last(inner, w_inner) + last(cols, w_col) < w.len(), "product's right side is too small");
    // SAFETY: the assertions above keep every element the strides reach inside its slice.
    unsafe {
        gemm::gemm(
            rows,
            cols,
            inner,
            y.as_mut_ptr(),
            1,
            y_stride as isize,
            accumulate,
            x.as_ptr(),
            1,
            x_stride as isize,
            w.as_ptr(),
            w_col as isize,
            w_inner as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
