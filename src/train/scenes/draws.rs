//! Random choices from a seeded stream. The same seed and index give the same ones, so that data can be taken up at any step
//! and divided among threads.

use super::words::Colour;
use crate::diffusion::{NoiseStream, stream_seed};

/// The random choices of one scene.
#[derive(Clone, Debug)]
pub struct Draws(NoiseStream);

impl Draws {
    /// Those of number `index` of a seed's data. (A stream has 32 bits of seed, so one scene in 2³² is another's.)
    pub fn new(seed: u64, index: u64) -> Draws {
        Draws(NoiseStream::new(stream_seed([seed, index])))
    }

    /// From 0 to 1, 1 not among them.
    pub fn unit(&mut self) -> f64 {
        const SCALE: f64 = 1.0 / (1u64 << 53) as f64;
        (self.0.random64() >> 11) as f64 * SCALE
    }

    /// From `low` to `high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True so often.
    pub fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// One of three, by the shares of the first two.
    pub fn one_of<T: Copy>(&mut self, of: [T; 3], shares: [f64; 2]) -> T {
        let at = self.unit();
        of[usize::from(at >= shares[0]) + usize::from(at >= shares[0] + shares[1])]
    }

    /// A colour that is none of these.
    pub fn colour(&mut self, but: &[Colour]) -> Colour {
        loop {
            let colour = self.pick(Colour::ALL);
            if !but.contains(&colour) {
                return colour;
            }
        }
    }
}
