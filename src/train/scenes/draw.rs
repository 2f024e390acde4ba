//! Pictures of scenes from signed distances, so that edges are smooth and a scene can be had at any size.

use super::scene::{Scene, Thing};
use super::words::{Colour, Shape, Texture};
use std::f64::consts::{FRAC_PI_2, PI};
use std::sync::LazyLock;

/// A square part of a picture, in shares of its side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// From the left.
    pub left: f64,
    /// From the top.
    pub top: f64,
    /// Its own side.
    pub side: f64,
}

impl Window {
    /// All of it.
    pub const WHOLE: Window = Window { left: 0.0, top: 0.0, side: 1.0 };
}

/// Pictures `[N, side, side, 3]` of whole scenes, from 0 to 1.
pub fn render(scenes: &[Scene], side: usize) -> Vec<f32> {
    let mut out = vec![0.0; scenes.len() * side * side * 3];
    for (scene, picture) in scenes.iter().zip(out.chunks_exact_mut((side * side * 3).max(1))) {
        draw(scene, Window::WHOLE, side, picture);
    }
    out
}

/// Draws a part of a scene into a picture `[side, side, 3]`.
pub fn draw(scene: &Scene, window: Window, side: usize, picture: &mut [f32]) {
    let ground = shares(scene.background);
    picture.as_chunks_mut().0.iter_mut().for_each(|pixel| *pixel = ground);
    for thing in &scene.things {
        Drawn::new(thing, window, side).onto(picture);
    }
}

fn shares(colour: Colour) -> [f32; 3] {
    colour.rgb().map(|byte| f32::from(byte) / 255.0)
}

/// What a texture is painted in.
fn texture_colour(colour: Colour) -> Colour {
    if colour == Colour::White { Colour::Black } else { Colour::White }
}

/// An object on the pixels of a window.
struct Drawn<'a> {
    thing: &'a Thing,
    window: Window,
    side: usize,
    /// A pixel's side.
    step: f64,
    /// Pixels to the object's size.
    scale: f32,
    cosine: f32,
    sine: f32,
}

impl<'a> Drawn<'a> {
    fn new(thing: &'a Thing, window: Window, side: usize) -> Self {
        let step = window.side / side as f64;
        let (sine, cosine) = thing.rotation.sin_cos();
        let (scale, cosine, sine) = ((thing.size / step) as f32, cosine as f32, sine as f32);
        Drawn { thing, window, side, step, scale, cosine, sine }
    }

    /// Pixels that the object may touch along an axis.
    fn range(&self, middle: f64, from: f64) -> std::ops::Range<usize> {
        let half = self.thing.size * 0.62;
        let at = |to: f64, more: i64| ((to - from) / self.step) as i64 + more;
        let side = self.side as i64;
        at(middle - half, -1).clamp(0, side) as usize..at(middle + half, 2).clamp(0, side) as usize
    }

    /// A pixel's middle along an axis, from the object's, in units of its size.
    fn unit(&self, pixel: usize, middle: f64, from: f64) -> f32 {
        ((pixel as f64 + 0.5) * self.step + from - middle) as f32 / self.thing.size as f32
    }

    fn onto(&self, picture: &mut [f32]) {
        let (thing, window) = (self.thing, self.window);
        let (columns, rows) = (self.range(thing.cx, window.left), self.range(thing.cy, window.top));
        let across: Vec<f32> = columns.clone().map(|x| self.unit(x, thing.cx, window.left)).collect();
        let (plain, mark) = (shares(thing.colour), shares(texture_colour(thing.colour)));
        for row in rows {
            let down = self.unit(row, thing.cy, window.top);
            let line = &mut picture[(row * self.side + columns.start) * 3..][..columns.len() * 3];
            for (pixel, &across) in line.as_chunks_mut::<3>().0.iter_mut().zip(&across) {
                let (x, y) =
                    (across * self.cosine + down * self.sine, down * self.cosine - across * self.sine);
                let edge = distance(thing.shape, x, y);
                let cover = self.cover(edge);
                if cover == 0.0 {
                    continue;
                }
                let marked = self.marked(x, y, edge);
                for ((to, plain), mark) in pixel.iter_mut().zip(plain).zip(mark) {
                    *to += (plain * (1.0 - marked) + mark * marked - *to) * cover;
                }
            }
        }
    }

    /// The share of a pixel within a distance.
    fn cover(&self, distance: f32) -> f32 {
        (0.5 - distance * self.scale).clamp(0.0, 1.0)
    }

    /// The share of a pixel that the texture takes: level stripes or dots, about three to the object.
    fn marked(&self, x: f32, y: f32, edge: f32) -> f32 {
        let phase = self.thing.phase as f32;
        let within = |at: f32| (at * 3.2 + phase).rem_euclid(1.0) - 0.5;
        let mark = match self.thing.texture {
            Texture::Plain => return 0.0,
            Texture::Striped => within(y).abs() / 3.2 - 0.07,
            Texture::Dotted => hypot(within(x), within(y)) / 3.2 - 0.085,
        };
        // A plain rim keeps the outline whole.
        self.cover(mark.max(edge + 0.035))
    }
}

fn hypot(x: f32, y: f32) -> f32 {
    let (x, y) = (f64::from(x), f64::from(y));
    (x * x + y * y).sqrt() as f32
}

static TRIANGLE: LazyLock<Vec<[f32; 2]>> = LazyLock::new(|| polygon(&[0.577], 3, 0.144));
static STAR: LazyLock<Vec<[f32; 2]>> = LazyLock::new(|| polygon(&[0.53, 0.53 * 0.42], 10, 0.05));

/// The vertices of a regular polygon, or of a star of two radii, one of them up; moved down by `lower`.
fn polygon(radii: &[f64], vertices: usize, lower: f32) -> Vec<[f32; 2]> {
    let vertex = |i: usize| {
        let (angle, radius) = ((i * 2) as f64 * PI / vertices as f64 - FRAC_PI_2, radii[i % radii.len()]);
        [(angle.cos() * radius) as f32, (angle.sin() * radius) as f32 + lower]
    };
    (0..vertices).map(vertex).collect()
}

/// The signed distance of a point to a polygon, negative inside: to its edges, the sign by crossings.
fn to_polygon(x: f32, y: f32, vertices: &[[f32; 2]]) -> f32 {
    let (mut best, mut inside) = (1e9_f32, false);
    let next = vertices.iter().cycle().skip(1);
    for (&[x0, y0], &[x1, y1]) in vertices.iter().zip(next) {
        let (ex, ey, px, py) = (x1 - x0, y1 - y0, x - x0, y - y0);
        let along = ((px * ex + py * ey) / (ex * ex + ey * ey)).clamp(0.0, 1.0);
        let (dx, dy) = (px - ex * along, py - ey * along);
        best = best.min(dx * dx + dy * dy);
        inside ^= y0 != y1 && y >= y0.min(y1) && y < y0.max(y1) && px < ex * (py / ey);
    }
    if inside { -best.sqrt() } else { best.sqrt() }
}

/// The signed distance of a point to a shape of extent about one.
fn distance(shape: Shape, x: f32, y: f32) -> f32 {
    // √½ in four digits, as the recipe has it.
    const HALF_ROOT: f32 = 7071.0 / 10_000.0;
    let (a, b) = (x.abs(), y.abs());
    match shape {
        Shape::Circle => hypot(x, y) - 0.5,
        Shape::Ring => (hypot(x, y) - 0.385).abs() - 0.115,
        Shape::Square => a.max(b) - 0.44,
        Shape::Diamond => (a + b - 0.52) * HALF_ROOT,
        Shape::Cross => (a - 0.5).max(b - 0.16).min((a - 0.16).max(b - 0.5)),
        Shape::Triangle => to_polygon(x, y, &TRIANGLE),
        Shape::Star => to_polygon(x, y, &STAR),
        // A square on its corner and two half discs.
        Shape::Heart => {
            const RADIUS: f32 = 0.293;
            const MIDDLE: f32 = 0.207_180_3;
            let y = y + 0.045;
            let (u, v) = ((x + y) * HALF_ROOT, (y - x) * HALF_ROOT);
            let square = u.abs().max(v.abs()) - RADIUS;
            square.min(hypot(a - MIDDLE, y + MIDDLE) - RADIUS)
        }
    }
}
