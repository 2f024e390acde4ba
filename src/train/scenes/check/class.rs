//! Small pictures of single objects.

use super::outline::shape_of;
use super::pixels::{Pixels, SIDE, apart, median, nearest};
use super::region::{CORNERS, Region};
use super::resize::{Filter, resize};
use super::verdict::Verdict;
use crate::train::scenes::words::{Colour, Shape};

/// Judges a small picture of one object on any plain background.
///
/// At 32 pixels half of an object's pixels are blends of its colour and the background's, which would be named as colours
/// of their own. So every pixel is taken as such a blend: how much of the object it holds is its place on the line between
/// the two colours, and the outline is that of the enlarged shares.
pub fn check_class(pixels: Pixels<'_>, colour: Colour, shape: Shape) -> Verdict {
    const LARGEST: usize = 12;
    let side = pixels.side;
    let all: Vec<[f32; 3]> = pixels.bytes.as_chunks().0.iter().map(|p: &[u8; 3]| p.map(f32::from)).collect();
    let on_rim = |at: &usize| {
        let (x, y) = (at % side, at / side);
        x == 0 || y == 0 || x + 1 == side || y + 1 == side
    };
    let ground = median((0..all.len()).filter(on_rim).map(|at| all[at]));
    let far: Vec<f32> = all.iter().map(|pixel| apart(*pixel, ground).sqrt()).collect();
    let mut sorted = far.clone();
    sorted.sort_by(f32::total_cmp);
    let farthest = &sorted[sorted.len().saturating_sub(LARGEST)..];
    let limit = 0.85 * farthest.iter().sum::<f32>() / farthest.len().max(1) as f32;
    let ink = median((0..all.len()).filter(|at| far[*at] > limit).map(|at| all[at]));
    let along: [f32; 3] = std::array::from_fn(|c| ink[c] - ground[c]);
    let dot = |a: [f32; 3]| a[0] * along[0] + a[1] * along[1] + a[2] * along[2];
    let length = dot(along).max(1.0);
    let share = |pixel: &[f32; 3]| dot(std::array::from_fn(|c| pixel[c] - ground[c])) / length;
    let shares: Vec<f32> = all.iter().map(share).collect();
    let blend = |share: f32| std::array::from_fn(|c| ground[c] + share * along[c]);
    let strays =
        all.iter().zip(&shares).filter(|(pixel, share)| apart(**pixel, blend(**share)).sqrt() > 60.0);
    let background = nearest(ground).1 < 45.0 && strays.count() < 6;
    let clipped: Vec<f32> = shares.iter().map(|share| share.clamp(0.0, 1.0)).collect();
    let large = resize(&clipped, 1, side, SIDE, Filter::Bicubic);
    let outline = Region::new(SIDE, large.into_iter().map(|share| share > 0.5).collect());
    let parts: Vec<Region> = outline.parts(CORNERS).into_iter().filter(|part| part.count() > 90).collect();
    let (name, off) = nearest(ink);
    let is_shape = |part: &Region| {
        let (found, overlap) = shape_of(part, false);
        found == shape && overlap > 0.72
    };
    let number = parts.len() == 1;
    Verdict {
        background,
        number,
        shape: number && is_shape(&parts[0]),
        colour: name == colour && off < 60.0,
        texture: true,
        place: true,
    }
}
