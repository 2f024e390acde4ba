//! The background and the objects that a picture shows.

use super::outline::{close_marks, shape_of};
use super::pixels::{Named, Pixels, SIDE, apart, commonest, median, nearest};
use super::region::{CORNERS, Region};
use super::resize::{Filter, resize};
use super::texture::texture_of;
use crate::train::scenes::words::{Colour, Shape, Texture};

/// An object in a picture.
#[derive(Clone, Debug)]
pub struct Found {
    pub shape: Shape,
    pub colour: Colour,
    pub texture: Texture,
    /// Its middle, in shares of the picture's side.
    pub x: f64,
    pub y: f64,
    /// Of its outline with the shape's: over union.
    pub overlap: f32,
    /// Of its pixels that have its colour.
    pub share: f64,
}

/// What a picture shows.
pub struct Seen {
    pub background: Colour,
    /// How far the background is from its name's colour, in the channel that is farthest.
    pub background_off: f32,
    pub found: Vec<Found>,
}

/// Looks at a picture; `textured` where objects with a texture are looked for.
pub fn describe(pixels: Pixels<'_>, textured: bool) -> Seen {
    let resized;
    let bytes = match pixels.side {
        SIDE => pixels.bytes,
        side => {
            resized = resize(pixels.bytes, 3, side, SIDE, Filter::Bicubic);
            &resized
        }
    };
    let colours: Vec<[f32; 3]> =
        bytes.as_chunks().0.iter().map(|pixel: &[u8; 3]| pixel.map(f32::from)).collect();
    let (names, off) = colours.iter().map(|colour| nearest(*colour)).unzip();
    let named = Named { names, off };
    let background = commonest(rim(&named.names))[0].0;
    let sure = |at: usize| named.names[at] == background;
    let of_background = (0..colours.len()).filter(|at| sure(*at));
    let ground = median(of_background.map(|at| colours[at]));
    let is_away = |at: usize| apart(colours[at], ground).sqrt() > 38.0 && (!sure(at) || named.off[at] > 60.0);
    let away = Region::new(SIDE, (0..colours.len()).map(is_away).collect());
    let mut found = Vec::new();
    for part in away.parts(CORNERS).into_iter().filter(|part| part.count() >= 90) {
        let objects = if textured { vec![part] } else { split_by_colour(part, &named.names) };
        found.extend(objects.iter().filter_map(|object| look_at(object, &named, textured)));
    }
    let off = ground.iter().zip(background.rgb()).map(|(a, b)| (a - f32::from(b)).abs());
    Seen { background, background_off: off.fold(0.0, f32::max), found }
}

/// The names within three pixels of the picture's rim.
fn rim(names: &[Colour]) -> impl Iterator<Item = Colour> {
    const WIDTH: usize = 3;
    let near = |at: usize| !(WIDTH..SIDE - WIDTH).contains(&at);
    // Corners count twice, as columns and as rows.
    let all = || names.iter().enumerate();
    let rows = all().filter(move |(i, _)| near(i / SIDE));
    let columns = all().filter(move |(i, _)| near(i % SIDE));
    rows.chain(columns).map(|(_, name)| *name)
}

/// Touching objects of different colours come apart; blends along edges join their neighbour.
fn split_by_colour(part: Region, names: &[Colour]) -> Vec<Region> {
    let core = part.eroded(CORNERS);
    let counts = commonest(core.pixels().map(|at| names[at]));
    let total = core.count().max(1) as f64;
    let main = counts.into_iter().filter(|(_, count)| *count as f64 > 0.2 * total && *count > 90);
    let main: Vec<Colour> = main.map(|(colour, _)| colour).collect();
    if main.len() < 2 {
        return vec![part];
    }
    let reach: Vec<Vec<f64>> =
        main.iter().map(|colour| core.and(|at| names[at] == *colour).distances()).collect();
    let nearest =
        |at: usize| (1..reach.len()).fold(0, |best, i| if reach[i][at] < reach[best][at] { i } else { best });
    (0..main.len()).map(|i| part.and(|at| nearest(at) == i)).collect()
}

/// What an object is; nothing of no pixels.
fn look_at(object: &Region, named: &Named, textured: bool) -> Option<Found> {
    let count = object.count() as f64;
    let (shape, overlap) = match textured {
        true => shape_of(&close_marks(object), true),
        false => shape_of(object, false),
    };
    let inner = object.eroded(CORNERS);
    let core = if inner.count() > 40 { &inner } else { object };
    let (mut colour, commonest) = *commonest(core.pixels().map(|at| named.names[at])).first()?;
    let (mut texture, mut share) = (Texture::Plain, commonest as f64 / core.count() as f64);
    if textured {
        (colour, texture) = texture_of(object, core, named, shape);
        share = 1.0;
    }
    let middle =
        |of: &dyn Fn(usize) -> usize| object.pixels().map(of).sum::<usize>() as f64 / count / SIDE as f64;
    let (x, y) = (middle(&|at| at % SIDE), middle(&|at| at / SIDE));
    Some(Found { shape, colour, texture, x, y, overlap, share })
}
