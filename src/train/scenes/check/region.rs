//! Sets of pixels.

use std::ops::Range;

/// Some of a picture's pixels.
#[derive(Clone, Debug)]
pub struct Region {
    /// Pixels in a row.
    pub width: usize,
    /// Which are in it, row by row.
    pub on: Vec<bool>,
}

/// The eight pixels around one; the first four share a side with it.
const AROUND: [(isize, isize); 8] = [(0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)];
/// How many of those are neighbours: by sides.
pub const SIDES: usize = 4;
/// By sides and corners.
pub const CORNERS: usize = 8;

impl Region {
    pub fn new(width: usize, on: Vec<bool>) -> Region {
        Region { width, on }
    }

    pub fn height(&self) -> usize {
        self.on.len() / self.width.max(1)
    }

    pub fn count(&self) -> usize {
        self.on.iter().filter(|on| **on).count()
    }

    /// The indices of its pixels.
    pub fn pixels(&self) -> impl Iterator<Item = usize> + Clone {
        self.on.iter().enumerate().filter(|(_, on)| **on).map(|(i, _)| i)
    }

    /// Those of its pixels that are so.
    pub fn and(&self, is: impl Fn(usize) -> bool) -> Region {
        let on = self.on.iter().enumerate().map(|(i, on)| *on && is(i)).collect();
        Region { width: self.width, on }
    }

    /// The pixel so far from one, inside the picture.
    fn step(&self, at: usize, (dx, dy): (isize, isize)) -> Option<usize> {
        let x = (at % self.width).checked_add_signed(dx).filter(|x| *x < self.width)?;
        let y = (at / self.width).checked_add_signed(dy).filter(|y| *y < self.height())?;
        Some(y * self.width + x)
    }

    /// Its connected parts, in the order of their first pixels.
    pub fn parts(&self, neighbours: usize) -> Vec<Region> {
        let mut left = self.on.clone();
        let mut parts = Vec::new();
        for first in self.pixels() {
            if !left[first] {
                continue;
            }
            let mut part = vec![false; left.len()];
            let mut rest = vec![first];
            left[first] = false;
            while let Some(at) = rest.pop() {
                part[at] = true;
                for next in AROUND[..neighbours].iter().filter_map(|to| self.step(at, *to)) {
                    if std::mem::take(&mut left[next]) {
                        rest.push(next);
                    }
                }
            }
            parts.push(Region::new(self.width, part));
        }
        parts
    }

    /// Without the pixels that have a neighbour outside it, or outside the picture.
    pub fn eroded(&self, neighbours: usize) -> Region {
        let inner = |at: usize| {
            AROUND[..neighbours].iter().all(|to| self.step(at, *to).is_some_and(|next| self.on[next]))
        };
        self.and(inner)
    }

    /// With the holes that it surrounds.
    pub fn filled(&self) -> Region {
        let outside = Region::new(self.width, self.on.iter().map(|on| !on).collect());
        let mut filled = vec![true; self.on.len()];
        let (width, height) = (self.width, self.height());
        let on_rim = |at: usize| {
            let (x, y) = (at % width, at / width);
            x == 0 || y == 0 || x + 1 == width || y + 1 == height
        };
        for part in outside.parts(SIDES).iter().filter(|part| part.pixels().any(on_rim)) {
            part.pixels().for_each(|at| filled[at] = false);
        }
        Region::new(width, filled)
    }

    /// Columns and rows of the smallest rectangle around it; empty of nothing.
    pub fn bounds(&self) -> (Range<usize>, Range<usize>) {
        let around = |of: &dyn Fn(usize) -> usize| {
            let all = || self.pixels().map(of);
            all().min().unwrap_or(0)..all().max().map_or(0, |last| last + 1)
        };
        (around(&|at| at % self.width), around(&|at| at / self.width))
    }

    /// Each pixel's squared distance to the nearest one of the region (Felzenszwalb & Huttenlocher 2012).
    pub fn distances(&self) -> Vec<f64> {
        let (width, height) = (self.width, self.height());
        // Far from all, but not so far that its square is lost.
        let far = 4.0 * ((width * width + height * height) as f64);
        let mut values: Vec<f64> = self.on.iter().map(|on| if *on { 0.0 } else { far }).collect();
        for x in 0..width {
            let column: Vec<f64> = (0..height).map(|y| values[y * width + x]).collect();
            lower_envelope(&column).into_iter().enumerate().for_each(|(y, d)| values[y * width + x] = d);
        }
        for row in values.chunks_exact_mut(width.max(1)) {
            let envelope = lower_envelope(row);
            row.copy_from_slice(&envelope);
        }
        values
    }

    /// Grown and then shrunk by a disc of a radius in pixels; the region keeps that far from the picture's rim.
    pub fn closed(&self, radius: usize) -> Region {
        let squared = (radius * radius) as f64;
        let grown = self.distances().into_iter().map(|d| d > squared).collect();
        let outside = Region::new(self.width, grown);
        Region::new(self.width, outside.distances().into_iter().map(|d| d > squared).collect())
    }

    /// With an empty rim of so many pixels.
    pub fn padded(&self, rim: usize) -> Region {
        let width = self.width + 2 * rim;
        let mut on = vec![false; width * (self.height() + 2 * rim)];
        self.pixels().for_each(|at| on[(at / self.width + rim) * width + at % self.width + rim] = true);
        Region::new(width, on)
    }
}

/// min over q of `(p − q)² + values[q]`, for each p.
fn lower_envelope(values: &[f64]) -> Vec<f64> {
    let mut parabolas: Vec<(usize, f64)> = Vec::with_capacity(values.len());
    for (q, value) in values.iter().enumerate() {
        let from = loop {
            let Some(&(last, from)) = parabolas.last() else { break f64::NEG_INFINITY };
            let square = |q: usize| (q * q) as f64;
            let meet = (value + square(q) - values[last] - square(last)) / (2 * (q - last)) as f64;
            if meet > from {
                break meet;
            }
            parabolas.pop();
        };
        parabolas.push((q, from));
    }
    let mut at = 0;
    let of = |p: usize| {
        while parabolas.get(at + 1).is_some_and(|(_, from)| *from < p as f64) {
            at += 1;
        }
        let (q, _) = parabolas[at];
        (p as f64 - q as f64).powi(2) + values[q]
    };
    (0..values.len()).map(of).collect()
}
