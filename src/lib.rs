//! ancestral
pub mod device;
pub mod diffusion;
pub mod error;
pub mod graph;
pub mod kernels;
#[path = "/work/scratch/stub_weights.rs"]
pub mod weights;
pub use error::{Error, Result};
