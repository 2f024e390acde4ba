//! Products whose left side lies turned, as the pixels of a picture do where its channels are the product's rows.

use super::{PANEL, Panels, put};
use pulp::{Simd, WithSimd};

/// Values of the inner dimension one after another: the first one's place on the left, and its row on the right.
pub(crate) struct Run {
    pub x: usize,
    pub w: usize,
    pub len: usize,
}

/// y `[rows, cols]` = xᵀ · w of the places of some runs, or y + xᵀ · w: a product whose left side lies with its rows side by
/// side, as the channels of a picture's pixels do. Every element is one chain along the runs.
pub(crate) struct Turned<'a> {
    pub x: &'a [f32],
    /// Floats from a place on the left to the next.
    pub x_stride: usize,
    pub w: &'a Panels<'a>,
    pub runs: &'a [Run],
    /// Places on the left, and rows on the right, from a value of a run to the next.
    pub step: (usize, usize),
    pub y: &'a mut [f32],
    pub rows: usize,
    /// Floats from a row of y to the next.
    pub stride: usize,
    /// The sums are added to those that y holds.
    pub goes_on: bool,
}

impl WithSimd for Turned<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (lanes, cols, panels) = (S::F32_LANES, self.w.cols, self.w.cols.div_ceil(PANEL));
        let last = (panels - 1) * self.w.panel + (cols - (panels - 1) * PANEL).next_multiple_of(lanes);
        for run in self.runs.iter().filter(|run| run.len > 0) {
            let (x, w) = (run.x + (run.len - 1) * self.step.0, run.w + (run.len - 1) * self.step.1);
            assert!(x * self.x_stride + self.rows <= self.x.len(), "a product's left side is too small");
            assert!(w * self.w.stride + last <= self.w.values.len(), "a product's right side is too small");
        }
        for col in (0..cols).step_by(PANEL) {
            let end = cols.min(col + PANEL);
            let mut col = col;
            while col < end {
                if end - col <= lanes {
                    self.columns::<S, 8, 1>(simd, col);
                } else if S::REGISTER_COUNT < 32 {
                    self.columns::<S, 6, 2>(simd, col);
                } else {
                    self.columns::<S, 8, 2>(simd, col);
                }
                col += 2 * lanes;
            }
        }
    }
}

impl Turned<'_> {
    /// `V` vectors of columns from `col` on, `R` rows at a time, fewer where fewer are left.
    #[inline(always)]
    fn columns<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, col: usize) {
        let mut first = 0;
        while first < self.rows {
            first += match self.rows - first {
                1 => self.tile::<S, 1, V>(simd, first, col),
                2 | 3 => self.tile::<S, 2, V>(simd, first, col),
                left if left < R => self.tile::<S, 4, V>(simd, first, col),
                _ => self.tile::<S, R, V>(simd, first, col),
            }
        }
    }

    /// `R` rows from `first` on; says how many they are.
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "only plain loops over the sums are unrolled early enough"
    )]
    fn tile<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, first: usize, col: usize) -> usize {
        let panel = col / PANEL * self.w.panel + col % PANEL;
        let (x_step, w_step) = (self.step.0 * self.x_stride, self.step.1 * self.w.stride);
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for run in self.runs {
            // SAFETY: the last value of each run has been found inside both sides.
            unsafe {
                let mut x = self.x.as_ptr().add(run.x * self.x_stride + first);
                let mut w = self.w.values.as_ptr().add(run.w * self.w.stride + panel);
                for _ in 0..run.len {
                    let mut vectors = [simd.splat_f32s(0.0); V];
                    for v in 0..V {
                        vectors[v] = w.add(v * S::F32_LANES).cast::<S::f32s>().read_unaligned();
                    }
                    for r in 0..R {
                        let x = simd.splat_f32s(*x.add(r));
                        for v in 0..V {
                            sums[r][v] = simd.mul_add_e_f32s(x, vectors[v], sums[r][v]);
                        }
                    }
                    x = x.wrapping_add(x_step);
                    w = w.wrapping_add(w_step);
                }
            }
        }
        let width = (self.w.cols - col).min(V * S::F32_LANES);
        let y = first * self.stride + col;
        let y = &mut self.y[y..y + (R - 1) * self.stride + width];
        put::<S, R, V>(simd, sums, y, (self.stride, width), self.goes_on);
        R
    }
}
