//! First pass of a deep, small convolution or product: the inner dimension is cut into slices whose sums are computed
//! side by side, because the tiles of the output alone would leave most of a GPU idle (split-K). [`crate::kernels::sum_slices`]
//! adds them up.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{
    COOPERATIVE, Cost, GATHER, INDEX, Kernel, MATRICES, MATRICES8, MATRICES16, Needs, Shader, TILE64, conv2d,
    defined_in_f32, matmul, wide_grid,
};
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
    /// Rows of zeros above.
    pad_top: u32,
    /// Columns of zeros to the left.
    pad_left: u32,
    /// Pictures of the input; picture n of the output reads picture n % pictures.
    pictures: u32,
    /// Slices of the inner dimension (taps × channels).
    slices: u32,
    /// Its elements in a slice, a multiple of 16; the last slice may be shorter.
    depth: u32,
}

/// Above this many tiles of 64 × 64 of one picture a GPU is busy without slices.
const MAX_TILES: u32 = 96;
/// Slices are added until there are this many workgroups for one picture: the two of a guided step are about what a large GPU
/// holds. They follow from a picture's shape alone, as the order of its sums does.
const WORKGROUPS: u32 = 256;
/// Least depth of a slice: below it, writing and adding the sums costs as much as is won.
const MIN_DEPTH: u32 = 512;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "product_slices",
    shaders: &[
        Shader::plain(
            "product_slices",
            wgsl!("products/product_slices"),
            &[INDEX, TILE64, GATHER],
            |params, _| {
                let p = Params::read(params);
                wide_grid(p.rows, p.cols, p.slices, 64)
            },
        )
        .needing(Needs::HARDWARE),
        Shader::plain(
            "product_slices_matrices8",
            wgsl!("products/product_slices"),
            &[INDEX, MATRICES8, MATRICES, COOPERATIVE, GATHER],
            |params, _| {
                let p = Params::read(params);
                wide_grid(p.rows, p.cols, p.slices, 64)
            },
        )
        .needing(Needs::MATRICES8),
        Shader::plain(
            "product_slices_matrices16",
            wgsl!("products/product_slices"),
            &[INDEX, MATRICES16, MATRICES, COOPERATIVE, GATHER],
            |params, _| {
                let p = Params::read(params);
                wide_grid(p.rows, p.cols, p.slices, 128)
            },
        )
        .needing(Needs::MATRICES16),
    ],
    fields: Params::FIELDS,
    reference: |params, inputs, y| defined_in_f32(compute, params, inputs, y[0]),
    cpu: |p, x, y| compute(p, x, y[0]),
    cost: |params, inputs, output| {
        let p = Params::read(params);
        Cost::streaming(2.0 * f64::from(p.rows) * p.inner() as f64 * f64::from(p.cols), inputs, output)
    },
    ..Kernel::PLAIN
};

impl Params {
    fn inner(&self) -> usize {
        (self.kernel_height * self.kernel_width) as usize * (self.in_a + self.in_b) as usize
    }

    /// Of a convolution of so many items, where slices help one of them: few tiles, a deep inner dimension, whole quads.
    pub(crate) fn of_conv2d(of: &conv2d::Params, items: u32) -> Option<Params> {
        let p = Params {
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
            ..Params::default()
        };
        let tiles = p.rows.div_ceil(items).div_ceil(64) * p.cols.div_ceil(64);
        let slices = (WORKGROUPS / tiles.max(1)).min(p.inner() as u32 / MIN_DEPTH);
        let quads = [p.in_a, p.in_b, p.cols].iter().all(|n| n.is_multiple_of(4));
        if tiles > MAX_TILES || slices < 2 || !quads || !p.up.is_power_of_two() {
            return None;
        }
        let depth = (p.inner() as u32).div_ceil(slices).next_multiple_of(16);
        Some(Params { slices: (p.inner() as u32).div_ceil(depth), depth, ..p })
    }

    /// Of a product, as a convolution of one row of pixels.
    pub(crate) fn of_matmul(of: &matmul::Params, items: u32) -> Option<Params> {
        let p = conv2d::Params {
            height: 1,
            width: of.rows,
            in_a: of.inner,
            out_height: 1,
            out_width: of.rows,
            cols: of.cols,
            rows: of.rows,
            kernel_height: 1,
            kernel_width: 1,
            stride: 1,
            up: 1,
            pictures: 1,
            ..Default::default()
        };
        Params::of_conv2d(&p, items).filter(|_| of.batches == 1)
    }

    fn conv2d(&self) -> conv2d::Params {
        conv2d::Params {
            height: self.height,
            width: self.width,
            out_height: self.out_height,
            out_width: self.out_width,
            stride: self.stride,
            up: self.up,
            pad_top: self.pad_top,
            pad_left: self.pad_left,
            pictures: self.pictures,
            ..Default::default()
        }
    }
}

/// The sums of each slice of what `p` describes → `[slices, rows, cols]` in f32.
pub fn product_slices(g: &mut Graph, label: &str, [a, b, w]: [&Tensor; 3], p: &Params) -> Tensor {
    g.push(
        &KERNEL,
        label,
        p.bytes(),
        &[a, b, w],
        &[p.slices, p.rows, p.cols].map(|n| n as usize),
        Storage::F32,
    )
}

fn compute(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let conv = p.conv2d();
    let (in_a, in_b, cols, inner) = (p.in_a as usize, p.in_b as usize, p.cols as usize, p.inner());
    y.par_chunks_mut(cols).enumerate().for_each(|(i, y)| {
        let (slice, row) = (i / p.rows as usize, i % p.rows as usize);
        let first = slice * p.depth as usize;
        let mut sums = vec![0.0; cols];
        for k in first..inner.min(first + p.depth as usize) {
            let (tap, c) = (k / (in_a + in_b), k % (in_a + in_b));
            let (ky, kx) = (tap / p.kernel_width as usize, tap % p.kernel_width as usize);
            let Some(pixel) = conv.pixel(row, ky, kx) else { continue };
            let x = if c < in_a { inputs[0][pixel * in_a + c] } else { inputs[1][pixel * in_b + c - in_a] };
            for (sum, w) in sums.iter_mut().zip(&inputs[2][k * cols..]) {
                *sum += f64::from(x) * f64::from(*w);
            }
        }
        y.iter_mut().zip(sums).for_each(|(y, sum)| *y = sum as f32);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conv(side: u32, pictures: u32, channels: u32) -> Option<Params> {
        let p = conv2d::Params {
            height: side,
            width: side,
            in_a: channels,
            out_height: side,
            out_width: side,
            cols: channels,
            rows: pictures * side * side,
            kernel_height: 3,
            kernel_width: 3,
            stride: 1,
            up: 1,
            pad_top: 1,
            pad_left: 1,
            pictures,
            ..Default::default()
        };
        Params::of_conv2d(&p, pictures)
    }

    #[test]
    fn deep_small_maps_are_cut_into_slices() {
        for (side, pictures, channels, slices) in
            [(8, 2, 1280, 12), (8, 16, 1280, 12), (16, 2, 1280, 3), (8, 1, 768, 13), (4, 1, 124, 2)]
        {
            let p = conv(side, pictures, channels).expect("slices");
            assert_eq!(p.slices, slices);
            assert!(p.depth.is_multiple_of(16) && p.depth >= MIN_DEPTH);
            assert!((p.slices - 1) * p.depth < 9 * channels && 9 * channels <= p.slices * p.depth);
        }
        assert_eq!(conv(64, 2, 320), None, "enough tiles");
        assert_eq!(conv(8, 2, 64), None, "not deep");
        assert_eq!(conv(8, 2, 1281), None, "no quads");
    }
}
