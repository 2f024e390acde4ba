//! Pictures: what comes out, and their way to a PNG file.

use crate::edit::mask::cover;
use crate::edit::photo::Photo;
use crate::error::{Error, Result};
use image::imageops::FilterType;
use image::{ImageBuffer, Rgb};
use std::path::{Path, PathBuf};

/// How values become bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    pub rounding: ByteRounding,
}

impl Picture {
    /// Cuts `[N, H, W, C]` values into pictures.
    pub(crate) fn split(values: &[f32], height: usize, width: usize, channels: usize) -> Vec<Picture> {
        let item = height * width * channels;
        let picture = |v: &[f32]| Picture {
            width,
            height,
            channels,
            values: v.to_vec(),
            rounding: ByteRounding::Nearest,
        };
        values.chunks_exact(item).map(picture).collect()
    }

    /// Reads a picture in colour from a PNG or JPEG; bytes 0 to 255 become -1 to 1, what is transparent shows white.
    ///
    /// Errors: see [`Photo::open`].
    pub fn open(path: &Path) -> Result<Picture> {
        Ok(Photo::open(path)?.picture())
    }

    /// Its largest middle part of these proportions, at this size (bicubic, over all of the pixels that become one).
    pub(crate) fn fitted(&self, width: usize, height: usize) -> Picture {
        if (self.width, self.height) == (width, height) {
            return self.clone();
        }
        let cut = cover((self.width, self.height), (width, height));
        let part = self.part(cut.x, cut.y, cut.width, cut.height);
        part.resized(width, height)
    }

    /// A part of it.
    pub(crate) fn part(&self, x: usize, y: usize, width: usize, height: usize) -> Picture {
        let row = |y: usize| &self.values[(y * self.width + x) * self.channels..][..width * self.channels];
        let values = (y..y + height).flat_map(row).copied().collect();
        Picture { width, height, values, ..*self }
    }

    /// All of it at another size (bicubic, over all of the pixels that become one).
    pub(crate) fn resized(&self, width: usize, height: usize) -> Picture {
        if (self.width, self.height) == (width, height) {
            return self.clone();
        }
        // The filter clamps to [0, 1].
        let colour = |pixel: &[f32]| [0, 1, 2].map(|c| pixel[c.min(pixel.len() - 1)] / 2.0 + 0.5);
        let values: Vec<f32> = self.values.chunks_exact(self.channels).flat_map(colour).collect();
        let Some(buffer) =
            ImageBuffer::<Rgb<f32>, _>::from_raw(self.width as u32, self.height as u32, values)
        else {
            return self.clone();
        };
        let resized = image::imageops::resize(&buffer, width as u32, height as u32, FilterType::CatmullRom);
        let channels = self.channels.min(3);
        let values =
            resized.pixels().flat_map(|pixel| pixel.0[..channels].iter().map(|v| 2.0 * v - 1.0)).collect();
        Picture { width, height, channels, values, rounding: self.rounding }
    }

    /// It in 1 channel (luma of sRGB's primaries) or in 3; none where it has other numbers of channels.
    pub(crate) fn with_channels(self, channels: usize) -> Option<Picture> {
        let pixels = self.values.chunks_exact(self.channels);
        let values = match (self.channels, channels) {
            (1 | 3, same) if same == self.channels => return Some(self),
            (1, 3) => pixels.flat_map(|p| [p[0]; 3]).collect(),
            (3, 1) => pixels.map(|p| 0.2126 * p[0] + 0.7152 * p[1] + 0.0722 * p[2]).collect(),
            _ => return None,
        };
        Some(Picture { channels, values, ..self })
    }

    /// Pictures of one size on white, side by side, in rows as even as can be of at most `most`.
    ///
    /// Errors ([`Error::Request`]): none, or pictures of several sizes or numbers of channels.
    pub fn sheet(pictures: &[Picture], most: usize) -> Result<Picture> {
        let like = pictures.first().ok_or_else(|| Error::Request("a sheet of no pictures".into()))?;
        let Picture { width, height, channels, rounding, .. } = *like;
        if pictures.iter().any(|p| (p.width, p.height, p.channels) != (width, height, channels)) {
            return Err(Error::Request("a sheet of pictures of several sizes: make them alike".into()));
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

    /// Its bytes, 0 for -1 and 255 for 1, by its [`ByteRounding`].
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
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
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
