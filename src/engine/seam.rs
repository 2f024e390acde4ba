//! The seam between what stays and what was drawn. Small steps across it, of tone and of what scaling lost, are taken over
//! into the drawn part and fade with the distance, so that no edge is seen (the membrane of seamless cloning, Pérez et al.
//! 2003; computed by pull and push, Gortler et al. 1996). Large steps are edges of what was drawn, and stay.

use crate::picture::Picture;

/// Steps across the seam of this size, of 2 from black to white, count for 1/e of a small one.
const LARGE: f32 = 0.3;

/// Values and how much each is known, 0 to 1, on a grid.
struct Level {
    width: usize,
    height: usize,
    /// Of every pixel, weighted by how much it is known: three values, then the weight.
    sums: Vec<[f32; 4]>,
}

impl Level {
    /// Half the size: what four pixels know together.
    fn pulled(&self) -> Level {
        let (width, height) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let mut sums = vec![[0.0; 4]; width * height];
        for (i, from) in self.sums.iter().enumerate() {
            let to = &mut sums[i / self.width / 2 * width + i % self.width / 2];
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
        // Nothing is known better than well.
        for sum in sums.iter_mut().filter(|sum| sum[3] > 1.0) {
            *sum = sum.map(|v| v / sum[3]);
        }
        Level { width, height, sums }
    }

    /// Fills what is not known from the coarser level, linearly between its pixels.
    fn push(&mut self, coarse: &Level) {
        let at = |i: usize, of: usize| {
            let place = (i as f32 / 2.0 - 0.25).max(0.0);
            let first = (place as usize).min(of - 1);
            (first, (first + 1).min(of - 1), place - first as f32)
        };
        for (i, sum) in self.sums.iter_mut().enumerate().filter(|(_, sum)| sum[3] < 1.0) {
            let (left, right, across) = at(i % self.width, coarse.width);
            let (above, below, down) = at(i / self.width, coarse.height);
            let row = |y: usize, c: usize| {
                let row = &coarse.sums[y * coarse.width..];
                row[left][c] * (1.0 - across) + row[right][c] * across
            };
            let missing = 1.0 - sum[3];
            for (c, value) in sum[..3].iter_mut().enumerate() {
                *value += missing * (row(above, c) * (1.0 - down) + row(below, c) * down);
            }
            sum[3] = 1.0;
        }
    }
}

/// `drawn`, moved so that it meets `before` along the edge of what is redrawn; both of one size.
pub(super) fn join(before: &Picture, mut drawn: Picture, redraws: impl Fn(usize, usize) -> bool) -> Picture {
    let (width, height, channels) = (drawn.width, drawn.height, drawn.channels);
    // How far a drawn pixel is from those that stay beside it.
    let step = |i: usize| {
        let (x, y) = (i % width, i / width);
        if !redraws(x, y) {
            return [0.0; 4];
        }
        let around = [(x.wrapping_sub(1), y), (x + 1, y), (x, y.wrapping_sub(1)), (x, y + 1)];
        let stays = |&(x, y): &(usize, usize)| x < width && y < height && !redraws(x, y);
        let (mut sum, mut count) = ([0.0; 3], 0.0);
        for (x, y) in around.into_iter().filter(stays) {
            sum.iter_mut().zip(&before.values[3 * (y * width + x)..]).for_each(|(sum, v)| *sum += v);
            count += 1.0;
        }
        if count == 0.0 {
            return [0.0; 4];
        }
        let of = |c: usize| sum[c] / count - drawn.values[i * channels + c.min(channels - 1)];
        let step = [of(0), of(1), of(2)];
        let largest = step.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        let weight = (-(largest / LARGE).powi(2)).exp();
        [weight * step[0], weight * step[1], weight * step[2], weight]
    };
    let mut levels = vec![Level { width, height, sums: (0..width * height).map(step).collect() }];
    while let Some(last) = levels.last().filter(|level| level.width * level.height > 1) {
        levels.push(last.pulled());
    }
    let Some(mut coarse) = levels.pop() else { return drawn };
    while let Some(mut level) = levels.pop() {
        level.push(&coarse);
        coarse = level;
    }
    for (i, sum) in coarse.sums.iter().enumerate().filter(|(i, _)| redraws(i % width, i / width)) {
        let colour = &mut drawn.values[i * channels..][..channels];
        colour.iter_mut().zip(sum).for_each(|(v, step)| *v += step);
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::ByteRounding;

    fn picture(width: usize, height: usize, value: impl Fn(usize, usize) -> f32) -> Picture {
        let values = (0..width * height).flat_map(|i| [value(i % width, i / width); 3]).collect();
        Picture { width, height, channels: 3, values, rounding: ByteRounding::Nearest }
    }

    /// A step that is the same everywhere is taken over as it is.
    #[test]
    fn a_constant_step_goes() {
        let (before, drawn) = (picture(37, 23, |_, _| 0.3), picture(37, 23, |_, _| 0.1));
        let joined = join(&before, drawn, |x, y| (5..30).contains(&x) && (4..20).contains(&y));
        let inside = &joined.values[3 * (10 * 37 + 15)..][..3];
        assert!(inside.iter().all(|v| (v - 0.3).abs() < 1e-6), "{inside:?}");
    }

    /// On a ramp that the drawn part misses.
    #[test]
    fn the_seam_is_closed_where_the_step_varies() {
        let ramp = |x: usize, y: usize| 0.004 * x as f32 - 0.002 * y as f32;
        let joined = join(&picture(40, 40, ramp), picture(40, 40, |_, _| 0.0), |x, y| {
            (10..30).contains(&x) && y >= 12
        });
        for y in 13..40 {
            let seam = (joined.values[3 * (y * 40 + 10)] - ramp(9, y)).abs();
            assert!(seam < 0.01, "row {y}: {seam}");
        }
    }

    /// What is drawn across the edge stays as it was drawn, and so does what is beside it.
    #[test]
    fn edges_of_what_was_drawn_stay() {
        let drawn = picture(40, 40, |_, y| if y < 20 { 1.0 } else { -0.5 });
        let joined = join(&picture(40, 40, |_, _| -0.5), drawn, |x, y| (10..30).contains(&x) && y > 5);
        let at = |x: usize, y: usize| joined.values[3 * (y * 40 + x)];
        assert!(at(10, 12) > 0.99 && at(20, 12) > 0.99, "{} {}", at(10, 12), at(20, 12));
        assert!((at(20, 30) + 0.5).abs() < 1e-3, "{}", at(20, 30));
    }

    #[test]
    fn nothing_known_changes_nothing() {
        let joined = join(&picture(4, 4, |_, _| 0.9), picture(4, 4, |_, _| 0.1), |_, _| true);
        assert!(joined.values.iter().all(|v| *v == 0.1));
    }
}
