//! The text transformer inside GLIDE's U-Nets.

use crate::graph::{Graph, Tensor};
use crate::kernels::attention::{KeyValue, MAX_HEAD_DIM, attention};
use crate::kernels::cut::cut;
use crate::kernels::elementwise::{activate, add, as_elem, mul, scale};
use crate::kernels::embedding::embedding;
use crate::kernels::epilogue::Activation;
use crate::kernels::layer_norm::layer_norm;
use crate::models::attention::{options, part_by_part, rows};
use crate::models::blocks::{linear, linear_rows, widen};
use crate::models::check::{MAX_CHANNELS, range, require};
use std::path::Path;

/// Added to the norms' variance.
const EPS: f32 = 1e-5;
/// Most tokens of a prompt.
const MAX_TOKENS: usize = 4_096;
/// Most layers.
const MAX_LAYERS: usize = 256;
/// Most tokens of a vocabulary: f32 counts no further.
const MAX_VOCABULARY: usize = 1 << 24;

/// The text transformer's sizes, named as glide-text2im's options.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Tokens of a prompt, padding and all.
    pub text_ctx: usize,
    /// Channels of a state.
    pub xf_width: usize,
    /// Layers.
    pub xf_layers: usize,
    /// Heads of a layer.
    pub xf_heads: usize,
    /// The last layer's states are normed.
    pub xf_final_ln: bool,
    /// Padding has states of its own at each place, instead of the padding token's.
    pub xf_padding: bool,
    /// Tokens there are; the last one pads.
    pub n_vocab: usize,
}

impl Default for Config {
    /// glide-text2im's options.
    fn default() -> Self {
        Config {
            text_ctx: 128,
            xf_width: 512,
            xf_layers: 16,
            xf_heads: 8,
            xf_final_ln: true,
            xf_padding: true,
            n_vocab: 50_257,
        }
    }
}

impl Config {
    /// Refuses what the forward cannot record; `path` is the file, for the message.
    pub(super) fn validate(&self, path: &Path) -> crate::error::Result<()> {
        range(path, "text_ctx", self.text_ctx, MAX_TOKENS)?;
        range(path, "xf_width", self.xf_width, MAX_CHANNELS)?;
        range(path, "xf_layers", self.xf_layers, MAX_LAYERS)?;
        range(path, "n_vocab", self.n_vocab, MAX_VOCABULARY)?;
        let (heads, width) = (self.xf_heads, self.xf_width);
        let fits = heads > 0 && width.is_multiple_of(heads) && width / heads <= MAX_HEAD_DIM;
        require(path, "xf_heads", fits, || {
            format!("{heads} heads do not divide {width} channels (a head has at most {MAX_HEAD_DIM})")
        })
    }

    /// Ids `[N, L]` and which of them are text, not padding (1 or 0) `[N, L]` → states `[N, L, xf_width]` and the last
    /// place's projection to `out` channels `[N, out]`. Every place sees every other, padding too.
    pub(super) fn forward(
        &self,
        g: &mut Graph,
        (tokens, mask): (&Tensor, &Tensor),
        out: usize,
    ) -> (Tensor, Tensor) {
        let mut h = self.embed(g, tokens, mask);
        for i in 0..self.xf_layers {
            h = g.scope(format!("transformer.resblocks.{i}"), |g| self.block(g, &h));
        }
        if self.xf_final_ln {
            h = layer_norm(g, "final_ln", &h, EPS);
        }
        let last = cut(g, "last", &h, 1, self.text_ctx - 1, 1);
        let last = g.reshape(&last, &[h.dim(0), self.xf_width]);
        let pooled = linear(g, "transformer_proj", &last, out);
        g.tap("xf_out", &h);
        g.tap("xf_proj", &pooled);
        (h, pooled)
    }

    /// Token and place, or the place's padding.
    fn embed(&self, g: &mut Graph, tokens: &Tensor, mask: &Tensor) -> Tensor {
        let (batch, width) = (tokens.dim(0), self.xf_width);
        let table = g.scope("token_embedding", |g| g.table("weight", self.n_vocab, width));
        let words = embedding(g, "token_embedding", tokens, &table);
        let ids = (0..batch).flat_map(|_| 0..self.text_ctx).map(|place| place as f32).collect();
        let ids = g.constant(&[batch, self.text_ctx], ids);
        let by_place = |g: &mut Graph, name: &str| {
            let table = g.table(name, self.text_ctx, width);
            embedding(g, name, &ids, &table)
        };
        let places = by_place(g, "positional_embedding");
        let text = add(g, &words, &places);
        if !self.xf_padding {
            return text;
        }
        let padding = by_place(g, "padding_embedding");
        let mask = as_elem(g, mask);
        let is_text = g.reshape(&mask, &[batch, self.text_ctx, 1]);
        let one = g.constant(&[1], vec![1.0]);
        let less = scale(g, &is_text, -1.0);
        let is_padding = add(g, &less, &one);
        let (is_text, is_padding) = (widen(g, "mask", &is_text, width), widen(g, "mask", &is_padding, width));
        let (text, padding) = (mul(g, &text, &is_text), mul(g, &padding, &is_padding));
        add(g, &text, &padding)
    }

    fn block(&self, g: &mut Graph, x: &Tensor) -> Tensor {
        let (width, head) = (self.xf_width, self.xf_width / self.xf_heads);
        let h = layer_norm(g, "ln_1", x, EPS);
        let h = g.scope("attn", |g| {
            let order = part_by_part(3, self.xf_heads, head);
            let all = linear_rows(g, "c_qkv", &h, 3 * width, &order);
            let states = KeyValue { key: rows(&all, width), value: rows(&all, 2 * width) };
            let h = attention(g, "attention", &rows(&all, 0), None, Some(&states), &options(width, head));
            linear(g, "c_proj", &h, width)
        });
        let x = add(g, &h, x);
        let h = layer_norm(g, "ln_2", &x, EPS);
        let h = g.scope("mlp", |g| {
            let h = linear(g, "c_fc", &h, 4 * width);
            let h = activate(g, &h, Activation::Gelu);
            linear(g, "c_proj", &h, width)
        });
        add(g, &h, &x)
    }
}
