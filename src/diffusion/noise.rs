//! Noise streams: the same seed gives the same picture as PyTorch on the CPU.

use super::box_muller::normal_fill;

const STATE: usize = 624;
const SHIFT: usize = 397;

/// `torch.Generator("cpu")`: mt19937 and PyTorch's transforms of its integers, bit for bit.
///
/// Consecutive calls continue the generator as consecutive `torch.randn(…, generator=g)` do. Sources:
/// ATen/core/MT19937RNGEngine.h, DistributionsHelper.h, native/cpu/DistributionTemplates.h. Values of
/// calls for 16 or more are those of torch's AVX2 kernel; torch on other CPUs differs in the last bits.
#[derive(Clone)]
pub struct NoiseStream {
    state: [u32; STATE],
    next: usize,
    /// The second value of the last Box–Muller pair of a short call (torch's `next_double_normal_sample`).
    cached: Option<f64>,
}

impl std::fmt::Debug for NoiseStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NoiseStream").field("next", &self.next).field("cached", &self.cached).finish()
    }
}

impl NoiseStream {
    /// The stream of `torch.Generator().manual_seed(seed)`. mt19937 takes the seed's low 32 bits only, so
    /// seeds that differ by a multiple of 2³² give the same stream, in torch too.
    pub fn new(seed: u64) -> Self {
        let mut state = [0; STATE];
        state[0] = seed as u32;
        for i in 1..STATE {
            let previous: u32 = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
        }
        NoiseStream { state, next: STATE, cached: None }
    }

    /// The generator's next 32-bit integer.
    pub fn random(&mut self) -> u32 {
        if self.next == STATE {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Two integers as one of 64 bits, the first one on top.
    pub fn random64(&mut self) -> u64 {
        let high = u64::from(self.random());
        (high << 32) | u64::from(self.random())
    }

    /// A uniform float32 in [0, 1) from the low 24 bits of one integer (`torch.rand`).
    pub fn uniform(&mut self) -> f32 {
        const SCALE: f32 = 1.0 / (1u32 << 24) as f32;
        (self.random() & 0x00ff_ffff) as f32 * SCALE
    }

    /// `n` standard normals: `torch.randn(n, dtype=float32, generator=self)`, or of any shape with `n`
    /// elements.
    ///
    /// As in torch, calls for 16 or more transform blocks of 16 uniforms and, when `n` is no multiple of 16,
    /// draw the last 16 values anew; shorter calls take pairs in float64 and keep an unused second value
    /// for the next short call.
    pub fn normal(&mut self, n: usize) -> Vec<f32> {
        if n < 16 {
            return (0..n).map(|_| self.normal_f64() as f32).collect();
        }
        let mut values: Vec<f32> = (0..n).map(|_| self.uniform()).collect();
        normal_fill(&mut values);
        if !n.is_multiple_of(16) {
            let tail = &mut values[n - 16..];
            tail.fill_with(|| self.uniform());
            normal_fill(tail);
        }
        values
    }

    /// `at::normal_distribution<double>(0, 1)`.
    fn normal_f64(&mut self) -> f64 {
        if let Some(value) = self.cached.take() {
            return value;
        }
        const SCALE: f64 = 1.0 / (1u64 << 53) as f64;
        let mut uniform = || (self.random64() & ((1 << 53) - 1)) as f64 * SCALE;
        let (u1, u2) = (uniform(), uniform());
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let theta = std::f64::consts::TAU * u1;
        self.cached = Some(radius * theta.sin());
        radius * theta.cos()
    }

    /// The recurrence of mt19937 (Matsumoto & Nishimura 1998), over the whole state.
    fn refill(&mut self) {
        for i in 0..STATE {
            let (u, v) = (self.state[i], self.state[(i + 1) % STATE]);
            let mixed = (u & 0x8000_0000) | (v & 0x7fff_ffff);
            let twist = (mixed >> 1) ^ if v & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT) % STATE] ^ twist;
        }
        self.next = 0;
    }
}
