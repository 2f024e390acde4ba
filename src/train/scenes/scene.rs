//! A scene: what it shows, how it is said.

use super::draws::Draws;
use super::words::{Colour, Extent, PREFIXES, Place, Relation, Shape, Texture, numeral};

/// One object. Lengths are shares of the picture's side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thing {
    /// What it is.
    pub shape: Shape,
    /// What it is painted in.
    pub colour: Colour,
    /// How large its caption says it is.
    pub extent: Extent,
    /// What is on it.
    pub texture: Texture,
    /// Its middle, from the left.
    pub cx: f64,
    /// Its middle, from the top.
    pub cy: f64,
    /// The larger of its width and height.
    pub size: f64,
    /// How far it is turned, in radians.
    pub rotation: f64,
    /// Where its texture begins, 0 to 1.
    pub phase: f64,
}

impl Thing {
    /// A plain one of usual size in the middle.
    pub fn new(shape: Shape, colour: Colour) -> Thing {
        let (extent, texture) = (Extent::Usual, Texture::Plain);
        Thing { shape, colour, extent, texture, cx: 0.5, cy: 0.5, size: 1.0 / 3.0, rotation: 0.0, phase: 0.0 }
    }

    fn noun(&self) -> String {
        let words = [self.extent.word(), self.texture.word(), self.colour.word(), self.shape.word()];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        format!("{} {}", article(words[0]), words.join(" "))
    }
}

/// How a scene's objects stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// One object, where its caption says, if it does.
    Single(Option<Place>),
    /// Two objects.
    Pair(Relation),
    /// Two to four alike.
    Count,
}

/// A scene.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// Its objects, in the caption's order.
    pub things: Vec<Thing>,
    /// What they lie on.
    pub background: Colour,
    /// Whether the caption says the background.
    pub named_background: bool,
    /// How they stand to each other.
    pub arrangement: Arrangement,
}

/// Classes of each number of [`Scene::labels`].
pub const LABELS: [usize; 9] = [8, 12, 3, 9, 13, 4, 10, 12, 3];

/// Classes of single objects: a colour and a shape ([`Thing`]'s class is `8 · colour + shape`).
pub const CLASSES: usize = 96;

/// Pairs that no picture of the training shows, so that they tell whether a model composes what it has learned apart.
const HELD_OUT: [(Colour, Shape); 6] = [
    (Colour::Purple, Shape::Star),
    (Colour::Cyan, Shape::Heart),
    (Colour::Orange, Shape::Cross),
    (Colour::Pink, Shape::Diamond),
    (Colour::Green, Shape::Ring),
    (Colour::Brown, Shape::Triangle),
];

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

impl Scene {
    /// One object on a background.
    pub fn single(thing: Thing, background: Colour) -> Scene {
        let arrangement = Arrangement::Single(None);
        Scene { things: vec![thing], background, named_background: false, arrangement }
    }

    /// Whether it holds a held-out pair: one of colour and shape, a blue circle on yellow, a red square above
    /// something (said either way).
    pub fn is_held_out(&self) -> bool {
        let held = |thing: &Thing| {
            let pair = (thing.colour, thing.shape);
            HELD_OUT.contains(&pair)
                || (pair == (Colour::Blue, Shape::Circle) && self.background == Colour::Yellow)
        };
        let upper = match self.arrangement {
            Arrangement::Pair(Relation::Above) => self.things.first(),
            Arrangement::Pair(Relation::Below) => self.things.get(1),
            _ => None,
        };
        let red_square = |thing: &Thing| (thing.colour, thing.shape) == (Colour::Red, Shape::Square);
        self.things.iter().any(held) || upper.is_some_and(red_square)
    }

    /// Its plain wording.
    pub fn caption(&self) -> String {
        let first = &self.things[0];
        let mut text = match self.arrangement {
            Arrangement::Count => {
                let ending = if first.shape == Shape::Cross { "es" } else { "s" };
                let (count, colour) = (numeral(self.things.len()), first.colour.word());
                format!("{count} {colour} {}{ending}", first.shape.word())
            }
            Arrangement::Pair(relation) => {
                format!("{} {} {}", first.noun(), relation.word(), self.things[1].noun())
            }
            Arrangement::Single(None) => first.noun(),
            Arrangement::Single(Some(place)) => format!("{} {}", first.noun(), place.word()),
        };
        if self.named_background {
            let word = self.background.word();
            text += &format!(" on {} {word} background", article(word));
        }
        text
    }

    /// Its wording with now and then a prefix, the other spelling of gray, a full stop.
    pub fn worded(&self, draws: &mut Draws) -> String {
        let mut text = self.caption();
        if draws.chance(0.3) {
            text = format!("{} {text}", draws.pick(&PREFIXES));
        }
        if draws.chance(0.5) {
            text = text.replace("gray", "grey");
        }
        if draws.chance(0.15) {
            text.push('.');
        }
        text
    }

    /// What the caption says, as nine class numbers ([`LABELS`]): shape, colour and size of the object at the left or top,
    /// the same of the other one (the last class: there is none), layout, background, texture.
    pub fn labels(&self) -> [usize; 9] {
        let (mut first, mut second) = (&self.things[0], self.things.get(1));
        let layout = match self.arrangement {
            Arrangement::Single(place) => place.unwrap_or(Place::Centre) as usize,
            Arrangement::Pair(relation) => {
                if let Some(other) = second.filter(|_| !relation.first_is_low()) {
                    second = Some(std::mem::replace(&mut first, other));
                }
                if relation.is_level() { 5 } else { 6 }
            }
            Arrangement::Count => {
                second = None;
                self.things.len() + 5
            }
        };
        let of = |t: &Thing| [t.shape as usize, t.colour as usize, t.extent as usize];
        let [a, b, c] = of(first);
        let [d, e, f] = second.map_or([8, 12, 3], of);
        [a, b, c, d, e, f, layout, self.background as usize, first.texture as usize]
    }
}
