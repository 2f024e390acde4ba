//! The GPU device: [adapters and pipelines](adapter), [programs](program), [choices](autotune) by
//! [measurement](trial) and [decision], and what is [kept](cache) of them.

mod adapter;
mod autotune;
mod cache;
mod choices;
mod decision;
mod program;
mod trial;

pub use adapter::Gpu;
pub(super) use adapter::{adapter_names, found_adapters};
pub use choices::{Choices, Measuring};
pub(super) use program::GpuProgram;
