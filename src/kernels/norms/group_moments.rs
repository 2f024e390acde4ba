//! Moments of the groups of a [group norm](crate::kernels::group_norm), of strips of a picture's pixels, to be put together by
//! [`group_affine`](crate::kernels::group_affine): many workgroups find them, and those of a picture above what a device binds.

use super::group_blocks::Blocks;
use super::group_quads::Shares;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::group_norm;
use crate::kernels::{Cost, GROUP_QUADS, GROUP_WALK, Kernel, Needs, REDUCE, REDUCE_SUBGROUP, Shader};
use rayon::prelude::*;
use std::ops::Range;

params! {
    /// H·W.
    pixels: u32,
    /// Channels of the first input.
    in_a: u32,
    /// Channels of the second input, 0 if there is none.
    in_b: u32,
    /// Number of groups.
    groups: u32,
    /// Pixels of a strip; the last one of a picture may have fewer.
    strip: u32,
    /// Runs of channels that workgroups of quads divide.
    runs: u32,
}

impl Params {
    fn shares(&self) -> Shares {
        Shares { strip: self.strip, runs: self.runs }
    }

    fn strips(&self) -> u32 {
        self.pixels.div_ceil(self.strip)
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "group_moments",
    shaders: &[
        Shader::plain("group_moments", wgsl!("norms/group_moments"), &[GROUP_WALK, REDUCE], grid),
        Shader::narrow(
            "group_moments_subgroup",
            wgsl!("norms/group_moments"),
            &[GROUP_WALK, REDUCE_SUBGROUP],
            grid,
        ),
        Shader::plain(
            "group_moments_quads",
            wgsl!("norms/group_moments_quads"),
            &[GROUP_QUADS],
            |params, output| {
                let p = Params::read(params);
                [p.strips(), p.runs, output[0] as u32]
            },
        )
        .fitting(|params| {
            let p = Params::read(params);
            p.shares().has_quads(p.in_a, p.in_b, p.groups)
        })
        .needing(Needs::HARDWARE),
    ],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    cost: |_, inputs, output| {
        let count = |s: &[usize]| s.iter().product::<usize>() as f64;
        Cost::streaming(4.0 * inputs.iter().map(|s| count(s)).sum::<f64>(), inputs, output)
    },
    ..Kernel::PLAIN
};

/// A workgroup for every group of every strip.
fn grid(params: &[u8], output: &[usize]) -> [u32; 3] {
    let p = Params::read(params);
    [p.groups, p.strips(), output[0] as u32]
}

/// Count, mean and Σ (x − mean)² of each group of each strip of `[N, .., A]`, or of two inputs side by side →
/// `[N, strips, groups, 3]`, f32. The strips follow from a picture's pixels and channels.
#[track_caller]
pub fn group_moments(
    g: &mut Graph,
    label: &str,
    (a, b): (&Tensor, Option<&Tensor>),
    groups: usize,
) -> Tensor {
    let (in_a, in_b, n) = (a.channels(), b.map_or(0, Tensor::channels), a.dim(0));
    assert!((in_a + in_b).is_multiple_of(groups), "{label}: {in_a}+{in_b} channels in {groups} groups");
    if let Some(b) = b {
        assert_eq!(b.rows(), a.rows(), "{label}: {:?} beside {:?}", b.shape, a.shape);
    }
    let pixels = a.rows() / n;
    let Shares { strip, runs } = Shares::new(pixels, in_a + in_b, groups);
    let p = Params {
        pixels: pixels as u32,
        in_a: in_a as u32,
        in_b: in_b as u32,
        groups: groups as u32,
        strip,
        runs,
    };
    let empty = g.empty();
    let shape = [n, p.strips() as usize, groups, 3];
    g.push(&KERNEL, label, p.bytes(), &[a, b.unwrap_or(&empty)], &shape, Storage::F32)
}

/// The pixels of strip `i` of all pictures.
fn strip(p: &Params, i: usize) -> Range<usize> {
    let (strips, strip, pixels) = (p.strips() as usize, p.strip as usize, p.pixels as usize);
    let (picture, first) = (i / strips * pixels, i % strips * strip);
    picture + first..picture + pixels.min(first + strip)
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let (in_a, in_b, groups) = (p.in_a as usize, p.in_b as usize, p.groups as usize);
    let width = (in_a + in_b) / groups;
    let at = |pixel: usize, c: usize| {
        if c < in_a { inputs[0][pixel * in_a + c] } else { inputs[1][pixel * in_b + c - in_a] }
    };
    for (i, y) in y.chunks_exact_mut(3).enumerate() {
        let (pixels, group) = (strip(&p, i / groups), i % groups);
        let member = |i: usize| at(pixels.start + i / width, group * width + i % width);
        let count = pixels.len() * width;
        let mean = (0..count).map(member).sum::<f64>() / count as f64;
        let squares = (0..count).map(|i| (member(i) - mean).powi(2)).sum();
        y.copy_from_slice(&[count as f64, mean, squares]);
    }
}

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (in_a, in_b) = (p.in_a as usize, p.in_b as usize);
    y.par_chunks_mut(3 * p.groups as usize).enumerate().for_each(|(i, y)| {
        let of = strip(&p, i);
        let cut = [(0, in_a), (1, in_b)].map(|(i, width)| &inputs[i][of.start * width..of.end * width]);
        let norm = group_norm::Params {
            pixels: of.len() as u32,
            in_a: p.in_a,
            in_b: p.in_b,
            groups: p.groups,
            ..Default::default()
        };
        let moments = Blocks::new(norm, &cut, of.len() * (in_a + in_b)).moments();
        for (y, m) in y.chunks_exact_mut(3).zip(moments.iter().flatten()) {
            y.copy_from_slice(&[m.count as f32, m.mean as f32, m.squares as f32]);
        }
    });
}
