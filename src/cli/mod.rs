//! The commands, one file each, and what several of them share.
//!
//! - [`model`]: which model, on which device. - [`drawing`]: settings of a run. - [`prior`]: what draws embeddings.
//! - [`steering`]: guidance by CLIP.
//! - [`output`]: files, lines and progress bars. - [`parse`]: values of arguments.

pub mod bisect;
pub mod drawing;
pub mod edit;
pub mod generate;
pub mod latents;
pub mod model;
pub mod output;
pub mod parse;
pub mod plan;
pub mod prior;
pub mod steering;
pub mod tune;
