//! The networks: a config as the checkpoint's JSON has it, and a forward that records the graph.
//!
//! Weights are named while recording, by the checkpoint's own paths, so there is no table of names; a graph's
//! [`weights`](crate::graph::Graph::weights) are what its checkpoint must hold.

pub mod adm;
pub mod ar_prior;
pub mod attention;
pub mod blocks;
pub(crate) mod check;
pub mod clip;
pub mod efficient_unet;
pub mod embeddings;
pub mod glide;
pub mod network;
pub mod pca;
pub mod prior;
pub mod t5;
pub mod text_proj;
pub mod text_unet;
pub mod unet;
pub mod unet2d;
