//! Winograd's transforms in vectors, by the points of [`super::winograd`].

#![expect(
    clippy::needless_range_loop,
    reason = "plain loops over arrays of vectors are unrolled early enough"
)]

use super::conv2d::Params;
use super::winograd::{PLANES, TILE, WINDOW};
use crate::kernels::simd::{read, write};
use pulp::Simd;
use std::f32::consts::{FRAC_1_SQRT_2 as A, SQRT_2 as B};

/// The pixels of x, of so many channels, that a tile's window reads: zeros where there are none.
#[inline(always)]
pub(crate) fn pixels<'a>(
    p: &Params,
    (x, channels): (&'a [f32], usize),
    zeros: &'a [f32],
    (picture, row, column): (usize, usize, usize),
) -> [&'a [f32]; PLANES] {
    let (height, width, up) = (p.height as usize, p.width as usize, p.up as usize);
    let first = picture % p.pictures as usize * height;
    // What lies before the first one is, unsigned, far behind the last.
    let line = |at: usize, pad: u32, side: usize| {
        let at = (at as u32).wrapping_sub(pad) as usize;
        (at < side * up).then(|| at / up)
    };
    let columns: [Option<usize>; WINDOW] =
        std::array::from_fn(|c| line(column * TILE + c, p.pad_left, width));
    let mut at: [&[f32]; PLANES] = [&zeros[..channels]; PLANES];
    for r in 0..WINDOW {
        let Some(y) = line(row * TILE + r, p.pad_top, height) else { continue };
        for c in 0..WINDOW {
            if let Some(column) = columns[c] {
                at[r * WINDOW + c] = &x[((first + y) * width + column) * channels..][..channels];
            }
        }
    }
    at
}

/// Writes Bᵀ d B of `count` channels of a window from `first` on, its planes so many floats apart.
///
/// # Safety
/// So many must be readable of each pixel, and writable of each plane.
#[inline(always)]
pub(crate) unsafe fn transform<S: Simd>(
    simd: S,
    (d, first): (&[&[f32]; PLANES], usize),
    count: usize,
    v: *mut f32,
    plane: usize,
) {
    let mut half = [[simd.splat_f32s(0.0); WINDOW]; WINDOW];
    for c in 0..WINDOW {
        let mut column = [simd.splat_f32s(0.0); WINDOW];
        for r in 0..WINDOW {
            // SAFETY: as the caller promises.
            column[r] = unsafe { read(simd, d[r * WINDOW + c].as_ptr().add(first), count) };
        }
        half[c] = window(simd, column);
    }
    for r in 0..WINDOW {
        let mut row = [simd.splat_f32s(0.0); WINDOW];
        for c in 0..WINDOW {
            row[c] = half[c][r];
        }
        let row = window(simd, row);
        for c in 0..WINDOW {
            // SAFETY: as the caller promises.
            unsafe { write(simd, v.add((r * WINDOW + c) * plane), count, row[c]) };
        }
    }
}

/// a x + y
#[inline(always)]
fn add<S: Simd>(simd: S, a: f32, x: S::f32s, y: S::f32s) -> S::f32s {
    simd.mul_add_e_f32s(simd.splat_f32s(a), x, y)
}

/// a x
#[inline(always)]
fn scale<S: Simd>(simd: S, a: f32, x: S::f32s) -> S::f32s {
    simd.mul_f32s(simd.splat_f32s(a), x)
}

/// Bᵀ x
#[inline(always)]
fn window<S: Simd>(simd: S, x: [S::f32s; WINDOW]) -> [S::f32s; WINDOW] {
    let (s, t) = (add(simd, -2.0, x[2], x[4]), add(simd, -2.0, x[1], x[3]));
    let (u, w) = (add(simd, -0.5, x[2], x[4]), add(simd, -0.5, x[1], x[3]));
    [
        add(simd, -2.5, x[2], simd.add_f32s(x[0], x[4])),
        add(simd, A, t, s),
        add(simd, -A, t, s),
        add(simd, B, w, u),
        add(simd, -B, w, u),
        add(simd, -2.5, x[3], simd.add_f32s(x[1], x[5])),
    ]
}

/// G x
#[inline(always)]
pub(crate) fn filter<S: Simd>(simd: S, x: [S::f32s; 3]) -> [S::f32s; WINDOW] {
    let s = scale(simd, -2.0 / 3.0, add(simd, 0.5, x[2], x[0]));
    let t = scale(simd, 1.0 / 6.0, add(simd, 2.0, x[2], x[0]));
    [
        x[0],
        add(simd, -2.0 / 3.0 * A, x[1], s),
        add(simd, 2.0 / 3.0 * A, x[1], s),
        add(simd, B / 6.0, x[1], t),
        add(simd, -B / 6.0, x[1], t),
        x[2],
    ]
}

/// Aᵀ x
#[inline(always)]
pub(crate) fn output<S: Simd>(simd: S, x: [S::f32s; WINDOW]) -> [S::f32s; TILE] {
    let (s, d) = (simd.add_f32s(x[1], x[2]), scale(simd, A, simd.sub_f32s(x[1], x[2])));
    let (t, e) = (simd.add_f32s(x[3], x[4]), scale(simd, B, simd.sub_f32s(x[3], x[4])));
    [
        simd.add_f32s(x[0], simd.add_f32s(s, t)),
        simd.add_f32s(d, e),
        add(simd, 2.0, t, scale(simd, 0.5, s)),
        add(simd, 2.0, e, add(simd, 0.5, d, x[5])),
    ]
}

/// A x
#[inline(always)]
fn spread<S: Simd>(simd: S, x: [S::f32s; TILE]) -> [S::f32s; WINDOW] {
    let (s, d) = (add(simd, 0.5, x[2], x[0]), scale(simd, A, add(simd, 0.5, x[3], x[1])));
    let (t, e) = (add(simd, 2.0, x[2], x[0]), scale(simd, B, add(simd, 2.0, x[3], x[1])));
    [x[0], simd.add_f32s(s, d), simd.sub_f32s(s, d), simd.add_f32s(t, e), simd.sub_f32s(t, e), x[3]]
}

/// Gᵀ x
#[inline(always)]
fn fold<S: Simd>(simd: S, x: [S::f32s; WINDOW]) -> [S::f32s; 3] {
    let (s, d) = (simd.add_f32s(x[1], x[2]), simd.sub_f32s(x[1], x[2]));
    let (t, e) = (simd.add_f32s(x[3], x[4]), simd.sub_f32s(x[3], x[4]));
    [
        add(simd, -2.0 / 3.0, s, add(simd, 1.0 / 6.0, t, x[0])),
        add(simd, -2.0 / 3.0 * A, d, scale(simd, B / 6.0, e)),
        add(simd, -1.0 / 3.0, s, add(simd, 1.0 / 3.0, t, x[5])),
    ]
}

/// Writes A d Aᵀ of `count` channels of a tile's pixels from `first` on, its planes so many floats apart.
///
/// # Safety
/// So many must be readable of each pixel, and writable of each plane.
#[inline(always)]
pub(crate) unsafe fn transform_tile<S: Simd>(
    simd: S,
    (d, first): (&[&[f32]; TILE * TILE], usize),
    count: usize,
    v: *mut f32,
    plane: usize,
) {
    let mut half = [[simd.splat_f32s(0.0); TILE]; WINDOW];
    for c in 0..TILE {
        let mut column = [simd.splat_f32s(0.0); TILE];
        for r in 0..TILE {
            // SAFETY: as the caller promises.
            column[r] = unsafe { read(simd, d[r * TILE + c].as_ptr().add(first), count) };
        }
        let column = spread(simd, column);
        for r in 0..WINDOW {
            half[r][c] = column[r];
        }
    }
    for r in 0..WINDOW {
        let row = spread(simd, half[r]);
        for c in 0..WINDOW {
            // SAFETY: as the caller promises.
            unsafe { write(simd, v.add((r * WINDOW + c) * plane), count, row[c]) };
        }
    }
}

/// Writes Gᵀ m G, the 9 taps of a vector of filters, of planes so many floats apart into taps so many floats apart.
///
/// # Safety
/// A vector must be readable of each plane, and writable of each tap.
#[inline(always)]
pub(crate) unsafe fn fold_filters<S: Simd>(
    simd: S,
    (m, plane): (*const f32, usize),
    (y, tap): (*mut f32, usize),
) {
    let mut half = [[simd.splat_f32s(0.0); WINDOW]; 3];
    for c in 0..WINDOW {
        let mut column = [simd.splat_f32s(0.0); WINDOW];
        for r in 0..WINDOW {
            // SAFETY: as the caller promises.
            column[r] = unsafe { read(simd, m.add((r * WINDOW + c) * plane), S::F32_LANES) };
        }
        let column = fold(simd, column);
        for r in 0..3 {
            half[r][c] = column[r];
        }
    }
    for r in 0..3 {
        let row = fold(simd, half[r]);
        for c in 0..3 {
            // SAFETY: as the caller promises.
            unsafe { write(simd, y.add((r * 3 + c) * tap), S::F32_LANES, row[c]) };
        }
    }
}
