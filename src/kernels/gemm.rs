//! Matrix products of the CPU device. Every element of a product is one chain of multiply-adds along the inner dimension, in
//! its order (or of each part of it, where a product goes on), whatever rows and columns are computed beside it: a row's bits
//! depend neither on how many there are, nor on how threads divide them.

pub(crate) mod turned;

use super::scratch::scratch;
use super::simd::{load, store};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// Side of the squares in which panels are turned.
const SQUARE: usize = 16;
/// Columns of a panel: two vectors of the widest kind.
pub(crate) const PANEL: usize = 32;
/// Rows from which it pays to copy panels of more columns than one.
const MANY: usize = 48;

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

/// A right side with its strides along the inner and the column axis.
type Strided<'a> = (&'a [f32], usize, usize);

/// Whether panels can be read where they are, and copying them would not pay for `rows` rows.
fn stay((_, along, across): Strided<'_>, cols: usize, rows: usize) -> bool {
    across == 1
        && along >= cols
        && (cols == PANEL / 2 || (cols.is_multiple_of(PANEL) && (cols == PANEL || rows < MANY)))
}

/// Copies panel `i`, times alpha.
fn fill_panel(panel: &mut [f32], i: usize, (w, along, across): Strided<'_>, cols: usize, alpha: f32) {
    let first = i * PANEL;
    let count = PANEL.min(cols - first);
    if count < PANEL {
        panel.fill(0.0);
    }
    if across == 1 {
        for (k, to) in panel.chunks_exact_mut(PANEL).enumerate() {
            to[..count].copy_from_slice(&w[k * along + first..][..count]);
        }
    } else {
        let (blocks, rest) = panel.as_chunks_mut::<{ SQUARE * PANEL }>();
        let done = blocks.len() * SQUARE;
        for (b, to) in blocks.iter_mut().enumerate() {
            for c in (0..PANEL).step_by(SQUARE) {
                // A square at a time: runs of what is read, turned on the way.
                let mut square = [[0.0; SQUARE]; SQUARE];
                for (r, square) in square.iter_mut().enumerate().take(count.saturating_sub(c)) {
                    let from = &w[(first + c + r) * across + b * SQUARE * along..];
                    if along == 1 {
                        square.copy_from_slice(&from[..SQUARE]);
                    } else {
                        for (k, v) in square.iter_mut().enumerate() {
                            *v = from[k * along];
                        }
                    }
                }
                for k in 0..SQUARE {
                    for r in 0..SQUARE {
                        to[k * PANEL + c + r] = square[r][k];
                    }
                }
            }
        }
        for (k, to) in rest.chunks_exact_mut(PANEL).enumerate() {
            for (c, to) in to[..count].iter_mut().enumerate() {
                *to = w[(first + c) * across + (done + k) * along];
            }
        }
    }
    if alpha != 1.0 {
        panel.iter_mut().for_each(|w| *w *= alpha);
    }
}

/// Floats of a matrix of so many elements in panels.
pub(crate) fn packed_len(len: usize, cols: usize) -> usize {
    len / cols.max(1) * cols.next_multiple_of(PANEL)
}

/// A right side `[inner, cols]` with its strides, times alpha, in panels, on this thread.
pub(crate) fn pack_into(panels: &mut [f32], w: Strided<'_>, [inner, cols]: [usize; 2], alpha: f32) {
    let panels = panels.chunks_exact_mut((inner * PANEL).max(1)).enumerate();
    panels.for_each(|(i, panel)| fill_panel(panel, i, w, cols, alpha));
}

/// w `[inner, cols]` in panels.
pub(crate) fn pack(w: &[f32], cols: usize) -> Vec<f32> {
    let mut values = vec![0.0; packed_len(w.len(), cols)];
    let panel = (w.len() / cols.max(1) * PANEL).max(1);
    values
        .par_chunks_mut(panel)
        .enumerate()
        .for_each(|(i, panel)| fill_panel(panel, i, (w, cols, 1), cols, 1.0));
    values
}

impl<'a> Panels<'a> {
    /// Of w `[inner, cols]`, for products of `rows` rows at a time: few do not pay for copying it.
    pub(crate) fn new(w: &'a [f32], inner: usize, cols: usize, rows: usize) -> Self {
        assert_eq!(w.len(), inner * cols, "a product's right side");
        let w = (w, cols, 1);
        if stay(w, cols, rows) {
            return Panels { values: Cow::Borrowed(w.0), inner, cols, panel: PANEL, stride: cols };
        }
        let values = pack(w.0, cols);
        Panels { values: Cow::Owned(values), inner, cols, panel: inner * PANEL, stride: PANEL }
    }

    /// Of w as [`pack`] makes it.
    pub(crate) fn packed(w: &'a [f32], inner: usize, cols: usize) -> Self {
        assert_eq!(w.len(), packed_len(inner * cols, cols), "a product's right side in panels");
        Panels { values: Cow::Borrowed(w), inner, cols, panel: inner * PANEL, stride: PANEL }
    }

    /// Row `k` of panel `i`: its columns, and zeros where there are none; the rows after it follow.
    #[inline(always)]
    pub(crate) fn row(&self, i: usize, k: usize) -> &[f32] {
        &self.values[i * self.panel + k * self.stride..]
    }

    /// Floats from a row of a panel to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Of w where it lies, `stride` floats from a row to the next, of all panels.
    pub(crate) fn in_place(w: &'a [f32], inner: usize, cols: usize, stride: usize) -> Self {
        Panels { values: Cow::Borrowed(w), inner, cols, panel: PANEL, stride }
    }

    /// Some rows and columns, from a whole panel on, of w `[inner, cols]` as [`pack`] makes it.
    pub(crate) fn packed_part(
        w: &'a [f32],
        [inner, cols]: [usize; 2],
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Self {
        assert!(columns.start.is_multiple_of(PANEL) && columns.end <= cols && rows.end <= inner);
        let panel = inner * PANEL;
        let values = Cow::Borrowed(&w[columns.start / PANEL * panel + rows.start * PANEL..]);
        Panels { values, inner: rows.len(), cols: columns.len(), panel, stride: PANEL }
    }

    /// y `[rows, cols]` = x · this, or y + x · this if it goes on, on this thread.
    pub(crate) fn product(&self, x: &Rows<'_>, y: &mut [f32], goes_on: bool) {
        let rows = y.len() / self.cols;
        Arch::new().dispatch(Product { w: self, x, y, rows, stride: self.cols, goes_on });
    }
}

/// y = alpha · x · w for y `[rows, cols]` and x `[rows, inner]` of the given strides, on this thread; `w` comes with its
/// strides along the inner and the column axis.
pub(crate) fn gemm(
    y: &mut [f32],
    y_stride: usize,
    x: &[f32],
    x_stride: usize,
    w: (&[f32], usize, usize),
    [rows, inner, cols]: [usize; 3],
    alpha: f32,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    let last = |n: usize, stride: usize| n.saturating_sub(1) * stride;
    assert!(last(rows, y_stride) + cols <= y.len(), "product's output is too small");
    if inner == 0 {
        return y.chunks_mut(y_stride).take(rows).for_each(|y| y[..cols].fill(0.0));
    }
    assert!(last(inner, w.1) + last(cols, w.2) < w.0.len(), "product's right side is too small");
    let x = Rows { values: x, across: (rows, x_stride), down: 0, runs: (1, inner), run: inner };
    if alpha == 1.0 && stay(w, cols, rows) {
        let w = &Panels::in_place(w.0, inner, cols, w.1);
        return Arch::new().dispatch(Product { w, x: &x, y, rows, stride: y_stride, goes_on: false });
    }
    let mut panel = scratch(inner * PANEL);
    for i in 0..cols.div_ceil(PANEL) {
        fill_panel(&mut panel, i, w, cols, alpha);
        let cols = PANEL.min(cols - i * PANEL);
        let w = &Panels::in_place(&panel, inner, cols, PANEL);
        let y = &mut y[i * PANEL..];
        Arch::new().dispatch(Product { w, x: &x, y, rows, stride: y_stride, goes_on: false });
    }
}

/// y = x · w, or y + x · w where it goes on with the next part of the inner dimension.
pub(crate) struct Product<'a> {
    pub w: &'a Panels<'a>,
    pub x: &'a Rows<'a>,
    pub y: &'a mut [f32],
    pub rows: usize,
    /// Floats from a row of y to the next.
    pub stride: usize,
    /// The sums are added to those that y holds.
    pub goes_on: bool,
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
    /// `V` vectors of columns from `col` on, `R` rows at a time, fewer where fewer are left.
    #[inline(always)]
    fn columns<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, col: usize) {
        let mut first = 0;
        while first < self.rows {
            match self.rows - first {
                1 => self.rows::<S, 1, V>(simd, first, col),
                2 => self.rows::<S, 2, V>(simd, first, col),
                3 | 4 => self.rows::<S, 4, V>(simd, first, col),
                _ => self.rows::<S, R, V>(simd, first, col),
            }
            first += R;
        }
    }

    /// `R` rows from `first` on.
    #[inline(always)]
    fn rows<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, first: usize, col: usize) {
        let (x, w) = (self.x, self.w);
        // A division only where rows lie in lines.
        let start = |row: usize| match x.down {
            0 => row * x.across.1,
            down => row / x.across.0 * down + row % x.across.0 * x.across.1,
        };
        let width = (w.cols - col).min(V * S::F32_LANES);
        let panel = &w.values[col / PANEL * w.panel + col % PANEL..];
        assert!(
            x.runs.0 * x.run == w.inner && (w.inner - 1) * w.stride + V * S::F32_LANES <= panel.len(),
            "a product's right side is too small"
        );
        // Past the end, the last row again.
        let at: [usize; R] = std::array::from_fn(|r| start((first + r).min(self.rows - 1)));
        let reach = (x.runs.0 - 1) * x.runs.1 + x.run;
        assert!(at.iter().all(|at| at + reach <= x.values.len()), "a product's left side is too small");
        let live = R.min(self.rows - first);
        let y = first * self.stride + col;
        let y = &mut self.y[y..y + (live - 1) * self.stride + width];
        // SAFETY: each row and the panel's last row end inside their slices as just asserted.
        unsafe {
            let at = at.map(|at| x.values.as_ptr().add(at));
            let w = (panel.as_ptr(), w.stride);
            tile::<S, R, V>(simd, at, x.runs, x.run, w, y, (self.stride, width), self.goes_on);
        }
    }
}

/// `R` rows, each of `runs.0` pieces of `run` values `runs.1` apart, times `V` vectors of columns, into the first `width`
/// columns of the rows, `stride` apart, that y has; the sums are added to what is there if they go on.
///
/// # Safety
/// All values of the rows and all vectors of w, its rows `w.1` apart, must be readable.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "only plain loops over the sums are unrolled early enough")]
#[expect(clippy::too_many_arguments, reason = "a matrix product has this many sizes")]
unsafe fn tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    mut x: [*const f32; R],
    runs: (usize, usize),
    run: usize,
    w: (*const f32, usize),
    y: &mut [f32],
    (stride, width): (usize, usize),
    goes_on: bool,
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
                row = row.wrapping_add(w.1);
            }
        }
        x = x.map(|x| x.wrapping_add(runs.1));
    }
    put::<S, R, V>(simd, sums, y, (stride, width), goes_on);
}

/// `R` rows of `V` vectors into the first `width` columns of the rows, `stride` apart, that y has; added to what is there if
/// they go on.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "only plain loops over the sums are unrolled early enough")]
fn put<S: Simd, const R: usize, const V: usize>(
    simd: S,
    mut sums: [[S::f32s; V]; R],
    y: &mut [f32],
    (stride, width): (usize, usize),
    goes_on: bool,
) {
    if width >= V * S::F32_LANES && y.len() >= (R - 1) * stride + V * S::F32_LANES {
        for r in 0..R {
            for v in 0..V {
                // SAFETY: y has whole vectors of all rows, as just asked.
                unsafe {
                    let y = y.as_mut_ptr().add(r * stride + v * S::F32_LANES).cast::<S::f32s>();
                    if goes_on {
                        sums[r][v] = simd.add_f32s(sums[r][v], y.read_unaligned());
                    }
                    y.write_unaligned(sums[r][v]);
                }
            }
        }
        return;
    }
    // In memory now, and not before: the small loop is unrolled early enough for the sums to stay in registers until here.
    let mut done = [[simd.splat_f32s(0.0); V]; R];
    for r in 0..R {
        for v in 0..V {
            done[r][v] = sums[r][v];
        }
    }
    for (r, done) in done.iter().enumerate() {
        for (v, sum) in done.iter().enumerate() {
            if let Some(y) = y.get_mut(r * stride + v * S::F32_LANES..) {
                let left = width - v * S::F32_LANES;
                let end = left.min(S::F32_LANES).min(y.len());
                let sum = if goes_on { simd.add_f32s(*sum, load(simd, &y[..end])) } else { *sum };
                store(simd, &mut y[..end], sum);
            }
        }
    }
}
