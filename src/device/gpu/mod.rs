//! The GPU device: [adapters and pipelines](adapter), [programs](program), [what goes into buffers](upload), their way to
//! the device ([queue], [submit]), [choices](autotune) by [measurement](trial) ([clock]) and [decision], and what is [kept](cache)
//! of them.

pub(super) mod adapter;
mod autotune;
mod cache;
mod choices;
mod clock;
mod decision;
mod faults;
mod program;
mod queue;
mod submissions;
mod submit;
mod trial;
mod upload;

pub use adapter::Gpu;
pub(super) use adapter::{adapter_names, found_adapters};
pub use choices::{Choices, Measuring};
pub use faults::Fault;
pub(super) use program::GpuProgram;
pub(super) use queue::{GpuQueue, Staging};
pub(super) use submissions::Submitted;
