//! CLIP as it steers: by a text, by what a picture shows, by where it shows what, by its style (Semantic Diffusion
//! Guidance, Liu et al. 2021, arXiv:2112.05744; GLIDE's CLIP guidance, Nichol et al. 2021, arXiv:2112.10741).
//!
//! ```
//! use ancestral::{Bundled, Clip, Engine, LoadOptions, Settings};
//! # use std::path::Path;
//! # let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/glide");
//!
//! let engine = Engine::bundled_as(Bundled::Adm, &LoadOptions::default())?;
//! let clip = Clip::load(&folder)?;
//! # let example = engine.generate("", Settings::new().seed(1).steps(2))?.remove(0);
//! // What the text says, in the style of an example: one pass of CLIP a step for both.
//! let both = clip.guidance(engine.device()).text("a red heart", 3.0).style(&example, 1.0).build()?;
//! engine.generate("", Settings::new().steps(4).guide(1.0, both))?;
//! # Ok::<(), ancestral::Error>(())
//! ```

mod builder;
mod files;
mod guidance;
mod model;
mod preprocessor;
mod terms;

pub use builder::GuidanceBuilder;
pub(crate) use files::{Image, Text, read_transformers};
pub use guidance::ClipGuidance;
pub use model::Clip;
pub use preprocessor::Preprocessor;
