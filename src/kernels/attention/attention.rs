//! Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762) without a score matrix in memory (online
//! softmax, Milakov & Gimelshein 2018, arXiv:1805.02867), over one or two sets of keys.

use super::scores::{KEYS, Number, ROWS16, SCORES, SPREAD, dot, exponentials, grid, head_rows};
pub use super::scores::{MAX_HEAD_DIM, Params};
use crate::graph::split::parts;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::attention_bias_gradient::attention_bias_gradient;
use crate::kernels::attention_key_gradient::attention_key_gradient;
use crate::kernels::attention_query_gradient::{self, attention_query_gradient};
use crate::kernels::attention_statistics::attention_statistics;
use crate::kernels::cut::{columns, place};
use crate::kernels::elementwise::add;
use crate::kernels::gemm::{Panels, Rows as Lines, pack_into, packed_len};
use crate::kernels::scratch::{Shared, scratch};
use crate::kernels::simd::wide;
use crate::kernels::{Backward, Cost, Kernel, MATRICES, MATRICES8, MATRICES16, Needs, Shader};
use rayon::prelude::*;

const VALUES: &str = wgsl!("shared/attention_value");
const TILE: &str = wgsl!("shared/attention_tile");
const LANES: &str = wgsl!("software/shared/attention_lanes");
const DIM64: &str = wgsl!("software/shared/dim64");
const DIM64_SELF: &str = wgsl!("software/shared/dim64_self");
const DIM512: &str = wgsl!("software/shared/dim512");
const WGSL: &str = wgsl!("attention/attention");
const QUADS: &str = wgsl!("shared/attention_quads");
const BY_QUADS: &str = wgsl!("attention/attention_quads");
const COOPERATIVE: &str = wgsl!("shared/attention_cooperative");
const IN_MATRICES: &str = wgsl!("attention/attention_matrices");

/// Whether heads of at most so many columns and all rows are whole quads.
fn in_quads(params: &[u8], widest: u32) -> bool {
    let p = Params::read(params);
    let first = [p.k1_stride, p.k1_offset, p.v1_stride, p.v1_offset];
    let second = [p.k2_stride, p.k2_offset, p.v2_stride, p.v2_offset];
    let whole = |of: &[u32]| of.iter().all(|n| n.is_multiple_of(4));
    p.head_dim <= widest
        && whole(&[p.head_dim, p.q_stride, p.q_offset])
        && (p.keys1 == 0 || whole(&first))
        && (p.keys2 == 0 || whole(&second))
}

/// A shader in which the lanes of subgroups of 8 are queries.
const fn by_lanes(name: &'static str, shared: &'static [&'static str], fits: fn(&[u8]) -> bool) -> Shader {
    Shader::plain(name, wgsl!("software/attention_lanes"), shared, |p, y| grid(p, y, 64))
        .needing(Needs::SUBGROUP8)
        .fitting(fits)
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "attention",
    shaders: &[
        Shader::plain("attention", WGSL, &[SCORES, KEYS, VALUES, ROWS16, TILE], |p, y| grid(p, y, 16)),
        by_lanes("attention_lanes512", &[SCORES, KEYS, VALUES, SPREAD, DIM512, LANES], |_| true),
        by_lanes("attention_lanes", &[SCORES, KEYS, VALUES, SPREAD, DIM64, LANES], |p| {
            Params::read(p).head_dim <= 64
        }),
        by_lanes("attention_lanes_self", &[SCORES, KEYS, VALUES, SPREAD, DIM64_SELF, LANES], |p| {
            Params::read(p).head_dim <= 64 && Params::read(p).keys1 == 0
        }),
        Shader {
            constants: &[("ROWS", 32.0)],
            ..Shader::plain("attention_quads128", BY_QUADS, &[SCORES, QUADS], |p, y| grid(p, y, 32))
        }
        .needing(Needs::HARDWARE)
        .fitting(|p| in_quads(p, 128)),
        Shader::plain("attention_quads64", BY_QUADS, &[SCORES, QUADS], |p, y| grid(p, y, 64))
            .needing(Needs::HARDWARE)
            .fitting(|p| in_quads(p, 64)),
        Shader::plain(
            "attention_matrices8",
            IN_MATRICES,
            &[SCORES, QUADS, MATRICES8, MATRICES, COOPERATIVE],
            |p, y| grid(p, y, 32),
        )
        .needing(Needs::MATRICES8)
        .fitting(|p| in_quads(p, 64)),
        Shader::plain(
            "attention_matrices16",
            IN_MATRICES,
            &[SCORES, QUADS, MATRICES16, MATRICES, COOPERATIVE],
            |p, y| grid(p, y, 64),
        )
        .needing(Needs::MATRICES16)
        .fitting(|p| in_quads(p, 64)),
    ],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    element: Some(|params, inputs, i| {
        let dim = Params::read(params).head_dim as usize;
        row(params, inputs, i / dim)[i % dim]
    }),
    gradient: Some(gradient),
    split: Some(parts::attention),
    cost: |params, inputs, output| {
        let p = Params::read(params);
        let pairs = output.iter().product::<usize>() as f64 * f64::from(p.keys1 + p.keys2);
        Cost::streaming(4.0 * pairs, inputs, output)
    },
    ..Kernel::PLAIN
};

/// Rows of `[N, L, stride]` in which heads lie side by side from column `offset` on.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The tensor.
    pub tensor: Tensor,
    /// Column of head 0.
    pub offset: usize,
}

impl From<&Tensor> for Rows {
    fn from(tensor: &Tensor) -> Self {
        Rows { tensor: tensor.clone(), offset: 0 }
    }
}

/// Keys and values of one source.
#[derive(Clone, Debug)]
pub struct KeyValue {
    /// Keys `[N, L, ..]`.
    pub key: Rows,
    /// Values `[N, L, ..]`.
    pub value: Rows,
}

/// What attention does besides the softmax of the products.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// Number of heads.
    pub heads: usize,
    /// Columns of one head.
    pub head_dim: usize,
    /// Factor of the products, usually 1/√head_dim.
    pub scale: f32,
    /// `[LQ, L1 + L2, heads]` added to all scores.
    pub bias: Option<&'a Tensor>,
    /// `[N, L1]` added to the scores of the first keys.
    pub mask: Option<&'a Tensor>,
    /// A query sees the keys up to its own place only.
    pub causal: bool,
}

/// Attention of q `[N, LQ, ..]` to `first` and then `second` keys → `[N, LQ, heads · head_dim]`.
#[track_caller]
pub fn attention(
    g: &mut Graph,
    label: &str,
    q: &Rows,
    first: Option<&KeyValue>,
    second: Option<&KeyValue>,
    options: &Options<'_>,
) -> Tensor {
    let (n, queries, width) = (q.tensor.dim(0), q.tensor.dim(1), options.heads * options.head_dim);
    assert!(
        options.head_dim <= MAX_HEAD_DIM,
        "{label}: head size {} is above {MAX_HEAD_DIM}",
        options.head_dim
    );
    let keys = |kv: Option<&KeyValue>| kv.map_or(0, |kv| kv.key.tensor.dim(1));
    assert!(keys(first) + keys(second) > 0, "{label}: no keys");
    for rows in [Some(q)]
        .into_iter()
        .chain([first, second].into_iter().flat_map(|kv| [kv.map(|kv| &kv.key), kv.map(|kv| &kv.value)]))
    {
        let Some(rows) = rows else { continue };
        assert_eq!(rows.tensor.dim(0), n, "{label}: batch sizes differ");
        assert!(
            rows.offset + width <= rows.tensor.channels(),
            "{label}: heads exceed {:?}",
            rows.tensor.shape
        );
    }
    for kv in [first, second].into_iter().flatten() {
        let (k, v) = (&kv.key.tensor, &kv.value.tensor);
        assert_eq!(k.dim(1), v.dim(1), "{label}: keys {:?}, values {:?}", k.shape, v.shape);
    }
    if let Some(bias) = options.bias {
        assert_eq!(bias.len(), queries * (keys(first) + keys(second)) * options.heads, "{label}: bias");
    }
    if let Some(mask) = options.mask {
        assert_eq!(mask.len(), n * keys(first), "{label}: mask {:?}", mask.shape);
    }
    let empty = Rows { tensor: g.empty(), offset: 0 };
    let part = |kv: Option<&KeyValue>| {
        kv.map_or((empty.clone(), empty.clone()), |kv| (kv.key.clone(), kv.value.clone()))
    };
    let ((k1, v1), (k2, v2)) = (part(first), part(second));
    let p = Params {
        heads: options.heads as u32,
        head_dim: options.head_dim as u32,
        queries: queries as u32,
        keys1: keys(first) as u32,
        keys2: keys(second) as u32,
        q_stride: q.tensor.channels() as u32,
        k1_stride: k1.tensor.channels() as u32,
        k1_offset: k1.offset as u32,
        v1_stride: v1.tensor.channels() as u32,
        v1_offset: v1.offset as u32,
        k2_stride: k2.tensor.channels() as u32,
        k2_offset: k2.offset as u32,
        v2_stride: v2.tensor.channels() as u32,
        v2_offset: v2.offset as u32,
        q_offset: q.offset as u32,
        has_bias: options.bias.is_some().into(),
        has_mask: options.mask.is_some().into(),
        causal: options.causal.into(),
        scale: options.scale,
    };
    g.push(
        &KERNEL,
        label,
        p.bytes(),
        &[
            &q.tensor,
            &k1.tensor,
            &v1.tensor,
            &k2.tensor,
            &v2.tensor,
            options.bias.unwrap_or(&empty.tensor),
            options.mask.unwrap_or(&empty.tensor),
        ],
        &[n, queries, width],
        Storage::Elem,
    )
}

/// Columns of an input that one node gives the gradient of.
struct Part {
    /// Which input.
    input: usize,
    /// Its first column.
    offset: usize,
    gradient: Tensor,
}

/// Of each set of keys, its part of the queries' gradient and the gradients of its keys and values. Of a tensor that is
/// several inputs, the first one gets all.
fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    let p = Params::read(&of.node.params);
    of.refuse(&[(6, "the mask")])?;
    let both = p.keys1 > 0 && p.keys2 > 0;
    if both {
        of.refuse(&[(5, "the bias of two sets of keys")])?;
    }
    let (label, width) = (of.label(), (p.heads * p.head_dim) as usize);
    let [q, k1, v1, k2, v2, bias, mask] = [0, 1, 2, 3, 4, 5, 6].map(|i| of.input(g, i));
    let y = of.output(g);
    let statistics = attention_statistics(g, &label, [&q, &k1, &k2, &bias, &mask, &y, of.dy], &p);
    let mut parts = Vec::new();
    let (mut dq, mut bias_gradient): (Option<Tensor>, Option<Tensor>) = (None, None);
    for (second, k, v) in [(false, &k1, &v1), (true, &k2, &v2)] {
        let set = attention_query_gradient::Params::of(&p, second);
        if set.keys == 0 {
            continue;
        }
        let inputs = [&q, k, v, &bias, &mask, of.dy, &statistics];
        if of.wants[5] {
            let gradient = attention_bias_gradient(g, &label, inputs, &set);
            bias_gradient = Some(g.reshape(&gradient, &bias.shape));
        }
        if of.wants[0] {
            let part = attention_query_gradient(g, &label, inputs, &set);
            dq = Some(match dq {
                Some(sum) => add(g, &sum, &part),
                None => part,
            });
        }
        let key = if second { 3 } else { 1 };
        if !of.wants[key] && !of.wants[key + 1] {
            continue;
        }
        let dkv = attention_key_gradient(g, &label, inputs, &set);
        let (k_offset, v_offset) = (set.k_offset as usize, set.v_offset as usize);
        if k.id == v.id && v_offset == k_offset + width {
            parts.push(Part { input: key, offset: k_offset, gradient: dkv });
            continue;
        }
        for (i, offset) in [k_offset, v_offset].into_iter().enumerate().filter(|(i, _)| of.wants[key + i]) {
            let gradient = columns(g, &label, &dkv, i * width, width);
            parts.push(Part { input: key + i, offset, gradient });
        }
    }
    parts.extend(dq.map(|gradient| Part { input: 0, offset: p.q_offset as usize, gradient }));
    let mut gradients: Vec<Option<Tensor>> = vec![None; of.node.inputs.len()];
    gradients[5] = bias_gradient;
    for Part { input, offset, gradient } in parts {
        let id = of.node.inputs[input];
        let first = of.node.inputs.iter().position(|other| *other == id).unwrap_or(input);
        let all = g.tensor(id).channels();
        let whole = offset == 0 && gradient.channels() == all;
        let part = if whole { gradient } else { place(g, &label, &gradient, 2, offset, all) };
        gradients[first] = Some(match gradients[first].take() {
            Some(sum) => add(g, &sum, &part),
            None => part,
        });
    }
    Ok(gradients)
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let dim = Params::read(params).head_dim as usize;
    y.chunks_exact_mut(dim).enumerate().for_each(|(i, y)| y.copy_from_slice(&row(params, inputs, i)));
}

/// The definition of row `i` of `head_dim` columns of y: of one query and head.
fn row<T: Number>(params: &[u8], inputs: &[&[T]], i: usize) -> Vec<f64> {
    let p = Params::read(params);
    let (heads, dim, queries) = (p.heads as usize, p.head_dim as usize, p.queries as usize);
    let (keys1, keys2) = (p.keys1 as usize, p.keys2 as usize);
    let (n, query, head) = (i / (queries * heads), i / heads % queries, i % heads);
    let (q, q_stride) = head_rows(inputs[0], n, queries, p.q_stride, p.q_offset, head, dim);
    let (k1, k1s) = head_rows(inputs[1], n, keys1, p.k1_stride, p.k1_offset, head, dim);
    let (v1, v1s) = head_rows(inputs[2], n, keys1, p.v1_stride, p.v1_offset, head, dim);
    let (k2, k2s) = head_rows(inputs[3], n, keys2, p.k2_stride, p.k2_offset, head, dim);
    let (v2, v2s) = head_rows(inputs[4], n, keys2, p.v2_stride, p.v2_offset, head, dim);
    let of_key = |key: usize| {
        if key < keys1 {
            (&k1[key * k1s..][..dim], &v1[key * v1s..][..dim])
        } else {
            (&k2[(key - keys1) * k2s..][..dim], &v2[(key - keys1) * v2s..][..dim])
        }
    };
    let q = &q[query * q_stride..][..dim];
    let scores: Vec<f64> = (0..keys1 + keys2)
        .map(|key| {
            let product = dot(q, of_key(key).0) * f64::from(p.scale);
            let added = p.added([inputs[5], inputs[6]], n, head, query, key);
            added.map_or(f64::NEG_INFINITY, |added| product + added.into())
        })
        .collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
    let value = |d: usize| {
        scores.iter().enumerate().map(|(k, s)| (s - top).exp() * of_key(k).1[d].into()).sum::<f64>()
    };
    (0..dim).map(|d| value(d) / total).collect()
}

/// Queries of a block.
const QUERIES: usize = 64;
/// Keys of a block: with its keys, values and scores a block of queries stays in a core's second cache.
const BLOCK: usize = 512;

/// Each head of each picture: its keys and values in panels once; then blocks of queries, each by blocks of keys: scores by
/// a product, their exponentials, values by a product.
fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (heads, dim, queries) = (p.heads as usize, p.head_dim as usize, p.queries as usize);
    let (keys1, keys2, width) = (p.keys1 as usize, p.keys2 as usize, heads * dim);
    let pictures = y.len() / (queries * width);
    let y = Shared::new(y);
    (0..pictures * heads).into_par_iter().for_each(|i| {
        let (n, head) = (i / heads, i % heads);
        let rows = |x: usize, rows, stride, offset| head_rows(inputs[x], n, rows, stride, offset, head, dim);
        let sets = [
            (rows(1, keys1, p.k1_stride, p.k1_offset), rows(2, keys1, p.v1_stride, p.v1_offset), 0, keys1),
            (
                rows(3, keys2, p.k2_stride, p.k2_offset),
                rows(4, keys2, p.v2_stride, p.v2_offset),
                keys1,
                keys2,
            ),
        ];
        let (q, q_stride) = rows(0, queries, p.q_stride, p.q_offset);
        // Of each set: keys, then values.
        let len = |keys| packed_len(dim * keys, keys) + packed_len(keys * dim, dim);
        let mut memory = scratch(len(keys1) + len(keys2));
        let (first, second) = memory.split_at_mut(len(keys1));
        let packed =
            [first, second].into_iter().zip(sets).map(|(memory, ((k, ks), (v, vs), start, keys))| {
                let (kt, values) = memory.split_at_mut(packed_len(dim * keys, keys));
                pack_into(kt, (k, 1, ks), [dim, keys], p.scale);
                pack_into(values, (v, vs, 1), [keys, dim], 1.0);
                (&*kt, &*values, start, keys)
            });
        let packed: Vec<_> = packed.filter(|(.., keys)| *keys > 0).collect();
        (0..queries.div_ceil(QUERIES)).into_par_iter().for_each(|block| {
            let first = block * QUERIES;
            let count = QUERIES.min(queries - first);
            let q = Lines {
                values: &q[first * q_stride..],
                across: (count, q_stride),
                down: 0,
                runs: (1, dim),
                run: dim,
            };
            let mut memory = scratch(count * (dim + BLOCK + 2));
            let (out, memory) = memory.split_at_mut(count * dim);
            let (scores, totals) = memory.split_at_mut(count * BLOCK);
            let totals = totals.as_chunks_mut::<2>().0;
            totals.fill([f32::NEG_INFINITY, 0.0]);
            for &(kt, values, start, keys) in &packed {
                for some in (0..keys).step_by(BLOCK) {
                    let len = BLOCK.min(keys - some);
                    let scores = &mut scores[..count * len];
                    Panels::packed_part(kt, [dim, keys], 0..dim, some..some + len).product(&q, scores, false);
                    p.add_to(scores, count, [inputs[5], inputs[6]], (n, head), (first, start + some));
                    let seen = totals[0][0] > f32::NEG_INFINITY;
                    exponentials(scores, totals, out);
                    let of_keys =
                        Lines { values: scores, across: (count, len), down: 0, runs: (1, len), run: len };
                    Panels::packed_part(values, [keys, dim], some..some + len, 0..dim)
                        .product(&of_keys, out, seen);
                }
            }
            for (r, (out, [_, total])) in out.chunks_exact_mut(dim).zip(&*totals).enumerate() {
                // SAFETY: this head's columns of this row are this task's.
                let y = unsafe { y.slice(((n * queries + first + r) * heads + head) * dim, dim) };
                let factor = 1.0 / total;
                wide(
                    #[inline(always)]
                    || {
                        for (y, sum) in y.iter_mut().zip(&*out) {
                            *y = sum * factor;
                        }
                    },
                );
            }
        });
    });
}
