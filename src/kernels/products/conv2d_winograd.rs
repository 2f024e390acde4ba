//! 3×3 convolutions on the CPU by Winograd's F(4×4, 3×3): windows, 36 products and tiles, of filters that are transformed
//! where they are used, so that nothing but the convolution's own filters is read or kept.
//!
//! Of some rows of tiles at a time: all threads transform the windows; then each takes [`PANEL`] output channels of a group
//! of them, some input channels at a time: transforms filters, multiplies, and at last makes tiles of the sums. All the while
//! filters and sums stay in its second cache. A sum is a chain of each block of input channels, whatever the groups.

#![expect(
    clippy::needless_range_loop,
    reason = "plain loops over arrays of vectors are unrolled early enough"
)]

use super::conv2d::Params;
use super::winograd::{PLANES, TILE, WINDOW};
use super::winograd_vectors::{filter, output, pixels, transform};
use crate::kernels::epilogue::Epilogue;
use crate::kernels::gemm::{PANEL, Panels, Product, Rows};
use crate::kernels::scratch::{Shared, scratch};
use crate::kernels::simd::{read, write};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Most tiles of a strip.
const STRIP: usize = 32;
/// Most floats of windows that a thread transforms for itself: they stay in its second cache.
const OWN_WINDOWS: usize = 160 << 10;
/// Fewest tiles for which that pays, as each panel's filters are transformed for them.
const OWN_GROUP: usize = 32;
/// Fewest tiles of a group, where there are more.
const FEW: usize = 16;
/// Tiles of a group, about.
const GROUP: usize = 64;
/// Most input channels of a block: those whose filters are transformed at a time.
const CHANNELS: usize = 96;
/// Most floats of the windows that are there at once.
const WINDOWS: usize = 2 << 20;
/// Floats between planes, lest all of them fall into the same lines of a cache.
const GAP: usize = 16;
/// What transforming a filter costs, in tiles.
const FILTER: u32 = 3;

/// Whether a convolution is computed so: it follows from the shape of one picture.
pub(super) fn fits(p: &Params) -> bool {
    let tiles = p.out_height.div_ceil(TILE as u32) * p.out_width.div_ceil(TILE as u32);
    let fewer = (tiles + FILTER) * PLANES as u32 * 4 <= p.out_height * p.out_width * 9 * 3;
    p.direct == 0
        && (p.kernel_height, p.kernel_width, p.stride) == (3, 3, 1)
        && p.in_a + p.in_b >= 16
        && fewer
}

/// A convolution. Its tiles come in strips: parts of a row of tiles, of one length.
struct Convolution<'a> {
    p: Params,
    epilogue: Epilogue,
    inputs: &'a [&'a [f32]],
    w: &'a Panels<'a>,
    channels: usize,
    cols: usize,
    /// Rows of tiles of a picture.
    down: usize,
    /// Tiles of such a row.
    across: usize,
    /// Tiles of a strip; the last one of a row may reach beyond the picture.
    strip: usize,
    /// Strips of a row of tiles.
    strips: usize,
    /// Input channels of a block, the last one of which may have fewer.
    block: usize,
    /// Read where there is no pixel.
    zeros: Vec<f32>,
}

/// y by all threads.
pub(super) fn convolve(p: Params, inputs: &[&[f32]], w: &Panels<'_>, y: &mut [f32]) {
    let (channels, cols) = ((p.in_a + p.in_b) as usize, p.cols as usize);
    let (down, across) = ((p.out_height as usize).div_ceil(TILE), (p.out_width as usize).div_ceil(TILE));
    let strips = across.div_ceil(STRIP);
    let strip = across.div_ceil(strips);
    let zeros = vec![0.0; p.in_a.max(p.in_b) as usize];
    let epilogue = Epilogue::read(&p.bytes());
    let block = channels.div_ceil(channels.div_ceil(CHANNELS)).next_multiple_of(4);
    let of =
        Convolution { p, epilogue, inputs, w, channels, cols, down, across, strip, strips, block, zeros };
    let pictures = p.rows as usize / (p.out_height * p.out_width) as usize;
    let (all, panels) = (pictures * down * strips, cols.div_ceil(PANEL));
    assert_eq!(y.len(), p.rows as usize * cols, "a convolution's output");
    let y = Shared::new(y);
    let windows = of.windows();
    // Several tasks for each thread, of tiles enough to be worth their filters.
    let tasks = 4 * rayon::current_num_threads();
    let (least, most) = (FEW.div_ceil(strip), GROUP.div_ceil(strip));
    let own = (OWN_WINDOWS / windows).min(most);
    if own * strip >= OWN_GROUP && all.div_ceil(own) >= tasks {
        return (0..all.div_ceil(own)).into_par_iter().for_each(|i| {
            let strips = i * own..all.min((i + 1) * own);
            let mut v = scratch(strips.len() * windows);
            for (strip, v) in strips.clone().zip(v.chunks_exact_mut(windows)) {
                Arch::new().dispatch(Windows { of: &of, strip, v });
            }
            for col in (0..cols).step_by(PANEL) {
                Arch::new().dispatch(Task { of: &of, col, strips: strips.clone(), v: &v, y: &y });
            }
        });
    }
    let at_once = (WINDOWS / windows).max(most).min(all);
    let group = (at_once * panels / tasks).clamp(least, most);
    let mut v = scratch(at_once * windows);
    for first in (0..all).step_by(at_once) {
        let some = at_once.min(all - first);
        let v = &mut v[..some * windows];
        v.par_chunks_mut(windows).enumerate().for_each(|(i, v)| {
            Arch::new().dispatch(Windows { of: &of, strip: first + i, v });
        });
        let groups = some.div_ceil(group);
        (0..groups * panels).into_par_iter().for_each(|i| {
            let (panel, start) = (i / groups, i % groups * group);
            let strips = start..some.min(start + group);
            let v = &v[strips.start * windows..strips.end * windows];
            let strips = first + strips.start..first + strips.end;
            Arch::new().dispatch(Task { of: &of, col: panel * PANEL, strips, v, y: &y });
        });
    }
}

impl Convolution<'_> {
    /// Floats of a strip's windows.
    fn windows(&self) -> usize {
        PLANES * (self.strip * self.channels + self.channels.div_ceil(self.block) * GAP)
    }

    /// Where the block that begins with this channel is in a strip's windows, and floats from a plane of it to the next.
    fn place_of_block(&self, first: usize) -> (usize, usize) {
        let inner = self.block.min(self.channels - first);
        (PLANES * (self.strip * first + first / self.block * GAP), self.strip * inner + GAP)
    }

    /// Picture, row of tiles, and first tile of a strip.
    fn place(&self, strip: usize) -> (usize, usize, usize) {
        let row = strip / self.strips;
        (row / self.down, row % self.down, strip % self.strips * self.strip)
    }
}

/// Transforms the windows of a strip: v `[blocks, 36, tiles, channels of a block]`.
struct Windows<'a> {
    of: &'a Convolution<'a>,
    strip: usize,
    v: &'a mut [f32],
}

impl WithSimd for Windows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (of, p) = (self.of, &self.of.p);
        let (picture, tile_row, first) = of.place(self.strip);
        let inputs = [(of.inputs[0], p.in_a as usize, 0), (of.inputs[1], p.in_b as usize, p.in_a as usize)];
        for tile in 0..of.strip {
            for (x, channels, offset) in inputs {
                let at = pixels(p, (x, channels), &of.zeros, (picture, tile_row, first + tile));
                let mut c = 0;
                while c < channels {
                    let (block, inside) = ((offset + c) / of.block * of.block, (offset + c) % of.block);
                    let inner = of.block.min(of.channels - block);
                    let count = S::F32_LANES.min(channels - c).min(inner - inside);
                    let (start, plane) = of.place_of_block(block);
                    let v = &mut self.v[start + tile * inner + inside..][..(PLANES - 1) * plane + count];
                    // SAFETY: each pixel has so many channels from c on, and so has v of each plane.
                    unsafe { transform(simd, (&at, c), count, v.as_mut_ptr(), plane) };
                    c += count;
                }
            }
        }
    }
}

/// Output channels from `col` on of some strips: v `[strips, blocks, 36, tiles, channels of a block]`.
struct Task<'a> {
    of: &'a Convolution<'a>,
    col: usize,
    strips: Range<usize>,
    v: &'a [f32],
    y: &'a Shared<'a>,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let of = self.of;
        let cols = (of.cols - self.col).min(PANEL);
        // Columns, with those that fill the last vector.
        let width = if cols <= PANEL / 2 { PANEL / 2 } else { PANEL };
        let tiles = self.strips.len() * of.strip;
        let (filters, sums) = (of.block * width + GAP, tiles * width + GAP);
        let mut memory = scratch(PLANES * (filters + sums) + TILE * TILE * width);
        let (u, memory) = memory.split_at_mut(PLANES * filters);
        let (m, tile) = memory.split_at_mut(PLANES * sums);
        for first in (0..of.channels).step_by(of.block) {
            let inner = of.block.min(of.channels - first);
            let (at, v) = of.place_of_block(first);
            self.filters(simd, first..first + inner, width, u, filters);
            for plane in 0..PLANES {
                let w = &Panels::in_place(&u[plane * filters..][..inner * width], inner, cols, width);
                let x = &Rows {
                    values: &self.v[at + plane * v..],
                    across: (of.strip, inner),
                    down: if self.strips.len() > 1 { of.windows() } else { 0 },
                    runs: (1, inner),
                    run: inner,
                };
                let y = &mut m[plane * sums..][..tiles * width];
                Product { w, x, y, rows: tiles, stride: width, goes_on: first > 0 }.with_simd(simd);
            }
        }
        self.tiles(simd, m, sums, tile, width);
    }
}

impl Task<'_> {
    /// Transforms the filters of some input channels: u `[36, channels, width]`, its planes so many floats apart.
    #[inline(always)]
    fn filters<S: Simd>(&self, simd: S, channels: Range<usize>, width: usize, u: &mut [f32], plane: usize) {
        let of = self.of;
        let taps = of.channels * of.w.stride();
        let u = &mut u[..(PLANES - 1) * plane + channels.len() * width];
        for (i, c) in channels.clone().enumerate() {
            for j in (0..width).step_by(S::F32_LANES) {
                let count = S::F32_LANES.min((of.cols - self.col).saturating_sub(j));
                if count == 0 {
                    continue;
                }
                let w = &of.w.row(self.col / PANEL, c)[j..][..8 * taps + count];
                let u = &mut u[i * width + j..];
                let mut half = [[simd.splat_f32s(0.0); 3]; WINDOW];
                for kx in 0..3 {
                    let mut column = [simd.splat_f32s(0.0); 3];
                    for ky in 0..3 {
                        // SAFETY: w ends with so many of its last tap.
                        column[ky] = unsafe { read(simd, w.as_ptr().add((ky * 3 + kx) * taps), count) };
                    }
                    let column = filter(simd, column);
                    for r in 0..WINDOW {
                        half[r][kx] = column[r];
                    }
                }
                for r in 0..WINDOW {
                    let row = filter(simd, half[r]);
                    for k in 0..WINDOW {
                        // SAFETY: u ends with a row of its last plane.
                        unsafe {
                            write(simd, u.as_mut_ptr().add((r * WINDOW + k) * plane), S::F32_LANES, row[k])
                        };
                    }
                }
            }
        }
    }

    /// The pixels of all tiles of the sums m `[36, tiles, width]`, its planes so many floats apart.
    #[inline(always)]
    fn tiles<S: Simd>(&self, simd: S, m: &[f32], plane: usize, pixels: &mut [f32], width: usize) {
        let (of, p) = (self.of, &self.of.p);
        let (out_height, out_width) = (p.out_height as usize, p.out_width as usize);
        let cols = (of.cols - self.col).min(PANEL);
        let bias = (p.has_bias != 0).then(|| &of.inputs[3][self.col..]);
        for (i, strip) in self.strips.clone().enumerate() {
            let (picture, tile_row, first) = of.place(strip);
            for tile in 0..of.strip.min(of.across - first) {
                let at = (i * of.strip + tile) * width;
                for j in (0..width).step_by(S::F32_LANES) {
                    let m = &m[at + j..][..(PLANES - 1) * plane + S::F32_LANES];
                    let mut half = [[simd.splat_f32s(0.0); TILE]; WINDOW];
                    for r in 0..WINDOW {
                        let mut row = [simd.splat_f32s(0.0); WINDOW];
                        for k in 0..WINDOW {
                            // SAFETY: m ends with a vector of its last plane.
                            row[k] =
                                unsafe { read(simd, m.as_ptr().add((r * WINDOW + k) * plane), S::F32_LANES) };
                        }
                        half[r] = output(simd, row);
                    }
                    let pixels = &mut pixels[j..][..(TILE * TILE - 1) * width + S::F32_LANES];
                    for k in 0..TILE {
                        let mut column = [simd.splat_f32s(0.0); WINDOW];
                        for r in 0..WINDOW {
                            column[r] = half[r][k];
                        }
                        let column = output(simd, column);
                        for r in 0..TILE {
                            // SAFETY: the pixels end with a vector of the last.
                            unsafe {
                                let to = pixels.as_mut_ptr().add((r * TILE + k) * width);
                                write(simd, to, S::F32_LANES, column[r]);
                            }
                        }
                    }
                }
                let (top, left) = (tile_row * TILE, (first + tile) * TILE);
                let count = TILE.min(out_width - left);
                for r in 0..TILE.min(out_height - top) {
                    let pixels = &mut pixels[r * TILE * width..][..count * width];
                    let row = (picture * out_height + top + r) * out_width + left;
                    of.epilogue.apply_columns(
                        pixels,
                        row,
                        self.col..self.col + width,
                        of.cols,
                        bias,
                        of.inputs[4],
                    );
                    for (k, pixel) in pixels.chunks_exact(width).enumerate() {
                        for j in (0..cols).step_by(S::F32_LANES) {
                            let count = S::F32_LANES.min(cols - j);
                            // SAFETY: these columns of the row are this task's; the pixel has whole vectors.
                            unsafe {
                                let y = self.y.slice((row + k) * of.cols + self.col + j, count);
                                write(
                                    simd,
                                    y.as_mut_ptr(),
                                    count,
                                    read(simd, pixel.as_ptr().add(j), S::F32_LANES),
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
