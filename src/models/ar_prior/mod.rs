//! The autoregressive prior of unCLIP (Ramesh et al. 2022, arXiv:2204.06125, section 2.2): a causal transformer that draws
//! a picture's CLIP embedding for a caption as a sequence of tokens, one for each of its [principal components](super::pca),
//! in buckets of equal width.
//!
//! Its tokens: the caption's states, the caption's embedding, the dot product that caption and picture shall have, then
//! the components, the largest first. The state at a token gives the logits of the next component. All tokens before the
//! components are the same for every picture of a caption and are computed at once, the [prefix](Config::prefix); then
//! each [step](Config::step) is one token, which sees the keys and values that those before it left in a cache.

mod alphabet;
mod sampling;

pub use alphabet::Alphabet;
pub use sampling::TokenSampling;
pub(crate) use sampling::{guide, pick};

use super::attention::{join, options, rows};
use super::blocks::{linear, linears};
use super::check::{MAX_CHANNELS, MAX_LAYERS, range, require};
use super::pca::Pca;
use super::prior::{HIDDEN, MAX_HEADS, MAX_TOKENS};
use crate::error::Result;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::attention::{KeyValue, MAX_HEAD_DIM, Options, attention};
use crate::kernels::cut::cut;
use crate::kernels::elementwise::{activate, add};
use crate::kernels::embedding::embedding;
use crate::kernels::epilogue::Activation;
use crate::kernels::layer_norm::layer_norm;
use serde::Deserialize;
use std::path::Path;

/// Added to the variance of all layer norms.
const EPS: f32 = 1e-5;
/// Most buckets of a component or of the dot product.
const MAX_BUCKETS: usize = 65_536;
/// Tokens between the caption's states and the components: its embedding, and the dot product.
const ASKED_TOKENS: usize = 2;

/// `prior_ar/config.json` of class `AutoregressivePrior`.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// Blocks.
    pub num_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Columns of a head.
    pub attention_head_dim: usize,
    /// Columns of CLIP's embeddings.
    pub embedding_dim: usize,
    /// Columns of the caption's states.
    pub text_states_dim: usize,
    /// Tokens of a caption.
    pub max_text_len: usize,
    /// Components that are drawn.
    pub num_components: usize,
    /// Buckets of a component.
    pub num_buckets: usize,
    /// Buckets of the dot product; one more says nothing of it.
    pub num_dot_buckets: usize,
    /// The bucket of the dot product that is asked for.
    pub dot_default: usize,
}

/// What stands before the components.
#[derive(Clone, Copy, Debug)]
pub struct Prefix<'a> {
    /// The captions' states `[N, L, T]`.
    pub states: &'a Tensor,
    /// The captions' embeddings `[N, E]`.
    pub embeds: &'a Tensor,
    /// Buckets of the dot products `[N]`, f32 whole numbers.
    pub dots: &'a Tensor,
    /// Added to the scores of the tokens `[N, M]`, f32: [`HIDDEN`] where there is padding, else 0.
    pub mask: &'a Tensor,
}

/// What a pass computes.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// The next component's logits `[N, B]`.
    pub logits: Tensor,
    /// Of each block, keys and values of the pass's tokens, side by side `[N, M, 2 width]`.
    pub key_values: Vec<Tensor>,
}

impl Config {
    /// Refuses what the forward cannot record; `path` is the config's file, for the message.
    pub fn validate(&self, path: &Path) -> Result<()> {
        range(path, "num_layers", self.num_layers, MAX_LAYERS)?;
        range(path, "num_attention_heads", self.num_attention_heads, MAX_HEADS)?;
        range(path, "attention_head_dim", self.attention_head_dim, MAX_HEAD_DIM)?;
        let width = self.width();
        require(path, "num_attention_heads", width <= MAX_CHANNELS, || {
            format!("{width} channels in all heads: up to {MAX_CHANNELS} are supported")
        })?;
        range(path, "embedding_dim", self.embedding_dim, MAX_CHANNELS)?;
        range(path, "text_states_dim", self.text_states_dim, MAX_CHANNELS)?;
        range(path, "max_text_len", self.max_text_len, MAX_TOKENS)?;
        let (components, columns) = (self.num_components, self.embedding_dim);
        require(path, "num_components", (2..=columns).contains(&components), || {
            format!("{components} is out of range; 2 to embedding_dim, {columns}, are supported")
        })?;
        range(path, "num_buckets", self.num_buckets, MAX_BUCKETS)?;
        range(path, "num_dot_buckets", self.num_dot_buckets, MAX_BUCKETS)?;
        let (dot, dots) = (self.dot_default, self.num_dot_buckets);
        require(path, "dot_default", dot < dots, || {
            format!("{dot} is no bucket; there are {dots}, from 0 on")
        })
    }

    /// Channels of the tokens.
    pub fn width(&self) -> usize {
        self.num_attention_heads.saturating_mul(self.attention_head_dim)
    }

    /// Tokens before the components.
    pub fn prefix_tokens(&self) -> usize {
        self.max_text_len + ASKED_TOKENS
    }

    /// All tokens; the last component is none, as nothing follows it.
    pub fn tokens(&self) -> usize {
        self.prefix_tokens() + self.num_components - 1
    }

    /// The bucket that says nothing of the dot product.
    pub fn dot_unsaid(&self) -> usize {
        self.num_dot_buckets
    }

    /// The first component's logits, and what later tokens see of the prefix (M = L + 2).
    #[track_caller]
    pub fn prefix(&self, g: &mut Graph, inputs: &Prefix<'_>) -> Drawn {
        let n = inputs.dots.dim(0);
        let tokens = self.asked(g, inputs);
        let tokens = self.placed(g, &tokens);
        let (states, key_values) = self.causal(g, &tokens, inputs.mask, true);
        let logits = self.logits(g, &states);
        Drawn { logits: g.reshape(&logits, &[n, self.num_buckets]), key_values }
    }

    /// The next component's logits from the one just drawn: its buckets `token` `[N]` at the places `place` `[N]` among
    /// all tokens, P of them, f32 whole numbers. Of each block, `cache` `[N, P, 2 width]` holds keys and values of the
    /// tokens before; `mask` `[N, P]` is [`HIDDEN`] at all that are not to be seen, the token's own place among them.
    #[track_caller]
    pub fn step(
        &self,
        g: &mut Graph,
        token: &Tensor,
        place: &Tensor,
        mask: &Tensor,
        cache: &[Tensor],
    ) -> Drawn {
        let (n, width) = (token.dim(0), self.width());
        let x = self.component(g, token);
        let place = self.place(g, place);
        let x = add(g, &x, &place);
        let mut x = g.reshape(&x, &[n, 1, width]);
        let mut key_values = Vec::new();
        for (i, cached) in cache.iter().enumerate() {
            g.scope(format!("transformer_blocks.{i}"), |g| {
                let h = layer_norm(g, "norm1", &x, EPS);
                let q = linear(g, "attn.to_q", &h, width);
                let own = key_value(g, &h);
                let options = Options { mask: Some(mask), ..options(width, self.attention_head_dim) };
                let sees = (pair(cached), pair(&own));
                let h = attention(g, "attention", &rows(&q, 0), Some(&sees.0), Some(&sees.1), &options);
                x = self.block_after(g, &x, &h);
                key_values.push(own);
            });
        }
        let logits = self.logits(g, &x);
        Drawn { logits: g.reshape(&logits, &[n, self.num_buckets]), key_values }
    }

    /// Every component's logits `[N, K, B]` at once, where all but the last are known: their buckets `[N, K - 1]`. The
    /// prefix's mask covers all tokens (M = P).
    #[track_caller]
    pub fn forward(&self, g: &mut Graph, inputs: &Prefix<'_>, components: &Tensor) -> Tensor {
        let (prefix, all) = (self.prefix_tokens(), self.tokens());
        let asked = self.asked(g, inputs);
        let components = self.component(g, components);
        let tokens = join(g, "components", &asked, &components);
        let tokens = self.placed(g, &tokens);
        let (states, _) = self.causal(g, &tokens, inputs.mask, false);
        let states = cut(g, "components", &states, 1, prefix - 1, all + 1 - prefix);
        self.logits(g, &states)
    }

    /// The tokens before the components `[N, L + 2, width]`, without their places.
    fn asked(&self, g: &mut Graph, inputs: &Prefix<'_>) -> Tensor {
        assert_eq!(inputs.states.dim(1), self.max_text_len, "captions of {:?}", inputs.states.shape);
        let (n, width) = (inputs.dots.dim(0), self.width());
        let states = linear(g, "text_states_proj", inputs.states, width);
        let embed = linear(g, "text_embed_proj", inputs.embeds, width);
        let embed = g.reshape(&embed, &[n, 1, width]);
        let caption = join(g, "caption", &states, &embed);
        let dots = g.table("dot_embedding.weight", self.num_dot_buckets + 1, width);
        let dot = embedding(g, "dot_embedding", inputs.dots, &dots);
        let dot = g.reshape(&dot, &[n, 1, width]);
        join(g, "prefix", &caption, &dot)
    }

    /// Tokens of components: `[..]` → `[.., width]`.
    fn component(&self, g: &mut Graph, buckets: &Tensor) -> Tensor {
        let table = g.table("component_embedding.weight", self.num_buckets, self.width());
        embedding(g, "component_embedding", buckets, &table)
    }

    /// What says a token's place: `[..]` → `[.., width]`.
    fn place(&self, g: &mut Graph, places: &Tensor) -> Tensor {
        let table = g.table("positional_embedding", self.tokens(), self.width());
        embedding(g, "positional_embedding", places, &table)
    }

    /// Tokens x `[N, M, width]` with their places, the first M.
    fn placed(&self, g: &mut Graph, x: &Tensor) -> Tensor {
        let (n, m) = (x.dim(0), x.dim(1));
        let places = g.constant(&[n, m], (0..n).flat_map(|_| (0..m).map(|at| at as f32)).collect());
        let places = self.place(g, &places);
        add(g, x, &places)
    }

    /// All blocks over tokens x `[N, M, width]`, each of which sees those up to its own place: their states, or the last
    /// one's alone, and each block's keys and values.
    fn causal(&self, g: &mut Graph, x: &Tensor, mask: &Tensor, only_last: bool) -> (Tensor, Vec<Tensor>) {
        let (m, width) = (x.dim(1), self.width());
        let (mut x, mut key_values) = (x.clone(), Vec::new());
        for i in 0..self.num_layers {
            g.scope(format!("transformer_blocks.{i}"), |g| {
                let mut h = layer_norm(g, "norm1", &x, EPS);
                let kv = key_value(g, &h);
                let mut options =
                    Options { mask: Some(mask), causal: true, ..options(width, self.attention_head_dim) };
                if only_last && i + 1 == self.num_layers {
                    // The last token sees all; nobody reads what the last block would make of the others.
                    [h, x] = [&h, &x].map(|all| cut(g, "last", all, 1, m - 1, 1));
                    options.causal = false;
                }
                let q = linear(g, "attn.to_q", &h, width);
                let h = attention(g, "attention", &rows(&q, 0), Some(&pair(&kv)), None, &options);
                x = self.block_after(g, &x, &h);
                key_values.push(kv);
            });
        }
        (x, key_values)
    }

    /// A block's states from its input x `[N, M, width]` and what its tokens attended to.
    fn block_after(&self, g: &mut Graph, x: &Tensor, attended: &Tensor) -> Tensor {
        let width = self.width();
        let h = linear(g, "attn.to_out", attended, width);
        let x = add(g, &h, x);
        let h = layer_norm(g, "norm2", &x, EPS);
        let h = linear(g, "ff.proj_in", &h, 4 * width);
        let h = activate(g, &h, Activation::Gelu);
        let h = linear(g, "ff.proj_out", &h, width);
        add(g, &h, &x)
    }

    /// States `[.., width]` → logits `[.., B]`.
    fn logits(&self, g: &mut Graph, x: &Tensor) -> Tensor {
        let h = layer_norm(g, "norm_out", x, EPS);
        linear(g, "to_logits", &h, self.num_buckets)
    }

    /// A program's graph for N captions of the [prefix](Config::prefix). Inputs `states`, `embeds`, `dots`, `mask`;
    /// outputs `logits` and, of each block i, `cache.i`.
    pub fn prefix_graph(&self, n: usize) -> Graph {
        let mut g = Graph::new();
        let inputs = self.prefix_inputs(&mut g, n, self.prefix_tokens());
        let [states, embeds, dots, mask] = &inputs;
        let drawn = self.prefix(&mut g, &Prefix { states, embeds, dots, mask });
        outputs(&mut g, &drawn);
        g
    }

    /// A program's graph for a [step](Config::step) of N pictures. Inputs `token`, `place`, `mask` and, of each block i,
    /// `cache.i`; outputs as [`Config::prefix_graph`]'s.
    pub fn step_graph(&self, n: usize) -> Graph {
        let mut g = Graph::new();
        let [token, place] = ["token", "place"].map(|name| g.input(name, &[n], Storage::F32));
        let mask = g.input("mask", &[n, self.tokens()], Storage::F32);
        let shape = [n, self.tokens(), 2 * self.width()];
        let cache: Vec<Tensor> =
            (0..self.num_layers).map(|i| g.input(&cache_name(i), &shape, Storage::Elem)).collect();
        let drawn = self.step(&mut g, &token, &place, &mask, &cache);
        outputs(&mut g, &drawn);
        g
    }

    /// The graph of all [logits](Config::forward) of N captions, to list its weights or to compare devices. Inputs
    /// `states`, `embeds`, `dots`, `mask`, `components`; output `logits`.
    pub fn graph(&self, n: usize) -> Graph {
        let mut g = Graph::new();
        let inputs = self.prefix_inputs(&mut g, n, self.tokens());
        let components = g.input("components", &[n, self.num_components - 1], Storage::F32);
        let [states, embeds, dots, mask] = &inputs;
        let logits = self.forward(&mut g, &Prefix { states, embeds, dots, mask }, &components);
        g.output("logits", &logits);
        g
    }

    fn prefix_inputs(&self, g: &mut Graph, n: usize, tokens: usize) -> [Tensor; 4] {
        let states = [n, self.max_text_len, self.text_states_dim];
        [
            g.input("states", &states, Storage::Elem),
            g.input("embeds", &[n, self.embedding_dim], Storage::Elem),
            g.input("dots", &[n], Storage::F32),
            g.input("mask", &[n, tokens], Storage::F32),
        ]
    }

    /// The [graph](Config::graph) of one caption with all that its checkpoint holds: also, among its tensors, what the
    /// tokens stand for, which no node reads.
    pub fn whole(&self) -> Graph {
        let (components, columns) = (self.num_components, self.embedding_dim);
        let buckets =
            [("bucket_low", components), ("bucket_width", components), ("dot_low", 1), ("dot_width", 1)];
        let mut g = self.graph(1);
        for (name, shape) in Pca::tensors(components, columns) {
            g.vector(name, &shape);
        }
        for (name, len) in buckets {
            g.vector(name, &[len]);
        }
        g
    }

    /// What is added to the scores of all tokens when so many are to be seen, of captions whose mask `[N, L]` is given:
    /// `[N, tokens]`.
    pub fn mask(&self, captions: &[f32], tokens: usize, seen: usize) -> Vec<f32> {
        let behind = (self.max_text_len..tokens).map(|at| if at < seen { 0.0 } else { HIDDEN });
        captions
            .chunks_exact(self.max_text_len)
            .flat_map(|row| row.iter().copied().chain(behind.clone()))
            .collect()
    }
}

/// What a program's graph calls a block's keys and values.
pub fn cache_name(block: usize) -> String {
    format!("cache.{block}")
}

fn outputs(g: &mut Graph, drawn: &Drawn) {
    g.output("logits", &drawn.logits);
    for (i, kv) in drawn.key_values.iter().enumerate() {
        g.output(&cache_name(i), kv);
    }
}

/// Keys and values of normed tokens, side by side `[N, M, 2 width]`.
fn key_value(g: &mut Graph, h: &Tensor) -> Tensor {
    linears(g, "attn.to_kv", &["attn.to_k", "attn.to_v"], h, h.channels())
}

/// Keys and values that lie side by side.
fn pair(both: &Tensor) -> KeyValue {
    KeyValue { key: rows(both, 0), value: rows(both, both.channels() / 2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            num_layers: 2,
            num_attention_heads: 2,
            attention_head_dim: 8,
            embedding_dim: 6,
            text_states_dim: 4,
            max_text_len: 3,
            num_components: 4,
            num_buckets: 5,
            num_dot_buckets: 3,
            dot_default: 2,
        }
    }

    #[test]
    fn senseless_configs_are_refused() {
        let path = Path::new("prior_ar/config.json");
        assert!(config().validate(path).is_ok());
        type Change = fn(&mut Config);
        let broken: [(&str, Change); 9] = [
            ("num_layers", |c| c.num_layers = 0),
            ("num_attention_heads", |c| c.num_attention_heads = 0),
            ("num_attention_heads", |c| (c.num_attention_heads, c.attention_head_dim) = (1_024, 512)),
            ("attention_head_dim", |c| c.attention_head_dim = 513),
            ("max_text_len", |c| c.max_text_len = usize::MAX),
            ("num_components", |c| c.num_components = 1),
            ("num_components", |c| c.num_components = 7),
            ("num_buckets", |c| c.num_buckets = 0),
            ("dot_default", |c| c.dot_default = 3),
        ];
        for (key, change) in broken {
            let mut config = config();
            change(&mut config);
            let message = config.validate(path).unwrap_err().to_string();
            assert!(message.contains(key) && message.contains("config.json"), "{key}: {message}");
        }
    }

    #[test]
    fn the_mask_hides_padding_and_what_is_to_come() {
        let config = config();
        assert_eq!((config.prefix_tokens(), config.tokens()), (5, 8));
        let captions = [0.0, 0.0, HIDDEN, 0.0, HIDDEN, HIDDEN];
        let (o, h) = (0.0, HIDDEN);
        assert_eq!(config.mask(&captions, 5, 5), [o, o, h, o, o, o, h, h, o, o]);
        assert_eq!(config.mask(&captions[..3], 8, 6), [o, o, h, o, o, o, h, h]);
    }

    #[test]
    fn weights_are_the_layout_s() {
        let config = config();
        let graph = config.graph(2);
        let mut all: Vec<_> =
            graph.weights().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect();
        all.sort();
        all.dedup();
        let of = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, shape)| shape.clone());
        assert_eq!(of("positional_embedding"), Some(vec![8, 16]));
        assert_eq!(of("dot_embedding.weight"), Some(vec![4, 16]));
        assert_eq!(of("transformer_blocks.1.ff.proj_out.weight"), Some(vec![16, 64]));
        assert_eq!(all.len(), 2 * 16 + 11, "{all:?}");
        // The passes of a run read no other tensors than the whole.
        for graph in [config.prefix_graph(1), config.step_graph(3)] {
            for (name, shape) in graph.weights() {
                assert_eq!(of(name).as_deref(), Some(shape), "{name}");
            }
        }
    }
}
