//! What a prompt of the language asks for.

use crate::train::scenes::scene::Arrangement;
use crate::train::scenes::words::{Colour, Extent, PLURALS, Place, Relation, Shape, Texture};

/// An object that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What it is.
    pub shape: Shape,
    /// What it is painted in.
    pub colour: Colour,
    /// What is on it.
    pub texture: Texture,
}

/// What a prompt asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The objects, in its order.
    pub things: Vec<Asked>,
    /// How they stand to each other.
    pub arrangement: Arrangement,
    /// What they lie on; none if it is no colour of the palette.
    pub background: Option<Colour>,
}

impl Wanted {
    pub(super) fn is_textured(&self) -> bool {
        self.things.iter().any(|thing| thing.texture != Texture::Plain)
    }
}

/// Reads a prompt; nothing where it is not of the language.
pub fn parse(prompt: &str) -> Option<Wanted> {
    let text = prompt.to_lowercase().replace("grey", "gray");
    let text = text.trim().trim_end_matches('.');
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut words = &words[..];
    if let ["a" | "an" | "the", "picture" | "drawing" | "image" | "photo", "of" | "with", rest @ ..] = words {
        words = rest;
    }
    let mut background = Some(Colour::White);
    if let [rest @ .., "on", "a" | "an", colour, "background"] = words {
        (words, background) = (rest, Colour::of(colour));
    }
    let (things, arrangement) = count(words).or_else(|| placed(words))?;
    Some(Wanted { things, arrangement, background })
}

/// `three striped red circles`.
fn count(words: &[&str]) -> Option<(Vec<Asked>, Arrangement)> {
    let [number, words @ ..] = words else { return None };
    let (_, number) = PLURALS.iter().find(|(word, _)| word == number)?;
    let singular = |word: &str| {
        let endings = ["es", "s"].into_iter().filter_map(|ending| word.strip_suffix(ending));
        endings.filter_map(Shape::of).next()
    };
    let (asked, rest) = described(words, singular)?;
    rest.is_empty().then(|| (vec![asked; *number], Arrangement::Count))
}

/// `a large red circle above a blue square`, `a red circle in the center`.
fn placed(words: &[&str]) -> Option<(Vec<Asked>, Arrangement)> {
    let (first, rest) = thing(words)?;
    if rest.is_empty() {
        return Some((vec![first], Arrangement::Single(None)));
    }
    if let Some(place) = Place::ALL.iter().find(|place| rest.join(" ") == place.word()) {
        return Some((vec![first], Arrangement::Single(Some(*place))));
    }
    let after = |relation: &Relation| {
        let phrase: Vec<&str> = relation.word().split(' ').collect();
        rest.strip_prefix(&phrase[..]).map(|rest| (*relation, rest))
    };
    let (relation, rest) = Relation::ALL.iter().find_map(after)?;
    let (second, rest) = thing(rest)?;
    rest.is_empty().then(|| (vec![first, second], Arrangement::Pair(relation)))
}

fn thing<'a, 'b>(words: &'a [&'b str]) -> Option<(Asked, &'a [&'b str])> {
    let ["a" | "an", words @ ..] = words else { return None };
    let sized = words.first().is_some_and(|word| Extent::of(word).is_some());
    described(if sized { &words[1..] } else { words }, Shape::of)
}

/// Texture, colour and shape, and the words after them.
fn described<'a, 'b>(
    words: &'a [&'b str],
    shape: impl Fn(&str) -> Option<Shape>,
) -> Option<(Asked, &'a [&'b str])> {
    let (texture, words) = match words.first().and_then(|word| Texture::of(word)) {
        Some(texture) => (texture, &words[1..]),
        None => (Texture::Plain, words),
    };
    let [colour, noun, rest @ ..] = words else { return None };
    Some((Asked { shape: shape(noun)?, colour: Colour::of(colour)?, texture }, rest))
}
