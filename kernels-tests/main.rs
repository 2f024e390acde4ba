//! Every kernel × case × precision against its f64 reference; shader lints; layers against PyTorch.
//!
//! ```text
//! cargo test --release --test kernels                     # all of it; software Vulkan will do
//! cargo test --release --test kernels shaders             # no GPU needed
//! ANCESTRAL_CASE=conv2d/skip cargo test --release --test kernels harness    # some cases, by name
//! ANCESTRAL_UNITS=/path/to/units cargo test --release --test kernels units  # another folder of layer goldens
//! ANCESTRAL_TEST_DEVICE=NVIDIA cargo test --release --test kernels          # an adapter, by name
//! ANCESTRAL_REQUIRE_GPU=1 cargo test --release --test kernels               # no adapter is a failure
//! ANCESTRAL_SKIPPED=FILE cargo test --release --test kernels                # a line there for what is skipped
//! ```
//! Add `-- --nocapture` for a table of the largest differences. Without `ANCESTRAL_TEST_DEVICE` the tests take
//! llvmpipe (the same numbers on every machine), else any adapter; without one they skip what needs it and say so.
//!
//! - [`cases`]: what is tested. A new case is a row in the kernel's function there; a kernel without cases fails.
//! - [`harness`]: runs cases on the CPU device and the GPU and compares; tolerances stand at its top.
//! - [`concurrent`]: several callers of one GPU.
//! - [`controls`]: planted errors that must turn the harness red, and what the references themselves rest on.
//! - [`cooperative`]: shaders of cooperative matrices, those emulated.
//! - [`shaders`]: what every WGSL file must be like, and that it translates for every backend.
//! - [`house`]: what the source files must be like.
//! - [`networks`]: whole networks store their tensors as their shaders read them.
//! - [`plans`]: dispatches of a step, and the memory a plan takes, of published layouts.
//! - [`gradients`]: reverse mode against finite differences of the definitions.
//! - [`priors`]: unCLIP's priors by themselves.
//! - [`guidance`]: what steering does to a run.
//! - [`edits`]: pictures a run begins at and keeps parts of.
//! - [`latents`]: pictures as unCLIP sees them, there and back.
//! - [`golden`]: whole systems against numbers that PyTorch computed (`goldens/*`, or `$ANCESTRAL_GOLDENS`).
//! - [`units`]: layers and blocks against numbers that PyTorch computed (`goldens/units`).

mod cases;
mod concurrent;
mod controls;
mod cooperative;
mod device;
mod edits;
mod golden;
mod gradients;
mod guidance;
mod harness;
mod house;
mod latents;
mod networks;
mod plans;
mod priors;
mod shaders;
#[path = "common/skipped.rs"]
mod skipped;
#[path = "common/token_prior.rs"]
mod token_prior;
mod units;
