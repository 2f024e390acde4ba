//! Pictures at another size: nearest, bilinear, bicubic (Keys 1981), average pooling.

use super::simd::wide;
use super::{Cost, INDEX, Kernel, Shader, element_grid};
use crate::graph::{Call, Graph, Storage, Tensor};
use rayon::prelude::*;

params! {
    /// Input height.
    height: u32,
    /// Input width.
    width: u32,
    /// Output height.
    out_height: u32,
    /// Output width.
    out_width: u32,
    /// Channels.
    channels: u32,
    /// Elements of y.
    len: u32,
    /// 0 nearest, 1 linear, 2 cubic, 3 area.
    mode: u32,
    /// 1: the corners' pixel centres of input and output coincide.
    align_corners: u32,
    /// 1: stretch the kernel when shrinking and renormalise at the edges.
    antialias: u32,
    /// The cubic kernel's free parameter.
    cubic_a: f32,
}


/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "resample",
    shaders: &[Shader::plain("resample", include_str!("../../shaders/resample.wgsl"), &[INDEX], element_grid)],
    fields: Params::FIELDS,
    epilogue: false,
    reference,
    cpu,
    gradient: None,
    cost: |_, inputs, output| Cost::streaming(8.0 * output.iter().product::<usize>() as f64, inputs, output),
};

/// How a picture is resized; PyTorch's `interpolate` modes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Resample {
    /// `nearest`
    Nearest,
    /// `bilinear`; Imagen's super-resolution aligns corners, GLIDE's does not.
    Bilinear {
        /// The corners' pixel centres coincide.
        align_corners: bool,
    },
    /// `bicubic` (a = -0.75), or with antialias (a = -0.5), as unCLIP's super-resolution.
    Bicubic {
        /// Stretch the kernel when shrinking, renormalise at the edges.
        antialias: bool,
    },
    /// Mean of square blocks; the output size must divide the input's (an odd last row or column is dropped).
    Area,
}

/// `[N, H, W, C]` → `[N, height, width, C]`.
#[track_caller]
pub fn resample(g: &mut Graph, label: &str, x: &Tensor, height: usize, width: usize, mode: Resample) -> Tensor {
    let &[n, h, w, channels] = &x.shape[..] else { panic!("{label}: [N, H, W, C] is needed, {:?} given", x.shape) };
    assert!(height > 0 && width > 0, "{label}: resize to {height}x{width}");
    if mode == Resample::Area {
        assert!(height <= h && h / height == w / width, "{label}: blocks of {h}x{w} to {height}x{width}");
    }
    let (number, align_corners, antialias, cubic_a) = match mode {
        Resample::Nearest => (0, false, false, 0.0),
        Resample::Bilinear { align_corners } => (1, align_corners, false, 0.0),
        Resample::Bicubic { antialias } => (2, false, antialias, if antialias { -0.5 } else { -0.75 }),
        Resample::Area => (3, false, false, 0.0),
    };
    let len = n * height * width * channels;
    let p = Params {
        height: h as u32,
        width: w as u32,
        out_height: height as u32,
        out_width: width as u32,
        channels: channels as u32,
        len: len as u32,
        mode: number,
        align_corners: align_corners.into(),
        antialias: antialias.into(),
        cubic_a,
    };
    g.push(Call {
        kernel: &KERNEL,
        params: p.bytes(),
        inputs: &[x],
        shape: &[n, height, width, channels],
        storage: Storage::Elem,
        label,
    })
}

/// Input coordinates and weights of output coordinate `o`.
fn taps(p: &Params, o: usize, size: usize, out_size: usize) -> Vec<(usize, f64)> {
    let (scale, a) = (size as f64 / out_size as f64, f64::from(p.cubic_a));
    let kernel = |d: f64| match (p.mode, d.abs()) {
        (1, d) => (1.0 - d).max(0.0),
        (_, d) if d <= 1.0 => (a + 2.0) * d.powi(3) - (a + 3.0) * d.powi(2) + 1.0,
        (_, d) if d < 2.0 => a * d.powi(3) - 5.0 * a * d.powi(2) + 8.0 * a * d - 4.0 * a,
        _ => 0.0,
    };
    match p.mode {
        0 => return vec![(o * size / out_size, 1.0)],
        3 => {
            let block = size / out_size;
            return (0..block).map(|i| (o * block + i, 1.0 / block as f64)).collect();
        }
        _ => {}
    }
    let centre = if p.align_corners != 0 {
        o as f64 * (size - 1) as f64 / (out_size.max(2) - 1) as f64
    } else {
        (o as f64 + 0.5) * scale - 0.5
    };
    let radius = if p.mode == 1 { 1.0 } else { 2.0 };
    if p.antialias == 0 {
        let centre = if p.mode == 1 { centre.max(0.0) } else { centre };
        let first = centre.floor() as i64 - radius as i64 + 1;
        let at = |i: i64| i.clamp(0, size as i64 - 1) as usize;
        return (first..first + 2 * radius as i64).map(|i| (at(i), kernel(i as f64 - centre))).collect();
    }
    let stretch = scale.max(1.0);
    let first = ((centre - radius * stretch + 1.0) as i64).max(0);
    let end = ((centre + radius * stretch + 1.0) as i64).min(size as i64);
    let weights: Vec<f64> = (first..end).map(|i| kernel((i as f64 - centre) / stretch)).collect();
    let total: f64 = weights.iter().sum();
    (first..end).zip(weights).map(|(i, w)| (i as usize, w / total)).collect()
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let (p, x) = (&Params::read(params), inputs[0]);
    let (channels, height, width) = (p.channels as usize, p.height as usize, p.width as usize);
    let (out_height, out_width) = (p.out_height as usize, p.out_width as usize);
    let columns: Vec<_> = (0..out_width).map(|o| taps(p, o, width, out_width)).collect();
    for (line, y) in y.chunks_exact_mut(out_width * channels).enumerate() {
        let (n, oy) = (line / out_height, line % out_height);
        let lines = taps(p, oy, height, out_height);
        for (column, y) in columns.iter().zip(y.chunks_exact_mut(channels)) {
            for (c, y) in y.iter_mut().enumerate() {
                let mut sum = 0.0;
                for (iy, wy) in &lines {
                    for (ix, wx) in column {
                        sum += wy * wx * x[((n * height + iy) * width + ix) * channels + c];
                    }
                }
                *y = sum;
            }
        }
    }
}

/// Lines of y, each: the lines of x blended into one, then its pixels.
fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (channels, height, width) = (p.channels as usize, p.height as usize, p.width as usize);
    let (out_height, out_width) = (p.out_height as usize, p.out_width as usize);
    let weights = |taps: Vec<(usize, f64)>| taps.into_iter().map(|(i, weight)| (i, weight as f32)).collect();
    let columns: Vec<Vec<(usize, f32)>> = (0..out_width).map(|o| weights(taps(&p, o, width, out_width))).collect();
    let lines = (16_384 / (out_width * channels)).max(1);
    let line = |blend: &mut Vec<f32>, at: usize, y: &mut [f32]| {
        let (n, oy) = (at / out_height, at % out_height);
        let x = |iy: usize| &inputs[0][(n * height + iy) * width * channels..][..width * channels];
        let rows: Vec<(usize, f32)> = weights(taps(&p, oy, height, out_height));
        wide(#[inline(always)] || {
            let blended = if let [(iy, 1.0)] = rows[..] {
                x(iy)
            } else {
                blend.clear();
                blend.resize(width * channels, 0.0);
                for (iy, weight) in &rows {
                    add_scaled(blend, x(*iy), *weight);
                }
                blend
            };
            for (column, y) in columns.iter().zip(y.chunks_exact_mut(channels)) {
                if let [(ix, 1.0)] = column[..] {
                    y.copy_from_slice(&blended[ix * channels..][..channels]);
                } else {
                    y.fill(0.0);
                    for (ix, weight) in column {
                        add_scaled(y, &blended[ix * channels..], *weight);
                    }
                }
            }
        });
    };
    let size = out_width * channels;
    y.par_chunks_mut(lines * size).enumerate().for_each_init(Vec::new, |blend, (i, y)| {
        y.chunks_exact_mut(size).enumerate().for_each(|(l, y)| line(blend, i * lines + l, y));
    });
}

/// y + x · weight, as far as y goes.
#[inline(always)]
fn add_scaled(y: &mut [f32], x: &[f32], weight: f32) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x * weight;
    }
}
