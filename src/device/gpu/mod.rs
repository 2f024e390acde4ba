//! The GPU device: [adapters and pipelines](adapter), [programs](program), [what goes into buffers](upload), [choices](autotune) and what
//! is [kept](cache) of them.

mod adapter;
mod autotune;
mod cache;
mod choices;
mod program;
mod upload;

pub use adapter::Gpu;
pub(super) use adapter::{adapter_names, found_adapters};
pub use choices::Choices;
pub(super) use program::GpuProgram;
