//! Quantile of |x̂₀| per picture, for dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3).

use crate::diffusion::numbers;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::step::{Prediction, check_known, keep};
use crate::kernels::{Cost, Kernel, PREDICT, Shader, defined_in_f32};

params! {
    /// Pictures.
    batch: u32,
    /// Elements of a picture.
    item: u32,
    /// Channels of a picture.
    channels: u32,
    /// Channels of the network's output.
    out_channels: u32,
    /// 1: the output holds an unconditional and a conditional half.
    guided: u32,
    /// 1: a picture of which parts are kept is bound.
    kept: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "quantile",
    shaders: &[Shader::plain("quantile", wgsl!("sampling/quantile"), &[PREDICT], |_, output| {
        [output[0] as u32, 1, 1]
    })],
    fields: Params::FIELDS,
    reference: |params, inputs, s| {
        let sorted =
            |p: &[u8], x: &[&[f32]], s: &mut [f32]| compute(p, x, s, |x| x.sort_unstable_by(f32::total_cmp));
        defined_in_f32(sorted, params, inputs, s)
    },
    cpu: |params, inputs, s| compute(params, inputs, s, |_| {}),
    cost: |_, inputs, output| {
        Cost::streaming(4.0 * inputs[0].iter().product::<usize>() as f64, inputs, output)
    },
    ..Kernel::PLAIN
};

/// x `[B, H, W, C]`, the network's output `[B or 2B, H, W, OC]`, a step's coefficients `[64]`, what is known of the
/// picture (see [`StepInputs::known`](crate::kernels::step::StepInputs)) → `[B]`.
#[track_caller]
pub fn quantile(
    g: &mut Graph,
    x: &Tensor,
    out: &Tensor,
    coefficients: &Tensor,
    known: Option<&Tensor>,
) -> Tensor {
    check_known(x, known);
    let shape = Prediction::of(x, out);
    let p = Params {
        batch: x.dim(0) as u32,
        item: (x.len() / x.dim(0)) as u32,
        channels: shape.channels,
        out_channels: shape.out_channels,
        guided: shape.guided.into(),
        kept: known.is_some().into(),
    };
    let empty = g.empty();
    g.push(
        &KERNEL,
        "quantile",
        p.bytes(),
        &[x, out, coefficients, known.unwrap_or(&empty)],
        &[x.dim(0)],
        Storage::F32,
    )
}

/// `sort` may leave the order to a selection.
fn compute(params: &[u8], inputs: &[&[f32]], s: &mut [f32], sort: fn(&mut [f32])) {
    let p = Params::read(params);
    let (item, coef) = (p.item as usize, inputs[2]);
    let prediction = Prediction { channels: p.channels, out_channels: p.out_channels, guided: p.guided != 0 };
    for (b, s) in s.iter_mut().enumerate() {
        let mut x0: Vec<f32> = (b * item..(b + 1) * item)
            .map(|i| {
                let out = prediction.output(inputs[1], i, p.batch as usize * item, coef[numbers::GUIDANCE]);
                let x0 = coef[numbers::X0_X] * inputs[0][i] + coef[numbers::X0_OUT] * out;
                if p.kept != 0 { keep(x0, inputs[3], i, p.channels as usize).abs() } else { x0.abs() }
            })
            .collect();
        sort(&mut x0);
        let position = coef[numbers::QUANTILE] * (item - 1) as f32;
        let rank = (position as usize).min(item - 1);
        let (_, low, above) = x0.select_nth_unstable_by(rank, f32::total_cmp);
        let high = above.iter().copied().min_by(f32::total_cmp).unwrap_or(*low);
        *s = *low + (position - position.floor()) * (high - *low);
    }
}
