//! Norms and softmax.

pub mod batch_norm;
pub mod group_affine;
pub mod group_apply;
mod group_blocks;
pub mod group_gradient_apply;
pub mod group_lines;
pub mod group_moments;
pub mod group_norm;
pub mod group_norm_gradient;
pub(crate) mod group_quads;
pub mod group_slopes;
pub mod layer_norm;
pub mod layer_norm_gradient;
pub mod softmax;
pub mod softmax_gradient;

table! {
    batch_norm, group_affine, group_apply, group_gradient_apply, group_lines, group_moments, group_norm,
    group_norm_gradient, group_slopes, layer_norm, layer_norm_gradient, softmax, softmax_gradient,
}
