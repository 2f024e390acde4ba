//! The systems, one file each, readable top to bottom.

pub mod ddpm;
pub mod denoise;
pub mod imagen;
