//! The first pass of a [quantile](crate::kernels::quantile) by many workgroups: |x̂₀|, and of each part of a picture how many
//! elements have which first bits. [`quantile_digits`](crate::kernels::quantile_digits) goes on.

use super::quantile;
use crate::diffusion::numbers;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, Kernel, MAGNITUDE, PREDICT, Shader};

params! {
    /// Pictures.
    batch: u32,
    /// Elements of a picture.
    item: u32,
    /// Channels of a picture.
    channels: u32,
    /// Channels of the network's output.
    out_channels: u32,
    /// 1: the output holds an unconditional and a conditional half.
    guided: u32,
    /// 1: a picture of which parts are kept is bound.
    kept: u32,
    /// Where it begins in what leads the step.
    known_at: u32,
    /// Parts of a picture.
    parts: u32,
}

/// Counts of a part: what the first 11 bits of a number that is not negative may be.
pub const BINS: usize = 2048;
/// A part has so many elements, or more in large pictures.
const ELEMENTS: u32 = 2048;
/// Most parts, all of whose counts each workgroup of the next pass reads.
const MAX_PARTS: u32 = 64;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "quantile_counts",
    shaders: &[Shader::plain(
        "quantile_counts",
        wgsl!("sampling/quantile_counts"),
        &[PREDICT, MAGNITUDE],
        |params, _| {
            let p = Params::read(params);
            [p.parts, p.batch, 1]
        },
    )],
    fields: Params::FIELDS,
    reference: |params, inputs, outputs| {
        let inputs: Vec<Vec<f32>> = inputs.iter().map(|x| x.iter().map(|v| *v as f32).collect()).collect();
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let mut made: Vec<Vec<f32>> = outputs.iter().map(|y| vec![0.0; y.len()]).collect();
        let mut made_in: Vec<&mut [f32]> = made.iter_mut().map(Vec::as_mut_slice).collect();
        compute(params, &inputs, &mut made_in);
        for (y, made) in outputs.iter_mut().zip(&made) {
            y.iter_mut().zip(made).for_each(|(y, v)| *y = f64::from(*v));
        }
    },
    cpu: compute,
    cost: |_, inputs, output| {
        Cost::streaming(4.0 * inputs[0].iter().product::<usize>() as f64, inputs, output)
    },
    ..Kernel::PLAIN
};

/// |x̂₀| of the pictures of a quantile `[B, item]`, and the counts of their parts `[B, parts, 2048]`.
pub fn quantile_counts(
    g: &mut Graph,
    label: &str,
    inputs: [&Tensor; 4],
    of: &quantile::Params,
) -> (Tensor, Tensor) {
    let parts = of.item.div_ceil(ELEMENTS).clamp(1, MAX_PARTS);
    let p = Params {
        batch: of.batch,
        item: of.item,
        channels: of.channels,
        out_channels: of.out_channels,
        guided: of.guided,
        kept: of.kept,
        known_at: of.known_at,
        parts,
    };
    let batch = p.batch as usize;
    let magnitudes = g.make(&[batch, p.item as usize], Storage::F32);
    let counts = g.make(&[batch, parts as usize, BINS], Storage::F32);
    g.push_into(&KERNEL, label, p.bytes(), &inputs, &[&magnitudes, &counts]);
    (magnitudes, counts)
}

/// The elements of each part of a picture; the last ones may have fewer, or none.
pub(super) fn parts(magnitudes: &[f32], parts: usize) -> impl Iterator<Item = &[f32]> {
    let span = magnitudes.len().div_ceil(parts);
    (0..parts).map(move |part| {
        let [start, end] = [part, part + 1].map(|part| (part * span).min(magnitudes.len()));
        &magnitudes[start..end]
    })
}

fn compute(params: &[u8], inputs: &[&[f32]], outputs: &mut [&mut [f32]]) {
    let [magnitudes, counts] = outputs else { return };
    let p = Params::read(params);
    let of = quantile::Params {
        batch: p.batch,
        item: p.item,
        channels: p.channels,
        out_channels: p.out_channels,
        guided: p.guided,
        kept: p.kept,
        known_at: p.known_at,
    };
    let coefficients = &inputs[3][..numbers::COUNT];
    counts.fill(0.0);
    let pictures = magnitudes.chunks_exact_mut(p.item as usize);
    for (b, (found, counts)) in pictures.zip(counts.chunks_exact_mut(p.parts as usize * BINS)).enumerate() {
        found.copy_from_slice(&quantile::magnitudes(&of, &inputs[..3], coefficients, b));
        for (part, counts) in parts(found, p.parts as usize).zip(counts.chunks_exact_mut(BINS)) {
            for value in part {
                counts[(value.to_bits() >> 20) as usize] += 1.0;
            }
        }
    }
}
