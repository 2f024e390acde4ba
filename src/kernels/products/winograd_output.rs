//! The last third of a 3×3 convolution by Winograd's F(4×4, 3×3) (Lavin & Gray 2015, arXiv:1509.09308): sums of 36
//! planes back to tiles of 4×4 pixels, with the convolution's epilogue. See [`crate::kernels::winograd_input`].

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::epilogue::Epilogue;
use crate::kernels::winograd::{OUTPUT, TILE, WINDOW};
use crate::kernels::winograd_input::tiles;
use crate::kernels::{
    ACTIVATION, Cost, EPILOGUE, INDEX, Kernel, STORE, Shader, conv2d, defined_in_f32, fold_grid,
};

params! {
    /// Output height.
    out_height: u32,
    /// Output width.
    out_width: u32,
    /// Output channels.
    cols: u32,
    /// Tiles along the output's height.
    tiles_down: u32,
    /// Tiles along the output's width.
    tiles_across: u32,
    /// Tiles of all pictures.
    tiles: u32,
    /// 1 if a bias is bound.
    has_bias: u32;
    epilogue
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "winograd_output",
    shaders: &[Shader::plain(
        "winograd_output",
        wgsl!("products/winograd_output"),
        &[INDEX, ACTIVATION, EPILOGUE, STORE],
        |params, _| {
            let p = Params::read(params);
            fold_grid((p.tiles as usize * p.cols as usize).div_ceil(64))
        },
    )],
    fields: Params::FIELDS,
    epilogue: true,
    reference: |params, inputs, y| defined_in_f32(compute, params, inputs, y[0]),
    cpu: |p, x, y| compute(p, x, y[0]),
    cost: |_, inputs, output| Cost::streaming(8.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// The output of convolution `of` from its 36 planes of sums `m` `[36, tiles, cols]`, its bias and epilogue.
pub fn winograd_output(
    g: &mut Graph,
    label: &str,
    m: &Tensor,
    (bias, operand): (&Tensor, &Tensor),
    of: &conv2d::Params,
) -> Tensor {
    let [tiles_down, tiles_across, tiles] = tiles(of);
    let p = Params {
        out_height: of.out_height,
        out_width: of.out_width,
        cols: of.cols,
        tiles_down,
        tiles_across,
        tiles,
        has_bias: of.has_bias,
        epilogue: of.epilogue,
    };
    let pictures = of.rows / (of.out_height * of.out_width);
    g.push(
        &KERNEL,
        label,
        p.bytes(),
        &[m, bias, operand],
        &[pictures, of.out_height, of.out_width, of.cols].map(|n| n as usize),
        Storage::Elem,
    )
}

fn compute(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let epilogue = Epilogue::read(params);
    let (m, bias, operand) = (inputs[0], inputs[1], inputs[2]);
    let (height, width, cols) = (p.out_height as usize, p.out_width as usize, p.cols as usize);
    for (i, y) in y.iter_mut().enumerate() {
        let (row, col) = (i / cols, i % cols);
        let (n, oy, ox) = (row / width / height, row / width % height, row % width);
        let tile = (n * p.tiles_down as usize + oy / TILE) * p.tiles_across as usize + ox / TILE;
        let mut sum = if p.has_bias != 0 { f64::from(bias[col]) } else { 0.0 };
        for (r, ay) in OUTPUT[oy % TILE].iter().enumerate() {
            for (c, ax) in OUTPUT[ox % TILE].iter().enumerate() {
                sum += ay * ax * f64::from(m[((r * WINDOW + c) * p.tiles as usize + tile) * cols + col]);
            }
        }
        *y = epilogue.reference(sum, operand, row, col, cols) as f32;
    }
}
