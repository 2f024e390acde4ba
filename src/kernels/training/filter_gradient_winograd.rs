//! Gradients of 3×3 filters on the CPU by Winograd's F(4×4, 3×3): dW = Gᵀ [Σ (Bᵀ d B) ⊙ (A dY Aᵀ)] G over the tiles of all
//! pictures, the windows d being those that the convolution itself reads. 36 products of channels by tiles and tiles by columns.
//!
//! Tasks are some channels of an input and a group of blocks of tiles. A sum is one chain along each block, then the blocks'
//! sums, then the groups': all by the shape alone.

use super::filter_gradient::{Params, sum_groups};
use crate::kernels::conv2d;
use crate::kernels::gemm::turned::{Run, Turned};
use crate::kernels::gemm::{PANEL, Panels};
use crate::kernels::scratch::{Shared, scratch};
use crate::kernels::winograd::{PLANES, TILE};
use crate::kernels::winograd_vectors::{fold_filters, pixels, transform, transform_tile};
use pulp::{Arch, Simd, WithSimd};
use std::ops::Range;

/// Tiles of a block.
const BLOCK: usize = 32;
/// Floats between planes, lest all of them fall into the same lines of a cache.
const GAP: usize = 16;

/// Whether a gradient is computed so: it follows from the shape of one picture.
pub(super) fn fits(p: &Params) -> bool {
    let tiles = p.out_height.div_ceil(TILE as u32) * p.out_width.div_ceil(TILE as u32);
    p.direct == 0
        && (p.kernel_height, p.kernel_width, p.stride) == (3, 3, 1)
        && p.in_a + p.in_b >= 16
        && p.cols >= 16
        && tiles * PLANES as u32 * 3 <= p.out_height * p.out_width * 9 * 2
}

/// y `[9, channels, cols]` by all threads.
pub(super) fn by_tiles(p: &Params, inputs: &[&[f32]], y: &mut [f32]) {
    let (down, across) = ((p.out_height as usize).div_ceil(TILE), (p.out_width as usize).div_ceil(TILE));
    let pictures = (p.rows / (p.out_height * p.out_width)) as usize;
    let tiles = pictures * down * across;
    let zeros = vec![0.0; p.in_a.max(p.in_b).max(p.cols) as usize];
    let (window, zeros) = (p.window(), &zeros[..]);
    sum_groups(p, tiles.div_ceil(BLOCK), y, |(input, some), blocks, y| {
        let tiles = blocks.start * BLOCK..tiles.min(blocks.end * BLOCK);
        Arch::new().dispatch(Task { p, window, inputs, zeros, down, across, input, some, tiles, y });
    });
}

/// Some channels of an input and some tiles.
struct Task<'a> {
    p: &'a Params,
    window: conv2d::Params,
    inputs: &'a [&'a [f32]],
    /// Read where there is no pixel.
    zeros: &'a [f32],
    /// Rows of tiles of a picture.
    down: usize,
    /// Tiles of such a row.
    across: usize,
    input: usize,
    some: Range<usize>,
    tiles: Range<usize>,
    y: &'a Shared<'a>,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (cols, rows) = (self.p.cols as usize, self.some.len());
        let width = cols.next_multiple_of(PANEL);
        let (windows, gradients, sums) = (BLOCK * rows + GAP, BLOCK * width + GAP, rows * width + GAP);
        let mut memory = scratch(PLANES * (windows + gradients + sums) + 9 * width);
        let (v, memory) = memory.split_at_mut(PLANES * windows);
        let (u, memory) = memory.split_at_mut(PLANES * gradients);
        let (m, taps) = memory.split_at_mut(PLANES * sums);
        for first in self.tiles.clone().step_by(BLOCK) {
            let count = BLOCK.min(self.tiles.end - first);
            for i in 0..count {
                self.windows(simd, first + i, &mut v[i * rows..], windows);
                self.gradients(simd, first + i, &mut u[i * width..], gradients);
            }
            let runs = &[Run { x: 0, w: 0, len: count }];
            for plane in 0..PLANES {
                Turned {
                    x: &v[plane * windows..][..count * rows],
                    x_stride: rows,
                    w: &Panels::in_place(&u[plane * gradients..][..count * width], count, cols, width),
                    runs,
                    step: (1, 1),
                    y: &mut m[plane * sums..][..rows * width],
                    rows,
                    stride: width,
                    goes_on: first > self.tiles.start,
                }
                .with_simd(simd);
            }
        }
        let channels = (self.p.in_a + self.p.in_b) as usize;
        let before = if self.input == 0 { 0 } else { self.p.in_a as usize };
        for (r, c) in self.some.clone().enumerate() {
            for col in (0..width).step_by(S::F32_LANES) {
                let m = &m[r * width + col..][..(PLANES - 1) * sums + S::F32_LANES];
                let taps = &mut taps[col..][..8 * width + S::F32_LANES];
                // SAFETY: m ends with a vector of its last plane, the taps with one of the last.
                unsafe { fold_filters(simd, (m.as_ptr(), sums), (taps.as_mut_ptr(), width)) };
            }
            for (tap, values) in taps.chunks_exact(width).enumerate() {
                // SAFETY: no other task has these channels of this group.
                let y = unsafe { self.y.slice((tap * channels + before + c) * cols, cols) };
                y.copy_from_slice(&values[..cols]);
            }
        }
    }
}

impl Task<'_> {
    /// Picture, row and column of a tile.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let row = tile / self.across;
        (row / self.down, row % self.down, tile % self.across)
    }

    /// Transforms the channels of a tile's window.
    #[inline(always)]
    fn windows<S: Simd>(&self, simd: S, tile: usize, v: &mut [f32], plane: usize) {
        let of_input = [self.p.in_a, self.p.in_b][self.input] as usize;
        let at = pixels(&self.window, (self.inputs[self.input], of_input), self.zeros, self.place(tile));
        for c in (0..self.some.len()).step_by(S::F32_LANES) {
            let count = S::F32_LANES.min(self.some.len() - c);
            let v = &mut v[c..][..(PLANES - 1) * plane + count];
            // SAFETY: each pixel has so many channels, and so has v of each plane.
            unsafe { transform(simd, (&at, self.some.start + c), count, v.as_mut_ptr(), plane) };
        }
    }

    /// Transforms the gradients of a tile.
    #[inline(always)]
    fn gradients<S: Simd>(&self, simd: S, tile: usize, u: &mut [f32], plane: usize) {
        let cols = self.p.cols as usize;
        let (out_height, out_width) = (self.p.out_height as usize, self.p.out_width as usize);
        let (picture, row, column) = self.place(tile);
        let mut at: [&[f32]; TILE * TILE] = [&self.zeros[..cols]; TILE * TILE];
        for y in 0..TILE.min(out_height - row * TILE) {
            let line = (picture * out_height + row * TILE + y) * out_width + column * TILE;
            for x in 0..TILE.min(out_width - column * TILE) {
                at[y * TILE + x] = &self.inputs[2][(line + x) * cols..][..cols];
            }
        }
        for col in (0..cols).step_by(S::F32_LANES) {
            let count = S::F32_LANES.min(cols - col);
            let u = &mut u[col..][..(PLANES - 1) * plane + count];
            // SAFETY: each pixel has so many columns, and so has u of each plane.
            unsafe { transform_tile(simd, (&at, col), count, u.as_mut_ptr(), plane) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Graph, Storage};
    use crate::kernels::conv2d::{Window, compute_directly, conv2d};
    use crate::kernels::filter_gradient;

    /// As a training step in f32 asks.
    #[test]
    fn no_gradient_that_is_asked_for_tap_by_tap_is_computed_so() {
        let mut g = Graph::new();
        let x = g.input("x", &[2, 8, 8, 32], Storage::Elem);
        let w = g.input("w", &[3, 3, 32, 48], Storage::Weight);
        let y = conv2d(&mut g, "conv", (&x, None), &w, None, Window::same(3));
        let p = Params::of_conv2d(&conv2d::Params::read(&g.nodes[0].params));
        let empty = g.empty();
        filter_gradient::filter_gradient(&mut g, "gradient", [&x, &empty, &y], &p);
        assert!(fits(&Params::read(&g.nodes[1].params)));
        compute_directly(&mut g);
        assert!(!fits(&Params::read(&g.nodes[1].params)));
    }
}
