//! Text-to-image diffusion on any GPU, in hand-written WGSL compute kernels on wgpu.
//!
//! ```
//! use ancestral::{DeviceChoice, Engine, GenerateConfig, LoadOptions};
//!
//! let options = LoadOptions { device: DeviceChoice::Auto, ..Default::default() };
//! let mut engine = Engine::bundled(&options)?;
//! let cfg = GenerateConfig::new().seed(3).steps([8]).on_progress(|p| {
//!     println!("stage {} of {}: {:.1} of {} steps", p.stage + 1, p.stages, p.done, p.steps);
//!     true // false cancels
//! });
//! let pictures = engine.generate("a red circle to the left of a blue square", cfg)?;
//! pictures[0].save(&std::env::temp_dir().join("circle.png"))?;
//! # Ok::<(), ancestral::Error>(())
//! ```
//!
//! # Map
//! ```text
//! prompt ─text─> ids ─models::t5─> context ┐
//! seed ─diffusion::noise─> x_T ────────────┤
//!    each step: models::unet(x_t, t, context) ─> kernels::step ─> x_{t-1}     (systems::denoise)
//! x_0 ─super-resolution stages─> Picture ─> PNG               (systems::{imagen, ddpm, adm, glide, unclip}, engine)
//! every network:  weights + config ─> graph::Graph ─> graph::plan ─> device (GPU | CPU)
//! a denoiser:     graph::hoist ─> once a prompt, once for all steps, each step
//! a token prior:  systems::unclip::TokenDecoder: a prefix once a prompt ─> a cache of keys and values ─> a token each run
//! steering:       guidance (x_t, t, x̂₀) ─> a score, or a shift of ε or of the mean; scores by graph::gradient
//!                 clip: texts and example pictures as such a score
//! editing:        edit: a photo's window ─> systems::{start, repaint} keep what the mask keeps ─> back into the photo
//! pictures as latents: latent: CLIP embedding and DDIM-inverted noise, varied, blended, moved along captions (unCLIP)
//! before a run:   estimate: dispatches, arithmetic, traffic, memory, limits in the way
//! ```
//! Shape letters: N pictures (or N = 2 × pictures under guidance), H and W rows and columns, C channels, L tokens,
//! T text channels. Tensors are row-major, channels last: `[N, H, W, C]`.

#![warn(missing_docs, clippy::allow_attributes_without_reason)]

pub mod bisect;
pub mod clip;
pub mod device;
pub mod diffusion;
pub mod edit;
pub mod engine;
pub mod error;
pub mod estimate;
pub(crate) mod files;
pub mod graph;
pub mod guidance;
pub mod kernels;
pub mod latent;
mod layout;
pub mod models;
pub mod picture;
mod request;
pub mod systems;
pub mod text;
pub mod weights;

pub use device::{Device, DeviceChoice, Gpu};
pub use engine::{Engine, GenerateConfig, LoadOptions, Progress};
pub use error::{Error, Result};
pub use picture::Picture;
