//! What is kept on a device between runs, and what makes room: one policy for drawing and for planning.

use crate::device::LARGE_WEIGHTS;

/// Activations of more bytes are given back when a stage is done.
const LARGE_ACTIVATIONS: u64 = 1 << 28;

/// Whether a network of so many bytes of weights and activations is given back when it is done.
pub fn is_released(weights: u64, activations: u64) -> bool {
    weights > LARGE_WEIGHTS || activations > LARGE_ACTIVATIONS
}
