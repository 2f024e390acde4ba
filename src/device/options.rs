//! How a graph is built into a program, and how its runs are watched.

use crate::kernels::Precision;

/// How a graph is built into a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramOptions {
    /// Storage of activations and weights on the GPU; the CPU computes in f32.
    pub precision: Precision,
    /// What stays readable after a run.
    pub keep: Keep,
    /// Which shaders compute it on the GPU.
    pub variants: Variants,
}

/// How the GPU's shaders are chosen among those that compute a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variants {
    /// The fastest, as measured on this adapter now or earlier; small nodes by rule.
    #[default]
    Measured,
    /// By rule alone.
    Rule,
    /// The one of this name wherever it computes a node, else the first.
    Only(&'static str),
}

/// What stays readable after a run, besides the outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: memory is reused as soon as possible.
    #[default]
    Outputs,
    /// The blocks' outputs ([`Graph::tap`](crate::graph::Graph::tap)).
    Taps,
    /// Every node's output, to compare two devices node by node.
    All,
}

/// Called between pieces of work with the share of the run that is done; returning false cancels.
pub type Monitor<'a> = dyn FnMut(f32) -> bool + 'a;
