//! unCLIP (DALL·E 2; Ramesh et al. 2022, arXiv:2204.06125) from Karlo's folders, as diffusers saves them: a prior draws a
//! picture's CLIP embedding for a prompt, a decoder draws a small picture of an embedding, super-resolution enlarges it.
//! `UnCLIPPipeline` begins at a prompt, `UnCLIPImageVariationPipeline` at a picture, whose embedding CLIP sees. The prior may be
//! one that denoises the embedding, or one that draws it token by token; a folder may hold both.
//!
//! Stages, as steps and guidance scales count them: from a prompt, 0 is the prior, 1 the decoder, 2 super-resolution; from
//! a picture, 0 is the decoder, 1 super-resolution, which is never guided. The last step of super-resolution is another
//! network's than those before it.

mod conditioner;
mod encoders;
mod latents;
mod load;
mod prior;
mod projection;
mod system;
mod tokens;

pub use encoders::{PictureEncoder, TextEncoder};
pub use load::{load_decoder, load_prior};
pub use prior::denormalised;
pub use projection::{Projection, padded_mask};
pub use tokens::{AutoregressivePrior, TokenDecoder};

pub(crate) use load::UnClip;
