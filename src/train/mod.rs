//! Training: the data that models are trained on.

pub mod scenes;
