//! What a sampler computes of the network's output.

pub mod quantile;
pub mod renoise;
pub mod steer;
pub mod step;

table! { quantile, renoise, steer, step }
