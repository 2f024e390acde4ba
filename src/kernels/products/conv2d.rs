//! Convolution as an implicit matrix product over channels-last pictures, optionally of two inputs side by side.

use super::conv2d_winograd;
use crate::graph::rewrites::{CONV2D_SLICES, FILLED_INPUT, FILLED_INPUTS, FILLED_OUTPUT, Rewrites, WINOGRAD};
use crate::graph::split::parts;
use crate::graph::{Graph, Repack, Source, Storage, Tensor};
use crate::kernels::column_sums::column_sums;
use crate::kernels::conv2d_gradient::conv2d_gradient;
use crate::kernels::cut::columns;
use crate::kernels::epilogue::Epilogue;
use crate::kernels::filter_gradient::{self, filter_gradient};
use crate::kernels::gemm::{Panels, Rows};
use crate::kernels::resample::Resample;
use crate::kernels::resample_gradient::resample_gradient;
use crate::kernels::sum_axis::sum_axis;
use crate::kernels::weight_transpose::weight_transpose;
use crate::kernels::{
    ACTIVATION, Backward, COOPERATIVE, Cost, EPILOGUE, GATHER, INDEX, Kernel, MATRICES, MATRICES8,
    MATRICES16, Needs, Packed, ROWS12, STORE, STORE_QUAD, SUBGROUP, Shader, TILE, TILE64, subgroup_grid,
    tile_grid, wide_grid,
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
    /// Rows of zeros above; wraps below 0 where a window begins inside the enlarged input.
    pad_top: u32,
    /// Columns of zeros to the left.
    pad_left: u32,
    /// Pictures of the input; picture n of the output reads picture n % pictures.
    pictures: u32,
    /// 1 if a bias is bound.
    has_bias: u32,
    /// 1: computed tap by tap wherever it is; Winograd's products round several times as much.
    direct: u32;
    epilogue
}

/// Whether pixels of both inputs and of y, and rows of w, are whole quads, and the input is enlarged by doubling.
fn in_quads(params: &[u8]) -> bool {
    let p = Params::read(params);
    [p.in_a, p.in_b, p.cols].iter().all(|n| n.is_multiple_of(4)) && p.up.is_power_of_two()
}

/// `shaders/shared/conv2d_params.wgsl`: the uniform.
const HEADER: &str = wgsl!("shared/conv2d_params");

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "conv2d",
    shaders: &[
        Shader::plain(
            "conv2d",
            wgsl!("products/conv2d"),
            &[HEADER, INDEX, TILE, ACTIVATION, EPILOGUE, STORE],
            |params, _| {
                let p = Params::read(params);
                tile_grid(p.rows as usize, p.cols as usize, 1)
            },
        ),
        Shader::plain(
            "conv2d_subgroup",
            wgsl!("software/conv2d_subgroup"),
            &[HEADER, INDEX, ROWS12, SUBGROUP, ACTIVATION, EPILOGUE, STORE],
            |params, _| {
                let p = Params::read(params);
                subgroup_grid(p.rows, p.cols, 1, 12)
            },
        )
        .needing(Needs::SUBGROUP8),
        Shader::plain(
            "conv2d_tile",
            wgsl!("products/conv2d_tile"),
            &[HEADER, INDEX, TILE64, GATHER, ACTIVATION, EPILOGUE, STORE_QUAD],
            |params, _| {
                let p = Params::read(params);
                wide_grid(p.rows, p.cols, 1, 64)
            },
        )
        .needing(Needs::HARDWARE)
        .fitting(in_quads),
        Shader::plain(
            "conv2d_tile_matrices8",
            wgsl!("products/conv2d_tile"),
            &[HEADER, INDEX, MATRICES8, MATRICES, COOPERATIVE, GATHER, ACTIVATION, EPILOGUE, STORE_QUAD],
            |params, _| {
                let p = Params::read(params);
                wide_grid(p.rows, p.cols, 1, 64)
            },
        )
        .needing(Needs::MATRICES8)
        .fitting(in_quads),
        Shader::plain(
            "conv2d_tile_matrices16",
            wgsl!("products/conv2d_tile"),
            &[HEADER, INDEX, MATRICES16, MATRICES, COOPERATIVE, GATHER, ACTIVATION, EPILOGUE, STORE_QUAD],
            |params, _| {
                let p = Params::read(params);
                wide_grid(p.rows, p.cols, 1, 128)
            },
        )
        .needing(Needs::MATRICES16)
        .fitting(in_quads),
    ],
    fields: Params::FIELDS,
    epilogue: true,
    reference: |p, x, y| y[0].iter_mut().enumerate().for_each(|(i, y)| *y = element(p, x, i)),
    cpu: |p, x, y| {
        let w = packed(p, x[2], false);
        cpu(p, x, &w, y[0]);
    },
    packed: Some(Packed { input: 2, fits: |_| true, cpu: |p, x, y| cpu(p, x, &packed(p, x[2], true), y[0]) }),
    gradient: Some(gradient),
    of_item: |params, _| {
        let p = Params::read(params);
        Params { rows: p.out_height * p.out_width, pictures: 1, ..p }.bytes()
    },
    element: Some(element),
    rewrites: Rewrites {
        elem_inputs: 2,
        others: &[FILLED_INPUT, FILLED_INPUTS, FILLED_OUTPUT, WINOGRAD, CONV2D_SLICES],
    },
    split: Some(parts::conv2d),
    cost: |params, inputs, output| {
        let p = Params::read(params);
        let taps = f64::from(p.kernel_height) * f64::from(p.kernel_width) * f64::from(p.in_a + p.in_b);
        Cost::streaming(2.0 * f64::from(p.rows) * taps * f64::from(p.cols), inputs, output)
    },
};

/// How a convolution moves over its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Distance of neighbouring outputs.
    pub stride: usize,
    /// Zeros added at top, left, bottom, right.
    pub pad: [usize; 4],
    /// The input is first enlarged this many times by nearest neighbour.
    pub up: usize,
    /// The output has this many times the pictures of the input, which is read again for each: the two halves of
    /// classifier-free guidance start from one sample.
    pub repeat: usize,
}

impl Window {
    /// Stride 1, the same size out as in, for an odd kernel.
    pub fn same(kernel: usize) -> Self {
        Window { stride: 1, pad: [kernel / 2; 4], up: 1, repeat: 1 }
    }

    /// Stride and equal padding on all sides.
    pub fn strided(stride: usize, pad: usize) -> Self {
        Window { stride, pad: [pad; 4], up: 1, repeat: 1 }
    }
}

/// conv of `[N, H, W, A]`, or of two inputs side by side, with w `[kh, kw, A (+ B), O]` and bias `[O]` →
/// `[N, OH, OW, O]`.
#[track_caller]
pub fn conv2d(
    g: &mut Graph,
    label: &str,
    (a, b): (&Tensor, Option<&Tensor>),
    w: &Tensor,
    bias: Option<&Tensor>,
    window: Window,
) -> Tensor {
    let (&[n, height, width, in_a], &[kh, kw, input, cols]) = (&a.shape[..], &w.shape[..]) else {
        panic!(
            "{label}: conv2d of {:?} with {:?}: [N, H, W, C] and [kh, kw, C, O] are needed",
            a.shape, w.shape
        );
    };
    let in_b = b.map_or(0, Tensor::channels);
    if let Some(b) = b {
        assert_eq!(b.shape[..3], a.shape[..3], "{label}: the two inputs differ in N, H or W");
    }
    assert_eq!(in_a + in_b, input, "{label}: input has {in_a}+{in_b} channels, filter {input}");
    if let Some(bias) = bias {
        assert_eq!(bias.len(), cols, "{label}: bias {:?} for {cols} channels", bias.shape);
    }
    let [top, left, bottom, right] = window.pad;
    let (tall, wide) = (height * window.up + top + bottom, width * window.up + left + right);
    assert!(tall >= kh && wide >= kw, "{label}: {height}x{width} is smaller than the {kh}x{kw} kernel");
    let (out_height, out_width) = ((tall - kh) / window.stride + 1, (wide - kw) / window.stride + 1);
    let rows = n * window.repeat * out_height * out_width;
    let p = Params {
        height: height as u32,
        width: width as u32,
        in_a: in_a as u32,
        in_b: in_b as u32,
        out_height: out_height as u32,
        out_width: out_width as u32,
        cols: cols as u32,
        rows: rows as u32,
        kernel_height: kh as u32,
        kernel_width: kw as u32,
        stride: window.stride as u32,
        up: window.up as u32,
        pad_top: top as u32,
        pad_left: left as u32,
        pictures: n as u32,
        has_bias: bias.is_some().into(),
        direct: 0,
        epilogue: Epilogue::default(),
    };
    let empty = g.empty();
    g.push(
        &KERNEL,
        label,
        p.bytes(),
        &[a, b.unwrap_or(&empty), w, bias.unwrap_or(&empty), &empty],
        &[n * window.repeat, out_height, out_width, cols],
        Storage::Elem,
    )
}

/// Has all convolutions of a graph computed tap by tap.
pub fn compute_directly(g: &mut Graph) {
    for node in g.nodes.iter_mut().filter(|node| *node.kernel == KERNEL) {
        node.params = Params { direct: 1, ..Params::read(&node.params) }.bytes();
    }
}

/// The gradient of what is read, as if it were enlarged and one tensor: at stride 1 a convolution of dy with the flipped
/// filters. Then the sums of enlarged pixels and of pictures that are read repeatedly, then the columns of each input.
fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    let p = Params::read(&of.node.params);
    of.refuse(&[(4, "the operand")])?;
    let label = of.label();
    let mut gradients = vec![None; 5];
    if of.wants[2] {
        let ([a, b, w], p) = ([0, 1, 2].map(|i| of.input(g, i)), filter_gradient::Params::of_conv2d(&p));
        let dw = filter_gradient(g, &label, [&a, &b, of.dy], &p);
        gradients[2] = Some(g.reshape(&dw, &w.shape));
    }
    gradients[3] = of.wants[3].then(|| column_sums(g, &label, of.dy, None));
    if !of.wants[0] && !of.wants[1] {
        return Ok(gradients);
    }
    let w = of.input(g, 2);
    let w = backward_filters(g, &label, &w, &p)?;
    let [height, width] = [p.height * p.up, p.width * p.up];
    // Zeros around dy, so that a window begins at every pixel; none are negative where dy is large enough.
    let pad = |kernel: u32, pad: u32, size: u32, out: u32| {
        let before = kernel.checked_sub(1 + pad)?;
        let after = (size + kernel - 1).checked_sub(out + before)?;
        Some([before, after].map(|n| n as usize))
    };
    let down = pad(p.kernel_height, p.pad_top, height, p.out_height);
    let across = pad(p.kernel_width, p.pad_left, width, p.out_width);
    let mut dx = match (p.stride, down, across) {
        (1, Some([top, bottom]), Some([left, right])) => {
            let window = Window { stride: 1, pad: [top, left, bottom, right], up: 1, repeat: 1 };
            conv2d(g, &label, (of.dy, None), &w, None, window)
        }
        _ => conv2d_gradient(g, &label, of.dy, &w, &p),
    };
    if p.up > 1 {
        dx = resample_gradient(g, &label, &dx, p.height as usize, p.width as usize, Resample::Nearest);
    }
    let repeat = p.rows / (p.pictures * p.out_height * p.out_width);
    if repeat > 1 {
        let x = [p.pictures, p.height, p.width, p.in_a + p.in_b].map(|n| n as usize);
        let len = x.iter().product();
        dx = sum_axis(g, &label, &dx, [1, repeat as usize, len], &x);
    }
    if p.in_b == 0 {
        gradients[0] = Some(dx);
        return Ok(gradients);
    }
    let (in_a, in_b) = (p.in_a as usize, p.in_b as usize);
    gradients[0] = of.wants[0].then(|| columns(g, &label, &dx, 0, in_a));
    gradients[1] = of.wants[1].then(|| columns(g, &label, &dx, in_a, in_b));
    Ok(gradients)
}

/// A filter for the other pass: a weight's other layout, or what is computed of one that changes.
fn backward_filters(g: &mut Graph, label: &str, w: &Tensor, p: &Params) -> Result<Tensor, &'static str> {
    let taps = (p.kernel_height * p.kernel_width) as usize;
    let (input, output) = ((p.in_a + p.in_b) as usize, p.cols as usize);
    let shape = [p.kernel_height as usize, p.kernel_width as usize, output, input];
    let source = match &g.info(w.id).source {
        Source::Weight { parts, shape, repack } => {
            let repack = match repack {
                Repack::Conv(pass) => Repack::Conv(pass.reversed()),
                Repack::Transpose if taps == 1 => Repack::None,
                _ => return Err("its input through such a filter"),
            };
            Source::Weight { parts: parts.clone(), shape: shape.clone(), repack }
        }
        Source::Constant(values) => {
            let mut flipped = Vec::with_capacity(values.len());
            for tap in values.chunks_exact(input * output).rev() {
                flipped.extend((0..input * output).map(|i| tap[i % input * output + i / input]));
            }
            Source::Constant(flipped)
        }
        _ => {
            let matrices = g.reshape(w, &[taps, input, output]);
            let flipped = weight_transpose(g, label, &matrices, true);
            return Ok(g.reshape(&flipped, &shape));
        }
    };
    Ok(g.add(&shape, Storage::Weight, source))
}

impl Params {
    /// Index of the input pixel that output pixel `row` reads at tap (`ky`, `kx`), or none in the padding.
    pub(crate) fn pixel(&self, row: usize, ky: usize, kx: usize) -> Option<usize> {
        let (out_width, out_height) = (self.out_width as usize, self.out_height as usize);
        let (image, at) = (row / (out_height * out_width), row % (out_height * out_width));
        // What lies above the first row is, unsigned, far below the last.
        let y = ((at / out_width * self.stride as usize + ky) as u32).wrapping_sub(self.pad_top) as usize;
        let x = (at % out_width * self.stride as usize + kx).checked_sub(self.pad_left as usize)?;
        let (y, x, image) = (y / self.up as usize, x / self.up as usize, image % self.pictures as usize);
        let (height, width) = (self.height as usize, self.width as usize);
        (y < height && x < width).then(|| (image * height + y) * width + x)
    }
}

impl Params {
    /// Copies line `y` of the enlarged and padded input, from its left edge on.
    fn gather(&self, inputs: &[&[f32]], image: usize, y: usize, line: &mut [f32]) {
        let (in_a, in_b, up) = (self.in_a as usize, self.in_b as usize, self.up as usize);
        let (height, width, channels) = (self.height as usize, self.width as usize, in_a + in_b);
        let y = (y as u32).wrapping_sub(self.pad_top) as usize;
        if y >= height * up {
            return line.fill(0.0);
        }
        let first = (image % self.pictures as usize * height + y / up) * width;
        let (a, b) = (&inputs[0][first * in_a..][..width * in_a], &inputs[1][first * in_b..][..width * in_b]);
        let (left, rest) = line.split_at_mut((self.pad_left as usize * channels).min(line.len()));
        let (middle, right) = rest.split_at_mut((width * up * channels).min(rest.len()));
        left.fill(0.0);
        right.fill(0.0);
        if up == 1 && in_b == 0 {
            return middle.copy_from_slice(&a[..middle.len()]);
        }
        for (x, pixel) in middle.chunks_exact_mut(channels).enumerate() {
            let x = x / up;
            pixel[..in_a].copy_from_slice(&a[x * in_a..][..in_a]);
            pixel[in_a..].copy_from_slice(&b[x * in_b..][..in_b]);
        }
    }
}

/// The definition of element `i` of y.
fn element<T: Copy + Into<f64>>(params: &[u8], inputs: &[&[T]], i: usize) -> f64 {
    let p = Params::read(params);
    let (in_a, in_b, cols) = (p.in_a as usize, p.in_b as usize, p.cols as usize);
    let (row, col) = (i / cols, i % cols);
    let mut sum: f64 = if p.has_bias != 0 { inputs[3][col].into() } else { 0.0 };
    for tap in 0..(p.kernel_height * p.kernel_width) as usize {
        let (ky, kx) = (tap / p.kernel_width as usize, tap % p.kernel_width as usize);
        let Some(pixel) = p.pixel(row, ky, kx) else { continue };
        for c in 0..in_a + in_b {
            let x = if c < in_a { inputs[0][pixel * in_a + c] } else { inputs[1][pixel * in_b + c - in_a] };
            sum += x.into() * inputs[2][(tap * (in_a + in_b) + c) * cols + col].into();
        }
    }
    Epilogue::read(params).reference(sum, inputs[4], row, col, cols)
}

/// Largest strip of input in floats: half a core's second cache at least.
const STRIP: usize = 64 << 10;

/// The filters as the panels of a product.
fn packed<'a>(params: &[u8], w: &'a [f32], already: bool) -> Panels<'a> {
    let p = Params::read(params);
    let (inner, cols) = ((p.kernel_height * p.kernel_width * (p.in_a + p.in_b)) as usize, p.cols as usize);
    match already {
        true => Panels::packed(w, inner, cols),
        // Transformed filters are copies already.
        false if conv2d_winograd::fits(&p) => Panels::in_place(w, inner, cols, cols),
        false => Panels::new(w, inner, cols, p.rows as usize),
    }
}

/// Blocks of output rows, each: copy the rows it reads into a strip with the padding around them, where what a pixel
/// reads of a row is contiguous, multiply, finish.
fn cpu(params: &[u8], inputs: &[&[f32]], w: &Panels<'_>, y: &mut [f32]) {
    let p = Params::read(params);
    if conv2d_winograd::fits(&p) {
        return conv2d_winograd::convolve(p, inputs, w, y);
    }
    let epilogue = Epilogue::read(params);
    let (operand, cols) = (inputs[4], p.cols as usize);
    let channels = (p.in_a + p.in_b) as usize;
    let bias = (p.has_bias != 0).then_some(inputs[3]);
    let (stride, taps_down, taps_across) =
        (p.stride as usize, p.kernel_height as usize, p.kernel_width as usize);
    let (out_height, out_width) = (p.out_height as usize, p.out_width as usize);
    let pictures = p.rows as usize / (out_height * out_width);
    let line = ((out_width - 1) * stride + taps_across) * channels;
    let threads = rayon::current_num_threads();
    let fair =
        (pictures * out_height).div_ceil(if p.rows as usize > 512 * threads { 4 * threads } else { threads });
    let block = ((STRIP / line).saturating_sub(taps_down) / stride + 1).min(fair).min(out_height);
    y.par_chunks_mut(out_height * out_width * cols).enumerate().for_each(|(image, y)| {
        y.par_chunks_mut(block * out_width * cols).enumerate().for_each_init(
            Vec::new,
            |strip: &mut Vec<f32>, (i, y)| {
                let lines = y.len() / (out_width * cols);
                strip.resize(((lines - 1) * stride + taps_down) * line, 0.0);
                for (r, strip) in strip.chunks_exact_mut(line).enumerate() {
                    p.gather(inputs, image, i * block * stride + r, strip);
                }
                let rows = Rows {
                    values: strip,
                    across: (out_width, stride * channels),
                    down: stride * line,
                    runs: (taps_down, line),
                    run: taps_across * channels,
                };
                w.product(&rows, y, false);
                epilogue.apply(y, (image * out_height + i * block) * out_width, cols, bias, operand);
            },
        );
    });
}
