//! Photos: pictures as their files have them, of any size and kind of pixel, so that what is not drawn anew stays as it
//! was.

use super::bytes::ByteRounding;
use super::drawn::Picture;
use super::encoding::write;
use crate::error::{Error, Result};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use std::io::{BufRead, Cursor, Seek};
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
    /// Errors ([`Error::Io`]): no such file; neither PNG nor JPEG, or broken; more than 400 million pixels.
    pub fn open(path: impl AsRef<Path>) -> Result<Photo> {
        let path = path.as_ref();
        Photo::read(ImageReader::open(path).map_err(|e| Error::io(path, e))?, path)
    }

    /// [`Photo::open`] of a file's bytes.
    ///
    /// Errors: as [`Photo::open`].
    pub fn decode(bytes: &[u8]) -> Result<Photo> {
        Photo::read(ImageReader::new(Cursor::new(bytes)), Path::new("a picture's bytes"))
    }

    /// `path` is for messages.
    fn read<R: BufRead + Seek>(reader: ImageReader<R>, path: &Path) -> Result<Photo> {
        let mut reader = reader.with_guessed_format().map_err(|e| Error::io(path, e))?;
        if reader.format().is_none() {
            return Err(Error::io(path, "cannot be read as a PNG or JPEG: its content is neither"));
        }
        let cannot = |e: image::ImageError| Error::io(path, format!("cannot be read as a PNG or JPEG: {e}"));
        let mut limits = Limits::default();
        limits.max_alloc = Some(MAX_BYTES);
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(cannot)?;
        let (width, height) = decoder.dimensions();
        if u64::from(width) * u64::from(height) > MAX_PIXELS {
            let what = format!("{width}x{height} pixels are more than {MAX_PIXELS}; make it smaller first");
            return Err(Error::io(path, what));
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
    /// Errors: as [`Picture::save`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write(path.as_ref(), &self.to_png()?)
    }

    /// The bytes of a PNG with the pixels' own depth and colour profile.
    ///
    /// Errors ([`Error::Io`]): pixels that PNG does not hold.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        if let Some(profile) = &self.icc_profile {
            // Best effort: without it the colours are taken for sRGB.
            let _ = image::ImageEncoder::set_icc_profile(&mut encoder, profile.clone());
        }
        let cannot = |e| Error::io("a picture", format!("does not encode as PNG: {e}"));
        self.pixels.write_with_encoder(encoder).map_err(cannot)?;
        Ok(bytes)
    }

    /// Its colours in [-1, 1]; what is transparent shows white.
    pub fn picture(&self) -> Picture {
        // Of n: 0 is -1, n is 1.
        let value = |v: f32, alpha: f32, n: f32| {
            let shown = if alpha == n { v } else { n + (v - n) * alpha / n };
            shown / (n / 2.0) - 1.0
        };
        fn colours<T: Copy + Into<f32>>(
            pixel: [T; 4],
            n: f32,
            value: impl Fn(f32, f32, f32) -> f32,
        ) -> [f32; 3] {
            [0, 1, 2].map(|c| value(pixel[c].into(), pixel[3].into(), n))
        }
        let color = self.pixels.color();
        let values = match color.bytes_per_pixel() / color.channel_count() {
            1 => self.pixels.to_rgba8().pixels().flat_map(|p| colours(p.0, 255.0, value)).collect(),
            _ => self.pixels.to_rgba16().pixels().flat_map(|p| colours(p.0, 65535.0, value)).collect(),
        };
        let (width, height) = (self.width(), self.height());
        Picture { width, height, channels: 3, values, rounding: ByteRounding::Nearest }
    }
}

impl From<DynamicImage> for Photo {
    fn from(pixels: DynamicImage) -> Self {
        Photo { pixels, icc_profile: None }
    }
}

impl From<DynamicImage> for Picture {
    /// As [`Photo::picture`].
    fn from(pixels: DynamicImage) -> Self {
        Photo::from(pixels).picture()
    }
}

impl Picture {
    /// Reads a picture in colour from a PNG or JPEG; bytes 0 to 255 become -1 to 1, what is transparent shows white.
    ///
    /// Errors: see [`Photo::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Picture> {
        Ok(Photo::open(path)?.picture())
    }

    /// [`Picture::open`] of a file's bytes.
    ///
    /// Errors: see [`Photo::open`].
    pub fn decode(bytes: &[u8]) -> Result<Picture> {
        Ok(Photo::decode(bytes)?.picture())
    }
}
