//! Training: objectives, the optimiser, parameters, data, checkpoints.

pub mod objective;
pub mod optimiser;
pub mod parameters;
pub mod scenes;
pub mod trainer;
