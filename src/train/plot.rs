//! Curves as pictures: losses by step, on a logarithmic scale, with a running mean.

use super::loss::{Losses, Stretch};
use crate::error::Result;
use crate::picture::{ByteRounding, Picture};
use std::path::Path;

/// A curve and its colour.
pub struct Curve<'a> {
    /// Values, from the first step on.
    pub values: &'a [f64],
    /// Red, green, blue.
    pub colour: [u8; 3],
}

const WIDTH: usize = 800;
const HEIGHT: usize = 420;
/// Left, top, right, bottom.
const MARGIN: [usize; 4] = [64, 16, 16, 34];
/// Share of a new value in the running mean.
const NEW: f64 = 0.03;

/// Digits and what else numbers are written with, five rows of three pixels each.
const GLYPHS: [(char, [u8; 5]); 13] = [
    ('0', [7, 5, 5, 5, 7]),
    ('1', [2, 6, 2, 2, 7]),
    ('2', [7, 1, 7, 4, 7]),
    ('3', [7, 1, 7, 1, 7]),
    ('4', [5, 5, 7, 1, 1]),
    ('5', [7, 4, 7, 1, 7]),
    ('6', [7, 4, 7, 5, 7]),
    ('7', [7, 1, 2, 2, 2]),
    ('8', [7, 5, 7, 5, 7]),
    ('9', [7, 5, 7, 1, 7]),
    ('.', [0, 0, 0, 0, 2]),
    ('e', [0, 7, 7, 4, 7]),
    ('-', [0, 0, 7, 0, 0]),
];

struct Canvas(Vec<u8>);

impl Canvas {
    fn dot(&mut self, x: usize, y: usize, colour: [u8; 3], share: f64) {
        if x < WIDTH && y < HEIGHT {
            let pixel = &mut self.0[(y * WIDTH + x) * 3..][..3];
            for (to, colour) in pixel.iter_mut().zip(colour) {
                *to = (f64::from(*to) * (1.0 - share) + f64::from(colour) * share) as u8;
            }
        }
    }

    fn text(&mut self, (x, y): (usize, usize), text: &str) {
        for (i, c) in text.chars().enumerate() {
            let Some((_, rows)) = GLYPHS.iter().find(|(glyph, _)| *glyph == c) else { continue };
            for (row, bits) in rows.iter().enumerate() {
                for column in (0..3).filter(|column| bits >> (2 - column) & 1 == 1) {
                    for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                        self.dot(x + i * 8 + column * 2 + dx, y + row * 2 + dy, [70; 3], 1.0);
                    }
                }
            }
        }
    }

    /// A line from point to point, `thick` pixels high.
    fn line(&mut self, points: &[(f64, f64)], colour: [u8; 3], (thick, share): (usize, f64)) {
        for pair in points.windows(2) {
            let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
            let steps = (x1 - x0).abs().max((y1 - y0).abs()).ceil().max(1.0);
            for i in 0..steps as usize {
                let at = i as f64 / steps;
                let (x, y) = (x0 + (x1 - x0) * at, y0 + (y1 - y0) * at);
                (0..thick).for_each(|d| self.dot(x as usize, y as usize + d, colour, share));
            }
        }
    }
}

/// The mean that forgets.
fn smooth(values: &[f64]) -> Vec<f64> {
    let mut mean = None;
    let next = |v: &f64| {
        let now = mean.map_or(*v, |mean: f64| mean + NEW * (v - mean));
        mean = Some(now);
        now
    };
    values.iter().map(next).collect()
}

/// Writes curves as a PNG: the values pale, their running mean over them. Values that are not above 0 are left out.
///
/// # Errors
/// A file that cannot be written.
pub fn write(path: &Path, curves: &[Curve<'_>]) -> Result<()> {
    let mut canvas = Canvas(vec![255; WIDTH * HEIGHT * 3]);
    let seen = || curves.iter().flat_map(|curve| curve.values).filter(|v| v.is_finite() && **v > 0.0);
    let low = seen().fold(f64::INFINITY, |low, v| low.min(*v)).min(1e30).log10();
    let high = seen().fold(1e-30, |high: f64, v| high.max(*v)).log10();
    let (low, high) = if high - low < 0.05 { (low - 0.05, high + 0.05) } else { (low, high) };
    let steps = curves.iter().map(|curve| curve.values.len()).max().unwrap_or(0).max(2);
    let [left, top, right, bottom] = MARGIN;
    let (wide, tall) = ((WIDTH - left - right) as f64, (HEIGHT - top - bottom) as f64);
    let place = |i: usize, v: f64| {
        let share = (v.max(1e-30).log10() - low) / (high - low);
        (left as f64 + wide * i as f64 / (steps - 1) as f64, top as f64 + tall * (1.0 - share))
    };
    for i in 0..=4 {
        let value = 10f64.powf(low + (high - low) * f64::from(i) / 4.0);
        let (_, y) = place(0, value);
        canvas.line(&[(left as f64, y), (left as f64 + wide, y)], [225; 3], (1, 1.0));
        canvas.text((6, (y as usize).saturating_sub(5)), &short(value));
        let step = (steps - 1) * i as usize / 4;
        let (x, _) = place(step, value);
        canvas.line(&[(x, top as f64), (x, top as f64 + tall)], [225; 3], (1, 1.0));
        let text = (step + 1).to_string();
        canvas.text(
            ((x as usize).saturating_sub(text.len() * 4).min(WIDTH - text.len() * 8), HEIGHT - 22),
            &text,
        );
    }
    for Curve { values, colour } in curves {
        let points = |values: &[f64]| -> Vec<(f64, f64)> {
            let shown = values.iter().enumerate().filter(|(_, v)| v.is_finite() && **v > 0.0);
            shown.map(|(i, v)| place(i, *v)).collect()
        };
        canvas.line(&points(values), *colour, (1, 0.25));
        canvas.line(&points(&smooth(values)), *colour, (2, 1.0));
    }
    let values = canvas.0.iter().map(|byte| f32::from(*byte) / 127.5 - 1.0).collect();
    let picture =
        Picture { width: WIDTH, height: HEIGHT, channels: 3, values, rounding: ByteRounding::Nearest };
    picture.save(path)
}

/// The errors by timestep of a checkpoint as a picture.
///
/// # Errors
/// As [`write`]'s.
pub fn plot_losses(losses: &Losses, path: &Path) -> Result<()> {
    let each = |of: fn(&Stretch) -> f64| losses.stretches.iter().map(of).collect::<Vec<f64>>();
    let (errors, bits) = (each(|s| s.error), each(|s| s.bits));
    let curve = |values, colour| Curve { values, colour };
    write(path, &[curve(&errors, [31, 90, 180]), curve(&bits, [210, 90, 20])])
}

/// A number in few characters.
fn short(value: f64) -> String {
    if (0.01..1000.0).contains(&value) { format!("{value:.3}") } else { format!("{value:.1e}") }
}
