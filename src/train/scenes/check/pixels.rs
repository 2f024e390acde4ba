//! Pixels of a picture, and their colours' names.

use crate::train::scenes::words::Colour;

/// Pictures are judged at this size.
pub const SIDE: usize = 256;

/// A picture of three bytes a pixel, `side`² pixels.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    /// Its side.
    pub side: usize,
    /// `side · side · 3` bytes, row by row.
    pub bytes: &'a [u8],
}

/// The colours of a picture's pixels, named.
pub struct Named {
    pub names: Vec<Colour>,
    /// How far each pixel is from its name's colour.
    pub off: Vec<f32>,
}

/// The squared distance of two colours.
pub fn apart(a: [f32; 3], b: [f32; 3]) -> f32 {
    let [x, y, z] = [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
    x * x + y * y + z * z
}

/// The nearest colour of the palette, and how far it is.
pub fn nearest(colour: [f32; 3]) -> (Colour, f32) {
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
pub fn median(colours: impl Iterator<Item = [f32; 3]> + Clone) -> [f32; 3] {
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
pub fn commonest(names: impl Iterator<Item = Colour>) -> Vec<(Colour, usize)> {
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
