//! The face: load a model, turn prompts into pictures.

mod edit;
mod events;
mod model;
mod seam;
mod variations;

pub use events::{Event, Run};
pub use model::Engine;
