//! What a sampler computes of the network's output.

pub mod fixed_point;
pub mod quantile;
pub mod quantile_counts;
pub mod quantile_digits;
pub mod quantile_merge;
pub mod renoise;
pub mod steer;
pub mod step;

table! { fixed_point, quantile, quantile_counts, quantile_digits, quantile_merge, renoise, steer, step }
