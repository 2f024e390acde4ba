//! What a sampler computes of the network's output.

pub mod quantile;
pub mod step;

table! { quantile, step }
