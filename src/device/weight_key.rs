//! What tells copies of weights apart.

use crate::graph::{Repack, WeightPart};
use std::sync::Arc;

/// What a checkpoint's tensors are when they come to a device: those of the file, or others that are computed of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mix {
    /// Averages over the training, not its last weights.
    pub averaged: bool,
    /// What is added: each adapter by its number, and the bits of its scale.
    pub adapters: Vec<(u64, u32)>,
}

/// How a copy's values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    F32,
    F16,
    /// f32 in the panels of the CPU's products ([`crate::kernels::gemm::Panels`]).
    Panels,
}

impl Form {
    pub fn of(half: bool) -> Form {
        if half { Form::F16 } else { Form::F32 }
    }
}

/// Which copy of a weight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct WeightKey {
    /// Whose [`Weights`].
    pub owner: u64,
    /// The GPU's number; 0 on the CPU, which has a budget of its own.
    pub device: u64,
    pub form: Form,
    pub parts: Vec<WeightPart>,
    pub repack: Repack,
    pub mix: Mix,
}

/// A weight's values on a device.
pub(super) enum Copied {
    Cpu(Arc<Vec<f32>>),
    Gpu(wgpu::Buffer),
}
