//! The gradient of [`attention`](crate::kernels::attention::attention)'s queries, from one of its sets of keys. Scores and their gradients
//! are computed again by tiles (FlashAttention, Dao et al. 2022, arXiv:2205.14135).

use super::scores::{self, LOWEST, Number, PRODUCTS, ROWS16, ROWS32, ROWS64, SPREAD, dot, head_rows};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::gemm::gemm;
use crate::kernels::simd::{exp, wide};
use crate::kernels::{Cost, Kernel, Needs, Shader};
use rayon::prelude::*;

params! {
    /// Heads.
    heads: u32,
    /// Columns of a head.
    head_dim: u32,
    /// Query rows of a picture.
    queries: u32,
    /// Rows of this set of keys.
    keys: u32,
    /// Keys before this set.
    first_key: u32,
    /// Keys of all sets.
    all_keys: u32,
    /// Columns of q.
    q_stride: u32,
    /// First column of q.
    q_offset: u32,
    /// Columns of k.
    k_stride: u32,
    /// First column of k.
    k_offset: u32,
    /// Columns of v.
    v_stride: u32,
    /// First column of v.
    v_offset: u32,
    /// 1 if a bias is bound.
    has_bias: u32,
    /// 1 if a mask is bound.
    has_mask: u32,
    /// 1: a query sees the keys up to its own place.
    causal: u32,
    /// Factor of the products.
    scale: f32,
    /// Pictures, where one number is made of all.
    pictures: u32,
}

pub(crate) const WEIGHTS: &str = wgsl!("shared/attention_gradient");
const TILE: &str = wgsl!("shared/attention_gradient_tile");
const LANES: &str = wgsl!("software/shared/attention_gradient_lanes");
/// How many workgroups a shader takes.
type Grid = fn(&[u8], &[usize]) -> [u32; 3];

/// The shaders of a gradient: by tiles of 16 rows, lanes of 64, tiles of 32, tiles of 64, with their names and grids.
pub(crate) const fn shaders(wgsl: &'static str, names: [&'static str; 4], grids: [Grid; 4]) -> [Shader; 4] {
    let [plain, lanes, tile128, tile64] = names;
    let [by16, by_lanes, by32, by64] = grids;
    [
        Shader::plain(plain, wgsl, &[WEIGHTS, ROWS16, PRODUCTS, TILE], by16),
        Shader::plain(lanes, wgsl, &[WEIGHTS, SPREAD, LANES], by_lanes)
            .needing(Needs::SUBGROUP8)
            .fitting(|p| Params::read(p).head_dim <= 64),
        Shader::plain(tile128, wgsl, &[WEIGHTS, ROWS32, PRODUCTS, TILE], by32)
            .needing(Needs::HARDWARE)
            .fitting(|p| Params::read(p).head_dim <= 128),
        Shader::plain(tile64, wgsl, &[WEIGHTS, ROWS64, PRODUCTS, TILE], by64)
            .needing(Needs::HARDWARE)
            .fitting(|p| Params::read(p).head_dim <= 64),
    ]
}

const WGSL: &str = wgsl!("attention/attention_query_gradient");

/// The grid of workgroups that compute `rows` queries of one head and picture each.
fn grid(params: &[u8], output: &[usize], rows: u32) -> [u32; 3] {
    let p = Params::read(params);
    [p.queries.div_ceil(rows), p.heads, output[0] as u32]
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "attention_query_gradient",
    shaders: &shaders(
        WGSL,
        [
            "attention_query_gradient",
            "attention_query_gradient_lanes",
            "attention_query_gradient_tile128",
            "attention_query_gradient_tile64",
        ],
        [|p, y| grid(p, y, 16), |p, y| grid(p, y, 64), |p, y| grid(p, y, 32), |p, y| grid(p, y, 64)],
    ),
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    element: Some(|params, inputs, i| {
        let dim = Params::read(params).head_dim as usize;
        row(params, inputs, i / dim)[i % dim]
    }),
    cost: |params, inputs, output| {
        let pairs = output.iter().product::<usize>() as f64 * f64::from(Params::read(params).keys);
        Cost::streaming(6.0 * pairs, inputs, output)
    },
    ..Kernel::PLAIN
};

/// Of attention's inputs q and one set's k, v, its bias and mask, the gradient dy of its output and its
/// [statistics](crate::kernels::attention_statistics): what this set adds to the gradient of q → `[N, LQ, heads · head_dim]`.
pub fn attention_query_gradient(g: &mut Graph, label: &str, inputs: [&Tensor; 7], p: &Params) -> Tensor {
    let shape = [inputs[5].dim(0), p.queries as usize, (p.heads * p.head_dim) as usize];
    g.push(&KERNEL, label, p.bytes(), &inputs, &shape, Storage::Elem)
}

/// Scores and their gradients, of all queries of a picture's head with all keys.
pub(crate) struct Scores {
    /// The softmax's probabilities.
    pub probability: f64,
    /// The gradient of q · k.
    pub gradient: f64,
}

impl Params {
    /// The first or second set of keys of attention `of`.
    pub fn of(of: &scores::Params, second: bool) -> Params {
        let p = Params {
            heads: of.heads,
            head_dim: of.head_dim,
            queries: of.queries,
            all_keys: of.keys1 + of.keys2,
            q_stride: of.q_stride,
            q_offset: of.q_offset,
            has_bias: of.has_bias,
            causal: of.causal,
            scale: of.scale,
            ..Params::default()
        };
        if second {
            return Params {
                keys: of.keys2,
                first_key: of.keys1,
                k_stride: of.k2_stride,
                k_offset: of.k2_offset,
                v_stride: of.v2_stride,
                v_offset: of.v2_offset,
                ..p
            };
        }
        Params {
            keys: of.keys1,
            k_stride: of.k1_stride,
            k_offset: of.k1_offset,
            v_stride: of.v1_stride,
            v_offset: of.v1_offset,
            has_mask: of.has_mask,
            ..p
        }
    }

    /// A picture's rows of q, k or v of one head, and their stride.
    pub(crate) fn rows<'a, T>(
        &self,
        input: usize,
        inputs: &[&'a [T]],
        n: usize,
        head: usize,
    ) -> (&'a [T], usize) {
        let (rows, stride, offset) = match input {
            0 => (self.queries, self.q_stride, self.q_offset),
            1 => (self.keys, self.k_stride, self.k_offset),
            2 => (self.keys, self.v_stride, self.v_offset),
            _ => (self.queries, self.heads * self.head_dim, 0),
        };
        let dim = self.head_dim as usize;
        head_rows(inputs[input], n, rows as usize, stride, offset, head, dim)
    }

    /// The definition of a score's probability and gradient.
    pub(crate) fn score<T: Number>(
        &self,
        inputs: &[&[T]],
        n: usize,
        head: usize,
        query: usize,
        key: usize,
    ) -> Scores {
        let dim = self.head_dim as usize;
        if self.causal != 0 && self.first_key as usize + key > query {
            return Scores { probability: 0.0, gradient: 0.0 };
        }
        let dot = |a: usize, i: usize, b: usize, j: usize| -> f64 {
            let ((a, a_stride), (b, b_stride)) =
                (self.rows(a, inputs, n, head), self.rows(b, inputs, n, head));
            dot(&a[i * a_stride..][..dim], &b[j * b_stride..][..dim])
        };
        let heads = self.heads as usize;
        let mut s = dot(0, query, 1, key) * f64::from(self.scale);
        if self.has_bias != 0 {
            let at = (query * self.all_keys as usize + self.first_key as usize + key) * heads + head;
            s += inputs[3][at].into();
        }
        if self.has_mask != 0 {
            s += inputs[4][n * self.keys as usize + key].into();
        }
        let at = ((n * self.queries as usize + query) * heads + head) * 3;
        let stats: [f64; 3] = [0, 1, 2].map(|i| inputs[6][at + i].into());
        let probability = (s.max(f64::from(LOWEST)) - stats[0]).exp() * stats[1];
        let gradient = f64::from(self.scale) * probability * (dot(5, query, 2, key) - stats[2]);
        Scores { probability, gradient }
    }

    /// Adds bias and mask to scores of `rows` by `cols`, of queries by keys from `first` on, or the other way round.
    pub(crate) fn add(
        &self,
        scores: &mut [f32],
        inputs: &[&[f32]],
        (n, head): (usize, usize),
        cols: usize,
        pair: impl Fn(usize, usize) -> (usize, usize),
    ) {
        if self.has_bias + self.has_mask + self.causal == 0 {
            return;
        }
        for (i, s) in scores.iter_mut().enumerate() {
            let (query, key) = pair(i / cols, i % cols);
            let at = self.first_key as usize + key;
            if self.causal != 0 && at > query {
                *s = -3.4e38;
                continue;
            }
            if self.has_bias != 0 {
                *s += inputs[3][(query * self.all_keys as usize + at) * self.heads as usize + head];
            }
            if self.has_mask != 0 {
                *s += inputs[4][n * self.keys as usize + key];
            }
            *s = s.max(LOWEST);
        }
    }
}

fn reference(params: &[u8], inputs: &[&[f64]], dq: &mut [f64]) {
    let dim = Params::read(params).head_dim as usize;
    dq.chunks_exact_mut(dim).enumerate().for_each(|(i, dq)| dq.copy_from_slice(&row(params, inputs, i)));
}

/// The definition of row `i` of `head_dim` columns: of one query and head.
fn row<T: Number>(params: &[u8], inputs: &[&[T]], i: usize) -> Vec<f64> {
    let p = Params::read(params);
    let (heads, dim, queries) = (p.heads as usize, p.head_dim as usize, p.queries as usize);
    let (n, query, head) = (i / (queries * heads), i / heads % queries, i % heads);
    let (k, k_stride) = p.rows(1, inputs, n, head);
    let mut dq = vec![0.0; dim];
    for key in 0..p.keys as usize {
        let Scores { gradient, .. } = p.score(inputs, n, head, query, key);
        dq.iter_mut().zip(&k[key * k_stride..]).for_each(|(dq, k)| *dq += gradient * (*k).into());
    }
    dq
}

/// Blocks of queries of one head, each: scores and their probabilities' gradients by products, then the product of both
/// with the keys.
fn cpu(params: &[u8], inputs: &[&[f32]], dq: &mut [f32]) {
    let p = Params::read(params);
    let (heads, dim, queries, keys) =
        (p.heads as usize, p.head_dim as usize, p.queries as usize, p.keys as usize);
    let width = heads * dim;
    let block = queries.div_ceil(rayon::current_num_threads()).clamp(1, 128);
    for (n, dq) in dq.chunks_exact_mut(queries * width).enumerate() {
        let blocks = dq.par_chunks_mut(block * width).enumerate();
        blocks.for_each_init(Vec::new, |scratch: &mut Vec<f32>, (i, dq)| {
            let (first, rows) = (i * block, dq.len() / width);
            scratch.resize(2 * rows * keys, 0.0);
            let (scores, dp) = scratch.split_at_mut(rows * keys);
            for head in 0..heads {
                let [(q, qs), (k, ks), (v, vs), (dy, dys)] = [0, 1, 2, 5].map(|x| p.rows(x, inputs, n, head));
                let sizes = [rows, dim, keys];
                gemm(scores, keys, &q[first * qs..], qs, (k, 1, ks), sizes, p.scale);
                gemm(dp, keys, &dy[first * dys..], dys, (v, 1, vs), sizes, 1.0);
                p.add(scores, inputs, (n, head), keys, |row, col| (first + row, col));
                for (r, (s, dp)) in scores.chunks_exact(keys).zip(dp.chunks_exact_mut(keys)).enumerate() {
                    let at = ((n * queries + first + r) * heads + head) * 3;
                    let (top, factor, sum) = (inputs[6][at], p.scale * inputs[6][at + 1], inputs[6][at + 2]);
                    wide(
                        #[inline(always)]
                        || {
                            for (dp, s) in dp.iter_mut().zip(s) {
                                *dp = exp(*s - top) * factor * (*dp - sum);
                            }
                        },
                    );
                }
                gemm(&mut dq[head * dim..], width, dp, keys, (k, ks, 1), [rows, keys, dim], 1.0);
            }
        });
    }
}
