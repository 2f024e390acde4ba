//! How unCLIP's decoder is told a picture's embedding (Ramesh et al. 2022, arXiv:2204.06125, section 2.1; diffusers'
//! `UnCLIPTextProjModel`): projected it joins the time embedding, and as a few tokens of its own it goes before the
//! caption's.

use super::attention::join;
use super::blocks::linear;
use super::check::{MAX_CHANNELS, range};
use crate::error::Result;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::concat::concat;
use crate::kernels::elementwise::add;
use crate::kernels::layer_norm::layer_norm;
use crate::kernels::transpose::transpose;
use serde::Deserialize;
use std::path::Path;

/// Added to the variance of the layer norm.
const EPS: f32 = 1e-5;
/// Most tokens of a picture.
const MAX_TOKENS: usize = 1_024;

/// `text_proj/config.json` of class `UnCLIPTextProjModel`.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// Tokens of a picture's embedding.
    #[serde(default = "tokens")]
    pub clip_extra_context_tokens: usize,
    /// Columns of CLIP's embeddings and of its text states.
    #[serde(default = "columns")]
    pub clip_embeddings_dim: usize,
    /// Channels of the decoder's time embedding.
    pub time_embed_dim: usize,
    /// Channels of the text that the decoder attends to.
    pub cross_attention_dim: usize,
}

fn tokens() -> usize {
    4
}
fn columns() -> usize {
    768
}

/// What the decoder takes.
#[derive(Clone, Debug)]
pub struct Projected {
    /// The picture's tokens, then the caption's `[N, X + L, T]`.
    pub context: Tensor,
    /// What joins the time embedding `[N, D]`.
    pub time: Tensor,
}

impl Config {
    /// Refuses what the forward cannot record; `path` is the config's file, for the message.
    pub fn validate(&self, path: &Path) -> Result<()> {
        range(path, "clip_extra_context_tokens", self.clip_extra_context_tokens, MAX_TOKENS)?;
        range(path, "clip_embeddings_dim", self.clip_embeddings_dim, MAX_CHANNELS)?;
        range(path, "time_embed_dim", self.time_embed_dim, MAX_CHANNELS)?;
        range(path, "cross_attention_dim", self.cross_attention_dim, MAX_CHANNELS)
    }

    /// Embeddings of pictures `[M, E]`, of captions `[N, E]`, and captions' states `[N, L, E]`. Where N is 2 M the
    /// captions' first half is unconditional: its pictures are a learned embedding.
    #[track_caller]
    pub fn forward(&self, g: &mut Graph, pictures: &Tensor, captions: &Tensor, states: &Tensor) -> Projected {
        let (m, n, columns) = (pictures.dim(0), captions.dim(0), self.clip_embeddings_dim);
        assert!(n == m || n == 2 * m, "{m} pictures for {n} captions");
        let name = "learned_classifier_free_guidance_embeddings";
        let pictures = if n == m {
            pictures.clone()
        } else {
            let learned = g.vector(name, &[columns]);
            let learned = g.reshape(&learned, &[1, 1, columns]);
            let learned = concat(g, name, &learned, None, m);
            let learned = g.reshape(&learned, &[1, m, columns]);
            let given = g.reshape(pictures, &[1, m, columns]);
            let both = join(g, name, &learned, &given);
            g.reshape(&both, &[n, columns])
        };
        let (time, channels) = (self.time_embed_dim, self.cross_attention_dim);
        let of_caption = linear(g, "embedding_proj", captions, time);
        let of_picture = linear(g, "clip_image_embeddings_project_to_time_embeddings", &pictures, time);
        let time = add(g, &of_picture, &of_caption);
        let extra = self.clip_extra_context_tokens;
        let tokens = linear(g, "clip_extra_context_tokens_proj", &pictures, extra * channels);
        // The layer's rows are channel by channel, each channel's tokens side by side.
        let tokens = g.reshape(&tokens, &[n, channels, extra]);
        let tokens = transpose(g, "clip_extra_context_tokens_proj", &tokens);
        let states = linear(g, "encoder_hidden_states_proj", states, channels);
        let states = layer_norm(g, "text_encoder_hidden_states_norm", &states, EPS);
        Projected { context: join(g, "context", &tokens, &states), time }
    }

    /// The network for `pictures` pictures, guided or not, with captions of `tokens` tokens. Inputs `pictures`,
    /// `captions`, `states`; outputs `context` and `time`.
    pub fn graph(&self, pictures: usize, guided: bool, tokens: usize) -> Graph {
        let (mut g, columns) = (Graph::new(), self.clip_embeddings_dim);
        let batch = if guided { 2 * pictures } else { pictures };
        let pictures = g.input("pictures", &[pictures, columns], Storage::Elem);
        let captions = g.input("captions", &[batch, columns], Storage::Elem);
        let states = g.input("states", &[batch, tokens, columns], Storage::Elem);
        let projected = self.forward(&mut g, &pictures, &captions, &states);
        g.output("context", &projected.context);
        g.output("time", &projected.time);
        g
    }
}
