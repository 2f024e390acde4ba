//! The picture itself: values, sizes, bytes.

use super::bytes::ByteRounding;
use super::geometry::cover;
use crate::error::{Result, request};
use image::imageops::FilterType;
use image::{DynamicImage, GrayImage, ImageBuffer, Rgb, RgbImage};
use serde::{Deserialize, Serialize};

/// A picture in [-1, 1], channels last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

    /// A picture in the middle between black and white, in colour.
    pub(crate) fn grey(width: usize, height: usize) -> Picture {
        let values = vec![0.0; 3 * width * height];
        Picture { width, height, channels: 3, values, rounding: ByteRounding::Nearest }
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

    /// Refuses a picture whose values are not as many as its size says.
    pub(crate) fn check(&self) -> Result<()> {
        let (values, (w, h, c)) = (self.values.len(), (self.width, self.height, self.channels));
        if values > 0 && values == w * h * c {
            return Ok(());
        }
        Err(request!(Picture, Malformed, "a picture of {w}x{h} pixels and {c} channels with {values} values"))
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

    /// Its bytes, 0 for -1 and 255 for 1, by its [`ByteRounding`].
    pub fn to_bytes(&self) -> Vec<u8> {
        self.values.iter().map(|x| self.rounding.byte(*x)).collect()
    }
}

impl From<&Picture> for DynamicImage {
    /// Its bytes as the image crate has them: grey or in colour; none where its values are not as many as its size says.
    fn from(picture: &Picture) -> Self {
        let (width, height, bytes) = (picture.width as u32, picture.height as u32, picture.to_bytes());
        let image = match picture.channels {
            1 => GrayImage::from_raw(width, height, bytes).map(DynamicImage::from),
            _ => RgbImage::from_raw(width, height, bytes).map(DynamicImage::from),
        };
        image.unwrap_or_default()
    }
}
