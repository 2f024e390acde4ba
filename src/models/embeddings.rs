//! What conditions every residual block: timestep, noise level, pooled text.

use super::blocks::linear;
use crate::graph::{Graph, Tensor};
use crate::kernels::attention::{KeyValue, Options, attention};
use crate::kernels::concat::concat;
use crate::kernels::elementwise::{activate, add};
use crate::kernels::epilogue::Activation;
use crate::kernels::layer_norm::layer_norm;

/// Two linear layers with an activation between (`TimestepEmbedding`): `[N, I]` → `[N, dim]`.
pub fn timestep_mlp(g: &mut Graph, name: &str, x: &Tensor, dim: usize, act: Activation) -> Tensor {
    g.scope(name, |g| {
        let h = linear(g, "linear_1", x, dim);
        let h = activate(g, &h, act);
        linear(g, "linear_2", &h, dim)
    })
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

/// One query, the mean of the states plus a learned position, attends to itself and to the states.
fn attention_pooling(g: &mut Graph, states: &Tensor, heads: usize) -> Tensor {
    let (n, channels) = (states.dim(0), states.channels());
    let head_dim = channels / heads;
    let options = Options { heads, head_dim, scale: 1.0, bias: None, mask: None, causal: false };
    // A zero query weighs all keys alike, so attention with it is the mean over the tokens.
    let zeros = g.constant(&[1, 1, channels], vec![0.0; channels]);
    let zeros = concat(g, "zeros", &zeros, None, n);
    let rows = KeyValue { key: states.into(), value: states.into() };
    let mean = attention(g, "mean", &(&zeros).into(), None, Some(&rows), &options);
    let position = g.vector("positional_embedding", &[1, channels]);
    let class_token = add(g, &mean, &position);
    let q = linear(g, "q_proj", &class_token, channels);
    let key_value = |g: &mut Graph, x: &Tensor| KeyValue {
        key: (&linear(g, "k_proj", x, channels)).into(),
        value: (&linear(g, "v_proj", x, channels)).into(),
    };
    let (own, all) = (key_value(g, &class_token), key_value(g, states));
    // q and k each scaled by head_dim^(-1/4) is the usual scale of their product.
    let options = Options { scale: 1.0 / (head_dim as f32).sqrt(), ..options };
    let pooled = attention(g, "attention", &(&q).into(), Some(&own), Some(&all), &options);
    g.reshape(&pooled, &[n, channels])
}
