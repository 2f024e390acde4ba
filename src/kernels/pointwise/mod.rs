//! What moves, resizes, sums or changes elements one by one.

pub mod activation_gradient;
pub mod concat;
pub mod cut;
pub mod elementwise;
pub mod embedding;
pub mod hand_over;
pub mod join;
pub mod join_f32;
pub mod pick;
pub mod reciprocal;
pub mod resample;
pub mod resample_gradient;
pub mod sum_axis;
pub mod timestep_embedding;
pub mod transpose;

table! {
    activation_gradient, concat, cut, elementwise, embedding, hand_over, join, join_f32, pick, reciprocal,
    resample, resample_gradient, sum_axis, timestep_embedding, transpose,
}
