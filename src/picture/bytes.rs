//! Values as bytes.

use serde::{Deserialize, Serialize};

/// How values become bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ByteRounding {
    /// To the nearest, halves to even, as the diffusers pipelines do.
    #[default]
    Nearest,
    /// (x + 1) · 127.5 without its fraction, as OpenAI's scripts do.
    Down,
}

impl ByteRounding {
    /// The byte of a value in [-1, 1].
    pub fn byte(self, x: f32) -> u8 {
        match self {
            ByteRounding::Nearest => ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8,
            ByteRounding::Down => ((x + 1.0) * 127.5).clamp(0.0, 255.0) as u8,
        }
    }
}
