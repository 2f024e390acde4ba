//! What a picture is made from, where its steps begin, and what one system alone knows.

use super::latent::{Latent, PriorKind, PromptEmbeds};
use crate::picture::{Mask, Picture};
use serde::{Deserialize, Serialize};

/// What a picture is made from: one of these. Lists hold one for all pictures of a run, or one for each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Source {
    /// The prompt that [`generate`](crate::Engine::generate) is given.
    #[default]
    Prompt,
    /// These prompts.
    Prompts(Vec<String>),
    /// Classes of a class-conditional or classifier-guided model, by name or number.
    Classes(Vec<String>),
    /// Pictures to draw others of, of any size: CLIP sees their middle.
    Image(Vec<Picture>),
    /// CLIP embeddings, with the decoder's noise or without.
    Latents(Vec<Latent>),
    /// Text states of prompts, and of what takes the place of none.
    Embeds {
        /// Of what is drawn.
        prompts: Vec<PromptEmbeds>,
        /// Of what is not; of the empty prompt where the list is empty.
        negative: Vec<PromptEmbeds>,
    },
    /// Finished pictures of an earlier stage, one for each picture: their size says which stage made them, and those after
    /// it enlarge them.
    Stage {
        /// The pictures.
        pictures: Vec<Picture>,
        /// Prompts or classes for the stages that read some; the argument where the list is empty.
        prompts: Vec<String>,
    },
}

/// Where a run's steps begin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Start {
    /// At noise.
    #[default]
    Noise,
    /// At pictures, noised as far as the steps to come remove it; one for all, or one for each, of any size: their middle is
    /// scaled to the model's.
    Picture(Vec<Picture>),
    /// At pictures of which a mask says what is drawn anew; the rest is kept.
    Inpaint {
        /// One for all, or one for each.
        pictures: Vec<Picture>,
        /// What is drawn anew.
        mask: Mask,
    },
}

impl Start {
    /// The pictures it begins at; none at noise.
    pub(crate) fn pictures(&self) -> &[Picture] {
        match self {
            Start::Noise => &[],
            Start::Picture(pictures) | Start::Inpaint { pictures, .. } => pictures,
        }
    }

    pub(crate) fn mask(&self) -> Option<&Mask> {
        if let Start::Inpaint { mask, .. } = self { Some(mask) } else { None }
    }
}

/// Seeds of the pictures' noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SeedChoice {
    /// This one, the next one for the second picture, and so on.
    From(u64),
    /// One for each picture.
    Each(Vec<u64>),
}

impl Default for SeedChoice {
    fn default() -> Self {
        SeedChoice::From(0)
    }
}

impl SeedChoice {
    /// The seeds of so many pictures.
    pub(crate) fn of(&self, pictures: usize) -> Vec<u64> {
        match self {
            SeedChoice::From(first) => (0..pictures as u64).map(|i| first.wrapping_add(i)).collect(),
            SeedChoice::Each(seeds) => seeds.clone(),
        }
    }
}

/// What one system alone knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SystemSettings {
    /// GLIDE's.
    Glide(GlideSettings),
    /// unCLIP's.
    UnClip(UnClipSettings),
}

/// What GLIDE alone knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GlideSettings {
    /// What the upsampler's first noise is multiplied by; 0.997 if unset, as published. 1 is sharper but may grain, less is
    /// smoother.
    pub upsample_temp: Option<f64>,
}

/// What unCLIP alone knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnClipSettings {
    /// Which prior draws the embeddings; diffusion if unset, where the model has both.
    pub prior: Option<PriorKind>,
    /// How many embeddings the prior draws for each picture; that whose dot product with the prompt's is the largest is
    /// kept (Ramesh et al. 2022, section 2.2, draw two). The first candidate is what there is without others; those after
    /// it take noise of seeds of their own.
    pub candidates: usize,
    /// Evaluations of the network in each step of an [inversion](crate::Engine::invert): 1 is DDIM's inversion as it is
    /// usually done, more solve for the noise that leads back to the picture; 5 if unset.
    pub inversion: Option<usize>,
}

impl Default for UnClipSettings {
    fn default() -> Self {
        UnClipSettings { prior: None, candidates: 1, inversion: None }
    }
}

impl From<GlideSettings> for SystemSettings {
    fn from(settings: GlideSettings) -> Self {
        SystemSettings::Glide(settings)
    }
}

impl From<UnClipSettings> for SystemSettings {
    fn from(settings: UnClipSettings) -> Self {
        SystemSettings::UnClip(settings)
    }
}
