//! The second pass of a [quantile](crate::kernels::quantile) by many workgroups, and the third: which ten bits the element that
//! is sought has behind those that are known.

use super::quantile_counts::{BINS as FIRST_BINS, parts};
use crate::diffusion::numbers;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, Kernel, SELECT_BIN, Shader, defined_in_f32};

params! {
    /// Elements of a picture.
    item: u32,
    /// Parts of a picture.
    parts: u32,
    /// Numbers that the pass before found of a part.
    row: u32,
    /// Bits of an element behind those that are known with the counts.
    shift: u32,
}

/// Counts of a part.
pub(super) const BINS: usize = 1024;
/// Numbers of a part: the counts; the known bits; the rank among the elements that share them; the least element above.
pub(super) const ROW: usize = BINS + 3;
/// Stands for the least of no elements.
pub(super) const NONE: f32 = -1.0;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "quantile_digits",
    shaders: &[Shader::plain(
        "quantile_digits",
        wgsl!("sampling/quantile_digits"),
        &[SELECT_BIN],
        |params, output| [Params::read(params).parts, output[0] as u32, 1],
    )],
    fields: Params::FIELDS,
    reference: |params, inputs, y| defined_in_f32(compute, params, inputs, y[0]),
    cpu: |params, inputs, y| compute(params, inputs, y[0]),
    cost: |_, inputs, output| {
        Cost::streaming(2.0 * inputs[0].iter().product::<usize>() as f64, inputs, output)
    },
    ..Kernel::PLAIN
};

/// What is known of the elements sought among `magnitudes` `[B, item]` once the counts of `before` are: those of
/// [`quantile_counts`](crate::kernels::quantile_counts) `[B, parts, 2048]`, or what this gave → `[B, parts, 1027]`.
#[track_caller]
pub fn quantile_digits(
    g: &mut Graph,
    label: &str,
    magnitudes: &Tensor,
    before: &Tensor,
    numbers: &Tensor,
) -> Tensor {
    let (&[n, item], &[_, parts, row]) = (&magnitudes.shape[..], &before.shape[..]) else {
        panic!("{label}: {:?} with {:?}", magnitudes.shape, before.shape)
    };
    assert!(row == FIRST_BINS || row == ROW, "{label}: counts {:?}", before.shape);
    let shift = if row == FIRST_BINS { 20 } else { 10 };
    let p = Params { item: item as u32, parts: parts as u32, row: row as u32, shift };
    g.push(&KERNEL, label, p.bytes(), &[magnitudes, before, numbers], &[n, parts, ROW], Storage::F32)
}

/// The place of a rank among the `bins` counts of a picture's parts: the bin, the rank in it, its count.
pub(super) fn select(before: &[f32], row: usize, bins: usize, mut rank: u32) -> (u32, u32, u32) {
    let count = |bin: usize| before.chunks_exact(row).map(|part| part[bin] as u32).sum::<u32>();
    for bin in 0..bins {
        let count = count(bin);
        if rank < count {
            return (bin as u32, rank, count);
        }
        rank -= count;
    }
    (0, 0, 0)
}

fn compute(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (count, row) = (p.parts as usize, p.row as usize);
    let pictures = inputs[0].chunks_exact(p.item as usize).zip(inputs[1].chunks_exact(count * row));
    for ((magnitudes, before), y) in pictures.zip(y.chunks_exact_mut(count * ROW)) {
        let (mut known, mut rank, mut bins) = (0, 0, FIRST_BINS);
        if row == ROW {
            (known, rank, bins) = ((before[BINS] as u32) << 10, before[BINS + 1] as u32, BINS);
        } else {
            rank += (inputs[2][numbers::QUANTILE] * (p.item - 1) as f32) as u32;
        }
        let (bin, rank, _) = select(before, row, bins, rank);
        known |= bin;
        for (part, y) in parts(magnitudes, count).zip(y.chunks_exact_mut(ROW)) {
            y[..BINS].fill(0.0);
            for value in part.iter().filter(|value| value.to_bits() >> p.shift == known) {
                y[(value.to_bits() >> (p.shift - 10)) as usize % BINS] += 1.0;
            }
            let above = part.iter().copied().filter(|value| value.to_bits() >> p.shift > known);
            let next = above.min_by(f32::total_cmp).unwrap_or(NONE);
            y[BINS..].copy_from_slice(&[known as f32, rank as f32, next]);
        }
    }
}
