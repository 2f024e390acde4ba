//! What a sampler computes of the network's output.

pub mod fixed_point;
pub mod quantile;
pub mod renoise;
pub mod steer;
pub mod step;

table! { fixed_point, quantile, renoise, steer, step }
