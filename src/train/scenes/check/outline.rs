//! Outlines against templates of the shapes.

use super::region::Region;
use super::resize::{Filter, resize};
use crate::train::scenes::draw::render;
use crate::train::scenes::scene::{Scene, Thing};
use crate::train::scenes::words::{Colour, Shape};
use std::sync::LazyLock;

/// Outlines are compared at this size.
const CELL: usize = 48;

/// A region cut to its bounding square at `CELL`², as shares of a pixel.
fn outline(region: &Region) -> Vec<f32> {
    let (columns, rows) = region.bounds();
    let side = columns.len().max(rows.len());
    let (right, down) = ((side - columns.len()) / 2, (side - rows.len()) / 2);
    let mut square = vec![0u8; side * side];
    for at in region.pixels() {
        let (x, y) = (at % region.width - columns.start, at / region.width - rows.start);
        square[(y + down) * side + x + right] = 255;
    }
    let small = resize(&square, 1, side, CELL, Filter::Box);
    small.into_iter().map(|byte| f32::from(byte) / 255.0).collect()
}

/// A region whose stripes and dots of the background's colour are filled: closed by a share of its extent.
pub fn close_marks(region: &Region) -> Region {
    let (columns, rows) = region.bounds();
    let extent = columns.len().max(rows.len()) as f64;
    let radius = ((extent * 0.085).round_ties_even() as usize).max(2);
    let rim = radius + 1;
    let closed = region.padded(rim).closed(radius);
    let inside = |y: usize| &closed.on[(y + rim) * closed.width + rim..][..region.width];
    Region::new(region.width, (0..region.height()).flat_map(inside).copied().collect())
}

type Templates = Vec<(Shape, Vec<f32>)>;

static OPEN: LazyLock<Templates> = LazyLock::new(|| templates(false));
static CLOSED: LazyLock<Templates> = LazyLock::new(|| templates(true));

/// Each shape, turned by −8 to 8 degrees.
fn templates(closed: bool) -> Templates {
    const DRAWN: usize = 160;
    let one = |shape: Shape, degrees: i32| {
        let rotation = f64::from(degrees).to_radians();
        let thing = Thing { size: 0.7, rotation, ..Thing::new(shape, Colour::Black) };
        let picture = render(&[Scene::single(thing, Colour::White)], DRAWN);
        let on = picture.as_chunks::<3>().0.iter().map(|pixel| pixel[0] < 0.5).collect();
        let region = Region::new(DRAWN, on);
        (shape, outline(&if closed { close_marks(&region) } else { region }))
    };
    let turns = |shape: &Shape| (-8..9).step_by(2).map(|degrees| (*shape, degrees)).collect::<Vec<_>>();
    Shape::ALL.iter().flat_map(turns).map(|(shape, degrees)| one(shape, degrees)).collect()
}

/// The best matching shape, and its overlap over union.
pub fn shape_of(region: &Region, closed: bool) -> (Shape, f32) {
    let outline = outline(region);
    let whole: f32 = outline.iter().sum();
    let score = |template: &[f32]| {
        let both: f32 = template.iter().zip(&outline).map(|(a, b)| a.min(*b)).sum();
        both / (template.iter().sum::<f32>() + whole - both)
    };
    let templates = if closed { &*CLOSED } else { &*OPEN };
    let mut best = (Shape::Circle, f32::NEG_INFINITY);
    for (shape, template) in templates {
        let score = score(template);
        if score > best.1 {
            best = (*shape, score);
        }
    }
    best
}
