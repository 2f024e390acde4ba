//! The gradient of a [convolution](crate::kernels::conv2d) at its filter, and of a [product](crate::kernels::matmul) at its
//! right side, which is the filter of one tap.

use crate::graph::rewrites::{FILTER_SLICES, Rewrites};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::gemm::{Panels, Rows, pack_into, packed_len};
use crate::kernels::scratch::{Shared, scratch};
use crate::kernels::{Cost, INDEX, Kernel, Shader, conv2d, fold_grid};
use rayon::prelude::*;

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

    fn window(&self) -> conv2d::Params {
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

/// Channels whose rows of the filter a task computes.
const CHANNELS: usize = 16;
/// Rows of dy in a block whose panels are made at a time.
const BLOCK: usize = 1_024;

/// What a tap reads of a channel is a row of the product's left side: a channel's pixels one after another, with the padding
/// around them. Tasks of some channels and all their taps; every element is one chain along the output's pixels.
fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (slices, size) = (p.slices as usize, p.inner() * p.cols as usize);
    let length = p.rows.div_ceil(p.slices) as usize;
    if slices == 1 {
        return whole(&p, inputs, y);
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

/// How pictures lie in blocks of outputs, and the channels' planes that a block reads.
struct Planes {
    /// Blocks of a picture.
    blocks: usize,
    /// Width of a padded plane of a block.
    wide: usize,
    /// Floats of one.
    plane: usize,
}

fn whole(p: &Params, inputs: &[&[f32]], y: &mut [f32]) {
    let (cols, channels) = (p.cols as usize, (p.in_a + p.in_b) as usize);
    let (out_height, out_width) = (p.out_height as usize, p.out_width as usize);
    let (kh, kw, stride) = (p.kernel_height as usize, p.kernel_width as usize, p.stride as usize);
    let count = p.rows as usize / (out_height * out_width);
    // A product is one line; its rows are cut as lines are.
    let (lines, run) = match out_height {
        1 => (1, BLOCK.min(out_width)),
        _ => ((BLOCK / out_width).clamp(1, out_height), out_width),
    };
    let (down, across) = (out_height.div_ceil(lines), out_width.div_ceil(run));
    let wide = (run - 1) * stride + kw;
    let tall = (lines - 1) * stride + kh;
    let planes = Planes { blocks: down * across, wide, plane: wide * tall };
    let y = Shared::new(y);
    let tasks = channels.div_ceil(CHANNELS);
    // The panels of dy, once for all tasks.
    let panel_len = packed_len(lines * run * cols, cols);
    let mut panels = scratch(count * planes.blocks * panel_len);
    panels.par_chunks_mut(panel_len).enumerate().for_each(|(i, panels)| {
        let (image, block) = (i / planes.blocks, i % planes.blocks);
        let (first_y, first_x) = (block / across * lines, block % across * run);
        let (height, width) = (lines.min(out_height - first_y), run.min(out_width - first_x));
        let dy = &inputs[2][((image * out_height + first_y) * out_width + first_x) * cols..];
        let inner = height * width;
        pack_into(&mut panels[..packed_len(inner * cols, cols)], (dy, cols, 1), [inner, cols], 1.0);
    });
    (0..tasks).into_par_iter().for_each(|task| {
        let first = task * CHANNELS;
        let some = CHANNELS.min(channels - first);
        let mut plane = scratch(some * planes.plane);
        let mut sums = scratch(kh * kw * some * cols);
        for i in 0..count * planes.blocks {
            let (image, block) = (i / planes.blocks, i % planes.blocks);
            let (first_y, first_x) = (block / across * lines, block % across * run);
            let (height, width) = (lines.min(out_height - first_y), run.min(out_width - first_x));
            gather(
                p,
                inputs,
                &mut plane,
                (image, first_y * stride, first_x * stride),
                (first, some),
                &planes,
            );
            let inner = height * width;
            let dy = Panels::packed(&panels[i * panel_len..][..packed_len(inner * cols, cols)], inner, cols);
            for tap in 0..kh * kw {
                let from = tap / kw * planes.wide + tap % kw;
                let sums = &mut sums[tap * some * cols..][..some * cols];
                if stride == 1 {
                    let rows = Rows {
                        values: &plane[from..],
                        across: (some, planes.plane),
                        down: 0,
                        runs: (height, planes.wide),
                        run: width,
                    };
                    dy.product(&rows, sums, i > 0);
                } else {
                    let mut strided = scratch(some * inner);
                    for (c, to) in strided.chunks_exact_mut(inner).enumerate() {
                        for (line, to) in to.chunks_exact_mut(width).enumerate() {
                            let from = &plane[c * planes.plane + from + line * stride * planes.wide..];
                            for (x, to) in to.iter_mut().enumerate() {
                                *to = from[x * stride];
                            }
                        }
                    }
                    let rows = Rows {
                        values: &strided,
                        across: (some, inner),
                        down: 0,
                        runs: (1, inner),
                        run: inner,
                    };
                    dy.product(&rows, sums, i > 0);
                }
            }
        }
        for tap in 0..kh * kw {
            // SAFETY: no other task has these channels.
            let y = unsafe { y.slice((tap * channels + first) * cols, some * cols) };
            y.copy_from_slice(&sums[tap * some * cols..][..some * cols]);
        }
    });
}

/// Planes of some channels of a picture, from a place of the enlarged and padded input on.
fn gather(
    p: &Params,
    inputs: &[&[f32]],
    planes: &mut [f32],
    (image, top, left): (usize, usize, usize),
    (first, some): (usize, usize),
    size: &Planes,
) {
    let (height, width, up) = (p.height as usize, p.width as usize, p.up as usize);
    let (in_a, in_b) = (p.in_a as usize, p.in_b as usize);
    let image = image % p.pictures as usize * height;
    planes.fill(0.0);
    let tall = size.plane / size.wide;
    for row in 0..tall {
        let y = ((top + row) as u32).wrapping_sub(p.pad_top) as usize;
        if y >= height * up {
            continue;
        }
        let line = (image + y / up) * width;
        let skipped = (p.pad_left as usize).saturating_sub(left).min(size.wide);
        let x0 = (left + skipped).wrapping_sub(p.pad_left as usize);
        let count = (width * up).saturating_sub(x0).min(size.wide - skipped);
        for x in 0..count {
            let pixel = line + (x0 + x) / up;
            let at = row * size.wide + skipped + x;
            for c in 0..some {
                let channel = first + c;
                planes[c * size.plane + at] = if channel < in_a {
                    inputs[0][pixel * in_a + channel]
                } else {
                    inputs[1][pixel * in_b + channel - in_a]
                };
            }
        }
    }
}
