//! The diffusion prior of unCLIP (Ramesh et al. 2022, arXiv:2204.06125, section 2.2; diffusers' `PriorTransformer`): a
//! causal transformer that draws a picture's CLIP embedding for a caption.
//!
//! Its tokens: the caption's states, the caption's embedding, the timestep, the noisy picture embedding, and a learned one
//! whose state is the answer. A token sees those up to its own place, so the caption's are the same at every step: their
//! keys and values are recorded apart from the step's three tokens, and a denoiser computes them once a prompt.

use super::attention::{join, options, rows};
use super::blocks::{linear, linears};
use super::check::{MAX_CHANNELS, MAX_LAYERS, range, require};
use super::embeddings::mlp;
use super::network::{DenoisingNetwork, Shape, Sides};
use crate::error::Result;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::attention::{KeyValue, MAX_HEAD_DIM, Options, Rows, attention};
use crate::kernels::concat::concat;
use crate::kernels::cut::{cut, place};
use crate::kernels::elementwise::{activate, add, as_elem, mul};
use crate::kernels::epilogue::Activation;
use crate::kernels::layer_norm::layer_norm;
use crate::kernels::timestep_embedding::timestep_embedding;
use serde::Deserialize;
use std::path::Path;

/// Added to the variance of all layer norms.
const EPS: f32 = 1e-5;
/// Added to the score of a token that is not to be seen.
pub const HIDDEN: f32 = -10_000.0;
/// Most heads; the scores of a step's tokens have their own constant for each.
pub(super) const MAX_HEADS: usize = 1_024;
/// Most tokens of a caption.
pub(super) const MAX_TOKENS: usize = 1_024;
/// Tokens of a step: timestep, noisy embedding, answer.
const STEP_TOKENS: usize = 3;

/// `prior/config.json` of class `PriorTransformer`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Heads.
    pub num_attention_heads: usize,
    /// Columns of a head.
    pub attention_head_dim: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Columns of CLIP's embeddings and of its text states.
    pub embedding_dim: usize,
    /// Tokens of a caption.
    pub num_embeddings: usize,
    /// Tokens behind them: 4.
    pub additional_embeddings: usize,
    /// Activation of the time's MLP.
    pub time_embed_act_fn: String,
    /// `prd`: the answer is the state of a learned token.
    pub added_emb_type: Option<String>,
    /// `linear`: a layer before the caption's states.
    pub encoder_hid_proj_type: Option<String>,
    /// A norm of the caption's embedding; not supported.
    pub embedding_proj_norm_type: Option<String>,
    /// A norm before the blocks; not supported.
    pub norm_in_type: Option<String>,
    /// Columns of the time's MLP; the network's own are supported.
    pub time_embed_dim: Option<usize>,
    /// Columns of the caption's embedding, if they were others.
    pub embedding_proj_dim: Option<usize>,
    /// Columns of the answer, if they were others.
    pub clip_embed_dim: Option<usize>,
}

impl Default for Config {
    /// diffusers' defaults, which are Karlo's.
    fn default() -> Self {
        Config {
            num_attention_heads: 32,
            attention_head_dim: 64,
            num_layers: 20,
            embedding_dim: 768,
            num_embeddings: 77,
            additional_embeddings: 4,
            time_embed_act_fn: "silu".into(),
            added_emb_type: Some("prd".into()),
            encoder_hid_proj_type: Some("linear".into()),
            embedding_proj_norm_type: None,
            norm_in_type: None,
            time_embed_dim: None,
            embedding_proj_dim: None,
            clip_embed_dim: None,
        }
    }
}

/// What the network takes.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The noisy embeddings `[N', 1, 1, E]`, f32; item n of the batch reads n % N'.
    pub x: &'a Tensor,
    /// Timesteps `[N]`.
    pub t: &'a Tensor,
    /// The captions' embeddings `[N, E]`.
    pub embeds: &'a Tensor,
    /// The captions' states `[N, L, E]`.
    pub states: &'a Tensor,
    /// Added to the scores of captions' tokens `[N, L + 1]`, f32: [`HIDDEN`] where there is padding, else 0. The last is
    /// the embedding's.
    pub mask: &'a Tensor,
}

impl Config {
    /// Refuses what the forward cannot record; `path` is the config's file, for the message.
    pub fn validate(&self, path: &Path) -> Result<()> {
        range(path, "num_attention_heads", self.num_attention_heads, MAX_HEADS)?;
        range(path, "attention_head_dim", self.attention_head_dim, MAX_HEAD_DIM)?;
        let width = self.width();
        require(path, "num_attention_heads", width <= MAX_CHANNELS && width.is_multiple_of(2), || {
            format!("{width} channels in all heads: an even number up to {MAX_CHANNELS} is supported")
        })?;
        range(path, "num_layers", self.num_layers, MAX_LAYERS)?;
        range(path, "embedding_dim", self.embedding_dim, MAX_CHANNELS)?;
        range(path, "num_embeddings", self.num_embeddings, MAX_TOKENS)?;
        require(path, "additional_embeddings", self.additional_embeddings == 1 + STEP_TOKENS, || {
            format!("{} tokens behind the caption's; 4 are supported", self.additional_embeddings)
        })?;
        let act = &self.time_embed_act_fn;
        require(path, "time_embed_act_fn", Activation::from_name(act).is_some(), || {
            format!("activation `{act}` is unknown")
        })?;
        for (key, found, supported) in [
            ("added_emb_type", &self.added_emb_type, Some("prd")),
            ("encoder_hid_proj_type", &self.encoder_hid_proj_type, Some("linear")),
            ("embedding_proj_norm_type", &self.embedding_proj_norm_type, None),
            ("norm_in_type", &self.norm_in_type, None),
        ] {
            let name = |value: Option<&str>| value.map_or("null".to_string(), |value| format!("`{value}`"));
            require(path, key, found.as_deref() == supported, || {
                format!("{} is not supported; {} is", name(found.as_deref()), name(supported))
            })?;
        }
        for (key, found, supported) in [
            ("time_embed_dim", self.time_embed_dim, width),
            ("embedding_proj_dim", self.embedding_proj_dim, self.embedding_dim),
            ("clip_embed_dim", self.clip_embed_dim, self.embedding_dim),
        ] {
            require(path, key, found.is_none_or(|found| found == supported), || {
                format!("{} is not supported; {supported} or null is", found.unwrap_or_default())
            })?;
        }
        Ok(())
    }

    /// Channels of the tokens.
    pub fn width(&self) -> usize {
        self.num_attention_heads.saturating_mul(self.attention_head_dim)
    }

    /// The picture embeddings that the network takes the noisy ones to come from `[N, 1, 1, E]`, in the space it was
    /// trained in: see [`Config::denormalised`].
    #[track_caller]
    pub fn forward(&self, g: &mut Graph, inputs: &Inputs<'_>) -> Tensor {
        let (n, width, before) = (inputs.t.dim(0), self.width(), self.num_embeddings + 1);
        let all = before + STEP_TOKENS;
        assert_eq!(inputs.states.dim(1), self.num_embeddings, "captions of {:?}", inputs.states.shape);
        let positions = g.vector("positional_embedding", &[1, all, width]);
        let positions = concat(g, "positional_embedding", &positions, None, n);

        let states = linear(g, "encoder_hidden_states_proj", inputs.states, width);
        let embed = linear(g, "embedding_proj", inputs.embeds, width);
        let embed = g.reshape(&embed, &[n, 1, width]);
        let places = cut(g, "positional_embedding", &positions, 1, 0, before);
        let caption = join(g, "caption", &states, &embed);
        let mut caption = add(g, &caption, &places); // [N, L + 1, width]

        let last = g.vector("prd_embedding", &[1, 1, width]);
        let last = concat(g, "prd_embedding", &last, None, n);
        let last = place(g, "prd_embedding", &last, 1, 2, STEP_TOKENS);
        let places = cut(g, "positional_embedding", &positions, 1, before, STEP_TOKENS);
        let fixed = add(g, &last, &places);
        let time = self.time(g, inputs.t);
        let time = place(g, "time", &time, 1, 0, STEP_TOKENS);
        let time = add(g, &time, &fixed);
        let x = concat(g, "sample", inputs.x, None, n);
        let x = g.reshape(&x, &[n, 1, self.embedding_dim]);
        let x = linear(g, "proj_in", &x, width);
        let x = place(g, "sample", &x, 1, 1, STEP_TOKENS);
        let mut step = add(g, &x, &time); // [N, 3, width]

        let later = self.later(g);
        for i in 0..self.num_layers {
            g.scope(format!("transformer_blocks.{i}"), |g| {
                let (q_caption, of_caption) = query_key_value(g, &caption);
                let (q_step, of_step) = query_key_value(g, &step);
                let options = Options { mask: Some(inputs.mask), ..options(width, self.attention_head_dim) };
                let causal = Options { bias: Some(&later), ..options.clone() };
                let h = attention(g, "attention", &q_step, Some(&of_caption), Some(&of_step), &causal);
                step = self.block_after(g, &step, &h);
                // Nobody reads the states that the last block would make of a caption.
                if i + 1 < self.num_layers {
                    let causal = Options { causal: true, ..options };
                    let h = attention(g, "attention", &q_caption, Some(&of_caption), None, &causal);
                    caption = self.block_after(g, &caption, &h);
                }
            });
        }
        let answer = cut(g, "answer", &step, 1, 2, 1);
        let answer = layer_norm(g, "norm_out", &answer, EPS);
        let answer = linear(g, "proj_to_clip_embeddings", &answer, self.embedding_dim);
        g.reshape(&answer, &[n, 1, 1, self.embedding_dim])
    }

    /// The timestep's token `[N, 1, width]`.
    fn time(&self, g: &mut Graph, t: &Tensor) -> Tensor {
        let (n, width) = (t.dim(0), self.width());
        let act = Activation::from_name(&self.time_embed_act_fn).unwrap_or_default();
        let waves = timestep_embedding(g, t, width, true, 0.0);
        let time = g.scope("time_embedding", |g| mlp(g, ["linear_1", "linear_2"], &waves, width, act));
        g.reshape(&time, &[n, 1, width])
    }

    /// What is added to the scores of a step's tokens `[3, L + 4, heads]`, so that none sees a later one.
    fn later(&self, g: &mut Graph) -> Tensor {
        let (before, heads) = (self.num_embeddings + 1, self.num_attention_heads);
        let all = before + STEP_TOKENS;
        let score = |query: usize, key: usize| if key > before + query { HIDDEN } else { 0.0 };
        let pairs = (0..STEP_TOKENS).flat_map(|query| (0..all).map(move |key| score(query, key)));
        let scores = pairs.flat_map(|score| std::iter::repeat_n(score, heads)).collect();
        let scores = g.constant(&[STEP_TOKENS, all, heads], scores);
        as_elem(g, &scores)
    }

    /// A block's states from its input x `[N, L, width]` and what its tokens attended to.
    fn block_after(&self, g: &mut Graph, x: &Tensor, attended: &Tensor) -> Tensor {
        let width = self.width();
        let h = linear(g, "attn1.to_out.0", attended, width);
        let x = add(g, &h, x);
        let h = layer_norm(g, "norm3", &x, EPS);
        let h = linear(g, "ff.net.0.proj", &h, 4 * width);
        let h = activate(g, &h, Activation::Gelu);
        let h = linear(g, "ff.net.2", &h, width);
        add(g, &h, &x)
    }

    /// Drawn embeddings x `[N, E]` as CLIP has them: the prior was trained on embeddings of mean 0 and deviation 1.
    pub fn denormalised(&self, g: &mut Graph, x: &Tensor) -> Tensor {
        let [mean, deviation] =
            ["clip_mean", "clip_std"].map(|name| g.vector(name, &[1, self.embedding_dim]));
        let y = mul(g, x, &deviation);
        add(g, &y, &mean)
    }
}

impl DenoisingNetwork for Config {
    fn sides(&self) -> Sides {
        Sides { side: 1, multiple: 1 }
    }

    fn sample_channels(&self) -> usize {
        self.embedding_dim
    }

    /// Inputs besides the sample `[N, 1, 1, E]`: `embeds` and `states` of the captions, and the `mask` `[batch, L + 1]`.
    fn record(&self, g: &mut Graph, _: Shape, x: &Tensor, t: &Tensor) -> Tensor {
        let (batch, columns, tokens) = (t.dim(0), self.embedding_dim, self.num_embeddings);
        let embeds = g.input("embeds", &[batch, columns], Storage::Elem);
        let states = g.input("states", &[batch, tokens, columns], Storage::Elem);
        let mask = g.input("mask", &[batch, tokens + 1], Storage::F32);
        self.forward(g, &Inputs { x, t, embeds: &embeds, states: &states, mask: &mask })
    }

    /// With what [makes CLIP's embeddings](Config::denormalised) of its own; output `embedding`.
    fn smallest(&self) -> Graph {
        let (mut g, columns) = (Graph::new(), self.embedding_dim);
        let x = g.input("x", &[1, 1, 1, columns], Storage::F32);
        let t = g.input("t", &[1], Storage::F32);
        let out = self.record(&mut g, Shape::default(), &x, &t);
        let out = g.reshape(&out, &[1, columns]);
        let embedding = self.denormalised(&mut g, &out);
        g.output("out", &out);
        g.output("embedding", &embedding);
        g
    }
}

/// Queries, keys and values of tokens after a block's first norm.
fn query_key_value(g: &mut Graph, x: &Tensor) -> (Rows, KeyValue) {
    let h = layer_norm(g, "norm1", x, EPS);
    let width = h.channels();
    let all = linears(g, "attn1.to_qkv", &["attn1.to_q", "attn1.to_k", "attn1.to_v"], &h, width);
    (rows(&all, 0), KeyValue { key: rows(&all, width), value: rows(&all, 2 * width) })
}
