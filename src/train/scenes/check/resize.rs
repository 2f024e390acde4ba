//! Pillow's resampling, which the judgements are made with: bytes in fixed point, rounded after each of the two passes.

/// A kernel of resampling.
#[derive(Clone, Copy)]
pub enum Filter {
    /// The mean of the pixels that become one.
    Box,
    /// Keys' cubic with a = −½.
    Bicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Box => 0.5,
            Filter::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let far = x.abs();
        match self {
            Filter::Box if x > -0.5 && x <= 0.5 => 1.0,
            Filter::Bicubic if far < 1.0 => ((A + 2.0) * far - (A + 3.0)) * far * far + 1.0,
            Filter::Bicubic if far < 2.0 => (((far - 5.0) * far + 8.0) * far - 4.0) * A,
            _ => 0.0,
        }
    }

    /// The pixels that each of `to` pixels is made of: the first, and their weights.
    fn weights(self, from: usize, to: usize) -> Vec<(usize, Vec<f64>)> {
        let scale = from as f64 / to as f64;
        let spread = scale.max(1.0);
        let support = self.support() * spread;
        let of = |i: usize| {
            let middle = (i as f64 + 0.5) * scale;
            let first = (middle - support + 0.5).max(0.0) as usize;
            let last = ((middle + support + 0.5) as usize).min(from);
            let weight = |x: usize| self.at((x as f64 - middle + 0.5) / spread);
            let weights: Vec<f64> = (first..last).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            (
                first,
                weights.into_iter().map(|weight| if sum == 0.0 { weight } else { weight / sum }).collect(),
            )
        };
        (0..to).map(of).collect()
    }
}

/// Values that are resampled.
pub trait Sample: Copy + Default {
    /// The sum of samples by their weights.
    fn sum(samples: impl Iterator<Item = (Self, f64)>) -> Self;
}

impl Sample for u8 {
    fn sum(samples: impl Iterator<Item = (u8, f64)>) -> u8 {
        const BITS: u32 = 22;
        let fixed = |weight: f64| (weight * f64::from(1u32 << BITS)).round() as i64;
        let sum: i64 = samples.map(|(sample, weight)| i64::from(sample) * fixed(weight)).sum();
        ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8
    }
}

impl Sample for f32 {
    fn sum(samples: impl Iterator<Item = (f32, f64)>) -> f32 {
        samples.map(|(sample, weight)| f64::from(sample) * weight).sum::<f64>() as f32
    }
}

/// A square picture `[from, from, channels]` at another size.
pub fn resize<T: Sample>(values: &[T], channels: usize, from: usize, to: usize, filter: Filter) -> Vec<T> {
    let weights = filter.weights(from, to);
    let mut wide = vec![T::default(); from * to * channels];
    for row in 0..from {
        for (x, (first, weights)) in weights.iter().enumerate() {
            for c in 0..channels {
                let sample = |i: usize| values[(row * from + first + i) * channels + c];
                let samples = weights.iter().enumerate().map(|(i, weight)| (sample(i), *weight));
                wide[(row * to + x) * channels + c] = T::sum(samples);
            }
        }
    }
    let line = to * channels;
    let mut out = vec![T::default(); to * line];
    for (y, (first, weights)) in weights.iter().enumerate() {
        for x in 0..line {
            let samples =
                weights.iter().enumerate().map(|(i, weight)| (wide[(first + i) * line + x], *weight));
            out[y * line + x] = T::sum(samples);
        }
    }
    out
}
