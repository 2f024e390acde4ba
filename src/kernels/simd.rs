//! The CPU device's inner loops, compiled for every width of vectors and run with the widest this machine has.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::borrow::Cow;

/// Runs `f` compiled for the widest vectors: `f` and all that it calls must be `inline(always)`, and loops be `for`, as
/// iterators' own loops are functions that are compiled for every machine.
#[inline(always)]
pub(crate) fn wide<R>(f: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(f)
}

/// x as a vector; what it lacks is 0.
#[inline(always)]
pub(crate) fn load<S: Simd>(simd: S, x: &[f32]) -> S::f32s {
    // The partial load is a function of its own, slow beside the plain one.
    if let ([whole], []) = S::as_simd_f32s(x) { *whole } else { simd.partial_load_f32s(x) }
}

/// The vector into y, as far as y goes.
#[inline(always)]
pub(crate) fn store<S: Simd>(simd: S, y: &mut [f32], vector: S::f32s) {
    if y.len() == S::F32_LANES {
        S::as_mut_simd_f32s(y).0[0] = vector;
    } else {
        simd.partial_store_f32s(y, vector);
    }
}

/// e^x within 2 units in the last place, in arithmetic that vectorises. Beyond ±87 it stays at e^±87.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding it leaves a number of this size rounded to a whole one, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has few enough digits for n · LN2 to be exact.
    const LN2: f32 = 355.0 / 512.0;
    const LN2_REST: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 87.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    let n = rounded - ROUND;
    let r = x - n * LN2 - n * LN2_REST;
    // The series: |r| ≤ ln 2 / 2, where what is left out is below 6e-9.
    let p = r * (1.0 / 5040.0) + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    (p * r + 1.0) * power
}

/// Columns of a panel: two vectors of the widest kind.
const PANEL: usize = 32;

/// The right side of a product, `[inner, cols]`, as panels of [`PANEL`] columns, each contiguous where that pays.
pub(crate) struct Panels<'a> {
    values: Cow<'a, [f32]>,
    inner: usize,
    cols: usize,
    /// Floats from a panel to the next.
    panel: usize,
    /// Floats from a row of a panel to the next.
    stride: usize,
}

/// The left side of a product: rows of `runs.0 · run` values. A row lies in pieces of `run` values, `runs.1` apart;
/// rows may overlap, as the windows of a convolution do.
pub(crate) struct Rows<'a> {
    pub values: &'a [f32],
    /// Rows side by side, and floats from one to the next.
    pub across: (usize, usize),
    /// Floats from such a line of rows to the next.
    pub down: usize,
    /// Pieces of a row, and floats from one to the next.
    pub runs: (usize, usize),
    /// Values of a piece.
    pub run: usize,
}

impl<'a> Panels<'a> {
    /// For products of `rows` rows at a time: few do not pay for copying `w`.
    pub(crate) fn new(w: &'a [f32], inner: usize, cols: usize, rows: usize) -> Self {
        assert_eq!(w.len(), inner * cols, "a product's right side");
        if cols == PANEL / 2 || (cols.is_multiple_of(PANEL) && (cols == PANEL || rows < 48)) {
            return Panels { values: Cow::Borrowed(w), inner, cols, panel: PANEL, stride: cols };
        }
        let mut values = vec![0.0; cols.div_ceil(PANEL) * inner * PANEL];
        values.par_chunks_mut(inner * PANEL).enumerate().for_each(|(i, panel)| {
            let cut = i * PANEL..cols.min((i + 1) * PANEL);
            for (to, from) in panel.chunks_exact_mut(PANEL).zip(w.chunks_exact(cols)) {
                to[..cut.len()].copy_from_slice(&from[cut.clone()]);
            }
        });
        Panels { values: Cow::Owned(values), inner, cols, panel: inner * PANEL, stride: PANEL }
    }

    /// y `[rows, cols]` = x · this, on this thread.
    pub(crate) fn product(&self, x: &Rows<'_>, y: &mut [f32]) {
        Arch::new().dispatch(Product { w: self, x, y });
    }
}

struct Product<'a> {
    w: &'a Panels<'a>,
    x: &'a Rows<'a>,
    y: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let lanes = S::F32_LANES;
        for first in (0..self.w.cols).step_by(PANEL) {
            let end = self.w.cols.min(first + PANEL);
            let mut col = first;
            while col < end {
                // As many sums as there are registers for.
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

impl Product<'_> {
    /// `V` vectors of columns from `col` on, `R` rows at a time.
    #[inline(always)]
    fn columns<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, col: usize) {
        let (x, lanes, cols) = (self.x, S::F32_LANES, self.w.cols);
        let rows = self.y.len() / cols;
        let start = |row: usize| row / x.across.0 * x.down + row % x.across.0 * x.across.1;
        let width = (cols - col).min(V * lanes);
        let w = &self.w.values[col / PANEL * self.w.panel + col % PANEL..];
        assert!(
            x.runs.0 * x.run == self.w.inner && (self.w.inner - 1) * self.w.stride + V * lanes <= w.len()
        );
        for first in (0..rows).step_by(R) {
            // Past the end, the last row again.
            let at: [usize; R] = std::array::from_fn(|r| start((first + r).min(rows - 1)));
            let reach = (x.runs.0 - 1) * x.runs.1 + x.run;
            assert!(at.iter().all(|at| at + reach <= x.values.len()), "a product's left side is too small");
            // SAFETY: each row and the panel's last row end inside their slices as just asserted.
            unsafe {
                let at = at.map(|at| x.values.as_ptr().add(at));
                let y = &mut self.y[first * cols + col..];
                tile::<S, R, V>(simd, at, x.runs, x.run, (w.as_ptr(), self.w.stride), y, cols, width);
            }
        }
    }
}

/// y = `R` rows, each of `runs.0` pieces of `run` values `runs.1` apart, times `V` vectors of columns: the first `width`
/// columns of the rows that y, `cols` apart, has.
///
/// # Safety
/// All values of the rows and all vectors of w, its rows `w.1` apart, must be readable.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a matrix product has this many sizes")]
#[expect(clippy::needless_range_loop, reason = "only plain loops over the sums are unrolled early enough")]
unsafe fn tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    mut x: [*const f32; R],
    runs: (usize, usize),
    run: usize,
    w: (*const f32, usize),
    y: &mut [f32],
    cols: usize,
    width: usize,
) {
    let mut row = w.0;
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for _ in 0..runs.0 {
        for k in 0..run {
            // SAFETY: as the caller promises.
            unsafe {
                let mut vectors = [simd.splat_f32s(0.0); V];
                for v in 0..V {
                    vectors[v] = row.add(v * S::F32_LANES).cast::<S::f32s>().read_unaligned();
                }
                for r in 0..R {
                    let x = simd.splat_f32s(*x[r].add(k));
                    for v in 0..V {
                        sums[r][v] = simd.mul_add_e_f32s(x, vectors[v], sums[r][v]);
                    }
                }
                row = row.add(w.1);
            }
        }
        x = x.map(|x| x.wrapping_add(runs.1));
    }
    // By index: a loop over references would keep the sums in memory.
    for r in 0..R {
        for v in 0..V {
            if let Some(y) = y.get_mut(r * cols + v * S::F32_LANES..) {
                let left = width - v * S::F32_LANES;
                let end = left.min(S::F32_LANES).min(y.len());
                simd.partial_store_f32s(&mut y[..end], sums[r][v]);
            }
        }
    }
}
