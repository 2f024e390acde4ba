//! Editing: a mask and a sentence change part of a photo of any size; outside the mask every pixel stays as it was.
//!
//! The model sees a window around what is drawn anew, scaled to its own size; what it draws is scaled back, brought to
//! the photo's values along the seam, and put in.

use super::model::Engine;
use super::seam;
use crate::error::{Result, request};
use crate::picture::{Mask, Photo, Picture, Rectangle};
use crate::settings::Settings;
use image::{DynamicImage, GenericImageView, ImageBuffer, Pixel};

/// Width and height.
type Size = (usize, usize);

/// Sides of a window to sides of what is drawn anew in it: so much the model sees of what is around.
const CONTEXT: f64 = 1.5;
/// Most pixels of a window.
const MAX_WINDOW: usize = 1 << 26;

/// The part of a photo that a model sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    /// The photo's part inside the window.
    inside: Rectangle,
    /// Where that part lies in the model's picture; the rest repeats its edges.
    seen: Rectangle,
    /// The model's picture.
    size: Size,
}

impl Window {
    /// The window of a photo of (w, h) pixels around what is drawn anew in it, for a model's picture of `size`.
    fn around(redrawn: Rectangle, (w, h): Size, size: Size) -> Window {
        // Pixels of the photo to one of the model's: of all of the photo, and of what is drawn anew and its surroundings.
        let scale = |width: f64, height: f64| (width / size.0 as f64).max(height / size.1 as f64);
        let all = scale(w as f64, h as f64);
        let wanted = CONTEXT * scale(redrawn.width as f64, redrawn.height as f64);
        let scale = wanted.clamp(all.min(1.0), all);
        let axis = |first: usize, length: usize, of: usize, model: usize| {
            let window = ((model as f64 * scale).round() as usize).max(1);
            if window >= of {
                let seen = ((of as f64 / scale).round() as usize).clamp(1, model);
                return (0, of, (model - seen) / 2, seen);
            }
            let middle = first + length / 2;
            (middle.saturating_sub(window / 2).min(of - window), window, 0, model)
        };
        let (x, width, left, columns) = axis(redrawn.x, redrawn.width, w, size.0);
        let (y, height, top, rows) = axis(redrawn.y, redrawn.height, h, size.1);
        let inside = Rectangle { x, y, width, height };
        Window { inside, seen: Rectangle { x: left, y: top, width: columns, height: rows }, size }
    }

    /// What the model sees.
    fn view(&self, photo: &Photo) -> Picture {
        let Rectangle { x, y, width, height } = self.inside;
        let part = photo.pixels.crop_imm(x as u32, y as u32, width as u32, height as u32);
        let (columns, rows) = (self.seen.width, self.seen.height);
        let pixels = match (width, height) == (columns, rows) {
            true => part,
            false => part.resize_exact(columns as u32, rows as u32, image::imageops::FilterType::CatmullRom),
        };
        let seen = Photo { pixels, icc_profile: None }.picture();
        let (width, height) = self.size;
        let pixel = |i: usize| {
            let x = (i % width).clamp(self.seen.x, self.seen.x + columns - 1) - self.seen.x;
            let y = (i / width).clamp(self.seen.y, self.seen.y + rows - 1) - self.seen.y;
            &seen.values[(y * columns + x) * 3..][..3]
        };
        let values = (0..width * height).flat_map(pixel).copied().collect();
        Picture { width, height, values, ..seen }
    }

    /// What the model draws anew: each of its pixels of which any part is.
    fn mask(&self, mask: &Mask) -> Mask {
        let Window { inside, seen, size } = *self;
        let span = |i: usize, first: usize, length: usize, from: usize, of: usize| {
            let i = i.clamp(first, first + length - 1) - first;
            from + i * of / length..from + ((i + 1) * of).div_ceil(length)
        };
        Mask::new(size.0, size.1, |x, y| {
            let columns = span(x, seen.x, seen.width, inside.x, inside.width);
            span(y, seen.y, seen.height, inside.y, inside.height)
                .any(|y| columns.clone().any(|x| mask.redraws(x, y)))
        })
    }

    /// Puts what the model drew into the photo, where the mask says so and nowhere else.
    fn put(&self, photo: &mut Photo, mask: &Mask, drawn: &Picture) {
        let Rectangle { x: left, y: top, width, height } = self.inside;
        let Rectangle { x, y, width: columns, height: rows } = self.seen;
        let drawn = drawn.part(x, y, columns, rows).resized(width, height);
        let part = photo.pixels.crop_imm(left as u32, top as u32, width as u32, height as u32);
        let before = Photo { pixels: part, icc_profile: None }.picture();
        let redraws = |x: usize, y: usize| mask.redraws(left + x, top + y);
        let drawn = seam::join(&before, drawn, redraws);
        let redrawn = (0..width * height).map(|i| (i % width, i / width)).filter(|(x, y)| redraws(*x, *y));
        let pixels = redrawn.map(|(x, y)| {
            let colour = &drawn.values[(y * width + x) * drawn.channels..][..drawn.channels];
            // Rounded here, so that bytes are the same whatever the photo's depth.
            let colour = [0, 1, 2].map(|c| (colour[c.min(colour.len() - 1)] / 2.0 + 0.5).clamp(0.0, 1.0));
            ((left + x) as u32, (top + y) as u32, colour)
        });
        write(&mut photo.pixels, pixels);
    }
}

/// A photo whose pixels hold colours, with the same values.
fn in_colour(pixels: DynamicImage) -> DynamicImage {
    match pixels {
        DynamicImage::ImageLuma8(_) => pixels.into_rgb8().into(),
        DynamicImage::ImageLumaA8(_) => pixels.into_rgba8().into(),
        DynamicImage::ImageLuma16(_) => pixels.into_rgb16().into(),
        DynamicImage::ImageLumaA16(_) => pixels.into_rgba16().into(),
        colour => colour,
    }
}

/// Sets pixels to colours in [0, 1], opaque.
fn write(image: &mut DynamicImage, pixels: impl Iterator<Item = (u32, u32, [f32; 3])>) {
    fn set<P: Pixel>(
        image: &mut ImageBuffer<P, Vec<P::Subpixel>>,
        pixels: impl Iterator<Item = (u32, u32, [f32; 3])>,
        value: impl Fn(f32) -> P::Subpixel,
    ) {
        for (x, y, colour) in pixels {
            let channels = image.get_pixel_mut(x, y).channels_mut();
            for (i, channel) in channels.iter_mut().enumerate() {
                *channel = value(colour.get(i).copied().unwrap_or(1.0));
            }
        }
    }
    let (byte, word) =
        (|v: f32| (v * 255.0).round_ties_even() as u8, |v: f32| (v * 65535.0).round_ties_even() as u16);
    match image {
        DynamicImage::ImageRgb8(image) => set(image, pixels, byte),
        DynamicImage::ImageRgba8(image) => set(image, pixels, byte),
        DynamicImage::ImageRgb16(image) => set(image, pixels, word),
        DynamicImage::ImageRgba16(image) => set(image, pixels, word),
        DynamicImage::ImageRgb32F(image) => set(image, pixels, |v| v),
        DynamicImage::ImageRgba32F(image) => set(image, pixels, |v| v),
        // Grey pictures were put in colour; kinds of pixels that do not exist yet become bytes.
        other => {
            let mut bytes = other.to_rgba8();
            set(&mut bytes, pixels, byte);
            *other = bytes.into();
        }
    }
}

impl Engine {
    /// Draws the part of a photo that the mask says anew, as the prompt says; [`Settings::count`] results.
    /// Outside the mask every pixel keeps its value; a grey photo comes back in colour, the redrawn part opaque.
    ///
    /// Models trained for it (GLIDE's inpainting twins) see what is around; any other keeps it by RePaint
    /// ([`Settings::resampling`]). A [strength](Settings::strength) below 1 leaves something of what was there.
    ///
    /// ```
    /// use ancestral::{Engine, LoadOptions, Mask, Photo, Rectangle, Settings};
    ///
    /// # let path = std::env::temp_dir().join("ancestral-edit-example.png");
    /// # let blue = image::RgbImage::from_pixel(120, 80, image::Rgb([45, 90, 215]));
    /// # Photo { pixels: blue.into(), icc_profile: None }.save(&path)?;
    /// let engine = Engine::bundled(&LoadOptions::default())?;
    /// let photo = Photo::open(&path)?;
    /// let left = Rectangle { x: 10, y: 20, width: 40, height: 40 };
    /// let mask = Mask::rectangles(&[left], (photo.width(), photo.height()))?;
    /// let edited = engine.edit(&photo, &mask, "a red circle", Settings::new().steps([2, 1]))?;
    /// assert_eq!(edited[0].pixels.to_rgb8().get_pixel(100, 40).0, [45, 90, 215]);
    /// # Ok::<(), ancestral::Error>(())
    /// ```
    ///
    /// Errors: a mask of another size or without anything to draw, and what [`Engine::generate`] refuses.
    pub fn edit(&self, photo: &Photo, mask: &Mask, prompt: &str, settings: Settings) -> Result<Vec<Photo>> {
        let size = photo.pixels.dimensions();
        let size = (size.0 as usize, size.1 as usize);
        let redrawn = mask.drawn_in(size)?;
        // Which networks draw, and so the size, may hang on there being a mask.
        let anything = Mask::new(1, 1, |_, _| true);
        let sized = settings.clone().inpaint([Picture::grey(1, 1)], anything);
        let window = Window::around(redrawn, size, self.picture_size(prompt, &sized)?);
        if window.inside.width * window.inside.height > MAX_WINDOW {
            return Err(request!(
                Mask,
                OutOfRange,
                "{}x{} pixels are to be drawn anew, with their surroundings more than {MAX_WINDOW}: give a smaller mask",
                redrawn.width,
                redrawn.height
            ));
        }
        let drawn = self.generate(prompt, settings.inpaint([window.view(photo)], window.mask(mask)))?;
        let edit = |drawn: &Picture| {
            let mut photo =
                Photo { pixels: in_colour(photo.pixels.clone()), icc_profile: photo.icc_profile.clone() };
            window.put(&mut photo, mask, drawn);
            photo
        };
        Ok(drawn.iter().map(edit).collect())
    }
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod tests;
