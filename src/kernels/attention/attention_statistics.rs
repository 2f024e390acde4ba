//! What the gradients of [`attention`](crate::kernels::attention) need of each query and head: from these few numbers they
//! compute every probability again, so that no score matrix is kept (FlashAttention, Dao et al. 2022,
//! arXiv:2205.14135).

use super::scores::{
    KEYS, LOWEST, Number, PRODUCTS, Params, ROWS16, ROWS64, SCORES, SPREAD, dot, exponentials, grid,
    head_rows,
};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, Kernel, Needs, Shader};
use rayon::prelude::*;

const WGSL: &str = wgsl!("attention/attention_statistics");
const TILE: &str = wgsl!("shared/attention_statistics_tile");
const LANES: &str = wgsl!("software/shared/attention_statistics_lanes");

/// The kernel. Its uniform is `attention`'s.
pub static KERNEL: Kernel = Kernel {
    name: "attention_statistics",
    shaders: &[
        Shader::plain("attention_statistics", WGSL, &[SCORES, KEYS, ROWS16, PRODUCTS, TILE], |p, y| {
            grid(p, y, 16)
        }),
        Shader::plain("attention_statistics_lanes", WGSL, &[SCORES, KEYS, SPREAD, LANES], |p, y| {
            grid(p, y, 64)
        })
        .needing(Needs::SUBGROUP8)
        .fitting(|p| Params::read(p).head_dim <= 64),
        Shader::plain(
            "attention_statistics_tile64",
            WGSL,
            &[SCORES, KEYS, ROWS64, PRODUCTS, TILE],
            |p, y| grid(p, y, 64),
        )
        .needing(Needs::HARDWARE),
    ],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    element: Some(|params, inputs, i| triple(params, inputs, i / 3)[i % 3]),
    cost: |params, inputs, output| {
        let p = Params::read(params);
        let pairs = output.iter().product::<usize>() as f64 / 3.0 * f64::from(p.keys1 + p.keys2);
        Cost::streaming(2.0 * pairs * f64::from(p.head_dim), inputs, output)
    },
    ..Kernel::PLAIN
};

/// Of attention with uniform `of` and inputs q, first keys, second keys, bias, mask, with its output y and the gradient
/// dy: `[N, LQ, heads, 3]` in f32, the largest score of each query, one over the sum of the exponentials of the scores'
/// differences from it, and Σ dy · y.
pub fn attention_statistics(g: &mut Graph, label: &str, inputs: [&Tensor; 7], of: &Params) -> Tensor {
    let shape = [inputs[5].dim(0), of.queries as usize, of.heads as usize, 3];
    g.push(&KERNEL, label, of.bytes(), &inputs, &shape, Storage::F32)
}

fn reference(params: &[u8], inputs: &[&[f64]], stats: &mut [f64]) {
    let triples = stats.as_chunks_mut().0.iter_mut().enumerate();
    triples.for_each(|(i, stats)| *stats = triple(params, inputs, i));
}

/// The definition of three numbers, those of one query and head.
fn triple<T: Number>(params: &[u8], inputs: &[&[T]], i: usize) -> [f64; 3] {
    let p = Params::read(params);
    let (heads, dim, queries) = (p.heads as usize, p.head_dim as usize, p.queries as usize);
    let (keys1, keys2) = (p.keys1 as usize, p.keys2 as usize);
    let (n, query, head) = (i / (queries * heads), i / heads % queries, i % heads);
    let (q, q_stride) = head_rows(inputs[0], n, queries, p.q_stride, p.q_offset, head, dim);
    let (k1, k1s) = head_rows(inputs[1], n, keys1, p.k1_stride, p.k1_offset, head, dim);
    let (k2, k2s) = head_rows(inputs[2], n, keys2, p.k2_stride, p.k2_offset, head, dim);
    let score = |key: usize| {
        let k = if key < keys1 { &k1[key * k1s..] } else { &k2[(key - keys1) * k2s..] };
        let added = p.added([inputs[3], inputs[4]], n, head, query, key)?;
        // As the forward's, a masked score is no infinity.
        let product = dot(&q[query * q_stride..][..dim], &k[..dim]) * f64::from(p.scale);
        Some((product + added.into()).max(f64::from(LOWEST)))
    };
    let scores: Vec<f64> = (0..keys1 + keys2).filter_map(score).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total = scores.iter().map(|s| (s - top).exp()).sum::<f64>();
    [top, 1.0 / total, dot(&inputs[5][i * dim..][..dim], &inputs[6][i * dim..][..dim])]
}

/// Blocks of queries of one head, each: scores by a product, then their statistics.
fn cpu(params: &[u8], inputs: &[&[f32]], stats: &mut [f32]) {
    let p = Params::read(params);
    let (heads, dim, queries) = (p.heads as usize, p.head_dim as usize, p.queries as usize);
    let keys = (p.keys1 + p.keys2) as usize;
    let block = queries.div_ceil(rayon::current_num_threads()).clamp(1, 128);
    for (n, stats) in stats.chunks_exact_mut(queries * heads * 3).enumerate() {
        let blocks = stats.par_chunks_mut(block * heads * 3).enumerate();
        blocks.for_each_init(Vec::new, |scratch: &mut Vec<f32>, (i, stats)| {
            let (first, rows) = (i * block, stats.len() / (heads * 3));
            scratch.resize(rows * (keys + 2), 0.0);
            let (scores, totals) = scratch.split_at_mut(rows * keys);
            let totals = totals.as_chunks_mut::<2>().0;
            for head in 0..heads {
                p.scores(scores, [inputs[0], inputs[1], inputs[2], inputs[3], inputs[4]], (n, head), first);
                totals.fill([f32::NEG_INFINITY, 0.0]);
                exponentials(scores, totals, &mut []);
                for (r, [top, total]) in totals.iter().enumerate() {
                    let at = ((n * queries + first + r) * heads + head) * dim;
                    let (y, dy) = (&inputs[5][at..][..dim], &inputs[6][at..][..dim]);
                    let sum: f32 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
                    stats[(r * heads + head) * 3..][..3].copy_from_slice(&[*top, 1.0 / total, sum]);
                }
            }
        });
    }
}
