//! The last part of the gradient of a [group norm](crate::kernels::group_norm) by parts: what the activation passes, less the
//! [lines](crate::kernels::group_lines) of the groups.

use super::group_quads::{Shares, in_quads};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::epilogue::{Activation, Epilogue};
use crate::kernels::{
    ACTIVATION, ACTIVATION_DERIVATIVE, Cost, EPILOGUE, GROUP_QUADS, GROUP_SLOPE, Kernel, Shader,
};
use rayon::prelude::*;

params! {
    /// H·W.
    pixels: u32,
    /// Channels of the first input, whole quads.
    in_a: u32,
    /// Channels of the second input, whole quads; 0 if there is none.
    in_b: u32,
    /// Number of groups.
    groups: u32,
    /// Pixels of a strip; the last one of a picture may have fewer.
    strip: u32,
    /// Runs of channels that workgroups divide.
    runs: u32,
    /// Number of the activation after the norm.
    activation: u32;
    epilogue
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "group_gradient_apply",
    shaders: &[Shader::plain(
        "group_gradient_apply",
        wgsl!("norms/group_gradient_apply"),
        &[ACTIVATION, ACTIVATION_DERIVATIVE, EPILOGUE, GROUP_SLOPE, GROUP_QUADS],
        |params, output| {
            let p = Params::read(params);
            let pictures = output.iter().product::<usize>() / (p.pixels * (p.in_a + p.in_b)) as usize;
            [p.pixels.div_ceil(p.strip), p.runs, pictures as u32]
        },
    )],
    fields: Params::FIELDS,
    epilogue: true,
    reference: |p, x, y| compute(p, x, y[0], |v| v),
    cpu: |p, x, y| compute(p, x, y[0], |v| v as f32),
    cost: |_, inputs, output| Cost::streaming(10.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// The gradient at `[N, .., A]`, or at two inputs side by side, of a norm whose channels have these means, gains and offsets
/// `[N, 3, C]` and whose groups these [lines](crate::kernels::group_lines) `[N, groups, 2]`, given the gradient dy
/// `[N, .., C]` of what follows it → `[N, .., C]`. Channels are whole quads.
#[track_caller]
pub fn group_gradient_apply(
    g: &mut Graph,
    label: &str,
    (a, b): (&Tensor, Option<&Tensor>),
    [affine, lines, dy]: [&Tensor; 3],
    activation: Activation,
    (epilogue, operand): (&Epilogue, &Tensor),
) -> Tensor {
    let (n, in_a, in_b) = (a.dim(0), a.channels(), b.map_or(0, Tensor::channels));
    let (pixels, channels, groups) = (a.rows() / n, in_a + in_b, lines.len() / (2 * n));
    assert_eq!(affine.len(), n * 3 * channels, "{label}: {:?} by {:?}", a.shape, affine.shape);
    assert_eq!(dy.len(), n * pixels * channels, "{label}: {:?} with {:?}", a.shape, dy.shape);
    assert!(in_quads(pixels, [in_a as u32, in_b as u32], groups as u32), "{label}: {in_a}+{in_b} channels");
    // A channel has a map of its own: any quads are a run.
    let Shares { strip, runs } = Shares::new(pixels, channels, channels);
    let p = Params {
        pixels: pixels as u32,
        in_a: in_a as u32,
        in_b: in_b as u32,
        groups: groups as u32,
        strip,
        runs,
        activation: activation as u32,
        epilogue: *epilogue,
    };
    let empty = g.empty();
    let mut shape = a.shape.clone();
    shape.pop();
    shape.push(channels);
    let inputs = [a, b.unwrap_or(&empty), affine, lines, dy, operand];
    g.push(&KERNEL, label, p.bytes(), &inputs, &shape, Storage::Elem)
}

/// x − mean, and gain · g, g = dy · activate'((x − mean) · gain + offset), of channel `c` of a pixel of picture `n`, from
/// a, b, affine `[N, 3, C]` and dy.
pub(super) fn slope<T: Copy + Into<f64>>(
    inputs: &[&[T]],
    [in_a, in_b]: [u32; 2],
    act: Activation,
    (n, pixel, c): (usize, usize, usize),
) -> (f64, f64) {
    let (in_a, in_b) = (in_a as usize, in_b as usize);
    let channels = in_a + in_b;
    let x = if c < in_a { inputs[0][pixel * in_a + c] } else { inputs[1][pixel * in_b + c - in_a] };
    let [mean, gain, offset] = [0, 1, 2].map(|i| inputs[2][(n * 3 + i) * channels + c].into());
    let dy: f64 = inputs[3][pixel * channels + c].into();
    let d = x.into() - mean;
    (d, gain * dy * act.derivative_reference(d * gain + offset))
}

fn compute<T: Copy + Into<f64> + Send + Sync>(
    params: &[u8],
    inputs: &[&[T]],
    y: &mut [T],
    rounded: fn(f64) -> T,
) {
    let (p, epilogue) = (Params::read(params), Epilogue::read(params));
    let (pixels, groups, channels) = (p.pixels as usize, p.groups as usize, (p.in_a + p.in_b) as usize);
    let act = Activation::from_number(p.activation);
    y.par_chunks_mut(channels).enumerate().for_each(|(pixel, y)| {
        let n = pixel / pixels;
        for (c, y) in y.iter_mut().enumerate() {
            let line = (n * groups + c / (channels / groups)) * 2;
            let [level, of_d] = [0, 1].map(|i| -> f64 { inputs[3][line + i].into() });
            let of = [inputs[0], inputs[1], inputs[2], inputs[4]];
            let (d, g) = slope(&of, [p.in_a, p.in_b], act, (n, pixel, c));
            *y = rounded(epilogue.reference(g - (d * of_d + level), inputs[5], pixel, c, channels));
        }
    });
}
