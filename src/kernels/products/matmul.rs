//! Matrix product with epilogue: linear layers, 1×1 convolutions of channels-last pictures.

use crate::graph::rewrites::{MATMUL_SLICES, Rewrites};
use crate::graph::{Graph, Pass, Repack, Source, Storage, Tensor};
use crate::kernels::epilogue::Epilogue;
use crate::kernels::{
    ACTIVATION, Backward, COOPERATIVE, Cost, EPILOGUE, INDEX, Kernel, Needs, ROWS12, ROWS16, STORE,
    STORE_QUAD, SUBGROUP, Shader, TILE, TILE64, subgroup_grid, tile_grid, wide_grid,
};
use rayon::prelude::*;

params! {
    /// Products, one after another in x, w and y.
    batches: u32,
    /// Rows of x and y, of one product.
    rows: u32,
    /// Columns of x, rows of w.
    inner: u32,
    /// Columns of w and y.
    cols: u32,
    /// 1 if a bias is bound.
    has_bias: u32;
    epilogue
}

/// Whether rows of x, w and y are whole quads.
fn in_quads(params: &[u8]) -> bool {
    let p = Params::read(params);
    [p.inner, p.cols].iter().all(|n| n.is_multiple_of(4))
}

/// `shaders/shared/matmul_params.wgsl`: the uniform.
const HEADER: &str = wgsl!("shared/matmul_params");

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "matmul",
    shaders: &[
        Shader::plain(
            "matmul",
            wgsl!("products/matmul"),
            &[HEADER, INDEX, TILE, ACTIVATION, EPILOGUE, STORE],
            |params, _| {
                let p = Params::read(params);
                tile_grid(p.rows as usize, p.cols as usize, p.batches as usize)
            },
        ),
        Shader::plain(
            "matmul_subgroup16",
            wgsl!("software/matmul_subgroup"),
            &[HEADER, INDEX, ROWS16, SUBGROUP, ACTIVATION, EPILOGUE, STORE],
            |params, _| {
                let p = Params::read(params);
                subgroup_grid(p.rows, p.cols, p.batches, 16)
            },
        )
        .needing(Needs::SUBGROUP8),
        Shader::plain(
            "matmul_subgroup",
            wgsl!("software/matmul_subgroup"),
            &[HEADER, INDEX, ROWS12, SUBGROUP, ACTIVATION, EPILOGUE, STORE],
            |params, _| {
                let p = Params::read(params);
                subgroup_grid(p.rows, p.cols, p.batches, 12)
            },
        )
        .needing(Needs::SUBGROUP8),
        Shader::plain(
            "matmul_tile",
            wgsl!("products/matmul_tile"),
            &[HEADER, INDEX, TILE64, ACTIVATION, EPILOGUE, STORE_QUAD],
            |params, _| {
                let p = Params::read(params);
                wide_grid(p.rows, p.cols, p.batches, 64)
            },
        )
        .needing(Needs::HARDWARE)
        .fitting(in_quads),
        Shader::plain(
            "matmul_tile_cooperative",
            wgsl!("products/matmul_tile"),
            &[HEADER, INDEX, COOPERATIVE, ACTIVATION, EPILOGUE, STORE_QUAD],
            |params, _| {
                let p = Params::read(params);
                wide_grid(p.rows, p.cols, p.batches, 128)
            },
        )
        .needing(Needs::COOPERATIVE)
        .fitting(in_quads),
        Shader::plain(
            "matmul_thin",
            wgsl!("products/matmul_thin"),
            &[HEADER, ACTIVATION, EPILOGUE, STORE_QUAD],
            |params, _| {
                let p = Params::read(params);
                [p.cols.div_ceil(32), p.rows.div_ceil(4), 1]
            },
        )
        .needing(Needs::HARDWARE)
        .fitting(|params| {
            let p = Params::read(params);
            p.batches == 1 && p.rows <= 8 && p.cols.is_multiple_of(4)
        }),
    ],
    fields: Params::FIELDS,
    epilogue: true,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    gradient: Some(gradient),
    rewrites: Rewrites { others: &[MATMUL_SLICES], ..Rewrites::NONE },
    cost: |params, inputs, output| {
        let p = Params::read(params);
        let flops = 2.0 * f64::from(p.batches) * f64::from(p.rows) * f64::from(p.inner) * f64::from(p.cols);
        Cost::streaming(flops, inputs, output)
    },
};

/// x `[.., inner]` · w `[inner, cols]` + bias `[cols]` → `[.., cols]`.
#[track_caller]
pub fn matmul(g: &mut Graph, label: &str, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Tensor {
    assert_eq!(w.shape.len(), 2, "{label}: a matrix is needed, {:?} given", w.shape);
    let mut shape = x.shape.clone();
    shape.pop();
    shape.push(w.dim(1));
    push(g, label, x, w, bias, [1, x.rows(), w.dim(0), w.dim(1)], &shape)
}

/// Products of their own: x `[batches, rows, inner]` · w `[batches, inner, cols]` → `[batches, rows, cols]`.
#[track_caller]
pub fn batched_matmul(g: &mut Graph, label: &str, x: &Tensor, w: &Tensor) -> Tensor {
    let (&[batches, rows, inner], &[b, k, cols]) = (&x.shape[..], &w.shape[..]) else {
        panic!(
            "{label}: batched product of {:?} with {:?}: [B, R, K] and [B, K, C] are needed",
            x.shape, w.shape
        );
    };
    assert_eq!((batches, inner), (b, k), "{label}: x {:?} and w {:?} do not fit", x.shape, w.shape);
    push(g, label, x, w, None, [batches, rows, inner, cols], &[batches, rows, cols])
}

#[track_caller]
fn push(
    g: &mut Graph,
    label: &str,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    [batches, rows, inner, cols]: [usize; 4],
    shape: &[usize],
) -> Tensor {
    assert_eq!(x.channels(), inner, "{label}: x {:?} and w {:?} differ in the inner size", x.shape, w.shape);
    if let Some(bias) = bias {
        assert_eq!(bias.len(), cols, "{label}: bias {:?} for {cols} columns", bias.shape);
    }
    let p = Params {
        batches: batches as u32,
        rows: rows as u32,
        inner: inner as u32,
        cols: cols as u32,
        has_bias: bias.is_some().into(),
        epilogue: Epilogue::default(),
    };
    let empty = g.empty();
    g.push(&KERNEL, label, p.bytes(), &[x, w, bias.unwrap_or(&empty), &empty], shape, Storage::Elem)
}

/// dx = dy · wᵀ, with the weight read from the checkpoint in the other layout.
fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    let p = Params::read(&of.node.params);
    if of.wants[2] || of.wants[3] {
        return Err("the bias");
    }
    let w = of.input(g, 1);
    let dx = match of.wants[0] {
        true => {
            let wt = transposed(g, &w, &p).ok_or("its left side while the right one is computed")?;
            Some(match p.batches {
                1 => matmul(g, &of.label(), of.dy, &wt, None),
                _ => batched_matmul(g, &of.label(), of.dy, &wt),
            })
        }
        false => None,
    };
    if of.wants[1] {
        return Err("the weight");
    }
    Ok(vec![dx, None, None, None])
}

/// A known weight `[inner, cols]`, or one for each batch, as `[cols, inner]`.
fn transposed(g: &mut Graph, w: &Tensor, p: &Params) -> Option<Tensor> {
    let [batches, inner, cols] = [p.batches, p.inner, p.cols].map(|n| n as usize);
    let source = match &g.info(w.id).source {
        Source::Weight { parts, shape, repack } if batches == 1 => {
            let repack = match repack {
                Repack::None => Repack::Transpose,
                Repack::Transpose | Repack::Conv(Pass::Forward) => Repack::None,
                Repack::Conv(Pass::Backward) => Repack::Conv(Pass::Forward),
                Repack::Winograd(_) => return None,
            };
            Source::Weight { parts: parts.clone(), shape: shape.clone(), repack }
        }
        Source::Constant(values) => {
            let matrices = values.chunks_exact(inner * cols);
            let each =
                |w: &[f32]| (0..inner * cols).map(|i| w[i % inner * cols + i / inner]).collect::<Vec<_>>();
            Source::Constant(matrices.flat_map(each).collect())
        }
        _ => return None,
    };
    let storage = g.info(w.id).storage;
    let shape = [batches, cols, inner];
    Some(g.add(if batches == 1 { &shape[1..] } else { &shape }, storage, source))
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let (x, w, bias, operand) = (inputs[0], inputs[1], inputs[2], inputs[3]);
    let (inner, cols) = (p.inner as usize, p.cols as usize);
    let epilogue = Epilogue::read(params);
    for (i, y) in y.iter_mut().enumerate() {
        let (row, col) = (i / cols, i % cols);
        let w = &w[row / p.rows as usize * inner * cols..];
        let mut sum = if p.has_bias != 0 { bias[col] } else { 0.0 };
        for k in 0..inner {
            sum += x[row * inner + k] * w[k * cols + col];
        }
        *y = epilogue.reference(sum, operand, row, col, cols);
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
    for (b, y) in y.chunks_exact_mut(rows * cols).enumerate() {
        let (x, w) = (&x[b * rows * inner..][..rows * inner], &w[b * inner * cols..][..inner * cols]);
        let product = |(i, y): (usize, &mut [f32])| {
            let rows = y.len() / cols;
            gemm_rows(y, &x[i * block * inner..][..rows * inner], w, inner, cols);
            epilogue.apply(y, b * rows + i * block, cols, bias, operand);
        };
        y.par_chunks_mut(block * cols).enumerate().for_each(product);
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
    assert!(
        inner == 0 || last(inner, w_inner) + last(cols, w_col) < w.len(),
        "product's right side is too small"
    );
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
