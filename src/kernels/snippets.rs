//! The WGSL that several shaders share: functions, types, uniforms; none binds a tensor.

/// The text of a file of `shaders/`, by its path there without the ending.
macro_rules! wgsl {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $path, ".wgsl"))
    };
}

/// `shaders/shared/index.wgsl`: folded grids.
pub(crate) const INDEX: &str = wgsl!("shared/index");
/// `shaders/shared/tile.wgsl`: which part of a product an invocation computes.
pub(crate) const TILE: &str = wgsl!("shared/tile");
/// `shaders/software/shared/rows12.wgsl`: 12 rows in the tiles of [`SUBGROUP`].
pub(crate) const ROWS12: &str = wgsl!("software/shared/rows12");
/// `shaders/software/shared/rows16.wgsl`: 16 rows in the tiles of [`SUBGROUP`].
pub(crate) const ROWS16: &str = wgsl!("software/shared/rows16");
/// `shaders/software/shared/subgroup.wgsl`: a tile of a product by a subgroup of 8.
pub(crate) const SUBGROUP: &str = wgsl!("software/shared/subgroup");
/// `shaders/shared/tile64.wgsl`: 64 × 64 of a product through workgroup memory.
pub(crate) const TILE64: &str = wgsl!("shared/tile64");
/// `shaders/shared/matrices16.wgsl`: cooperative matrices of 16 × 16.
pub(crate) const MATRICES16: &str = wgsl!("shared/matrices16");
/// `shaders/shared/matrices8.wgsl`: cooperative matrices of 8 × 8.
pub(crate) const MATRICES8: &str = wgsl!("shared/matrices8");
/// `shaders/shared/matrices.wgsl`: either in workgroup memory.
pub(crate) const MATRICES: &str = wgsl!("shared/matrices");
/// `shaders/shared/cooperative.wgsl`: 128 × 64 or 64 × 64 of a product in cooperative matrices.
pub(crate) const COOPERATIVE: &str = wgsl!("shared/cooperative");
/// `shaders/shared/gather.wgsl`: a convolution's input as the left side of a product.
pub(crate) const GATHER: &str = wgsl!("shared/gather");
/// `shaders/shared/store.wgsl`: an element of a product, with bias and epilogue, to y.
pub(crate) const STORE: &str = wgsl!("shared/store");
/// `shaders/shared/store_quad.wgsl`: bias, epilogue and store of four columns.
pub(crate) const STORE_QUAD: &str = wgsl!("shared/store_quad");
/// `shaders/shared/activation.wgsl`: the activation functions by number.
pub(crate) const ACTIVATION: &str = wgsl!("shared/activation");
/// `shaders/shared/activation_derivative.wgsl`: their derivatives.
pub(crate) const ACTIVATION_DERIVATIVE: &str = wgsl!("shared/activation_derivative");
/// `shaders/shared/store_at.wgsl`: an element, with epilogue, to y.
pub(crate) const STORE_AT: &str = wgsl!("shared/store_at");
/// `shaders/shared/store_quad_at.wgsl`: four columns, with epilogue, to y.
pub(crate) const STORE_QUAD_AT: &str = wgsl!("shared/store_quad_at");
/// `shaders/shared/group_walk.wgsl`: the two inputs of a group norm, and a group's moments.
pub(crate) const GROUP_WALK: &str = wgsl!("shared/group_walk");
/// `shaders/shared/group_quads.wgsl`: which quads of a group norm's inputs an invocation visits.
pub(crate) const GROUP_QUADS: &str = wgsl!("shared/group_quads");
/// `shaders/shared/group_slope.wgsl`: what an activation passes of a gradient.
pub(crate) const GROUP_SLOPE: &str = wgsl!("shared/group_slope");
/// `shaders/shared/epilogue.wgsl`: activation, operand and scale after a sum.
pub(crate) const EPILOGUE: &str = wgsl!("shared/epilogue");
/// `shaders/shared/reduce.wgsl`: sums and maxima over a workgroup.
pub(crate) const REDUCE: &str = wgsl!("shared/reduce");
/// `shaders/software/shared/reduce_subgroup.wgsl`: sums and maxima over a subgroup that is the workgroup.
pub(crate) const REDUCE_SUBGROUP: &str = wgsl!("software/shared/reduce_subgroup");
/// `shaders/shared/resample.wgsl`: what an output coordinate of a resized picture reads.
pub(crate) const RESAMPLE: &str = wgsl!("shared/resample");
/// `shaders/shared/magnitude.wgsl`: |x̂₀| of an element.
pub(crate) const MAGNITUDE: &str = wgsl!("shared/magnitude");
/// `shaders/shared/select_bin.wgsl`: the bin of counts that a rank falls into.
pub(crate) const SELECT_BIN: &str = wgsl!("shared/select_bin");
/// `shaders/shared/predict.wgsl`: guidance and x̂₀, shared by quantiles and `step`.
pub(crate) const PREDICT: &str = wgsl!("shared/predict");
