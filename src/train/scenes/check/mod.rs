//! Checks by program whether a picture shows what its prompt says: the number of objects, every shape and colour, the
//! texture, the place or relation, and the background. Sizes are not judged.
//!
//! Pixels are named by the nearest colour of the palette; the background is the commonest name along the rim; what differs
//! from it falls into connected parts; a part's outline is compared (overlap over union) with drawn templates of the shapes.

mod class;
mod describe;
mod outline;
mod prompt;
mod region;
mod resize;
mod texture;

pub use class::check_class;
pub use prompt::{Asked, Wanted, parse};

use super::scene::Arrangement;
use super::words::{Colour, Place};
use describe::{Found, describe};

/// Pictures are judged at this size.
const SIDE: usize = 256;

/// A picture of three bytes a pixel, `side`² pixels.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    /// Its side.
    pub side: usize,
    /// `side · side · 3` bytes, row by row.
    pub bytes: &'a [u8],
}

/// What is right of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is what it says")]
pub struct Verdict {
    pub background: bool,
    pub number: bool,
    pub shape: bool,
    pub colour: bool,
    pub texture: bool,
    pub place: bool,
}

impl Verdict {
    /// All of it.
    pub fn is_right(&self) -> bool {
        self.background && self.number && self.shape && self.colour && self.texture && self.place
    }
}

/// Judges a picture by its prompt. Nothing where the prompt is not of the language.
pub fn check(pixels: Pixels<'_>, prompt: &str) -> Option<Verdict> {
    let wanted = parse(prompt)?;
    let seen = describe(pixels, wanted.is_textured());
    let mut found = seen.found;
    let background = Some(seen.background) == wanted.background && seen.background_off < 45.0;
    let number = found.len() == wanted.things.len();
    if !number {
        return Some(Verdict { background, ..Verdict::default() });
    }
    let place = is_placed(&mut found, wanted.arrangement);
    let all = |right: &dyn Fn(&Found, &Asked) -> bool| {
        found.iter().zip(&wanted.things).all(|(found, asked)| right(found, asked))
    };
    Some(Verdict {
        background,
        number,
        shape: all(&|found, asked| found.shape == asked.shape && found.overlap > 0.72),
        colour: all(&|found, asked| found.colour == asked.colour && found.share > 0.6),
        texture: all(&|found, asked| found.texture == asked.texture),
        place,
    })
}

/// Whether what was found lies as it should; it is put in the prompt's order.
fn is_placed(found: &mut [Found], arrangement: Arrangement) -> bool {
    match arrangement {
        Arrangement::Count => true,
        Arrangement::Pair(relation) => {
            let along = |found: &Found| if relation.is_level() { found.x } else { found.y };
            let across = |found: &Found| if relation.is_level() { found.y } else { found.x };
            found.sort_by(|a, b| along(a).total_cmp(&along(b)));
            if !relation.first_is_low() {
                found.reverse();
            }
            let (a, b) = (&found[0], &found[1]);
            (along(a) - along(b)).abs() > (across(a) - across(b)).abs().max(0.08)
        }
        Arrangement::Single(place) => {
            let (dx, dy) = place.unwrap_or(Place::Centre).direction();
            let near = |at: f64, direction: f64| match direction {
                0.0 => (at - 0.5).abs() <= 0.12,
                _ => (at - 0.5) * direction > 0.06,
            };
            near(found[0].x, dx) && near(found[0].y, dy)
        }
    }
}

/// The squared distance of two colours.
fn apart(a: [f32; 3], b: [f32; 3]) -> f32 {
    let [x, y, z] = [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
    x * x + y * y + z * z
}

/// The nearest colour of the palette, and how far it is.
fn nearest(colour: [f32; 3]) -> (Colour, f32) {
    let distance = |name: &Colour| apart(colour, name.rgb().map(f32::from));
    let mut best = (Colour::Red, f32::INFINITY);
    for name in Colour::ALL {
        let distance = distance(name);
        if distance < best.1 {
            best = (*name, distance);
        }
    }
    (best.0, best.1.sqrt())
}

/// The median of each channel; zeros of nothing.
fn median(colours: impl Iterator<Item = [f32; 3]> + Clone) -> [f32; 3] {
    std::array::from_fn(|channel| {
        let mut values: Vec<f32> = colours.clone().map(|colour| colour[channel]).collect();
        values.sort_by(f32::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => 0.0,
            n if n % 2 == 1 => values[middle],
            _ => (values[middle - 1] + values[middle]) / 2.0,
        }
    })
}

/// How often each name occurs, the commonest first, of equals the one that was met first.
fn commonest(names: impl Iterator<Item = Colour>) -> Vec<(Colour, usize)> {
    let mut counts: Vec<(Colour, usize)> = Vec::new();
    for name in names {
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}
