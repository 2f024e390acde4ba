//! Gradient of a convolution's input where its windows lie apart: stride above 1, or padding wider than the kernel. The
//! others' is a convolution itself ([`conv2d`]).

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::gemm::gemm;
use crate::kernels::{
    Cost, INDEX, Kernel, Needs, ROWS12, SUBGROUP, Shader, TILE, conv2d, subgroup_grid, tile_grid,
};
use rayon::prelude::*;

params! {
    /// Height of the convolution's (enlarged) input.
    height: u32,
    /// Width of the convolution's (enlarged) input.
    width: u32,
    /// Channels of the input.
    cols: u32,
    /// Height of the convolution's output.
    out_height: u32,
    /// Width of the convolution's output.
    out_width: u32,
    /// Channels of the output.
    inner: u32,
    /// Pictures.
    pictures: u32,
    /// Taps along the height.
    kernel_height: u32,
    /// Taps along the width.
    kernel_width: u32,
    /// Distance of neighbouring outputs in the input.
    stride: u32,
    /// Rows of zeros above.
    pad_top: u32,
    /// Columns of zeros to the left.
    pad_left: u32,
}

/// `shaders/shared/conv2d_gradient_params.wgsl`: the uniform.
const HEADER: &str = wgsl!("shared/conv2d_gradient_params");

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "conv2d_gradient",
    shaders: &[
        Shader::plain(
            "conv2d_gradient",
            wgsl!("products/conv2d_gradient"),
            &[HEADER, INDEX, TILE],
            |params, _| {
                let p = Params::read(params);
                tile_grid(p.classes() * p.places().next_multiple_of(4), p.cols as usize, 1)
            },
        ),
        Shader::plain(
            "conv2d_gradient_subgroup",
            wgsl!("software/conv2d_gradient_subgroup"),
            &[HEADER, INDEX, ROWS12, SUBGROUP],
            |params, _| {
                let p = Params::read(params);
                subgroup_grid((p.classes() * p.places().next_multiple_of(12)) as u32, p.cols, 1, 12)
            },
        )
        .needing(Needs::SUBGROUP8),
    ],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    of_item: |params, _| Params { pictures: 1, ..Params::read(params) }.bytes(),
    element: Some(element),
    cost: |params, inputs, output| {
        let p = Params::read(params);
        let taps = f64::from(p.kernel_height) * f64::from(p.kernel_width);
        let places = f64::from(p.pictures) * f64::from(p.out_height) * f64::from(p.out_width);
        Cost::streaming(2.0 * places * taps * f64::from(p.inner) * f64::from(p.cols), inputs, output)
    },
    ..Kernel::PLAIN
};

/// dy `[N, OH, OW, O]` of convolution `of` and its filters for the backward pass, `[kh, kw, O, C]`
/// ([`Pass::Backward`](crate::graph::Pass::Backward)) → the gradient of its enlarged input, `[N, H, W, C]`.
#[track_caller]
pub fn conv2d_gradient(g: &mut Graph, label: &str, dy: &Tensor, w: &Tensor, of: &conv2d::Params) -> Tensor {
    let p = Params {
        height: of.height * of.up,
        width: of.width * of.up,
        cols: of.in_a + of.in_b,
        out_height: of.out_height,
        out_width: of.out_width,
        inner: of.cols,
        pictures: of.rows / (of.out_height * of.out_width),
        kernel_height: of.kernel_height,
        kernel_width: of.kernel_width,
        stride: of.stride,
        pad_top: of.pad_top,
        pad_left: of.pad_left,
    };
    let filter = [p.kernel_height, p.kernel_width, p.inner, p.cols].map(|n| n as usize);
    assert_eq!(w.shape, filter, "{label}: filters for the backward pass");
    assert_eq!(dy.len(), (of.rows * of.cols) as usize, "{label}: dy {:?}", dy.shape);
    g.push(
        &KERNEL,
        label,
        p.bytes(),
        &[dy, w],
        &[p.pictures, p.height, p.width, p.cols].map(|n| n as usize),
        Storage::Elem,
    )
}

impl Params {
    /// Pixels whose coordinates leave the same remainders by the stride read the same taps: this many classes.
    fn classes(&self) -> usize {
        (self.stride * self.stride) as usize
    }

    /// Pixels of a class in a picture's height and width, as many as the largest class has.
    fn class(&self) -> (usize, usize) {
        (self.height.div_ceil(self.stride) as usize, self.width.div_ceil(self.stride) as usize)
    }

    /// Pixels of a class in all pictures.
    fn places(&self) -> usize {
        let (down, across) = self.class();
        self.pictures as usize * down * across
    }
}

/// Every output hands its gradient to what it read.
fn reference(params: &[u8], inputs: &[&[f64]], dx: &mut [f64]) {
    let p = Params::read(params);
    let (dy, w) = (inputs[0], inputs[1]);
    let (height, width, cols, inner) =
        (p.height as usize, p.width as usize, p.cols as usize, p.inner as usize);
    let (out_height, out_width) = (p.out_height as usize, p.out_width as usize);
    let (kh, kw) = (p.kernel_height as usize, p.kernel_width as usize);
    dx.fill(0.0);
    for (row, dy) in dy.chunks_exact(inner).enumerate() {
        let (n, oy, ox) = (row / out_width / out_height, row / out_width % out_height, row % out_width);
        for tap in 0..kh * kw {
            let y = (oy * p.stride as usize + tap / kw).checked_sub(p.pad_top as usize);
            let x = (ox * p.stride as usize + tap % kw).checked_sub(p.pad_left as usize);
            let (Some(y), Some(x)) = (y, x) else { continue };
            if y >= height || x >= width {
                continue;
            }
            let dx = &mut dx[((n * height + y) * width + x) * cols..][..cols];
            for (o, dy) in dy.iter().enumerate() {
                let w = &w[((kh * kw - 1 - tap) * inner + o) * cols..][..cols];
                dx.iter_mut().zip(w).for_each(|(dx, w)| *dx += dy * w);
            }
        }
    }
}

/// Element `i` of dx from the outputs that read its pixel: the [`reference`] seen from the other side.
fn element<T: Copy + Into<f64>>(params: &[u8], inputs: &[&[T]], i: usize) -> f64 {
    let p = Params::read(params);
    let (height, width, cols, inner) =
        (p.height as usize, p.width as usize, p.cols as usize, p.inner as usize);
    let (pixel, col) = (i / cols, i % cols);
    let (n, y, x) = (pixel / width / height, pixel / width % height, pixel % width);
    let (kh, kw, stride) = (p.kernel_height as usize, p.kernel_width as usize, p.stride as usize);
    // The output that reads `at` with tap `k`, along an axis.
    let from = |at: usize, pad: u32, k: usize, out: u32| {
        let first = (at + pad as usize).checked_sub(k).filter(|first| first.is_multiple_of(stride))?;
        Some(first / stride).filter(|output| *output < out as usize)
    };
    let mut sum = 0.0;
    for tap in 0..kh * kw {
        let oy = from(y, p.pad_top, tap / kw, p.out_height);
        let ox = from(x, p.pad_left, tap % kw, p.out_width);
        let (Some(oy), Some(ox)) = (oy, ox) else { continue };
        let row = (n * p.out_height as usize + oy) * p.out_width as usize + ox;
        for o in 0..inner {
            let w = inputs[1][((kh * kw - 1 - tap) * inner + o) * cols + col];
            sum += inputs[0][row * inner + o].into() * w.into();
        }
    }
    sum
}

/// Along one axis, for pixels of a class: the taps that reach them, and for each the output it comes from, counted
/// from the pixel's own place in the class.
fn taps(class: usize, stride: usize, pad: usize, kernel: usize) -> Vec<(usize, isize)> {
    let at = class + pad;
    (at % stride..kernel)
        .step_by(stride)
        .map(|tap| (tap, (at as isize - tap as isize) / stride as isize))
        .collect()
}

/// A class of pixels: its first pixel, the taps along both axes, and their filters one below the other.
struct Class {
    first: (usize, usize),
    down: Vec<(usize, isize)>,
    across: Vec<(usize, isize)>,
    filters: Vec<f32>,
}

/// Blocks of rows, each: for every class, what its pixels read of dy copied into a strip, and a product.
fn cpu(params: &[u8], inputs: &[&[f32]], dx: &mut [f32]) {
    let p = Params::read(params);
    let (dy, w) = (inputs[0], inputs[1]);
    let (height, width, cols, inner) =
        (p.height as usize, p.width as usize, p.cols as usize, p.inner as usize);
    let (out_height, out_width) = (p.out_height as usize, p.out_width as usize);
    let (kh, kw, stride) = (p.kernel_height as usize, p.kernel_width as usize, p.stride as usize);
    let classes: Vec<Class> = (0..p.classes())
        .map(|class| {
            let first = (class / stride, class % stride);
            let down = taps(first.0, stride, p.pad_top as usize, kh);
            let across = taps(first.1, stride, p.pad_left as usize, kw);
            let filter =
                |ky: usize, kx: usize| &w[((kh - ky) * kw - 1 - kx) * inner * cols..][..inner * cols];
            let filters = down.iter().flat_map(|(ky, _)| across.iter().map(move |(kx, _)| filter(*ky, *kx)));
            Class { first, filters: filters.flatten().copied().collect(), down, across }
        })
        .collect();
    let (down, across) = p.class();
    let block = down.div_ceil(rayon::current_num_threads()).min(256_usize.div_ceil(across));
    dx.par_chunks_mut(height * width * cols).enumerate().for_each(|(n, dx)| {
        let dy = &dy[n * out_height * out_width * inner..][..out_height * out_width * inner];
        let blocks = dx.par_chunks_mut(block * stride * width * cols).enumerate();
        blocks.for_each_init(Vec::new, |scratch: &mut Vec<f32>, (i, dx)| {
            dx.fill(0.0);
            for class in classes.iter().filter(|class| !class.filters.is_empty()) {
                let taps = class.down.len() * class.across.len();
                scratch.resize(block * across * (taps * inner + cols), 0.0);
                let (strip, sums) = scratch.split_at_mut(block * across * taps * inner);
                for (place, row) in strip.chunks_exact_mut(taps * inner).enumerate() {
                    let (ty, tx) = (i * block + place / across, place % across);
                    for (t, to) in row.chunks_exact_mut(inner).enumerate() {
                        let (_, below) = class.down[t / class.across.len()];
                        let (_, right) = class.across[t % class.across.len()];
                        let oy = ty.checked_add_signed(below).filter(|oy| *oy < out_height);
                        let ox = tx.checked_add_signed(right).filter(|ox| *ox < out_width);
                        match (oy, ox) {
                            (Some(oy), Some(ox)) => {
                                to.copy_from_slice(&dy[(oy * out_width + ox) * inner..][..inner]);
                            }
                            _ => to.fill(0.0),
                        }
                    }
                }
                let sizes = [block * across, taps * inner, cols];
                gemm(sums, cols, strip, taps * inner, (&class.filters[..], cols, 1), sizes, 1.0);
                for (place, sum) in sums.chunks_exact(cols).enumerate() {
                    let y = place / across * stride + class.first.0;
                    let x = place % across * stride + class.first.1;
                    if x < width
                        && let Some(to) = dx.get_mut((y * width + x) * cols..(y * width + x + 1) * cols)
                    {
                        to.copy_from_slice(sum);
                    }
                }
            }
        });
    });
}
