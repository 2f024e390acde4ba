//! Pictures: what comes out, and their way to a PNG file.

use crate::error::{Error, Result};
use std::path::Path;

/// A picture in [-1, 1], channels last.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height · width · 3` values, row by row.
    pub values: Vec<f32>,
}

impl Picture {
    /// Cuts `[N, H, W, 3]` values into pictures.
    pub(crate) fn split(values: &[f32], height: usize, width: usize) -> Vec<Picture> {
        let item = height * width * 3;
        values.chunks_exact(item).map(|v| Picture { width, height, values: v.to_vec() }).collect()
    }

    /// Bytes as the diffusers pipelines make them: (x/2 + 1/2) · 255, halves to even.
    pub fn to_rgb8(&self) -> Vec<u8> {
        let byte = |x: &f32| ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
        self.values.iter().map(byte).collect()
    }

    /// Writes a PNG. The file appears whole or not at all: it is written beside its place and then moved there.
    ///
    /// Errors: the folder is absent or not writable, or the disk is full.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut bytes = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        let (width, height) = (self.width as u32, self.height as u32);
        image::ImageEncoder::write_image(
            encoder,
            &self.to_rgb8(),
            width,
            height,
            image::ExtendedColorType::Rgb8,
        )
        .map_err(|e| Error::file(path, format!("the picture does not encode as PNG: {e}")))?;
        write_whole(path, &bytes)
    }
}

/// Writes a file beside its place, then moves it there.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let cannot =
        |e: std::io::Error| Error::file(path, format!("cannot be written: {e}. Choose another `--output`"));
    let Some(name) = path.file_name() else {
        return Err(Error::file(path, "is not a file name; give `--output FILE.png`"));
    };
    if path.is_dir() {
        return Err(Error::file(path, "is a folder; give `--output FILE.png`"));
    }
    let mut partial = name.to_os_string();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial = path.with_file_name(partial);
    let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|e| {
        // Best effort: the error to report is the first one.
        let _ = std::fs::remove_file(&partial);
        cannot(e)
    })
}
