//! Pictures side by side.

use super::drawn::Picture;
use crate::error::{Error, Problem, Result, Setting};

impl Picture {
    /// Pictures of one size on white, side by side, in rows as even as can be of at most `most`.
    ///
    /// Errors ([`Error::Request`]): none, or pictures of several sizes or numbers of channels.
    pub fn sheet(pictures: &[Picture], most: usize) -> Result<Picture> {
        let refused = |what: &str| Error::request(Setting::Picture, Problem::Mismatch, what);
        let like = pictures.first().ok_or_else(|| refused("a sheet of no pictures"))?;
        let Picture { width, height, channels, rounding, .. } = *like;
        if pictures.iter().any(|p| (p.width, p.height, p.channels) != (width, height, channels)) {
            return Err(refused("a sheet of pictures of several sizes: make them alike"));
        }
        let rows = pictures.len().div_ceil(most.max(1));
        let columns = pictures.len().div_ceil(rows);
        let gap = (width.max(height) / 64).max(1);
        let (all, lines) = (columns * (width + gap) - gap, rows * (height + gap) - gap);
        let mut values = vec![1.0; all * lines * channels];
        for (i, picture) in pictures.iter().enumerate() {
            let (x, y) = (i % columns * (width + gap), i / columns * (height + gap));
            for (line, row) in picture.values.chunks_exact(width * channels).enumerate() {
                values[((y + line) * all + x) * channels..][..row.len()].copy_from_slice(row);
            }
        }
        Ok(Picture { width: all, height: lines, channels, values, rounding })
    }
}
