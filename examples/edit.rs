//! Part of a photo drawn anew, of any size; outside that part every pixel stays as it was.
//!
//! ```sh
//! cargo run --release --example edit     # writes before.png and edited.png
//! ```

use ancestral::image::{Rgb, RgbImage};
use ancestral::{Engine, LoadOptions, Mask, Photo, Rectangle, Result, Settings};
use std::path::Path;

/// Edits a photo and saves it in `out`.
pub fn run(out: &Path) -> Result<()> {
    let engine = Engine::bundled(&LoadOptions::default())?;
    // Photo::open reads a PNG or JPEG; this one is made up: a yellow wall.
    let wall = RgbImage::from_fn(300, 200, |x, y| Rgb([240, 210 - (x / 10) as u8, 60 + (y / 10) as u8]));
    let photo = Photo::from(ancestral::image::DynamicImage::from(wall));
    photo.save(out.join("before.png"))?;

    // What is drawn anew: rectangles, a picture that is white there (Mask::open), or any function of column and row
    // (Mask::new).
    let part = Rectangle { x: 60, y: 50, width: 120, height: 110 };
    let mask = Mask::rectangles(&[part], (photo.width(), photo.height()))?;
    // As many results as are asked for.
    let settings = Settings::new().seed(1).steps([10, 2]).count(1);
    let edited = engine.edit(&photo, &mask, "a blue square on a yellow background", settings)?;
    edited[0].save(out.join("edited.png"))
}

fn main() -> Result<()> {
    run(Path::new("."))
}
