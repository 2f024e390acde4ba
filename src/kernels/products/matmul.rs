//! Matrix product with epilogue: linear layers, 1×1 convolutions of channels-last pictures.

use crate::graph::rewrites::{MATMUL_SLICES, Rewrites};
use crate::graph::split::parts;
use crate::graph::{Graph, Pass, Repack, Source, Storage, Tensor};
use crate::kernels::column_sums::column_sums;
use crate::kernels::epilogue::Epilogue;
use crate::kernels::filter_gradient::{self, filter_gradient};
use crate::kernels::gemm::{Panels, Rows};
use crate::kernels::weight_transpose::weight_transpose;
use crate::kernels::{
    ACTIVATION, Backward, COOPERATIVE, Cost, EPILOGUE, INDEX, Kernel, MATRICES, MATRICES8, MATRICES16, Needs,
    Packed, ROWS12, ROWS16, STORE, STORE_QUAD, SUBGROUP, Shader, TILE, TILE64, subgroup_grid, tile_grid,
    wide_grid,
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
            "matmul_tile_matrices8",
            wgsl!("products/matmul_tile"),
            &[HEADER, INDEX, MATRICES8, MATRICES, COOPERATIVE, ACTIVATION, EPILOGUE, STORE_QUAD],
            |params, _| {
                let p = Params::read(params);
                wide_grid(p.rows, p.cols, p.batches, 64)
            },
        )
        .needing(Needs::MATRICES8)
        .fitting(in_quads),
        Shader::plain(
            "matmul_tile_matrices16",
            wgsl!("products/matmul_tile"),
            &[HEADER, INDEX, MATRICES16, MATRICES, COOPERATIVE, ACTIVATION, EPILOGUE, STORE_QUAD],
            |params, _| {
                let p = Params::read(params);
                wide_grid(p.rows, p.cols, p.batches, 128)
            },
        )
        .needing(Needs::MATRICES16)
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
    reference: |p, x, y| y[0].iter_mut().enumerate().for_each(|(i, y)| *y = element(p, x, i)),
    cpu: |p, x, y| cpu(p, x, false, y[0]),
    packed: Some(Packed {
        input: 1,
        fits: |p| Params::read(p).batches == 1,
        cpu: |p, x, y| cpu(p, x, true, y[0]),
    }),
    gradient: Some(gradient),
    of_item: |params, items| {
        let p = Params::read(params);
        Params { rows: p.rows.div_ceil(items), ..p }.bytes()
    },
    element: Some(element),
    rewrites: Rewrites { others: &[MATMUL_SLICES], ..Rewrites::NONE },
    split: Some(parts::matmul),
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

/// Products of their own, no one's items: x `[batches, rows, inner]` · w `[batches, inner, cols]` → `[batches, rows, cols]`.
#[track_caller]
pub fn batched_matmul(g: &mut Graph, label: &str, x: &Tensor, w: &Tensor) -> Tensor {
    let (&[batches, rows, inner], &[b, k, cols]) = (&x.shape[..], &w.shape[..]) else {
        panic!(
            "{label}: batched product of {:?} with {:?}: [B, R, K] and [B, K, C] are needed",
            x.shape, w.shape
        );
    };
    assert_eq!((batches, inner), (b, k), "{label}: x {:?} and w {:?} do not fit", x.shape, w.shape);
    let y = push(g, label, x, w, None, [batches, rows, inner, cols], &[batches, rows, cols]);
    if let Some(node) = g.nodes.last_mut() {
        node.items = 1;
    }
    y
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
    of.refuse(&[(3, "the operand")])?;
    let (x, w, label) = (of.input(g, 0), of.input(g, 1), of.label());
    let dx = match of.wants[0] {
        true => {
            let wt = transposed(g, &label, &w, &p)?;
            Some(match p.batches {
                1 => matmul(g, &label, of.dy, &wt, None),
                _ => batched_matmul(g, &label, of.dy, &wt),
            })
        }
        false => None,
    };
    if of.wants[1] && p.batches > 1 {
        return Err("the right sides of several products");
    }
    let dw = of.wants[1].then(|| {
        let (empty, p) = (g.empty(), filter_gradient::Params::of_product([p.rows, p.inner, p.cols]));
        filter_gradient(g, &label, [&x, &empty, of.dy], &p)
    });
    let db = of.wants[2].then(|| column_sums(g, &label, of.dy, None));
    Ok(vec![dx, dw, db, None])
}

/// The right side `[inner, cols]`, or one for each batch, as `[cols, inner]`: a weight's other layout, or what is computed of one
/// that changes.
fn transposed(g: &mut Graph, label: &str, w: &Tensor, p: &Params) -> Result<Tensor, &'static str> {
    let [batches, inner, cols] = [p.batches, p.inner, p.cols].map(|n| n as usize);
    let source = match &g.info(w.id).source {
        Source::Weight { parts, shape, repack } if batches == 1 => {
            let repack = match repack {
                Repack::None => Repack::Transpose,
                Repack::Transpose | Repack::Conv(Pass::Forward) => Repack::None,
                Repack::Conv(Pass::Backward) => Repack::Conv(Pass::Forward),
                Repack::Winograd(_) | Repack::Filled { .. } | Repack::WholeQuads => {
                    return Err("its left side through such a weight");
                }
            };
            Source::Weight { parts: parts.clone(), shape: shape.clone(), repack }
        }
        Source::Constant(values) => {
            let matrices = values.chunks_exact(inner * cols);
            let each =
                |w: &[f32]| (0..inner * cols).map(|i| w[i % inner * cols + i / inner]).collect::<Vec<_>>();
            Source::Constant(matrices.flat_map(each).collect())
        }
        _ if batches == 1 => {
            let matrices = g.reshape(w, &[1, inner, cols]);
            let wt = weight_transpose(g, label, &matrices, false);
            return Ok(g.reshape(&wt, &[cols, inner]));
        }
        _ => return Err("its left side while the right ones are computed"),
    };
    let storage = g.info(w.id).storage;
    let shape = [batches, cols, inner];
    Ok(g.add(if batches == 1 { &shape[1..] } else { &shape }, storage, source))
}

/// The definition of element `i` of y.
fn element<T: Copy + Into<f64>>(params: &[u8], inputs: &[&[T]], i: usize) -> f64 {
    let p = Params::read(params);
    let (inner, cols) = (p.inner as usize, p.cols as usize);
    let (row, col) = (i / cols, i % cols);
    let w = &inputs[1][row / p.rows as usize * inner * cols..];
    let mut sum: f64 = if p.has_bias != 0 { inputs[2][col].into() } else { 0.0 };
    for k in 0..inner {
        sum += inputs[0][row * inner + k].into() * w[k * cols + col].into();
    }
    Epilogue::read(params).reference(sum, inputs[3], row, col, cols)
}

/// Rows of a block.
const BLOCK: usize = 128;

/// Blocks of rows, a product and its epilogue each, so that sums are still in the cache when they are finished. The right
/// side is in panels, or will be where that pays.
fn cpu(params: &[u8], inputs: &[&[f32]], packed: bool, y: &mut [f32]) {
    let p = Params::read(params);
    let (rows, inner, cols) = (p.rows as usize, p.inner as usize, p.cols as usize);
    let epilogue = Epilogue::read(params);
    let bias = (p.has_bias != 0).then_some(inputs[2]);
    let block = rows.div_ceil(rayon::current_num_threads()).clamp(1, BLOCK);
    for (b, y) in y.chunks_exact_mut(rows * cols).enumerate() {
        let x = &inputs[0][b * rows * inner..][..rows * inner];
        let panels = match packed {
            true => Panels::packed(inputs[1], inner, cols),
            false => Panels::new(&inputs[1][b * inner * cols..][..inner * cols], inner, cols, rows),
        };
        y.par_chunks_mut(block * cols).enumerate().for_each(|(i, y)| {
            let x = Rows {
                values: &x[i * block * inner..],
                across: (block, inner),
                down: 0,
                runs: (1, inner),
                run: inner,
            };
            panels.product(&x, y, false);
            epilogue.apply(y, b * rows + i * block, cols, bias, inputs[3]);
        });
    }
}
