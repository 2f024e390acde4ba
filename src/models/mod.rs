//! The networks: a config as the checkpoint's JSON has it, and a forward that records the graph.
//!
//! Weights are named while recording, by the checkpoint's own paths, so there is no table of names; a graph's
//! [`weights`](crate::graph::Graph::weights) are what its checkpoint must hold.

pub mod attention;
pub mod blocks;
pub mod efficient_unet;
pub mod embeddings;
pub mod t5;
pub mod unet;
pub mod unet2d;

/// The settings of a config that must hold before a forward may be recorded, each checked once with a clear message.
pub(crate) mod check {
    use crate::error::{Error, Result};
    use std::path::Path;

    /// Refuses a config with the key and the reason.
    pub(crate) fn require(path: &Path, key: &str, holds: bool, what: impl Fn() -> String) -> Result<()> {
        if holds { Ok(()) } else { Err(Error::config(path, key, what())) }
    }

    /// Channel counts that group norms and heads can divide.
    pub(crate) fn channels(path: &Path, key: &str, channels: &[usize], groups: usize) -> Result<()> {
        require(path, key, (1..=8).contains(&channels.len()), || {
            format!("{} levels; 1 to 8 are supported", channels.len())
        })?;
        require(path, "norm_num_groups", groups > 0, || "must be at least 1".into())?;
        for &c in channels {
            require(path, key, c > 0 && c <= 65_536 && c % groups == 0, || {
                format!("{c} channels do not divide into norm_num_groups = {groups} groups")
            })?;
        }
        Ok(())
    }
}
