//! Moments of the groups of a [group norm](crate::kernels::group_norm), of a strip of pixels: what is put together where
//! a picture is above what a device binds.

use super::group_blocks::Blocks;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::group_norm;
use crate::kernels::{Cost, GROUP_WALK, Kernel, REDUCE, REDUCE_SUBGROUP, Shader};

params! {
    /// H·W of the strip.
    pixels: u32,
    /// Channels of the first input.
    in_a: u32,
    /// Channels of the second input, 0 if there is none.
    in_b: u32,
    /// Number of groups.
    groups: u32,
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

/// A workgroup for every group of every picture.
fn grid(params: &[u8], output: &[usize]) -> [u32; 3] {
    [Params::read(params).groups, output[0] as u32, 1]
}

/// Count, mean and Σ (x − mean)² of each group of `[N, .., A]`, or of two inputs side by side → `[N, groups, 3]`, f32.
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
    let p = Params { pixels: pixels as u32, in_a: in_a as u32, in_b: in_b as u32, groups: groups as u32 };
    let empty = g.empty();
    g.push(&KERNEL, label, p.bytes(), &[a, b.unwrap_or(&empty)], &[n, groups, 3], Storage::F32)
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let (in_a, in_b, groups) = (p.in_a as usize, p.in_b as usize, p.groups as usize);
    let (pixels, width) = (p.pixels as usize, (in_a + in_b) / groups);
    let at = |pixel: usize, c: usize| {
        if c < in_a { inputs[0][pixel * in_a + c] } else { inputs[1][pixel * in_b + c - in_a] }
    };
    for (i, y) in y.chunks_exact_mut(3).enumerate() {
        let (n, group) = (i / groups, i % groups);
        let member = |i: usize| at(n * pixels + i / width, group * width + i % width);
        let count = (pixels * width) as f64;
        let mean = (0..pixels * width).map(member).sum::<f64>() / count;
        let squares = (0..pixels * width).map(|i| (member(i) - mean).powi(2)).sum();
        y.copy_from_slice(&[count, mean, squares]);
    }
}

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let Params { pixels, in_a, in_b, groups } = Params::read(params);
    let len = y.len() / (3 * groups as usize) * (pixels * (in_a + in_b)) as usize;
    let norm = group_norm::Params { pixels, in_a, in_b, groups, ..Default::default() };
    let moments = Blocks::new(norm, inputs, len).moments();
    for (y, m) in y.chunks_exact_mut(3).zip(moments.iter().flatten()) {
        y.copy_from_slice(&[m.count as f32, m.mean as f32, m.squares as f32]);
    }
}
