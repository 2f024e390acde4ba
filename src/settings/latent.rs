//! What a model reads in place of a prompt: pictures' embeddings with their noise, prompts' text states.

use crate::diffusion::vectors::{length, slerp};
use serde::{Deserialize, Serialize};

/// What unCLIP's decoder draws a picture of (DALL·E 2; Ramesh et al. 2022, arXiv:2204.06125, section 3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latent {
    /// The picture's embedding `[E]`, as CLIP has it: what is in the picture.
    pub embedding: Vec<f32>,
    /// The decoder's first noise, x_T `[h, w, 3]`, channels last; the seed's where there is none. It says where things are,
    /// and how they are done.
    pub noise: Option<Vec<f32>>,
}

impl Latent {
    /// Between two latents, `t` of the way: spherical in embedding and in noise (see [`slerp`]); of noise only if both
    /// have it.
    ///
    /// # Panics
    /// Where they are not of the same sizes.
    #[track_caller]
    pub fn slerp(a: &Latent, b: &Latent, t: f64) -> Latent {
        let noise = a.noise.as_ref().zip(b.noise.as_ref()).map(|(a, b)| slerp(a, b, t));
        Latent { embedding: slerp(&a.embedding, &b.embedding, t), noise }
    }

    /// The picture's embedding turned towards a direction, of whatever length, `t` of the way; length and noise stay.
    ///
    /// # Panics
    /// Where the direction has not as many elements.
    #[track_caller]
    pub fn towards(&self, direction: &[f32], t: f64) -> Latent {
        let scale = length(&self.embedding) / length(direction).max(f64::MIN_POSITIVE);
        let direction: Vec<f32> = direction.iter().map(|v| (scale * f64::from(*v)) as f32).collect();
        Latent { embedding: slerp(&self.embedding, &direction, t), noise: self.noise.clone() }
    }
}

/// Where the decoder's noise is from, and so what becomes of a picture's layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// From the seed: things are where chance puts them.
    #[default]
    New,
    /// From the picture, by DDIM inversion: things stay where they are.
    Kept,
}

/// Which of unCLIP's priors draws a picture's embedding for a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PriorKind {
    /// By denoising it.
    Diffusion,
    /// Token by token: its principal components, in buckets.
    Autoregressive,
}

impl std::fmt::Display for PriorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PriorKind::Diffusion => "diffusion",
            PriorKind::Autoregressive => "autoregressive",
        })
    }
}

/// A picture's embedding that a prior has drawn for a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrawnEmbedding {
    /// As CLIP has it, of no particular length `[E]`.
    pub embedding: Vec<f32>,
    /// Which of the candidates it is.
    pub candidate: usize,
    /// Of every candidate, its dot product with the prompt's embedding, both of length 1.
    pub scores: Vec<f64>,
}

impl DrawnEmbedding {
    /// Its dot product with the prompt's embedding, both of length 1.
    pub fn score(&self) -> f64 {
        self.scores[self.candidate]
    }

    /// The best of several candidates by their scores; the first one of those that are alike.
    pub(crate) fn best(candidates: Vec<(Vec<f32>, f64)>) -> Self {
        let (embeddings, scores): (Vec<_>, Vec<_>) = candidates.into_iter().unzip();
        let better = |best: usize, i: usize| if scores[i] > scores[best] { i } else { best };
        let candidate = (0..scores.len()).fold(0, better);
        let embedding = embeddings.into_iter().nth(candidate).unwrap_or_default();
        DrawnEmbedding { embedding, candidate, scores }
    }
}

/// What a model's networks see of one prompt, as its text encoder makes it: T5's states (DeepFloyd IF), or CLIP's states
/// and embedding (unCLIP).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptEmbeds {
    /// States of the prompt's tokens `[tokens, channels]`.
    pub states: Vec<f32>,
    /// Channels of a state.
    pub channels: usize,
    /// CLIP: the prompt's embedding `[E]`; empty of other encoders.
    pub pooled: Vec<f32>,
    /// CLIP: added to the scores of the tokens `[tokens]`; empty of other encoders.
    pub mask: Vec<f32>,
    /// The prompt was longer than the tokens it may have: its end is not seen.
    pub truncated: bool,
}
