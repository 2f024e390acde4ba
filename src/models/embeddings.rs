//! What conditions every residual block: timestep, noise level, pooled text.

use super::attention::{options, rows, tokens};
use super::blocks::{linear, linears, pointwise};
use crate::graph::{Graph, Tensor};
use crate::kernels::attention::{KeyValue, attention};
use crate::kernels::elementwise::{activate, add};
use crate::kernels::embedding::embedding;
use crate::kernels::epilogue::Activation;
use crate::kernels::layer_norm::layer_norm;
use crate::kernels::sum_axis::mean_rows;
use std::ops::Range;
use std::slice::from_ref;

/// Two linear layers with an activation between: `[N, I]` → `[N, dim]`.
pub fn mlp(g: &mut Graph, names: [&str; 2], x: &Tensor, dim: usize, act: Activation) -> Tensor {
    let h = linear(g, names[0], x, dim);
    let h = activate(g, &h, act);
    linear(g, names[1], &h, dim)
}

/// [`mlp`] under diffusers' names (`TimestepEmbedding`).
pub fn timestep_mlp(g: &mut Graph, name: &str, x: &Tensor, dim: usize, act: Activation) -> Tensor {
    g.scope(name, |g| mlp(g, ["linear_1", "linear_2"], x, dim, act))
}

/// Attention-pooled text (`TextTimeEmbedding` of DeepFloyd IF): states `[N, L, T]` → `[N, dim]`.
pub fn text_embedding(g: &mut Graph, name: &str, states: &Tensor, heads: usize, dim: usize) -> Tensor {
    const EPS: f32 = 1e-5;
    g.scope(name, |g| {
        let h = layer_norm(g, "norm1", states, EPS);
        let pooled = g.scope("pool", |g| attention_pooling(g, &h, heads));
        let h = linear(g, "proj", &pooled, dim);
        layer_norm(g, "norm2", &h, EPS)
    })
}

/// The mean of the text states plus a learned position attends to itself and to the states.
fn attention_pooling(g: &mut Graph, states: &Tensor, heads: usize) -> Tensor {
    let channels = states.channels();
    let mean = token_mean(g, states);
    let position = g.vector("positional_embedding", &[1, channels]);
    let class_token = add(g, &mean, &position);
    let q = linear(g, "q_proj", &class_token, channels);
    let key_value = |g: &mut Graph, x: &Tensor| KeyValue {
        key: (&linear(g, "k_proj", x, channels)).into(),
        value: (&linear(g, "v_proj", x, channels)).into(),
    };
    // q and k each scaled by head_dim^(-1/4) is the usual scale of their product.
    let both = [key_value(g, &class_token), key_value(g, states)];
    pool(g, &q, both, channels / heads)
}

/// How the layers of an attention pooling over pixels lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolLayers {
    /// `positional_embedding` `[C, P]`; `qkv_proj`, all queries, all keys, all values, and `c_proj` as convolutions of one
    /// tap: guided-diffusion's classifier.
    Fused,
    /// `positional_embedding` `[P, C]`; linear layers `q_proj`, `k_proj`, `v_proj`, `c_proj`: CLIP.
    Separate,
}

/// Attention-pooled pixels (OpenAI's `AttentionPool2d`): the mean of x `[N, H, W, C]` and the pixels, each plus a learned
/// position, of which the mean attends to all → `[N, out]`.
pub fn attention_pool_2d(
    g: &mut Graph,
    name: &str,
    x: &Tensor,
    layers: PoolLayers,
    head_dim: usize,
    out: usize,
) -> Tensor {
    g.scope(name, |g| {
        let pixels = tokens(g, x);
        let (n, count, channels) = (pixels.dim(0), pixels.dim(1), pixels.channels());
        let table = match layers {
            PoolLayers::Fused => g.matrix("positional_embedding", channels, count + 1),
            PoolLayers::Separate => g.table("positional_embedding", count + 1, channels),
        };
        let positions = |g: &mut Graph, rows: Range<usize>, repeat: usize| {
            let ids = (0..repeat).flat_map(|_| rows.clone().map(|row| row as f32)).collect();
            let ids = g.constant(&[repeat, rows.len()], ids);
            embedding(g, "positional_embedding", &ids, &table)
        };
        let (first, others) = (positions(g, 0..1, 1), positions(g, 1..count + 1, n));
        let mean = token_mean(g, &pixels);
        let (mean, pixels) = (add(g, &mean, &first), add(g, &pixels, &others));
        let (queries, others) = (0..channels, channels..3 * channels);
        let q = match layers {
            PoolLayers::Fused => pointwise(g, "qkv_proj", &mean, 3 * channels, from_ref(&queries)),
            PoolLayers::Separate => linear(g, "q_proj", &mean, channels),
        };
        let key_value = |g: &mut Graph, x: &Tensor| {
            let both = match layers {
                PoolLayers::Fused => pointwise(g, "qkv_proj", x, 3 * channels, from_ref(&others)),
                PoolLayers::Separate => linears(g, "kv_proj", &["k_proj", "v_proj"], x, channels),
            };
            KeyValue { key: rows(&both, 0), value: rows(&both, channels) }
        };
        let both = [key_value(g, &mean), key_value(g, &pixels)];
        let pooled = pool(g, &q, both, head_dim);
        match layers {
            PoolLayers::Fused => pointwise(g, "c_proj", &pooled, out, &[]),
            PoolLayers::Separate => linear(g, "c_proj", &pooled, out),
        }
    })
}

/// Mean over the tokens of states `[N, L, C]` → `[N, 1, C]`.
pub fn token_mean(g: &mut Graph, states: &Tensor) -> Tensor {
    let mean = mean_rows(g, "mean", states, states.dim(1));
    g.reshape(&mean, &[states.dim(0), 1, states.channels()])
}

/// One query q `[N, 1, C]` attends to its own key and to all others → `[N, C]`.
fn pool(g: &mut Graph, q: &Tensor, [own, all]: [KeyValue; 2], head_dim: usize) -> Tensor {
    let options = options(q.channels(), head_dim);
    let pooled = attention(g, "attention", &q.into(), Some(&own), Some(&all), &options);
    g.reshape(&pooled, &[q.dim(0), q.channels()])
}
