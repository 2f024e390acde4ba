//! Masks: which pixels of a picture are drawn anew.

use super::geometry::{Rectangle, cover};
use super::photo::Photo;
use crate::error::{Error, Result, request};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Which pixels of a picture are drawn anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mask {
    width: usize,
    height: usize,
    redraw: Vec<bool>,
}

impl Mask {
    /// A mask by a function of column and row: true is drawn anew.
    pub fn new(width: usize, height: usize, redraw: impl Fn(usize, usize) -> bool) -> Self {
        let redraw = (0..width * height).map(|i| redraw(i % width, i / width)).collect();
        Mask { width, height, redraw }
    }

    /// Reads a mask for a picture of this size: white is drawn anew, black stays; what lies between counts as white
    /// from the middle on, transparency as black.
    ///
    /// Errors: no picture, of another size, all black.
    pub fn open(path: impl AsRef<Path>, size: (usize, usize)) -> Result<Self> {
        let path = path.as_ref();
        let photo = Photo::open(path)?;
        let redraw: Vec<bool> = photo
            .pixels
            .to_luma_alpha8()
            .pixels()
            .map(|pixel| u32::from(pixel.0[0]) * u32::from(pixel.0[1]) >= 128 * 255)
            .collect();
        let mask = Mask { width: photo.width(), height: photo.height(), redraw };
        mask.drawn_in(size).map_err(|error| Error::io(path, error))?;
        Ok(mask)
    }

    /// [`Mask::bounds`] in a picture of this size.
    ///
    /// Errors: it is of another size, or black all over.
    pub(crate) fn drawn_in(&self, (width, height): (usize, usize)) -> Result<Rectangle> {
        let (w, h) = (self.width, self.height);
        if (w, h) != (width, height) {
            return Err(request!(
                Mask,
                Mismatch,
                "a mask of {w}x{h} pixels for a picture of {width}x{height}: make them of one size"
            ));
        }
        self.bounds().ok_or_else(|| {
            request!(Mask, Malformed, "the mask is black all over: nothing would change. White is drawn anew")
        })
    }

    /// Rectangles of a picture of this size; what lies outside it is left out.
    ///
    /// Errors: nothing lies inside.
    pub fn rectangles(rectangles: &[Rectangle], (width, height): (usize, usize)) -> Result<Self> {
        let inside = |r: &Rectangle, x: usize, y: usize| {
            (r.x..r.x.saturating_add(r.width)).contains(&x)
                && (r.y..r.y.saturating_add(r.height)).contains(&y)
        };
        let mask = Mask::new(width, height, |x, y| rectangles.iter().any(|r| inside(r, x, y)));
        if mask.bounds().is_none() {
            return Err(request!(
                Mask,
                Mismatch,
                "the mask's rectangle lies outside the picture, which has {width}x{height} pixels"
            ));
        }
        Ok(mask)
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Whether a pixel is drawn anew; those outside are not.
    pub fn redraws(&self, x: usize, y: usize) -> bool {
        x < self.width && y < self.height && self.redraw[y * self.width + x]
    }

    /// The smallest rectangle around all that is drawn anew.
    pub fn bounds(&self) -> Option<Rectangle> {
        let rows = || self.redraw.chunks_exact(self.width.max(1));
        let y = rows().position(|row| row.contains(&true))?;
        let last = rows().rposition(|row| row.contains(&true))?;
        let x = rows().filter_map(|row| row.iter().position(|r| *r)).min()?;
        let right = rows().filter_map(|row| row.iter().rposition(|r| *r)).max()?;
        Some(Rectangle { x, y, width: right - x + 1, height: last - y + 1 })
    }

    /// What a network of another size keeps, `[height, width]`: 1 where no part of a pixel is drawn anew, else 0. The
    /// mask is cut as [`Picture::fitted`](crate::Picture) cuts.
    pub(crate) fn keep_at(&self, width: usize, height: usize) -> Vec<f32> {
        let cut = cover((self.width, self.height), (width, height));
        let span = |i: usize, of: usize, from: usize, len: usize| {
            let (first, end) = (from + i * len / of, from + ((i + 1) * len).div_ceil(of));
            first..end.max(first + 1)
        };
        let keeps = |i: usize| {
            let (columns, rows) =
                (span(i % width, width, cut.x, cut.width), span(i / width, height, cut.y, cut.height));
            let redraws = rows.clone().any(|y| columns.clone().any(|x| self.redraws(x, y)));
            if redraws { 0.0 } else { 1.0 }
        };
        (0..width * height).map(keeps).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixel_of_the_network_is_kept_only_if_all_of_it_is() {
        let mask = Mask::new(8, 4, |x, y| x == 5 && y == 1);
        let keep = mask.keep_at(4, 2);
        assert_eq!(keep, [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(mask.keep_at(16, 8).iter().filter(|k| **k == 0.0).count(), 4);
    }

    #[test]
    fn a_mask_is_cut_in_the_middle_as_its_picture() {
        let mask = Mask::new(6, 2, |x, _| x == 2);
        assert_eq!(mask.keep_at(2, 2), [0.0, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn bounds_are_the_smallest_rectangle() {
        let mask = Mask::new(9, 7, |x, y| (x == 2 && y == 5) || (x == 6 && y == 3));
        assert_eq!(mask.bounds(), Some(Rectangle { x: 2, y: 3, width: 5, height: 3 }));
        assert_eq!(Mask::new(3, 3, |_, _| false).bounds(), None);
    }
}
