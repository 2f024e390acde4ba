//! A run's random numbers, in the order in which the reference pipelines draw them.

use super::noise::NoiseStream;

/// Random numbers in the order the reference pipelines draw them.
pub trait Noise: Send {
    /// Standard normal numbers `[pictures, channels, height, width]`, row-major.
    fn draw(&mut self, pictures: usize, channels: usize, height: usize, width: usize) -> Vec<f32>;
    /// Numbers from 0 to 1, 1 not among them, `[pictures, count]`: what a model draws that draws tokens.
    fn uniform(&mut self, pictures: usize, count: usize) -> Vec<f32>;
}

/// One PyTorch CPU generator for each picture: picture i of a batch is the picture a single run with its own seed gives.
pub struct SeededNoise(Vec<NoiseStream>);

impl SeededNoise {
    /// Streams seeded `seed`, `seed + 1`, … for `pictures` pictures.
    pub fn new(seed: u64, pictures: usize) -> Self {
        SeededNoise::each((0..pictures as u64).map(|i| seed.wrapping_add(i)), 0)
    }

    /// Streams for one of several candidates for each picture, by its number: picture i's is seeded
    /// `seeds[i] + number · 9E3779B9₁₆`, so that the first candidate is what there is where there is but one.
    pub fn each(seeds: impl IntoIterator<Item = u64>, number: usize) -> Self {
        // Odd and of many bits: multiples of it lie far from the seeds of other pictures, in the generator's 32 bits.
        let shift = (number as u64).wrapping_mul(0x9e37_79b9);
        SeededNoise(seeds.into_iter().map(|seed| NoiseStream::new(seed.wrapping_add(shift))).collect())
    }
}

impl Noise for SeededNoise {
    fn draw(&mut self, pictures: usize, channels: usize, height: usize, width: usize) -> Vec<f32> {
        self.0.iter_mut().take(pictures).flat_map(|s| s.normal(channels * height * width)).collect()
    }

    fn uniform(&mut self, pictures: usize, count: usize) -> Vec<f32> {
        let row = |s: &mut NoiseStream| (0..count).map(|_| s.uniform()).collect::<Vec<_>>();
        self.0.iter_mut().take(pictures).flat_map(row).collect()
    }
}

/// One seed's noise for every picture, so that pictures differ by what they are drawn of only.
pub(crate) struct OneNoise(SeededNoise);

impl OneNoise {
    pub(crate) fn new(seed: u64) -> Self {
        OneNoise(SeededNoise::new(seed, 1))
    }
}

impl Noise for OneNoise {
    fn draw(&mut self, pictures: usize, channels: usize, height: usize, width: usize) -> Vec<f32> {
        self.0.draw(1, channels, height, width).repeat(pictures)
    }

    fn uniform(&mut self, pictures: usize, count: usize) -> Vec<f32> {
        self.0.uniform(1, count).repeat(pictures)
    }
}

/// The caller's noise for every picture's first candidate, and each other candidate's own.
pub(crate) struct CandidateNoise<'a> {
    pub first: &'a mut dyn Noise,
    pub others: Vec<SeededNoise>,
    /// Pictures.
    pub count: usize,
}

impl Noise for CandidateNoise<'_> {
    fn draw(&mut self, _: usize, channels: usize, height: usize, width: usize) -> Vec<f32> {
        let mut all = self.first.draw(self.count, channels, height, width);
        let others = self.others.iter_mut().flat_map(|noise| noise.draw(self.count, channels, height, width));
        all.extend(others);
        all
    }

    fn uniform(&mut self, _: usize, count: usize) -> Vec<f32> {
        let mut all = self.first.uniform(self.count, count);
        all.extend(self.others.iter_mut().flat_map(|noise| noise.uniform(self.count, count)));
        all
    }
}

/// The seed of a stream of its own for each list of numbers, whatever others are drawn (splitmix64's mixer).
pub fn stream_seed<const N: usize>(numbers: [u64; N]) -> u64 {
    let mix = |z: u64| {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for number in numbers {
        state = mix(state.wrapping_add(number).wrapping_add(0x9e37_79b9_7f4a_7c15));
    }
    state
}

/// `[N, C, H, W]` to `[N, H, W, C]`.
pub fn channels_last(values: &[f32], channels: usize, height: usize, width: usize) -> Vec<f32> {
    let pixels = height * width;
    let mut out = Vec::with_capacity(values.len());
    for picture in values.chunks_exact(channels * pixels) {
        for pixel in 0..pixels {
            out.extend((0..channels).map(|c| picture[c * pixels + pixel]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_candidate_is_the_only_one() {
        let (mut alone, mut first) = (SeededNoise::new(7, 2), SeededNoise::new(7, 2));
        let others = vec![SeededNoise::each([7, 8], 1), SeededNoise::each([7, 8], 2)];
        let mut all = CandidateNoise { first: &mut first, others, count: 2 };
        let (normal, uniform) = (all.draw(6, 20, 1, 1), all.uniform(6, 3));
        assert_eq!((normal.len(), uniform.len()), (120, 18));
        assert_eq!(normal[..40], alone.draw(2, 20, 1, 1)[..]);
        assert_eq!(uniform[..6], alone.uniform(2, 3)[..]);
        let mut rows: Vec<&[f32]> = uniform.chunks_exact(3).collect();
        rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
        rows.dedup();
        assert_eq!(rows.len(), 6, "two candidates of one stream");
    }

    #[test]
    fn one_noise_is_the_seeds_for_every_picture() {
        let mut noise = OneNoise::new(5);
        let first = noise.draw(3, 3, 4, 4);
        assert_eq!(first, SeededNoise::new(5, 1).draw(1, 3, 4, 4).repeat(3));
        assert_ne!(noise.draw(3, 3, 4, 4), first);
    }
}
