//! Blocks of both transformers: attention and a feed-forward part, each of a layer norm and with a residual connection.

use crate::graph::{Graph, Tensor};
use crate::kernels::attention::{KeyValue, Options, Rows, attention};
use crate::kernels::elementwise::{activate, add};
use crate::kernels::epilogue::Activation;
use crate::kernels::layer_norm::layer_norm_of;
use crate::kernels::matmul::matmul;
use crate::models::attention::{options, rows};

/// What a checkpoint calls its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// GLIDE's noised CLIP, `clip_image_enc.pt` and `clip_text_enc.pt`: `blocks.block_0.f_attn.f_q.w`.
    Glide,
    /// OpenAI's CLIP, `ViT-B-32.pt`: `visual.transformer.resblocks.0.attn.in_proj_weight`.
    OpenAi,
    /// transformers' `CLIPModel`: `vision_model.encoder.layers.0.self_attn.q_proj.weight`.
    Transformers,
}

/// How queries, keys and values lie in a file.
enum Projections {
    /// All queries, all keys, all values in one matrix `…weight` with one `…bias`.
    Fused(&'static str),
    /// A layer each.
    Separate([&'static str; 3]),
    /// A layer each, the keys' without bias.
    KeysWithoutBias([&'static str; 3]),
}

struct Names {
    /// Of a linear layer's matrix and bias.
    linear: [&'static str; 2],
    /// Of a norm's factors and bias.
    norm: [&'static str; 2],
    /// The norm before attention.
    norm1: &'static str,
    projections: Projections,
    /// After attention.
    out: &'static str,
    /// The norm before the feed-forward part.
    norm2: &'static str,
    /// To the feed-forward part's width, and back.
    feed_forward: [&'static str; 2],
}

const GLIDE: Names = Names {
    linear: ["w", "b"],
    norm: ["g", "b"],
    norm1: "f_attn.ln",
    projections: Projections::KeysWithoutBias(["f_attn.f_q", "f_attn.f_k", "f_attn.f_v"]),
    out: "f_attn.f_c",
    norm2: "f_mlp.ln",
    feed_forward: ["f_mlp.f_1", "f_mlp.f_2"],
};
const OPENAI: Names = Names {
    linear: ["weight", "bias"],
    norm: ["weight", "bias"],
    norm1: "ln_1",
    projections: Projections::Fused("attn.in_proj_"),
    out: "attn.out_proj",
    norm2: "ln_2",
    feed_forward: ["mlp.c_fc", "mlp.c_proj"],
};
const TRANSFORMERS: Names = Names {
    linear: ["weight", "bias"],
    norm: ["weight", "bias"],
    norm1: "layer_norm1",
    projections: Projections::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    out: "self_attn.out_proj",
    norm2: "layer_norm2",
    feed_forward: ["mlp.fc1", "mlp.fc2"],
};

impl Layout {
    fn names(self) -> &'static Names {
        match self {
            Layout::Glide => &GLIDE,
            Layout::OpenAi => &OPENAI,
            Layout::Transformers => &TRANSFORMERS,
        }
    }

    /// A layer norm `name` of x.
    pub(super) fn norm(self, g: &mut Graph, name: &str, x: &Tensor, eps: f32) -> Tensor {
        let [weight, bias] =
            self.names().norm.map(|part| g.vector(&format!("{name}.{part}"), &[x.channels()]));
        layer_norm_of(g, name, x, &weight, &bias, eps)
    }

    /// A linear layer `name` of x.
    fn linear(self, g: &mut Graph, name: &str, x: &Tensor, out: usize, bias: bool) -> Tensor {
        let names = self.names().linear.map(|part| format!("{name}.{part}"));
        let w = g.matrix(&names[0], out, x.channels());
        let b = bias.then(|| g.vector(&names[1], &[out]));
        matmul(g, name, x, &w, b.as_ref())
    }
}

/// The sizes of a stack of blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Transformer {
    /// What its tensors are called.
    pub layout: Layout,
    /// Channels of the states.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of the feed-forward part.
    pub feed_forward: usize,
    /// Its activation.
    pub act: Activation,
    /// Added to the norms' variance.
    pub eps: f32,
}

impl Transformer {
    /// States `[N, L, width]` through block `name`; a token sees those up to its own place only if `causal`.
    pub(super) fn block(&self, g: &mut Graph, name: &str, x: &Tensor, causal: bool) -> Tensor {
        let (names, layout) = (self.layout.names(), self.layout);
        g.scope(name, |g| {
            let h = layout.norm(g, names.norm1, x, self.eps);
            let (q, tokens) = self.projections(g, &names.projections, &h);
            let options = Options { causal, ..options(self.width, self.width / self.heads) };
            let h = attention(g, "attention", &q, None, Some(&tokens), &options);
            let h = layout.linear(g, names.out, &h, self.width, true);
            let x = add(g, &h, x);
            let h = layout.norm(g, names.norm2, &x, self.eps);
            let h = layout.linear(g, names.feed_forward[0], &h, self.feed_forward, true);
            let h = activate(g, &h, self.act);
            let h = layout.linear(g, names.feed_forward[1], &h, self.width, true);
            add(g, &h, &x)
        })
    }

    fn projections(&self, g: &mut Graph, names: &Projections, h: &Tensor) -> (Rows, KeyValue) {
        let width = self.width;
        let layers = match names {
            Projections::Fused(name) => {
                let w = g.matrix(&format!("{name}weight"), 3 * width, width);
                let b = g.vector(&format!("{name}bias"), &[3 * width]);
                let all = matmul(g, "attn.in_proj", h, &w, Some(&b));
                [0, 1, 2].map(|part| rows(&all, part * width))
            }
            Projections::Separate(names) => {
                names.map(|name| (&self.layout.linear(g, name, h, width, true)).into())
            }
            Projections::KeysWithoutBias(names) => [0, 1, 2].map(|part| {
                let layer = self.layout.linear(g, names[part], h, width, part != 1);
                (&layer).into()
            }),
        };
        let [q, key, value] = layers;
        (q, KeyValue { key, value })
    }
}
