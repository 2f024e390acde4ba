//! What training adds: gradients of weights, losses, the optimiser.

pub mod accumulate;
pub mod adamw;
pub mod add_f32;
pub mod attention_bias_gradient;
pub mod column_sums;
pub mod diffuse;
pub mod embedding_gradient;
pub mod filter_gradient;
mod filter_gradient_direct;
mod filter_gradient_winograd;
pub mod group_norm_affine_gradient;
pub mod group_norm_sums;
pub mod optimiser_control;
pub mod squared_error;
pub mod squared_error_gradient;
pub mod sum_parts;
pub mod sum_squares;
pub mod variational_bound;
pub mod variational_bound_gradient;
pub mod weight_transpose;
pub mod widen;

table! {
    accumulate, adamw, add_f32, attention_bias_gradient, column_sums, diffuse, embedding_gradient, filter_gradient,
    group_norm_affine_gradient, group_norm_sums, optimiser_control, squared_error, squared_error_gradient, sum_parts,
    sum_squares, variational_bound, variational_bound_gradient, weight_transpose, widen,
}
