//! The text encoder: a causal transformer whose state at the last token is the answer.

use super::transformer::{Layout, Transformer};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::concat::concat;
use crate::kernels::cut::cut;
use crate::kernels::elementwise::add;
use crate::kernels::embedding::embedding;
use crate::kernels::matmul::matmul;
use crate::kernels::pick::pick;
use crate::kernels::transpose::transpose;

/// Sizes of a text encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Its blocks.
    pub transformer: Transformer,
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Tokens of a text at most.
    pub context: usize,
    /// Columns of the answer.
    pub embed: usize,
    /// Where a text ends.
    pub end: End,
}

/// Which token's state is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The last one that is no padding: as many as the tokenizer says.
    Length,
    /// The largest id: OpenAI's, and transformers' configs that say `eos_token_id: 2`.
    Largest,
    /// The first one with this id.
    First(u32),
}

impl End {
    /// The place of a text's end among its ids, of which `length` are no padding.
    pub fn place(self, ids: &[u32], length: usize) -> usize {
        let last = ids.len().saturating_sub(1);
        match self {
            End::Length => length.saturating_sub(1).min(last),
            // Of several that are alike, the first.
            End::Largest => (0..ids.len()).rev().max_by_key(|at| ids[*at]).unwrap_or(0),
            End::First(id) => ids.iter().position(|found| *found == id).unwrap_or(0),
        }
    }
}

/// What the encoder makes of texts.
#[derive(Clone, Debug)]
pub struct Read {
    /// After the last norm, `[N, L, C]`.
    pub hidden: Tensor,
    /// `[N, E]`, of no particular length.
    pub embeds: Tensor,
}

struct Names {
    tokens: &'static str,
    positions: &'static str,
    block: &'static str,
    norm: &'static str,
    projection: &'static str,
}

impl Layout {
    fn text(self) -> Names {
        match self {
            Layout::Glide => Names {
                tokens: "blocks.input.w_voc",
                positions: "blocks.input.w_pos",
                block: "blocks.block_",
                norm: "blocks.output.ln",
                projection: "blocks.output.f.w",
            },
            Layout::OpenAi => Names {
                tokens: "token_embedding.weight",
                positions: "positional_embedding",
                block: "transformer.resblocks.",
                norm: "ln_final",
                projection: "text_projection",
            },
            Layout::Transformers => Names {
                tokens: "text_model.embeddings.token_embedding.weight",
                positions: "text_model.embeddings.position_embedding.weight",
                block: "text_model.encoder.layers.",
                norm: "text_model.final_layer_norm",
                projection: "text_projection.weight",
            },
        }
    }

    /// x · the matrix `name`, which OpenAI's layout keeps `[in, out]` and the others `[out, in]`.
    pub(super) fn project(self, g: &mut Graph, name: &str, x: &Tensor, out: usize) -> Tensor {
        let w = match self {
            Layout::OpenAi => g.table(name, x.channels(), out),
            Layout::Glide | Layout::Transformers => g.matrix(name, out, x.channels()),
        };
        matmul(g, name, x, &w, None)
    }
}

impl Config {
    /// Ids `[N, L]` of texts that end at places `ends` → states and answers.
    #[track_caller]
    pub fn forward(&self, g: &mut Graph, ids: &Tensor, ends: &[usize]) -> Read {
        let (layout, width) = (self.transformer.layout, self.transformer.width);
        let (names, n, len) = (layout.text(), ids.dim(0), ids.dim(1));
        assert!(len <= self.context && ends.len() == n, "ids {:?} with {} ends", ids.shape, ends.len());
        let table = g.table(names.tokens, self.vocab_size, width);
        let states = embedding(g, names.tokens, ids, &table);
        let positions = g.vector(names.positions, &[self.context, width]);
        let positions = g.reshape(&positions, &[1, self.context, width]);
        let mut positions = concat(g, names.positions, &positions, None, n);
        if len < self.context {
            positions = cut(g, names.positions, &positions, 1, 0, len);
        }
        let mut h = add(g, &states, &positions);
        g.tap("hidden.0", &h);
        for i in 0..self.transformer.layers {
            h = self.transformer.block(g, &format!("{}{i}", names.block), &h, true);
            g.tap(&format!("hidden.{}", i + 1), &h);
        }
        let hidden = layout.norm(g, names.norm, &h, self.transformer.eps);
        // Each channel's value at the text's end.
        let by_channel = transpose(g, "end", &hidden);
        let places = ends.iter().flat_map(|end| vec![*end as f32; width]).collect();
        let places = g.constant(&[n, width], places);
        let last = pick(g, "end", &by_channel, &places);
        let embeds = layout.project(g, names.projection, &last, self.embed);
        Read { hidden, embeds }
    }

    /// The network for texts that end at places `ends`. Input `ids` `[N, L]`; outputs `hidden` and `embeds`.
    pub fn graph(&self, len: usize, ends: &[usize]) -> Graph {
        let mut g = Graph::new();
        let ids = g.input("ids", &[ends.len(), len], Storage::F32);
        let read = self.forward(&mut g, &ids, ends);
        g.output("hidden", &read.hidden);
        g.output("embeds", &read.embeds);
        g
    }
}
