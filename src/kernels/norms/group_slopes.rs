//! Sums that the gradient of a [group norm](crate::kernels::group_norm) is made of, of strips of a picture's pixels, by
//! group: what [`group_lines`](crate::kernels::group_lines) puts together.

use super::group_gradient_apply::slope;
use super::group_quads::{Shares, in_quads};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::epilogue::Activation;
use crate::kernels::{ACTIVATION, ACTIVATION_DERIVATIVE, Cost, GROUP_QUADS, GROUP_SLOPE, Kernel, Shader};
use rayon::prelude::*;

params! {
    /// H·W.
    pixels: u32,
    /// Channels of the first input, whole quads.
    in_a: u32,
    /// Channels of the second input, whole quads; 0 if there is none.
    in_b: u32,
    /// Number of groups.
    groups: u32,
    /// Pixels of a strip; the last one of a picture may have fewer.
    strip: u32,
    /// Runs of channels that workgroups divide.
    runs: u32,
    /// Number of the activation after the norm.
    activation: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "group_slopes",
    shaders: &[Shader::plain(
        "group_slopes",
        wgsl!("norms/group_slopes"),
        &[ACTIVATION, ACTIVATION_DERIVATIVE, GROUP_SLOPE, GROUP_QUADS],
        |params, output| {
            let p = Params::read(params);
            [p.pixels.div_ceil(p.strip), p.runs, output[0] as u32]
        },
    )],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y[0], |sum| sum),
    cpu: |p, x, y| compute(p, x, y[0], |sum| sum as f32),
    cost: |_, inputs, output| {
        Cost::streaming(8.0 * inputs[3].iter().product::<usize>() as f64, inputs, output)
    },
    ..Kernel::PLAIN
};

/// Of each group of each strip of `[N, .., A]`, or of two inputs side by side, with each channel's mean, gain and offset
/// `[N, 3, C]` and the gradient dy `[N, .., C]` of what follows: Σ gain g and Σ gain g (x − mean), g = dy ·
/// activate'((x − mean) · gain + offset) → `[N, strips, groups, 2]`, f32. The strips are those of
/// [`group_moments`](crate::kernels::group_moments); channels are whole quads.
#[track_caller]
pub fn group_slopes(
    g: &mut Graph,
    label: &str,
    (a, b): (&Tensor, Option<&Tensor>),
    affine: &Tensor,
    dy: &Tensor,
    (groups, activation): (usize, Activation),
) -> Tensor {
    let (n, in_a, in_b) = (a.dim(0), a.channels(), b.map_or(0, Tensor::channels));
    let (pixels, channels) = (a.rows() / n, in_a + in_b);
    assert_eq!(affine.len(), n * 3 * channels, "{label}: {:?} by {:?}", a.shape, affine.shape);
    assert_eq!(dy.len(), n * pixels * channels, "{label}: {:?} with {:?}", a.shape, dy.shape);
    assert!(in_quads(pixels, [in_a as u32, in_b as u32], groups as u32), "{label}: {in_a}+{in_b} channels");
    let Shares { strip, runs } = Shares::new(pixels, channels, groups);
    let p = Params {
        pixels: pixels as u32,
        in_a: in_a as u32,
        in_b: in_b as u32,
        groups: groups as u32,
        strip,
        runs,
        activation: activation as u32,
    };
    let empty = g.empty();
    let shape = [n, pixels.div_ceil(strip as usize), groups, 2];
    g.push(&KERNEL, label, p.bytes(), &[a, b.unwrap_or(&empty), affine, dy], &shape, Storage::F32)
}

fn compute<T: Copy + Into<f64> + Send + Sync>(
    params: &[u8],
    inputs: &[&[T]],
    y: &mut [T],
    rounded: fn(f64) -> T,
) {
    let p = Params::read(params);
    let (pixels, strip, groups) = (p.pixels as usize, p.strip as usize, p.groups as usize);
    let (channels, strips) = ((p.in_a + p.in_b) as usize, pixels.div_ceil(strip));
    let (width, act) = (channels / groups, Activation::from_number(p.activation));
    y.par_chunks_mut(2).enumerate().for_each(|(i, y)| {
        let (n, first, group) = (i / groups / strips, i / groups % strips * strip, i % groups);
        let mut sums = [0.0; 2];
        for pixel in first..pixels.min(first + strip) {
            for c in group * width..(group + 1) * width {
                let (d, g) = slope(inputs, [p.in_a, p.in_b], act, (n, n * pixels + pixel, c));
                sums[0] += g;
                sums[1] += g * d;
            }
        }
        y.copy_from_slice(&sums.map(rounded));
    });
}
