//! [`join`](crate::kernels::join) of tensors that stay in f32.

use super::join::COMMON;
use crate::kernels::{INDEX, Kernel, Shader, element_grid};

/// `shaders/shared/item_f32.wgsl`: what stays f32 is moved.
const ITEM: &str = wgsl!("shared/item_f32");

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "join_f32",
    shaders: &[Shader::plain("join_f32", wgsl!("pointwise/join"), &[INDEX, ITEM], element_grid)],
    ..COMMON
};
