//! Colour and texture of an object that may have stripes or dots.

use super::pixels::{Named, commonest};
use super::region::{Region, SIDES};
use crate::train::scenes::words::{Colour, Shape, Texture};

/// The colour and the texture of an object. White marks lie on a colour, black ones on white.
pub fn texture_of(object: &Region, core: &Region, named: &Named, shape: Shape) -> (Colour, Texture) {
    let whole = object.filled();
    let is = |colour: Colour| move |at: usize| named.names[at] == colour;
    let coloured = core.and(|at| named.names[at] != Colour::White);
    let most = commonest(coloured.pixels().map(|at| named.names[at])).first().copied();
    let white_of_black = |(colour, count): (Colour, usize)| {
        colour == Colour::Black && whole.and(is(Colour::White)).count() as f64 > 1.2 * count as f64
    };
    let most = most.filter(|most| most.1 as f64 > 0.25 * core.count() as f64 && !white_of_black(*most));
    let (colour, mark) = most.map_or((Colour::White, Colour::Black), |(colour, _)| (colour, Colour::White));
    let inner = whole.eroded(SIDES).eroded(SIDES).and(is(mark));
    let (mut area, mut long) = (0, 0);
    for part in inner.parts(SIDES) {
        let count = part.count();
        // A ring's hole is no mark.
        if count < 12 || (shape == Shape::Ring && count as f64 > 0.18 * whole.count() as f64) {
            continue;
        }
        area += count;
        let (columns, rows) = part.bounds();
        if columns.len() as f64 / rows.len() as f64 > 1.9 {
            long += count;
        }
    }
    let texture = match (area as f64 > 0.07 * object.count() as f64, long as f64 > 0.5 * area as f64) {
        (false, _) => Texture::Plain,
        (true, true) => Texture::Striped,
        (true, false) => Texture::Dotted,
    };
    (colour, texture)
}
