//! Checks by program whether a picture shows what its prompt says: the number of objects, every shape and colour, the
//! texture, the place or relation, and the background. Sizes are not judged.
//!
//! Pixels are named by the nearest colour of the palette; the background is the commonest name along the rim; what differs
//! from it falls into connected parts; a part's outline is compared (overlap over union) with drawn templates of the shapes.

mod class;
mod describe;
mod outline;
mod pixels;
mod prompt;
mod region;
mod resize;
mod texture;
mod verdict;

pub use class::check_class;
pub use pixels::Pixels;
pub use prompt::{Asked, Wanted, parse};
pub use verdict::Verdict;

use super::scene::Arrangement;
use super::words::Place;
use describe::{Found, describe};

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
