//! Pictures at another size: nearest, bilinear, bicubic (Keys 1981), average pooling.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::resample_gradient;
use crate::kernels::simd::wide;
use crate::kernels::{Backward, Cost, INDEX, Kernel, RESAMPLE, Shader, element_grid};
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
    shaders: &[Shader::plain("resample", wgsl!("pointwise/resample"), &[INDEX, RESAMPLE], element_grid)],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    gradient: Some(gradient),
    cost: |_, inputs, output| Cost::streaming(8.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
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
pub fn resample(
    g: &mut Graph,
    label: &str,
    x: &Tensor,
    height: usize,
    width: usize,
    mode: Resample,
) -> Tensor {
    let &[n, h, w, channels] = &x.shape[..] else {
        panic!("{label}: [N, H, W, C] is needed, {:?} given", x.shape)
    };
    assert!(height > 0 && width > 0, "{label}: resize to {height}x{width}");
    if mode == Resample::Area {
        assert!(height <= h && h / height == w / width, "{label}: blocks of {h}x{w} to {height}x{width}");
    }
    let p = Params::new([h, w], [height, width], channels, n * height * width * channels, mode);
    g.push(&KERNEL, label, p.bytes(), &[x], &[n, height, width, channels], Storage::Elem)
}

impl Params {
    pub(crate) fn new(
        from: [usize; 2],
        to: [usize; 2],
        channels: usize,
        len: usize,
        mode: Resample,
    ) -> Params {
        let (number, align_corners, antialias, cubic_a) = match mode {
            Resample::Nearest => (0, false, false, 0.0),
            Resample::Bilinear { align_corners } => (1, align_corners, false, 0.0),
            Resample::Bicubic { antialias } => (2, false, antialias, if antialias { -0.5 } else { -0.75 }),
            Resample::Area => (3, false, false, 0.0),
        };
        Params {
            height: from[0] as u32,
            width: from[1] as u32,
            out_height: to[0] as u32,
            out_width: to[1] as u32,
            channels: channels as u32,
            len: len as u32,
            mode: number,
            align_corners: align_corners.into(),
            antialias: antialias.into(),
            cubic_a,
        }
    }
}

fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    Ok(vec![Some(resample_gradient::push(g, &of.label(), of.dy, &Params::read(&of.node.params)))])
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

/// For each coordinate of an output: coordinates of the input, and their weights.
pub(crate) type Taps<T> = Vec<Vec<(usize, T)>>;

/// Weights separable in height and width, between sizes of pictures.
pub(crate) struct Blend<T> {
    /// Of each row of the output: rows of the input.
    pub rows: Taps<T>,
    /// Of each column of the output: columns of the input.
    pub columns: Taps<T>,
    /// Height and width of the input.
    pub size: (usize, usize),
    /// Channels.
    pub channels: usize,
}

impl Params {
    /// The weights of each output coordinate.
    pub(crate) fn blend(&self) -> Blend<f64> {
        let [h, w, oh, ow] = [self.height, self.width, self.out_height, self.out_width].map(|n| n as usize);
        let axis = |size, out_size| (0..out_size).map(|o| taps(self, o, size, out_size)).collect();
        Blend { rows: axis(h, oh), columns: axis(w, ow), size: (h, w), channels: self.channels as usize }
    }
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    Params::read(params).blend().define(inputs[0], y);
}

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    Params::read(params).blend().rounded().compute(inputs[0], y);
}

impl Blend<f64> {
    /// The sums of products.
    pub(crate) fn define(&self, x: &[f64], y: &mut [f64]) {
        let (channels, (height, width)) = (self.channels, self.size);
        for (line, y) in y.chunks_exact_mut(self.columns.len() * channels).enumerate() {
            let (n, lines) = (line / self.rows.len(), &self.rows[line % self.rows.len()]);
            for (column, y) in self.columns.iter().zip(y.chunks_exact_mut(channels)) {
                for (c, y) in y.iter_mut().enumerate() {
                    let mut sum = 0.0;
                    for (iy, wy) in lines {
                        for (ix, wx) in column {
                            sum += wy * wx * x[((n * height + iy) * width + ix) * channels + c];
                        }
                    }
                    *y = sum;
                }
            }
        }
    }

    pub(crate) fn rounded(self) -> Blend<f32> {
        let round = |taps: Taps<f64>| {
            let row =
                |row: Vec<(usize, f64)>| row.into_iter().map(|(i, weight)| (i, weight as f32)).collect();
            taps.into_iter().map(row).collect()
        };
        Blend {
            rows: round(self.rows),
            columns: round(self.columns),
            size: self.size,
            channels: self.channels,
        }
    }
}

impl Blend<f32> {
    /// Lines of y, each: the lines of x blended into one, then its pixels.
    pub(crate) fn compute(&self, x: &[f32], y: &mut [f32]) {
        let (channels, (height, width), out_width) = (self.channels, self.size, self.columns.len());
        let lines = (16_384 / (out_width * channels)).max(1);
        let line = |blend: &mut Vec<f32>, at: usize, y: &mut [f32]| {
            let (n, rows) = (at / self.rows.len(), &self.rows[at % self.rows.len()]);
            let x = |iy: usize| &x[(n * height + iy) * width * channels..][..width * channels];
            wide(
                #[inline(always)]
                || {
                    let blended = if let [(iy, 1.0)] = rows[..] {
                        x(iy)
                    } else {
                        blend.clear();
                        blend.resize(width * channels, 0.0);
                        for (iy, weight) in rows {
                            add_scaled(blend, x(*iy), *weight);
                        }
                        blend
                    };
                    for (column, y) in self.columns.iter().zip(y.chunks_exact_mut(channels)) {
                        if let [(ix, 1.0)] = column[..] {
                            y.copy_from_slice(&blended[ix * channels..][..channels]);
                        } else {
                            y.fill(0.0);
                            for (ix, weight) in column {
                                add_scaled(y, &blended[ix * channels..], *weight);
                            }
                        }
                    }
                },
            );
        };
        let size = out_width * channels;
        y.par_chunks_mut(lines * size).enumerate().for_each_init(Vec::new, |blend, (i, y)| {
            y.chunks_exact_mut(size).enumerate().for_each(|(l, y)| line(blend, i * lines + l, y));
        });
    }
}

/// y + x · weight, as far as y goes.
#[inline(always)]
fn add_scaled(y: &mut [f32], x: &[f32], weight: f32) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x * weight;
    }
}
