//! Rectangles of pixels.

use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// A rectangle of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rectangle {
    /// First column.
    pub x: usize,
    /// First row.
    pub y: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl FromStr for Rectangle {
    type Err = String;

    /// `X,Y,WIDTH,HEIGHT` in pixels.
    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<usize>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[x, y, width, height]) => Ok(Rectangle { x, y, width, height }),
            _ => Err(format!("`{text}` is no rectangle; give X,Y,WIDTH,HEIGHT in pixels, e.g. 40,40,64,64")),
        }
    }
}

/// The largest middle part of a picture that has the proportions of `to`.
pub(crate) fn cover((w, h): (usize, usize), to: (usize, usize)) -> Rectangle {
    // w / h against to.0 / to.1, in whole numbers.
    let (width, height) = if w * to.1 > h * to.0 {
        ((h * to.0).div_ceil(to.1).clamp(1, w), h)
    } else {
        (w, (w * to.1).div_ceil(to.0).clamp(1, h))
    };
    Rectangle { x: (w - width) / 2, y: (h - height) / 2, width, height }
}
