//! The CPU device's inner loops, compiled for every width of vectors and run with the widest this machine has.

use pulp::{Arch, Simd};

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

/// `count` floats, and zeros.
///
/// # Safety
/// So many must be readable.
#[inline(always)]
pub(crate) unsafe fn read<S: Simd>(simd: S, from: *const f32, count: usize) -> S::f32s {
    // SAFETY: as the caller promises.
    unsafe {
        if count == S::F32_LANES {
            from.cast::<S::f32s>().read_unaligned()
        } else {
            simd.partial_load_f32s(std::slice::from_raw_parts(from, count))
        }
    }
}

/// The first `count` floats of a vector.
///
/// # Safety
/// So many must be writable.
#[inline(always)]
pub(crate) unsafe fn write<S: Simd>(simd: S, to: *mut f32, count: usize, vector: S::f32s) {
    // SAFETY: as the caller promises.
    unsafe {
        if count == S::F32_LANES {
            to.cast::<S::f32s>().write_unaligned(vector);
        } else {
            simd.partial_store_f32s(std::slice::from_raw_parts_mut(to, count), vector);
        }
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
