//! Linear layers, convolutions, residual blocks: what every U-Net here is made of.

use crate::graph::{Graph, Tensor, WeightPart};
use crate::kernels::conv2d::{Window, conv2d};
use crate::kernels::elementwise::{add, scale};
use crate::kernels::epilogue::Activation;
use crate::kernels::group_norm::{GroupNorm, group_norm};
use crate::kernels::matmul::matmul;
use crate::kernels::resample::{Resample, resample};
use std::ops::Range;

/// x `[.., I]` · `name.weight`ᵀ + `name.bias` → `[.., out]`.
pub fn linear(g: &mut Graph, name: &str, x: &Tensor, out: usize) -> Tensor {
    let (w, b) = g.scope(name, |g| (g.matrix("weight", out, x.channels()), g.vector("bias", &[out])));
    matmul(g, name, x, &w, Some(&b))
}

/// Several linear layers of one input as one product: x `[.., I]` → `[.., names · out]`, in the names' order.
pub fn linears(g: &mut Graph, label: &str, names: &[&str], x: &Tensor, out: usize) -> Tensor {
    let parts = |ending: &str| WeightPart::all(names.iter().map(|name| format!("{name}.{ending}")));
    let w = g.matrices(&parts("weight"), out, x.channels());
    let b = g.vectors(&parts("bias"), out);
    matmul(g, label, x, &w, Some(&b))
}

/// [`linear`] without bias.
pub fn linear_no_bias(g: &mut Graph, name: &str, x: &Tensor, out: usize) -> Tensor {
    let w = g.scope(name, |g| g.matrix("weight", out, x.channels()));
    matmul(g, name, x, &w, None)
}

/// [`linear`], but only these rows of the layer, in this order (all of them if none are said).
pub fn linear_rows(g: &mut Graph, name: &str, x: &Tensor, out: usize, only: &[Range<usize>]) -> Tensor {
    some_rows(g, name, x, (out, only), Graph::matrices)
}

/// [`linear_rows`] of a layer that lies in the file as a convolution of one tap (`name.weight` `[out, I, 1]`).
pub fn pointwise(g: &mut Graph, name: &str, x: &Tensor, out: usize, only: &[Range<usize>]) -> Tensor {
    some_rows(g, name, x, (out, only), Graph::pointwise)
}

fn some_rows(
    g: &mut Graph,
    name: &str,
    x: &Tensor,
    (out, only): (usize, &[Range<usize>]),
    weight: fn(&mut Graph, &[WeightPart], usize, usize) -> Tensor,
) -> Tensor {
    let parts = |ending: &str| match only {
        [] => vec![WeightPart::whole(format!("{name}.{ending}"))],
        only => only.iter().map(|rows| WeightPart::rows(format!("{name}.{ending}"), rows.clone())).collect(),
    };
    let w = weight(g, &parts("weight"), out, x.channels());
    let b = g.vectors(&parts("bias"), out);
    matmul(g, name, x, &w, Some(&b))
}

/// The one channel of x `[.., 1]` as so many alike: `[.., channels]`.
pub fn widen(g: &mut Graph, label: &str, x: &Tensor, channels: usize) -> Tensor {
    let rows = x.rows();
    let narrow = g.reshape(x, &[rows, 1, 1, 1]);
    let wide = resample(g, label, &narrow, 1, channels, Resample::Nearest);
    let last = x.shape.len() - 1;
    g.reshape(&wide, &[&x.shape[..last], &[channels]].concat())
}

/// Convolution of `[N, H, W, A]`, or of two inputs side by side, with `name.weight` and `name.bias`.
pub fn conv(
    g: &mut Graph,
    name: &str,
    (a, b): (&Tensor, Option<&Tensor>),
    out: usize,
    kernel: usize,
    window: Window,
) -> Tensor {
    let input = a.channels() + b.map_or(0, Tensor::channels);
    let (w, bias) = g.scope(name, |g| (g.filter("weight", out, input, kernel), g.vector("bias", &[out])));
    if kernel == 1 && b.is_none() && window == Window::same(1) {
        // Channels last: a 1×1 convolution is a matrix product.
        let w = g.reshape(&w, &[input, out]);
        return matmul(g, name, a, &w, Some(&bias));
    }
    conv2d(g, name, (a, b), &w, Some(&bias), window)
}

/// Twice the size by nearest neighbour, then the 3×3 convolution `name` that reads it so (`Upsample2D`).
pub fn upsample(g: &mut Graph, name: &str, x: &Tensor) -> Tensor {
    conv(g, name, (x, None), x.channels(), 3, Window { up: 2, ..Window::same(3) })
}

/// 3×3 convolution `name` of stride 2 (`Downsample2D`); padding 0 means one row and column at the bottom right.
pub fn downsample(g: &mut Graph, name: &str, x: &Tensor, padding: usize) -> Tensor {
    let pad = if padding == 0 { [0, 0, 1, 1] } else { [padding; 4] };
    conv(g, name, (x, None), x.channels(), 3, Window { pad, ..Window::strided(2, padding) })
}

/// What a checkpoint calls the layers of a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResnetNames {
    /// Norm of the input.
    pub norm1: &'static str,
    /// First convolution.
    pub conv1: &'static str,
    /// Linear layer of the embedding.
    pub emb: &'static str,
    /// Second norm.
    pub norm2: &'static str,
    /// Second convolution.
    pub conv2: &'static str,
    /// 1×1 convolution around all of it, where the number of channels changes.
    pub shortcut: &'static str,
}

impl ResnetNames {
    /// diffusers' `ResnetBlock2D`.
    pub const DIFFUSERS: ResnetNames = ResnetNames {
        norm1: "norm1",
        conv1: "conv1",
        emb: "time_emb_proj",
        norm2: "norm2",
        conv2: "conv2",
        shortcut: "conv_shortcut",
    };
    /// OpenAI's `ResBlock`.
    pub const OPENAI: ResnetNames = ResnetNames {
        norm1: "in_layers.0",
        conv1: "in_layers.2",
        emb: "emb_layers.1",
        norm2: "out_layers.0",
        conv2: "out_layers.3",
        shortcut: "skip_connection",
    };
}

/// What all residual blocks of a network share.
#[derive(Clone, Copy, Debug)]
pub struct ResnetOptions {
    /// What the layers are called.
    pub names: ResnetNames,
    /// Groups of the norms.
    pub groups: usize,
    /// Added to the norms' variance.
    pub eps: f32,
    /// Activation.
    pub act: Activation,
    /// The embedding scales and shifts after the second norm, instead of being added before it.
    pub scale_shift: bool,
    /// The sum of branch and shortcut is divided by this.
    pub output_scale: f32,
}

/// Whether a residual block changes the size on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// It does not.
    None,
    /// Half the size, by average pooling.
    Down,
    /// Twice the size, by nearest neighbour.
    Up,
}

/// Residual block (He et al. 2015, arXiv:1512.03385; diffusers' `ResnetBlock2D`, OpenAI's `ResBlock`): `x` `[N, H, W, A]` (with a skip
/// connection beside it), activated time embedding `emb` `[N, E]` → `[N, H', W', out]`.
pub fn resnet_block(
    g: &mut Graph,
    name: &str,
    (x, skip): (&Tensor, Option<&Tensor>),
    emb: &Tensor,
    out: usize,
    resize: Resize,
    options: &ResnetOptions,
) -> Tensor {
    g.scope(name, |g| {
        let input = x.channels() + skip.map_or(0, Tensor::channels);
        let names = options.names;
        let norm1 = GroupNorm::new(g, names.norm1, input, options.groups, options.eps);
        let norm2 = GroupNorm::new(g, names.norm2, out, options.groups, options.eps);
        let mut h = group_norm(g, names.norm1, (x, skip), &norm1, None, options.act);
        let mut window = Window::same(3);
        match resize {
            Resize::None => {}
            Resize::Down => h = halve(g, "down", &h),
            Resize::Up => window.up = 2,
        }
        let mut h = conv(g, names.conv1, (&h, None), out, 3, window);
        let emb = linear(g, names.emb, emb, if options.scale_shift { 2 * out } else { out });
        if !options.scale_shift {
            h = add(g, &h, &emb);
        }
        let scale_shift = options.scale_shift.then_some(&emb);
        h = group_norm(g, names.norm2, (&h, None), &norm2, scale_shift, options.act);
        h = conv(g, names.conv2, (&h, None), out, 3, Window::same(3));
        let x = match resize {
            Resize::None => x.clone(),
            Resize::Down => halve(g, "down_x", x),
            Resize::Up => resample(g, "up_x", x, 2 * x.dim(1), 2 * x.dim(2), Resample::Nearest),
        };
        let shortcut = if input == out && skip.is_none() {
            x
        } else {
            conv(g, names.shortcut, (&x, skip), out, 1, Window::same(1))
        };
        let y = add(g, &h, &shortcut);
        if options.output_scale == 1.0 { y } else { scale(g, &y, 1.0 / options.output_scale) }
    })
}

/// Half the size by average pooling.
pub fn halve(g: &mut Graph, label: &str, x: &Tensor) -> Tensor {
    resample(g, label, x, x.dim(1) / 2, x.dim(2) / 2, Resample::Area)
}
