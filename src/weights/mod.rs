//! Checkpoints: memory-mapped safetensors and PyTorch files, found by the published names, checked before
//! use, and handed on in a device's type and the kernels' layout.
//!
//! A folder is looked through once (`locate`), each file is mapped and told by its first bytes (`shard`), its
//! list of tensors is proved against the file's length (`header` for safetensors, `torch` for PyTorch's
//! files), the model's list of tensors is compared with the file's (`check`), and then tensors are streamed
//! out in bounded pieces (`stream`), so that a checkpoint of many gigabytes needs no more memory than a few
//! pieces. Files of adapters are read (`lora`) and merged as tensors are (`adapter`). Values are not inspected: NaN and infinities are passed on as they are.

mod adapter;
mod check;
mod checkpoint;
mod element;
mod entry;
mod header;
mod locate;
mod lora;
mod names;
mod shard;
mod stream;
#[cfg(test)]
mod tests;
mod torch;

pub use adapter::{Adapters, Change};
pub use checkpoint::Checkpoint;
pub use element::Element;
pub use lora::{Kind, Layer, Lora};
pub use names::{ddpm_attention_name, t5_name};

pub use crate::files::read_json;
/// A tensor's element type, as a safetensors header names it.
pub use safetensors::Dtype;
