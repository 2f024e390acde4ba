//! Scenes by random choices.

use super::draws::Draws;
use super::layout::lay_out;
use super::scene::{Arrangement, CLASSES, Scene, Thing};
use super::words::{Colour, Extent, PLURALS, Place, Relation, Shape, Texture};

/// A kind of scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One object.
    Single,
    /// Two, one beside or above the other.
    Pair,
    /// Two to four alike.
    Count,
}

/// Which scenes are wanted; by default those of the training.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// Of one kind only.
    pub kind: Option<Kind>,
    /// Only those that hold a held-out pair; else only those that do not.
    pub held_out: bool,
}

/// A scene.
pub fn sample_scene(draws: &mut Draws, wish: Wish) -> Scene {
    loop {
        let scene = any(draws, wish.kind);
        let alike = matches!(scene.arrangement, Arrangement::Pair(_)) && are_alike(&scene);
        if let Some(mut scene) = Some(scene).filter(|scene| !alike && scene.is_held_out() == wish.held_out) {
            lay_out(&mut scene, draws);
            return scene;
        }
    }
}

fn any(draws: &mut Draws, kind: Option<Kind>) -> Scene {
    let kind = kind.unwrap_or_else(|| draws.one_of([Kind::Single, Kind::Pair, Kind::Count], [0.37, 0.5]));
    let named_background = draws.chance(0.5);
    let background = if named_background { draws.colour(&[]) } else { Colour::White };
    let mut thing = || {
        let shape = draws.pick(Shape::ALL);
        let colour = draws.colour(&[background]);
        let extent = draws.one_of([Extent::Usual, Extent::Small, Extent::Large], [0.6, 0.2]);
        Thing { extent, ..Thing::new(shape, colour) }
    };
    let (things, arrangement) = match kind {
        Kind::Pair => {
            let things = vec![thing(), thing()];
            (things, Arrangement::Pair(draws.pick(Relation::ALL)))
        }
        Kind::Count => {
            let one = Thing { extent: Extent::Usual, ..thing() };
            (vec![one; draws.pick(&PLURALS).1], Arrangement::Count)
        }
        Kind::Single => {
            let mut one = thing();
            let place = draws.chance(0.4).then(|| draws.pick(Place::ALL));
            if draws.chance(0.22) {
                one.texture = draws.pick(&[Texture::Striped, Texture::Dotted]);
            }
            (vec![one], Arrangement::Single(place))
        }
    };
    Scene { things, background, named_background, arrangement }
}

fn are_alike(scene: &Scene) -> bool {
    let all = |thing: &Thing| (thing.shape, thing.colour);
    scene.things.iter().all(|thing| all(thing) == all(&scene.things[0]))
}

/// A scene of one plain object, and its class, `8 · colour + shape`. The object's place, size and turn and the background
/// (white half of the time, else another colour) are what a class leaves open.
pub fn sample_single(draws: &mut Draws) -> (Scene, usize) {
    let class = draws.below(CLASSES);
    let (colour, shape) = (Colour::ALL[class / Shape::ALL.len()], Shape::ALL[class % Shape::ALL.len()]);
    let white = colour != Colour::White && draws.chance(0.5);
    let extent = draws.pick(&[Extent::Usual, Extent::Large]);
    let background = if white { Colour::White } else { draws.colour(&[colour, Colour::White]) };
    let mut scene = Scene::single(Thing { extent, ..Thing::new(shape, colour) }, background);
    if draws.chance(0.4) {
        scene.arrangement = Arrangement::Single(Some(draws.pick(Place::ALL)));
    }
    lay_out(&mut scene, draws);
    (scene, class)
}

/// What one scene may differ in from another.
#[derive(Clone, Copy)]
enum Way {
    Colour,
    Shape,
    Background,
    Turn,
    Colours,
    Shapes,
    Axis,
    Extent,
    Count,
    Place,
    Texture,
}

/// A scene that differs from another in one respect, by its caption; never a held-out one.
pub fn sample_sibling(scene: &Scene, draws: &mut Draws) -> Scene {
    let ways: &[Way] = match scene.arrangement {
        Arrangement::Pair(_) => &[Way::Turn, Way::Turn, Way::Colours, Way::Shapes, Way::Axis, Way::Extent],
        Arrangement::Count => &[Way::Count],
        Arrangement::Single(_) => &[Way::Place, Way::Extent, Way::Texture],
    };
    let ways = [&[Way::Colour, Way::Shape, Way::Background], ways].concat();
    loop {
        let way = draws.pick(&ways);
        let mut other = changed(scene, way, draws);
        let pair = matches!(other.arrangement, Arrangement::Pair(_));
        let unseen = other.things.iter().any(|thing| thing.colour == other.background);
        if (pair && are_alike(&other)) || unseen || other.is_held_out() || other.labels() == scene.labels() {
            continue;
        }
        lay_out(&mut other, draws);
        return other;
    }
}

fn changed(scene: &Scene, way: Way, draws: &mut Draws) -> Scene {
    let mut other = scene.clone();
    // One of the objects, or all where they are alike.
    let some = match other.arrangement {
        Arrangement::Count => 0..other.things.len(),
        _ => {
            let one = draws.below(other.things.len());
            one..one + 1
        }
    };
    let some = &mut other.things[some];
    match way {
        Way::Colour => {
            let colour = draws.pick(Colour::ALL);
            some.iter_mut().for_each(|thing| thing.colour = colour);
        }
        Way::Shape => {
            let shape = draws.pick(Shape::ALL);
            some.iter_mut().for_each(|thing| thing.shape = shape);
        }
        Way::Extent => {
            let extent = draws.pick(Extent::ALL);
            some.iter_mut().for_each(|thing| thing.extent = extent);
        }
        Way::Texture => {
            let texture = draws.pick(Texture::ALL);
            some.iter_mut().for_each(|thing| thing.texture = texture);
        }
        Way::Background => {
            other.background = draws.colour(&[]);
            other.named_background = true;
        }
        Way::Axis => other.arrangement = Arrangement::Pair(draws.pick(Relation::ALL)),
        Way::Place => other.arrangement = Arrangement::Single(Some(draws.pick(Place::ALL))),
        Way::Count => other.things = vec![other.things[0]; draws.pick(&PLURALS).1],
        Way::Turn => other.things.reverse(),
        Way::Colours | Way::Shapes => {
            if let [a, b] = &mut other.things[..] {
                match way {
                    Way::Colours => std::mem::swap(&mut a.colour, &mut b.colour),
                    _ => std::mem::swap(&mut a.shape, &mut b.shape),
                }
            }
        }
    }
    other
}

const SYLLABLES: [&str; 23] = [
    "ba", "ke", "li", "mo", "nu", "ra", "ste", "tri", "go", "wo", "pla", "chi", "fy", "dra", "sun", "cat",
    "house", "river", "mountain", "happy", "wind", "zu", "qui",
];

/// Puts a word from outside the language into a caption now and then, so that a model meets them.
pub fn loosen(text: String, draws: &mut Draws) -> String {
    let at = draws.unit();
    if at >= 0.035 {
        return text;
    }
    let word: String = (0..=draws.below(3)).map(|_| draws.pick(&SYLLABLES)).collect();
    if at >= 0.03 {
        return format!("a {word}");
    }
    let mut words: Vec<&str> = text.split(' ').collect();
    words.insert(draws.below(words.len() + 1), &word);
    words.join(" ")
}
