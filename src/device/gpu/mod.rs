//! The GPU device: [adapters and pipelines](adapter), [programs](program), their way to the device ([queue],
//! [submit]), [choices](autotune) and what is [kept](cache) of them.

pub(super) mod adapter;
mod autotune;
mod cache;
mod choices;
mod faults;
mod program;
mod queue;
mod submissions;
mod submit;

pub use adapter::Gpu;
pub(super) use adapter::{adapter_names, found_adapters};
pub use choices::Choices;
pub use faults::Fault;
pub(super) use program::GpuProgram;
pub(super) use queue::GpuQueue;
pub(super) use submissions::Submitted;
