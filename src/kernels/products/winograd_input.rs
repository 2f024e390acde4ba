//! The first third of a 3×3 convolution by Winograd's minimal filtering F(4×4, 3×3) (Lavin & Gray 2015,
//! arXiv:1509.09308): windows of 6×6 into 36 planes, in each of which the convolution is a product of matrices, with a
//! quarter of the multiplications. The matrices and the filters' side are in [`crate::kernels::winograd`]; the last third is
//! [`crate::kernels::winograd_output`]; [`crate::graph::rewrites`] puts them together.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::winograd::{INPUT, PLANES, TILE, WINDOW};
use crate::kernels::{Cost, INDEX, Kernel, Shader, conv2d, defined_in_f32, fold_grid};
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
    /// The input is read as if enlarged this many times by nearest neighbour.
    up: u32,
    /// Pictures of the input; picture n of the output reads picture n % pictures.
    pictures: u32,
    /// Tiles along the output's height.
    tiles_down: u32,
    /// Tiles along the output's width.
    tiles_across: u32,
    /// Tiles of all pictures.
    tiles: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "winograd_input",
    shaders: &[Shader::plain(
        "winograd_input",
        wgsl!("products/winograd_input"),
        &[INDEX],
        |params, output| {
            let planes = Params::read(params).tiles as usize * output[2];
            fold_grid(planes.div_ceil(64))
        },
    )],
    fields: Params::FIELDS,
    reference: |params, inputs, y| defined_in_f32(compute, params, inputs, y[0]),
    cpu: |p, x, y| compute(p, x, y[0]),
    cost: |_, inputs, output| Cost::streaming(4.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// Tiles down, across, and of all pictures of a convolution's output.
pub fn tiles(of: &conv2d::Params) -> [u32; 3] {
    let [down, across] = [of.out_height, of.out_width].map(|side| side.div_ceil(TILE as u32));
    [down, across, of.rows / (of.out_height * of.out_width) * down * across]
}

/// The windows of what convolution `of` (3×3, stride 1, padding 1) reads from `a` and `b` → `[36, tiles, channels]`.
pub fn winograd_input(g: &mut Graph, label: &str, (a, b): (&Tensor, &Tensor), of: &conv2d::Params) -> Tensor {
    let [tiles_down, tiles_across, tiles] = tiles(of);
    let p = Params {
        height: of.height,
        width: of.width,
        in_a: of.in_a,
        in_b: of.in_b,
        up: of.up,
        pictures: of.pictures,
        tiles_down,
        tiles_across,
        tiles,
    };
    g.push(
        &KERNEL,
        label,
        p.bytes(),
        &[a, b],
        &[PLANES, p.tiles as usize, (of.in_a + of.in_b) as usize],
        Storage::Elem,
    )
}

fn compute(params: &[u8], inputs: &[&[f32]], v: &mut [f32]) {
    let p = Params::read(params);
    let (in_a, in_b, up) = (p.in_a as usize, p.in_b as usize, p.up as usize);
    let (channels, tiles) = (in_a + in_b, p.tiles as usize);
    let (height, width) = (p.height as usize, p.width as usize);
    let (down, across) = (p.tiles_down as usize, p.tiles_across as usize);
    v.par_chunks_mut(tiles * channels).enumerate().for_each(|(plane, v)| {
        let (py, px) = (plane / WINDOW, plane % WINDOW);
        for (i, v) in v.iter_mut().enumerate() {
            let (tile, c) = (i / channels, i % channels);
            let image = tile / across / down % p.pictures as usize;
            let mut sum = 0.0;
            for (y, by) in INPUT[py].iter().enumerate() {
                for (x, bx) in INPUT[px].iter().enumerate() {
                    let iy = (tile / across % down * TILE + y).checked_sub(1);
                    let ix = (tile % across * TILE + x).checked_sub(1);
                    let (Some(iy), Some(ix)) = (iy, ix) else { continue };
                    if iy >= height * up || ix >= width * up {
                        continue;
                    }
                    let pixel = (image * height + iy / up) * width + ix / up;
                    let d = if c < in_a {
                        inputs[0][pixel * in_a + c]
                    } else {
                        inputs[1][pixel * in_b + c - in_a]
                    };
                    sum += by * bx * f64::from(d);
                }
            }
            *v = sum as f32;
        }
    });
}
