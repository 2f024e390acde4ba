//! The kernels: families of modules, one for each kernel, as the folders of `shaders/` are.
//!
//! Each module holds the kernel's `Params` (the WGSL uniform), `record` functions that prove shapes and append
//! nodes to a [`Graph`](crate::graph::Graph), the `reference` (the definition in plain loops with f64 sums), the
//! `cpu` version the CPU device runs, and the cost. Families are folders, not paths: each kernel is
//! `kernels::NAME`. Adding one is `shaders/FAMILY/x.wgsl`, `src/kernels/FAMILY/x.rs`, its name (twice) in the
//! family's `mod.rs`, and its cases in `kernels-tests/cases/`.

macro_rules! table {
    ($($name:ident),* $(,)?) => {
        pub(super) const KERNELS: &[&crate::kernels::Kernel] = &[$(&$name::KERNEL),*];
    };
}

#[macro_use]
mod params;
#[macro_use]
mod snippets;
mod kernel;
mod shader;

// The family has a kernel of its name.
#[path = "attention/mod.rs"]
mod attention_family;
mod norms;
mod pointwise;
mod products;
mod sampling;
mod training;

pub mod epilogue;
pub(crate) mod gemm;
pub(crate) mod scratch;
pub(crate) mod simd;

pub use attention_family::*;
pub use kernel::*;
pub use norms::*;
pub use params::*;
pub use pointwise::*;
pub use products::*;
pub use sampling::*;
pub use shader::*;
pub(crate) use snippets::*;
pub use training::*;

pub use crate::graph::rewrites::Rewrites;
use std::sync::LazyLock;

/// Every kernel; pipelines, tests and benches walk this table.
pub static ALL: LazyLock<Vec<&'static Kernel>> = LazyLock::new(|| {
    [
        attention_family::KERNELS,
        norms::KERNELS,
        pointwise::KERNELS,
        products::KERNELS,
        sampling::KERNELS,
        training::KERNELS,
    ]
    .concat()
});
