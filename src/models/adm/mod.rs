//! The networks of OpenAI's guided-diffusion (Dhariwal & Nichol 2021, arXiv:2105.05233) and improved-diffusion (Nichol &
//! Dhariwal 2021, arXiv:2102.09672): the U-Net, its super-resolution kin and the noisy classifier.
//!
//! Their checkpoints hold tensors only; what else a network is made of was said on the command line. [`flags`] has those
//! flags and finds them: in a file beside the weights, in the [`presets`] of the published checkpoints, in the tensors'
//! shapes ([`detect`]), from the user.

pub(in crate::models) mod check;
pub mod classes;
pub mod classifier;
pub mod detect;
pub mod flags;
mod networks;
pub mod presets;
#[cfg(test)]
mod tests;
mod trunk;
mod unet;
pub(in crate::models) mod values;

pub(super) use unet::enlarge;
pub use unet::{Config, Inputs, NoiseSchedule};
