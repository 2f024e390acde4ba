//! Pictures: what comes out, and their way to a PNG file.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// How values become bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest, halves to even, as the diffusers pipelines do.
    #[default]
    Nearest,
    /// (x + 1) · 127.5 without its fraction, as OpenAI's scripts do.
    Down,
}

impl Rounding {
    /// The byte of a value in [-1, 1].
    pub fn byte(self, x: f32) -> u8 {
        match self {
            Rounding::Nearest => ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8,
            Rounding::Down => ((x + 1.0) * 127.5).clamp(0.0, 255.0) as u8,
        }
    }
}

/// A picture in [-1, 1], channels last.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 3 for colour (red, green, blue), 1 for grey.
    pub channels: usize,
    /// `height · width · channels` values, row by row.
    pub values: Vec<f32>,
    /// How its values become bytes.
    pub rounding: Rounding,
}

impl Picture {
    /// Cuts `[N, H, W, C]` values into pictures.
    pub(crate) fn split(values: &[f32], height: usize, width: usize, channels: usize) -> Vec<Picture> {
        let item = height * width * channels;
        let picture =
            |v: &[f32]| Picture { width, height, channels, values: v.to_vec(), rounding: Rounding::Nearest };
        values.chunks_exact(item).map(picture).collect()
    }

    /// Reads a colour picture from a PNG; bytes 0 to 255 become -1 to 1, transparency is dropped.
    ///
    /// Errors: no such file, or not a PNG that can be read.
    pub fn open(path: &Path) -> Result<Picture> {
        let read = image::ImageReader::open(path).map_err(|e| Error::file(path, e))?;
        let read = read.with_guessed_format().map_err(|e| Error::file(path, e))?;
        let picture =
            read.decode().map_err(|e| Error::file(path, format!("cannot be read as a PNG: {e}")))?;
        let picture = picture.into_rgb8();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let values = picture.into_raw().into_iter().map(|byte| f32::from(byte) / 127.5 - 1.0).collect();
        Ok(Picture { width, height, channels: 3, values, rounding: Rounding::Nearest })
    }

    /// Its bytes, 0 for -1 and 255 for 1, by its [`Rounding`].
    pub fn to_bytes(&self) -> Vec<u8> {
        self.values.iter().map(|x| self.rounding.byte(*x)).collect()
    }

    /// Writes a PNG. The file appears whole or not at all: it is written beside its place and then moved there.
    ///
    /// Errors: the folder is absent or not writable, or the disk is full.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut bytes = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        let (width, height) = (self.width as u32, self.height as u32);
        let colour =
            if self.channels == 1 { image::ExtendedColorType::L8 } else { image::ExtendedColorType::Rgb8 };
        image::ImageEncoder::write_image(encoder, &self.to_bytes(), width, height, colour)
            .map_err(|e| Error::file(path, format!("the picture does not encode as PNG: {e}")))?;
        write_whole(path, &bytes)
    }
}

/// Where a picture's bytes go.
enum Place {
    /// To a new file beside it first, then moved there.
    File(PathBuf),
    /// Straight to it: a device or a pipe, which must not be replaced by a file.
    Special,
}

fn cannot(path: &Path, error: &std::io::Error) -> Error {
    Error::file(path, format!("cannot be written: {error}. Choose another `--output`"))
}

/// Finds out how `path` is written, following links: what they lead to is replaced, not the link.
fn place(path: &Path) -> Result<Place> {
    let about = std::fs::metadata(path).ok();
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.file_name().is_none() || about.as_ref().is_some_and(std::fs::Metadata::is_dir) {
        return Err(Error::file(path, "is a folder; give `--output FILE.png`"));
    }
    if !folder.is_dir() {
        let what = "cannot be written: its folder does not exist. Make it, or choose another `--output`";
        return Err(Error::file(path, what));
    }
    if about.is_some_and(|about| !about.is_file()) {
        return Ok(Place::Special);
    }
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".partial-{}", std::process::id()));
    Ok(Place::File(path.with_file_name(name)))
}

/// Refuses an output that cannot be written, before minutes are spent on its picture.
///
/// Errors: it is a folder, its folder is absent or not writable.
pub fn check_output(path: &Path) -> Result<()> {
    match place(path)? {
        Place::File(partial) => std::fs::write(&partial, b"")
            .and_then(|()| std::fs::remove_file(&partial))
            .map_err(|error| cannot(path, &error)),
        // Opening and closing a pipe would tell its reader that all is over.
        Place::Special => Ok(()),
    }
}

/// Writes a file beside its place, then moves it there.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = match place(path)? {
        Place::Special => std::fs::write(path, bytes),
        Place::File(partial) => {
            let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
            let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, target));
            if written.is_err() {
                // Best effort: the error to report is the first one.
                let _ = std::fs::remove_file(&partial);
            }
            written
        }
    };
    written.map_err(|error| cannot(path, &error))
}
