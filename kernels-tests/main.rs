//! What the project promises, in one binary: every kernel × case × precision against its f64 reference, layers and whole
//! systems against PyTorch, the face of the library and the command as people use them.
//!
//! ```text
//! cargo test --release --test contracts                     # all of it; software Vulkan will do
//! cargo test --release --test contracts shaders             # one module; this one needs no GPU
//! ANCESTRAL_CASE=conv2d/skip cargo test --release --test contracts harness    # some cases, by name
//! ANCESTRAL_UNITS=/path/to/units cargo test --release --test contracts units  # another folder of layer goldens
//! ANCESTRAL_TEST_DEVICE=NVIDIA cargo test --release --test contracts          # an adapter, by name
//! ANCESTRAL_REQUIRE_GPU=1 cargo test --release --test contracts               # no adapter is a failure
//! ANCESTRAL_SKIPPED=FILE cargo test --release --test contracts                # a line there for what is skipped
//! ```
//! Add `-- --nocapture` for a table of the largest differences. Without `ANCESTRAL_TEST_DEVICE` the tests take
//! llvmpipe (the same numbers on every machine), else any adapter; without one they skip what needs it and say so.
//!
//! Kernels:
//! - [`cases`]: what is tested. A new case is a row in the kernel's function there; a kernel without cases fails.
//! - [`harness`]: runs cases on the CPU device and the GPU and compares; tolerances stand at its top.
//! - [`concurrent`]: several callers of one GPU. - [`faults`]: a device that fails in the middle of a run.
//! - [`traffic`]: what passes between the host and a GPU in a step.
//! - [`controls`]: planted errors that must turn the harness red, and what the references themselves rest on.
//! - [`cooperative`]: shaders of cooperative matrices, those emulated.
//! - [`dawn`]: the cases by Chromium's WebGPU. - [`table`]: what every implementation makes of every shader, written down;
//!   both for `./check --drivers`.
//! - [`shaders`]: what every WGSL file must be like, and that it translates for every backend.
//! - [`gradients`]: reverse mode against finite differences of the definitions.
//! - [`same_bits`]: items of a batch, alone or together, on any number of threads.
//! - [`units`]: layers and blocks against numbers that PyTorch computed (`goldens/units`).
//!
//! Networks and systems:
//! - [`networks`]: whole networks store their tensors as their shaders read them.
//! - [`occupancy`]: workgroups for a large card at published sizes.
//! - [`plans`]: dispatches of a step, and the memory a plan takes, of published layouts.
//! - [`plan_and_run`]: what a plan counts against what a run did.
//! - [`split`]: tensors above a device's limits.
//! - [`priors`]: unCLIP's priors by themselves.
//! - [`guidance`]: what steering does to a run.
//! - [`edits`]: pictures a run begins at and keeps parts of.
//! - [`lora`]: adapters in every spelling, merged.
//! - [`latents`]: pictures as unCLIP sees them, there and back.
//! - [`golden`]: whole systems against numbers that PyTorch computed (`goldens/*`, or `$ANCESTRAL_GOLDENS`).
//! - [`bundled`]: the bundled models, end to end, on both devices.
//!
//! As people meet it:
//! - [`scenes`]: the drawn scenes that models are trained on.
//! - [`face`]: the library as a program uses it, and how much of it there is. - [`examples`]: those of `examples/`, run.
//! - [`cli`]: the program as a person runs it.
//! - [`fuzz`]: the fuzz targets' corpora through the loaders.
//! - [`weights_md`]: weights.md against the code. - [`house`]: what the source files must be like.

mod bundled;
mod cases;
mod cli;
mod concurrent;
mod controls;
mod cooperative;
mod dawn;
mod device;
mod edits;
mod examples;
mod face;
mod faults;
mod fuzz;
mod golden;
mod gradients;
mod guidance;
mod harness;
mod house;
mod latents;
mod lora;
mod networks;
mod occupancy;
mod plan_and_run;
mod plans;
mod priors;
mod same_bits;
mod scenes;
mod shaders;
#[path = "common/skipped.rs"]
mod skipped;
mod split;
mod table;
#[path = "common/token_prior.rs"]
mod token_prior;
#[path = "common/told.rs"]
mod told;
mod traffic;
mod training;
mod units;
mod weights_md;
