//! Where a scene's objects lie, and how large they are.

use super::draws::Draws;
use super::scene::{Arrangement, Scene};
use super::words::{Extent, Place, Relation};

/// A jittered coordinate that keeps an object on the picture.
fn inside(at: f64, size: f64, draws: &mut Draws, jitter: f64) -> f64 {
    let margin = size / 2.0 * 1.08 + 0.015;
    (at + draws.between(-jitter, jitter)).max(margin).min(1.0 - margin)
}

/// The usual size of an object.
fn base(arrangement: Arrangement, things: usize, extent: Extent) -> f64 {
    match (arrangement, extent) {
        (Arrangement::Count, _) if things == 2 => 0.29,
        (Arrangement::Count, _) => 0.27,
        (Arrangement::Pair(_), Extent::Small) => 1.0 / 6.0,
        (Arrangement::Pair(_), Extent::Usual) => 0.25,
        (Arrangement::Pair(_), Extent::Large) => 0.4,
        (Arrangement::Single(_), Extent::Small) => 0.2,
        (Arrangement::Single(_), Extent::Usual) => 1.0 / 3.0,
        (Arrangement::Single(_), Extent::Large) => 0.5,
    }
}

/// Gives every object its size, place, turn and phase of its texture.
pub fn lay_out(scene: &mut Scene, draws: &mut Draws) {
    let count = scene.things.len();
    for thing in &mut scene.things {
        thing.size = base(scene.arrangement, count, thing.extent) * draws.between(0.92, 1.08);
        thing.rotation = draws.between(-8.0, 8.0).to_radians();
        thing.phase = draws.between(0.0, 1.0);
    }
    match scene.arrangement {
        Arrangement::Count => count_spots(scene, draws),
        Arrangement::Pair(relation) => pair(scene, relation, draws),
        Arrangement::Single(place) => {
            let thing = &mut scene.things[0];
            let (dx, dy) = place.unwrap_or(Place::Centre).direction();
            let off = (0.5 - thing.size / 2.0 - 0.09).max(0.0);
            thing.cx = inside(0.5 + dx * off, thing.size, draws, 0.05);
            thing.cy = inside(0.5 + dy * off, thing.size, draws, 0.05);
        }
    }
}

fn count_spots(scene: &mut Scene, draws: &mut Draws) {
    let spots: &[(f64, f64)] = match scene.things.len() {
        2 => &[(0.27, 0.5), (0.73, 0.5)],
        3 => &[(0.5, 0.26), (0.26, 0.72), (0.74, 0.72)],
        _ => &[(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)],
    };
    for (thing, (x, y)) in scene.things.iter_mut().zip(spots) {
        thing.cx = inside(*x, thing.size, draws, 0.045);
        thing.cy = inside(*y, thing.size, draws, 0.045);
    }
}

fn pair(scene: &mut Scene, relation: Relation, draws: &mut Draws) {
    let [a, b] = &mut scene.things[..] else { return };
    // What is left along the axis of the relation.
    let gap = (1.0 - a.size - b.size) / 3.0;
    let slack = (gap / 2.5).min(0.05);
    // The first of the two lies at the low end.
    let (p, q) = (gap + a.size / 2.0, 1.0 - gap - b.size / 2.0);
    let (p, q) = if relation.first_is_low() { (p, q) } else { (1.0 - p, 1.0 - q) };
    let (p, q) = (p + draws.between(-slack, slack), q + draws.between(-slack, slack));
    let (u, v) = (inside(0.5, a.size, draws, 0.07), inside(0.5, b.size, draws, 0.07));
    if relation.is_level() {
        (a.cx, a.cy, b.cx, b.cy) = (p, u, q, v);
    } else {
        (a.cx, a.cy, b.cx, b.cy) = (u, p, v, q);
    }
}
