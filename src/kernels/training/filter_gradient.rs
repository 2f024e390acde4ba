//! The gradient of a [convolution](crate::kernels::conv2d) at its filter, and of a [product](crate::kernels::matmul) at its
//! right side, which is the filter of one tap.

use super::{filter_gradient_direct, filter_gradient_winograd};
use crate::graph::rewrites::{FILTER_SLICES, Rewrites};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::scratch::{Shared, scratch};
use crate::kernels::{Cost, INDEX, Kernel, Shader, conv2d, fold_grid};
use rayon::prelude::*;
use std::ops::Range;

params! {
    /// Input height.
    height: u32,
    /// Input width.
    width: u32,
    /// Channels of the first input.
    in_a: u32,
    /// Channels of the second input, 0 if there is none.
    in_b: u32,
    /// Output height.
    out_height: u32,
    /// Output width.
    out_width: u32,
    /// Output channels.
    cols: u32,
    /// Output pixels of all pictures.
    rows: u32,
    /// Taps along the height.
    kernel_height: u32,
    /// Taps along the width.
    kernel_width: u32,
    /// Distance of neighbouring outputs in the (enlarged) input.
    stride: u32,
    /// The input is read as if enlarged this many times by nearest neighbour.
    up: u32,
    /// Rows of zeros above; wraps below 0 where a window begins inside the enlarged input.
    pad_top: u32,
    /// Columns of zeros to the left.
    pad_left: u32,
    /// Pictures of the input; picture n of the output reads picture n % pictures.
    pictures: u32,
    /// Slices that the output's pixels are divided into.
    slices: u32,
    /// 1: computed tap by tap wherever it is, as [`conv2d::Params`]' is.
    direct: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "filter_gradient",
    shaders: &[Shader::plain("filter_gradient", wgsl!("training/filter_gradient"), &[INDEX], |params, _| {
        let p = Params::read(params);
        fold_grid(p.tiles() * p.slices as usize)
    })],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    rewrites: Rewrites { elem_inputs: 2, others: &[FILTER_SLICES] },
    cost: |params, inputs, output| {
        let p = Params::read(params);
        Cost::streaming(2.0 * f64::from(p.rows) * (p.inner() * p.cols as usize) as f64, inputs, output)
    },
    ..Kernel::PLAIN
};

impl Params {
    /// Of a convolution's uniform.
    pub(crate) fn of_conv2d(of: &conv2d::Params) -> Params {
        Params {
            height: of.height,
            width: of.width,
            in_a: of.in_a,
            in_b: of.in_b,
            out_height: of.out_height,
            out_width: of.out_width,
            cols: of.cols,
            rows: of.rows,
            kernel_height: of.kernel_height,
            kernel_width: of.kernel_width,
            stride: of.stride,
            up: of.up,
            pad_top: of.pad_top,
            pad_left: of.pad_left,
            pictures: of.pictures,
            slices: 1,
            direct: of.direct,
        }
    }

    /// Of a product x `[rows, inner]`: every row is a pixel of a picture of its own line.
    pub(crate) fn of_product([rows, inner, cols]: [u32; 3]) -> Params {
        Params {
            height: 1,
            width: rows,
            in_a: inner,
            out_height: 1,
            out_width: rows,
            cols,
            rows,
            kernel_height: 1,
            kernel_width: 1,
            stride: 1,
            up: 1,
            pictures: 1,
            slices: 1,
            ..Params::default()
        }
    }

    /// The convolution's uniform.
    pub(super) fn window(&self) -> conv2d::Params {
        conv2d::Params {
            height: self.height,
            width: self.width,
            in_a: self.in_a,
            in_b: self.in_b,
            out_height: self.out_height,
            out_width: self.out_width,
            cols: self.cols,
            rows: self.rows,
            kernel_height: self.kernel_height,
            kernel_width: self.kernel_width,
            stride: self.stride,
            up: self.up,
            pad_top: self.pad_top,
            pad_left: self.pad_left,
            pictures: self.pictures,
            ..conv2d::Params::default()
        }
    }

    /// Rows of the filter as a matrix.
    pub(crate) fn inner(&self) -> usize {
        (self.kernel_height * self.kernel_width * (self.in_a + self.in_b)) as usize
    }

    /// Workgroups of a slice.
    pub(crate) fn tiles(&self) -> usize {
        self.inner().div_ceil(32) * self.cols.div_ceil(32) as usize
    }
}

/// Inputs a, b (bound but not read where there is none) and dy → `[inner, cols]` in f32, or of each slice,
/// `[slices, inner, cols]`.
pub(crate) fn filter_gradient(g: &mut Graph, label: &str, [a, b, dy]: [&Tensor; 3], p: &Params) -> Tensor {
    let matrix = [p.slices as usize, p.inner(), p.cols as usize];
    let shape = if p.slices == 1 { &matrix[1..] } else { &matrix };
    assert_eq!(dy.len(), (p.rows * p.cols) as usize, "{label}: dy {:?}", dy.shape);
    g.push(&KERNEL, label, p.bytes(), &[a, b, dy], shape, Storage::F32)
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let (in_a, in_b, cols) = (p.in_a as usize, p.in_b as usize, p.cols as usize);
    let (window, length) = (p.window(), p.rows.div_ceil(p.slices) as usize);
    y.fill(0.0);
    for (row, dy) in inputs[2].chunks_exact(cols).enumerate() {
        for tap in 0..(p.kernel_height * p.kernel_width) as usize {
            let (ky, kx) = (tap / p.kernel_width as usize, tap % p.kernel_width as usize);
            let Some(pixel) = window.pixel(row, ky, kx) else { continue };
            for c in 0..in_a + in_b {
                let x =
                    if c < in_a { inputs[0][pixel * in_a + c] } else { inputs[1][pixel * in_b + c - in_a] };
                let at = row / length * p.inner() + tap * (in_a + in_b) + c;
                y[at * cols..][..cols].iter_mut().zip(dy).for_each(|(y, dy)| *y += x * dy);
            }
        }
    }
}

/// Most channels of a task: rows of the filter of each tap.
const CHANNELS: usize = 32;
/// Tasks, about, where channels and pixels are enough for them.
const TASKS: usize = 32;
/// Elements whose groups' sums a thread adds up at a time.
const SUMMED: usize = 4_096;

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (slices, size) = (p.slices as usize, p.inner() * p.cols as usize);
    let length = p.rows.div_ceil(p.slices) as usize;
    if slices == 1 {
        return if filter_gradient_winograd::fits(&p) {
            filter_gradient_winograd::by_tiles(&p, inputs, y)
        } else {
            filter_gradient_direct::direct(&p, inputs, y)
        };
    }
    // Slices are the GPU's: by the definition.
    y.par_chunks_mut(size).enumerate().for_each(|(slice, y)| {
        let (window, channels, cols) = (p.window(), (p.in_a + p.in_b) as usize, p.cols as usize);
        y.fill(0.0);
        for row in slice * length..(p.rows as usize).min((slice + 1) * length) {
            let dy = &inputs[2][row * cols..][..cols];
            for (k, y) in y.chunks_exact_mut(cols).enumerate() {
                let (tap, c) = (k / channels, k % channels);
                let kx = p.kernel_width as usize;
                let Some(pixel) = window.pixel(row, tap / kx, tap % kx) else { continue };
                let x = value(&p, inputs, pixel, c);
                y.iter_mut().zip(dy).for_each(|(y, dy)| *y += x * dy);
            }
        }
    });
}

fn value(p: &Params, inputs: &[&[f32]], pixel: usize, c: usize) -> f32 {
    let (in_a, in_b) = (p.in_a as usize, p.in_b as usize);
    if c < in_a { inputs[0][pixel * in_a + c] } else { inputs[1][pixel * in_b + c - in_a] }
}

/// Computes y `[taps, channels, cols]` in tasks, each of some channels of an input and of the sums over some of the blocks that
/// the output's pixels come in, written into `[taps, channels, cols]`. Where channels alone are too few tasks, groups of blocks
/// are summed afterwards, in their order.
pub(super) fn sum_groups(
    p: &Params,
    blocks: usize,
    y: &mut [f32],
    task: impl Fn((usize, Range<usize>), Range<usize>, &Shared<'_>) + Sync,
) {
    let inputs = [p.in_a as usize, p.in_b as usize].into_iter().enumerate();
    let parts: Vec<(usize, Range<usize>)> = inputs
        .flat_map(|(input, channels)| {
            let first = (0..channels).step_by(CHANNELS);
            first.map(move |first| (input, first..channels.min(first + CHANNELS)))
        })
        .collect();
    let length = blocks.div_ceil((TASKS / parts.len()).max(1));
    let groups = blocks.div_ceil(length);
    let of_group = |group: usize| group * length..blocks.min((group + 1) * length);
    if groups == 1 {
        let y = &Shared::new(y);
        return parts.into_par_iter().for_each(|part| task(part, of_group(0), y));
    }
    let mut sums = scratch(groups * y.len());
    let each: Vec<Shared<'_>> = sums.chunks_exact_mut(y.len()).map(Shared::new).collect();
    (0..groups * parts.len()).into_par_iter().for_each(|i| {
        let (group, part) = (i / parts.len(), i % parts.len());
        task(parts[part].clone(), of_group(group), &each[group]);
    });
    drop(each);
    let len = y.len();
    y.par_chunks_mut(SUMMED).enumerate().for_each(|(i, y)| {
        y.fill(0.0);
        for group in 0..groups {
            y.iter_mut().zip(&sums[group * len + i * SUMMED..]).for_each(|(y, sum)| *y += sum);
        }
    });
}
