//! Pictures as files and bytes of files.

use super::drawn::Picture;
use crate::error::{Error, Result};
use crate::files::{partial, write_whole};
use image::DynamicImage;
use image::codecs::{jpeg::JpegEncoder, png::PngEncoder};
use std::io;
use std::path::{Path, PathBuf};

impl Picture {
    /// Writes a PNG. The file appears whole or not at all: it is written beside its place and then moved there.
    ///
    /// Errors ([`Error::Io`]): the folder is absent or not writable, or the disk is full.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write(path.as_ref(), &self.to_png()?)
    }

    /// The bytes of a PNG.
    ///
    /// Errors ([`Error::Request`]): values that are not as many as its size says.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        self.encoded(|image, bytes| image.write_with_encoder(PngEncoder::new(bytes)))
    }

    /// The bytes of a JPEG of a quality from 1 to 100.
    ///
    /// Errors: as [`Picture::to_png`].
    pub fn to_jpeg(&self, quality: u8) -> Result<Vec<u8>> {
        let quality = quality.clamp(1, 100);
        self.encoded(|image, bytes| image.write_with_encoder(JpegEncoder::new_with_quality(bytes, quality)))
    }

    fn encoded(
        &self,
        encode: impl FnOnce(DynamicImage, &mut Vec<u8>) -> image::ImageResult<()>,
    ) -> Result<Vec<u8>> {
        self.check()?;
        let mut bytes = Vec::new();
        let encoded = encode(DynamicImage::from(self), &mut bytes);
        encoded.map_err(|e| Error::io("a picture", format!("does not encode: {e}")))?;
        Ok(bytes)
    }
}

/// Where a picture's bytes go.
enum Place {
    /// To this file, whole or not at all.
    File(PathBuf),
    /// Straight to it: a device or a pipe, which must not be replaced by a file.
    Special,
}

fn cannot(path: &Path, error: &io::Error) -> Error {
    Error::io(path, format!("cannot be written: {error}"))
}

/// Finds out how `path` is written, following links: what they lead to is replaced, not the link.
fn place(path: &Path) -> Result<Place> {
    let about = std::fs::metadata(path).ok();
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.file_name().is_none() || about.as_ref().is_some_and(std::fs::Metadata::is_dir) {
        return Err(Error::io(path, "is a folder, not a file to write"));
    }
    if !folder.is_dir() {
        return Err(Error::io(path, "cannot be written: its folder does not exist"));
    }
    if about.is_some_and(|about| !about.is_file()) {
        return Ok(Place::Special);
    }
    Ok(Place::File(std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())))
}

/// Refuses an output that cannot be written, before minutes are spent on its picture.
///
/// Errors: it is a folder, its folder is absent or not writable.
pub fn check_output(path: &Path) -> Result<()> {
    match place(path)? {
        Place::File(target) => {
            let partial = partial(&target);
            let tried = std::fs::write(&partial, b"").and_then(|()| std::fs::remove_file(&partial));
            tried.map_err(|error| cannot(path, &error))
        }
        // Opening and closing a pipe would tell its reader that all is over.
        Place::Special => Ok(()),
    }
}

/// Writes a picture's bytes.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = match place(path)? {
        Place::Special => std::fs::write(path, bytes),
        Place::File(target) => write_whole(&target, bytes),
    };
    written.map_err(|error| cannot(path, &error))
}
