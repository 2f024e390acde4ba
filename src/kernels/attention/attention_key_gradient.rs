//! The gradients of one of [`attention`](crate::kernels::attention)'s sets of keys and values, side by side. See
//! [`crate::kernels::attention_query_gradient`].

use super::scores::Number;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::attention_query_gradient::{Params, Scores, shaders};
use crate::kernels::gemm::gemm;
use crate::kernels::simd::{exp, wide};
use crate::kernels::{Cost, Kernel};
use rayon::prelude::*;

const WGSL: &str = wgsl!("attention/attention_key_gradient");

/// The grid of workgroups that compute `rows` keys of one head and picture each.
fn grid(params: &[u8], output: &[usize], rows: u32) -> [u32; 3] {
    let p = Params::read(params);
    [p.keys.div_ceil(rows), p.heads, output[0] as u32]
}

/// The kernel. Its uniform is `attention_query_gradient`'s.
pub static KERNEL: Kernel = Kernel {
    name: "attention_key_gradient",
    shaders: &shaders(
        WGSL,
        [
            "attention_key_gradient",
            "attention_key_gradient_lanes",
            "attention_key_gradient_tile128",
            "attention_key_gradient_tile64",
        ],
        [|p, y| grid(p, y, 16), |p, y| grid(p, y, 64), |p, y| grid(p, y, 32), |p, y| grid(p, y, 64)],
    ),
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    element: Some(|params, inputs, i| {
        let p = Params::read(params);
        let (heads, dim) = (p.heads as usize, p.head_dim as usize);
        let (at, col) = (i / (heads * dim), i % (heads * dim));
        row(&p, inputs, at / 2, col / dim)[at % 2][col % dim]
    }),
    cost: |params, inputs, output| {
        let pairs = output.iter().product::<usize>() as f64 / 2.0 * f64::from(Params::read(params).queries);
        Cost::streaming(8.0 * pairs, inputs, output)
    },
    ..Kernel::PLAIN
};

/// As [`attention_query_gradient`](crate::kernels::attention_query_gradient::attention_query_gradient), the gradients of the
/// set's keys, beside them the values' → `[N, L, 2 · heads · head_dim]`.
pub fn attention_key_gradient(g: &mut Graph, label: &str, inputs: [&Tensor; 7], p: &Params) -> Tensor {
    let shape = [inputs[5].dim(0), p.keys as usize, 2 * (p.heads * p.head_dim) as usize];
    g.push(&KERNEL, label, p.bytes(), &inputs, &shape, Storage::Elem)
}

fn reference(params: &[u8], inputs: &[&[f64]], dkv: &mut [f64]) {
    let p = Params::read(params);
    let (heads, dim) = (p.heads as usize, p.head_dim as usize);
    for (i, dkv) in dkv.chunks_exact_mut(2 * heads * dim).enumerate() {
        let (dk, dv) = dkv.split_at_mut(heads * dim);
        for (head, (dk, dv)) in dk.chunks_exact_mut(dim).zip(dv.chunks_exact_mut(dim)).enumerate() {
            let [of_key, of_value] = row(&p, inputs, i, head);
            dk.copy_from_slice(&of_key);
            dv.copy_from_slice(&of_value);
        }
    }
}

/// The definition of key `i`'s gradient, and its value's, of one head.
fn row<T: Number>(p: &Params, inputs: &[&[T]], i: usize, head: usize) -> [Vec<f64>; 2] {
    let (dim, keys) = (p.head_dim as usize, p.keys as usize);
    let (n, key) = (i / keys, i % keys);
    let [mut dk, mut dv] = [vec![0.0; dim], vec![0.0; dim]];
    let ((q, q_stride), (dy, dy_stride)) = (p.rows(0, inputs, n, head), p.rows(5, inputs, n, head));
    for query in 0..p.queries as usize {
        let Scores { probability, gradient } = p.score(inputs, n, head, query, key);
        dk.iter_mut().zip(&q[query * q_stride..]).for_each(|(dk, q)| *dk += gradient * (*q).into());
        dv.iter_mut().zip(&dy[query * dy_stride..]).for_each(|(dv, dy)| *dv += probability * (*dy).into());
    }
    [dk, dv]
}

/// Blocks of keys of one head, each: scores and their probabilities' gradients by products, then the products with the
/// queries and with dy.
fn cpu(params: &[u8], inputs: &[&[f32]], dkv: &mut [f32]) {
    let p = Params::read(params);
    let (heads, dim, queries, keys) =
        (p.heads as usize, p.head_dim as usize, p.queries as usize, p.keys as usize);
    let width = heads * dim;
    let block = keys.div_ceil(rayon::current_num_threads()).clamp(1, 128);
    for (n, dkv) in dkv.chunks_exact_mut(keys * 2 * width).enumerate() {
        let stats = &inputs[6][n * queries * heads * 3..][..queries * heads * 3];
        let stats = |head: usize, i: usize| stats[head * 3 + i..].iter().step_by(heads * 3).copied();
        let blocks = dkv.par_chunks_mut(block * 2 * width).enumerate();
        blocks.for_each_init(Vec::new, |scratch: &mut Vec<f32>, (i, dkv)| {
            let (first, rows) = (i * block, dkv.len() / (2 * width));
            scratch.resize(2 * rows * queries, 0.0);
            let (scores, dp) = scratch.split_at_mut(rows * queries);
            for head in 0..heads {
                let [(q, qs), (k, ks), (v, vs), (dy, dys)] = [0, 1, 2, 5].map(|x| p.rows(x, inputs, n, head));
                let [tops, factors, sums] = [0, 1, 2].map(|i| stats(head, i).collect::<Vec<f32>>());
                let sizes = [rows, dim, queries];
                gemm(scores, queries, &k[first * ks..], ks, (q, 1, qs), sizes, p.scale);
                gemm(dp, queries, &v[first * vs..], vs, (dy, 1, dys), sizes, 1.0);
                p.add(scores, inputs, (n, head), queries, |row, col| (col, first + row));
                for (s, dp) in scores.chunks_exact_mut(queries).zip(dp.chunks_exact_mut(queries)) {
                    wide(
                        #[inline(always)]
                        || {
                            let of = tops.iter().zip(&factors).zip(&sums);
                            for ((s, dp), ((top, factor), sum)) in s.iter_mut().zip(dp).zip(of) {
                                *s = exp(*s - top) * factor;
                                *dp = *s * p.scale * (*dp - sum);
                            }
                        },
                    );
                }
                let sizes = [rows, queries, dim];
                gemm(&mut dkv[head * dim..], 2 * width, dp, queries, (q, qs, 1), sizes, 1.0);
                let dv = &mut dkv[width + head * dim..];
                gemm(dv, 2 * width, scores, queries, (dy, dys, 1), sizes, 1.0);
            }
        });
    }
}
