//! Training: objectives, the optimiser, parameters, data, checkpoints.

pub mod data;
pub mod loss;
pub mod objective;
pub mod optimiser;
pub mod parameters;
pub mod plot;
pub mod run;
pub mod scenes;
mod state;
pub mod task;
pub mod trainer;
