//! What encoders of pictures answer.

use crate::graph::Tensor;

/// What an encoder makes of pictures.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `[N, E]`, of no particular length.
    pub embeds: Tensor,
    /// Features by place, `[N, P, C]` each, from fine to coarse: a residual network's stem and four levels, a
    /// transformer's patches after each quarter of its blocks.
    pub maps: Vec<Tensor>,
}
