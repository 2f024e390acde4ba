//! What a caller asks of a run, as plain values: no model is looked at here.
//!
//! - [`Settings`]: all of it. - [`Source`]: what a picture is made from. - [`Start`]: where its steps begin.
//! - [`PerStage`]: values by a stage's place or name. - [`guidance`]: what a caller steers with.
//! - [`events`]: what a caller is told, and how it cancels.

mod check;
pub mod events;
pub mod guidance;
mod latent;
#[cfg(test)]
mod latent_tests;
mod per_stage;
#[allow(clippy::module_inception, reason = "the type of the module's name")]
mod settings;
mod source;

pub use check::MAX_COUNT;
pub(crate) use check::check_size;
pub use events::{CancelToken, Progress};
pub use latent::{DrawnEmbedding, Latent, Layout, PriorKind, PromptEmbeds};
pub use per_stage::PerStage;
pub use settings::Settings;
pub use source::{GlideSettings, SeedChoice, Source, Start, SystemSettings, UnClipSettings};
