//! Matrix products and convolutions, and what stands in their place.

pub mod conv2d;
pub mod conv2d_filled;
pub mod conv2d_gradient;
mod conv2d_winograd;
pub mod matmul;
pub mod product;
pub mod product_slices;
pub mod sum_slices;
pub mod winograd;
pub mod winograd_input;
pub mod winograd_output;

table! {
    conv2d, conv2d_gradient, matmul, product, product_slices, sum_slices, winograd_input, winograd_output,
}
