//! T5 v1.1 encoder (Raffel et al. 2020, arXiv:1910.10683; Shazeer 2020, arXiv:2002.05202): Imagen's text encoder.
//!
//! Where implementations go wrong: scores are not scaled; only block 0 holds the relative position bias and all
//! share it; norms are RMS norms without bias; the feed-forward part is gated.

use super::blocks::linear_no_bias;
use super::check::{epsilon, require};
use crate::error::{Error, Result};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::attention::{KeyValue, MAX_HEAD_DIM, Options, attention};
use crate::kernels::elementwise::{activate, add, mul};
use crate::kernels::embedding::embedding;
use crate::kernels::epilogue::Activation;
use crate::kernels::layer_norm::rms_norm;
use serde::Deserialize;
use std::path::Path;

/// `text_encoder/config.json` of class `T5EncoderModel`.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Channels of the states.
    pub d_model: usize,
    /// Columns of a head.
    pub d_kv: usize,
    /// Channels of the feed-forward part.
    pub d_ff: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Heads.
    pub num_heads: usize,
    /// Added to the norms' mean square.
    #[serde(default = "layer_norm_epsilon")]
    pub layer_norm_epsilon: f32,
    /// Relative position buckets.
    #[serde(default = "num_buckets")]
    pub relative_attention_num_buckets: usize,
    /// Distances from here on share the last bucket.
    #[serde(default = "max_distance")]
    pub relative_attention_max_distance: usize,
    /// `gated-gelu` in every v1.1 checkpoint.
    #[serde(default = "feed_forward")]
    pub feed_forward_proj: String,
}

fn layer_norm_epsilon() -> f32 {
    1e-6
}
fn num_buckets() -> usize {
    32
}
fn max_distance() -> usize {
    128
}
fn feed_forward() -> String {
    "gated-gelu".into()
}

impl Config {
    /// Refuses what the forward cannot record. `path` is the config's file, for the message.
    pub fn validate(&self, path: &Path) -> Result<()> {
        let positive = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("d_model", self.d_model, 1 << 16),
            ("d_kv", self.d_kv, MAX_HEAD_DIM),
            ("d_ff", self.d_ff, 1 << 18),
            ("num_layers", self.num_layers, 256),
            ("num_heads", self.num_heads, 1024),
            ("relative_attention_num_buckets", self.relative_attention_num_buckets / 4, 1 << 16),
            ("relative_attention_max_distance", self.relative_attention_max_distance, 1 << 20),
        ];
        for (key, value, most) in positive {
            require(path, key, value > 0 && value <= most, || format!("is out of range (at most {most})"))?;
        }
        let buckets = self.relative_attention_num_buckets;
        require(
            path,
            "relative_attention_max_distance",
            self.relative_attention_max_distance > buckets / 4,
            || format!("must exceed a quarter of the {buckets} buckets"),
        )?;
        epsilon(path, "layer_norm_epsilon", self.layer_norm_epsilon)?;
        match self.feed_forward_proj.as_str() {
            "gated-gelu" => Ok(()),
            other => Err(Error::config(
                path,
                "feed_forward_proj",
                format!("`{other}` is not supported; T5 v1.1 encoders have `gated-gelu`"),
            )),
        }
    }

    /// Token ids `[N, L]` and, where some are padding, an additive mask `[N, L]` → states `[N, L, d_model]`.
    pub fn forward(&self, g: &mut Graph, ids: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let len = ids.dim(1);
        let table = g.table("shared.weight", self.vocab_size, self.d_model);
        let mut h = embedding(g, "shared", ids, &table); // [N, L, d_model]
        g.tap("hidden.0", &h);
        g.scope("encoder", |g| {
            let buckets = self.buckets(len);
            let bias = g.scope("block.0.layer.0.SelfAttention.relative_attention_bias", |g| {
                let table = g.table("weight", self.relative_attention_num_buckets, self.num_heads);
                let buckets = g.constant(&[len * len], buckets);
                embedding(g, "", &buckets, &table) // [L · L, heads]
            });
            for i in 0..self.num_layers {
                h = g.scope(format!("block.{i}"), |g| {
                    let h = g.scope("layer.0", |g| self.self_attention(g, &h, &bias, mask));
                    g.scope("layer.1", |g| self.feed_forward(g, &h))
                });
                g.tap(&format!("hidden.{}", i + 1), &h);
            }
            rms_norm(g, "final_layer_norm", &h, self.layer_norm_epsilon)
        })
    }

    fn self_attention(&self, g: &mut Graph, x: &Tensor, bias: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let h = rms_norm(g, "layer_norm", x, self.layer_norm_epsilon);
        let h = g.scope("SelfAttention", |g| {
            let inner = self.num_heads * self.d_kv;
            let (q, k, v) = (
                linear_no_bias(g, "q", &h, inner),
                linear_no_bias(g, "k", &h, inner),
                linear_no_bias(g, "v", &h, inner),
            );
            let tokens = KeyValue { key: (&k).into(), value: (&v).into() };
            let options = Options {
                heads: self.num_heads,
                head_dim: self.d_kv,
                scale: 1.0,
                bias: Some(bias),
                mask,
                causal: false,
            };
            let h = attention(g, "attention", &(&q).into(), Some(&tokens), None, &options);
            linear_no_bias(g, "o", &h, self.d_model)
        });
        add(g, &h, x)
    }

    fn feed_forward(&self, g: &mut Graph, x: &Tensor) -> Tensor {
        let h = rms_norm(g, "layer_norm", x, self.layer_norm_epsilon);
        let h = g.scope("DenseReluDense", |g| {
            let linear = linear_no_bias(g, "wi_1", &h, self.d_ff);
            let gate = linear_no_bias(g, "wi_0", &h, self.d_ff);
            let gate = activate(g, &gate, Activation::GeluTanh);
            let h = mul(g, &gate, &linear);
            linear_no_bias(g, "wo", &h, self.d_model)
        });
        add(g, &h, x)
    }

    /// Bucket of every pair (query, key): half of them for keys to the right; in each half, exact distances first,
    /// then logarithmically wider ones.
    fn buckets(&self, len: usize) -> Vec<f32> {
        let half = self.relative_attention_num_buckets / 2;
        let exact = half / 2;
        let bucket = |query: usize, key: usize| {
            let distance = query.abs_diff(key);
            let side = if key > query { half } else { 0 };
            if distance < exact {
                return side + distance;
            }
            // f32, as the original has it: a rounding decides the bucket.
            let ratio = (distance as f32 / exact as f32).ln()
                / (self.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
            side + (exact + (ratio * (half - exact) as f32) as usize).min(half - 1)
        };
        (0..len * len).map(|i| bucket(i / len, i % len) as f32).collect()
    }
}

/// The additive mask the encoder takes from a tokenizer's: 0 for text, the lowest float for padding.
pub fn additive_mask(mask: &[bool]) -> Vec<f32> {
    mask.iter().map(|&text| if text { 0.0 } else { f32::MIN }).collect()
}

/// The graph of one encoder run over `batch` prompts of `len` tokens: inputs `ids`, `mask`, output `states`.
pub fn graph(config: &Config, batch: usize, len: usize) -> Graph {
    let mut g = Graph::new();
    let ids = g.input("ids", &[batch, len], Storage::F32);
    let mask = g.input("mask", &[batch, len], Storage::F32);
    let states = config.forward(&mut g, &ids, Some(&mask));
    g.output("states", &states);
    g
}
