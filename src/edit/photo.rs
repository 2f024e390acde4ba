//! Photos: pictures as their files have them, of any size and kind of pixel, so that what is not drawn anew stays as it
//! was.

use crate::error::{Error, Result};
use crate::picture::{ByteRounding, Picture, write_whole};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use std::path::Path;

/// Most pixels of a photo: 20,000 by 20,000.
const MAX_PIXELS: u64 = 400_000_000;
/// Most bytes a file's decoder may take.
const MAX_BYTES: u64 = 4 << 30;

/// A picture with its own kind of pixels and colour profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Photo {
    /// The pixels, upright.
    pub pixels: DynamicImage,
    /// The ICC profile that says what its colours mean, if the file has one.
    pub icc_profile: Option<Vec<u8>>,
}

impl Photo {
    /// Reads a PNG or JPEG, told apart by its content, and turns it upright as its EXIF says.
    ///
    /// Errors: no such file; neither PNG nor JPEG, or broken; more than 400 million pixels.
    pub fn open(path: &Path) -> Result<Photo> {
        let reader = ImageReader::open(path).map_err(|e| Error::file(path, e))?;
        let mut reader = reader.with_guessed_format().map_err(|e| Error::file(path, e))?;
        if reader.format().is_none() {
            return Err(Error::file(path, "cannot be read as a PNG or JPEG: its content is neither"));
        }
        let cannot =
            |e: image::ImageError| Error::file(path, format!("cannot be read as a PNG or JPEG: {e}"));
        let mut limits = Limits::default();
        limits.max_alloc = Some(MAX_BYTES);
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(cannot)?;
        let (width, height) = decoder.dimensions();
        if u64::from(width) * u64::from(height) > MAX_PIXELS {
            let what = format!("{width}x{height} pixels are more than {MAX_PIXELS}; make it smaller first");
            return Err(Error::file(path, what));
        }
        // A profile of inks does not fit the red, green and blue that the decoder makes of them.
        let fits = |profile: &Vec<u8>| matches!(profile.get(16..20), Some(b"RGB " | b"GRAY"));
        let icc_profile = decoder.icc_profile().ok().flatten().filter(fits);
        let orientation = decoder.orientation().map_err(cannot)?;
        let mut pixels = DynamicImage::from_decoder(decoder).map_err(cannot)?;
        pixels.apply_orientation(orientation);
        Ok(Photo { pixels, icc_profile })
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.pixels.width() as usize
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.pixels.height() as usize
    }

    /// Writes a PNG with the pixels' own depth; whole or not at all, like [`Picture::save`].
    ///
    /// Errors: the folder is absent or not writable, or the disk is full.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        if let Some(profile) = &self.icc_profile {
            // Best effort: without it the colours are taken for sRGB.
            let _ = image::ImageEncoder::set_icc_profile(&mut encoder, profile.clone());
        }
        self.pixels
            .write_with_encoder(encoder)
            .map_err(|e| Error::file(path, format!("the picture does not encode as PNG: {e}")))?;
        write_whole(path, &bytes)
    }

    /// Its colours in [-1, 1]; what is transparent shows white.
    pub fn picture(&self) -> Picture {
        // Of n: 0 is -1, n is 1.
        let value = |v: f32, alpha: f32, n: f32| {
            let shown = if alpha == n { v } else { n + (v - n) * alpha / n };
            shown / (n / 2.0) - 1.0
        };
        let values: Vec<f32> =
            match self.pixels.color().bytes_per_pixel() / self.pixels.color().channel_count() {
                1 => {
                    let pixels = self.pixels.to_rgba8();
                    pixels
                        .pixels()
                        .flat_map(|p| [0, 1, 2].map(|c| value(p.0[c].into(), p.0[3].into(), 255.0)))
                        .collect()
                }
                _ => {
                    let pixels = self.pixels.to_rgba16();
                    pixels
                        .pixels()
                        .flat_map(|p| [0, 1, 2].map(|c| value(p.0[c].into(), p.0[3].into(), 65535.0)))
                        .collect()
                }
            };
        let (width, height) = (self.width(), self.height());
        Picture { width, height, channels: 3, values, rounding: ByteRounding::Nearest }
    }
}
