//! Quantile of |x̂₀| per picture, for dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3).

use crate::diffusion::numbers;
use crate::graph::rewrites::QUANTILE_PARTS;
use crate::graph::{Graph, Tensor};
use crate::kernels::step::{Lead, Prediction, keep};
use crate::kernels::{Cost, Kernel, MAGNITUDE, PREDICT, Rewrites, Shader, defined_in_f32};

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
    /// Where it begins in what leads the step.
    known_at: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "quantile",
    shaders: &[Shader::plain("quantile", wgsl!("sampling/quantile"), &[PREDICT, MAGNITUDE], |params, _| {
        [Params::read(params).batch, 1, 1]
    })],
    fields: Params::FIELDS,
    reference: |params, inputs, s| {
        let sorted =
            |p: &[u8], x: &[&[f32]], s: &mut [f32]| compute(p, x, s, |x| x.sort_unstable_by(f32::total_cmp));
        defined_in_f32(sorted, params, inputs, s[0])
    },
    cpu: |params, inputs, s| compute(params, inputs, s[0], |_| {}),
    cost: |_, inputs, output| {
        Cost::streaming(4.0 * inputs[0].iter().product::<usize>() as f64, inputs, output)
    },
    rewrites: Rewrites { others: &[QUANTILE_PARTS], ..Rewrites::NONE },
    ..Kernel::PLAIN
};

/// Puts the quantiles of x `[B, H, W, C]` and the network's output `[B or 2B, H, W, OC]` behind a step's `numbers`
/// `[64 + B]`, where [`step`](crate::kernels::step::step) reads them; with what is known of the picture, if `lead` has it.
#[track_caller]
pub fn quantile(g: &mut Graph, x: &Tensor, out: &Tensor, numbers: &Tensor, lead: Option<&Lead<'_>>) {
    let shape = Prediction::of(x, out);
    assert_eq!(numbers.len(), numbers::COUNT + x.dim(0), "quantile: numbers {:?}", numbers.shape);
    let lead = lead.filter(|lead| lead.kept);
    lead.inspect(|lead| lead.check(x));
    let p = Params {
        batch: x.dim(0) as u32,
        item: (x.len() / x.dim(0)) as u32,
        channels: shape.channels,
        out_channels: shape.out_channels,
        guided: shape.guided.into(),
        kept: lead.is_some().into(),
        known_at: lead.map_or(0, |lead| lead.known_at(x)) as u32,
    };
    let lead = lead.map_or_else(|| g.empty(), |lead| lead.tensor.clone());
    g.push_into(&KERNEL, "quantile", p.bytes(), &[x, out, &lead], &[numbers]);
}

/// |x̂₀| of picture `b`, of the quantile's inputs and a step's numbers.
pub(super) fn magnitudes(p: &Params, inputs: &[&[f32]], coef: &[f32], b: usize) -> Vec<f32> {
    let item = p.item as usize;
    let prediction = Prediction { channels: p.channels, out_channels: p.out_channels, guided: p.guided != 0 };
    let magnitude = |i: usize| {
        let out = prediction.output(inputs[1], i, p.batch as usize * item, coef[numbers::GUIDANCE]);
        let x0 = coef[numbers::X0_X] * inputs[0][i] + coef[numbers::X0_OUT] * out;
        let known = || &inputs[2][p.known_at as usize..];
        if p.kept != 0 { keep(x0, known(), i, p.channels as usize).abs() } else { x0.abs() }
    };
    (b * item..(b + 1) * item).map(magnitude).collect()
}

/// `sort` may leave the order to a selection.
fn compute(params: &[u8], inputs: &[&[f32]], numbers: &mut [f32], sort: fn(&mut [f32])) {
    let p = Params::read(params);
    let item = p.item as usize;
    let (coef, quantiles) = numbers.split_at_mut(numbers::COUNT);
    for (b, s) in quantiles.iter_mut().enumerate() {
        let mut x0 = magnitudes(&p, inputs, coef, b);
        sort(&mut x0);
        let position = coef[numbers::QUANTILE] * (item - 1) as f32;
        let rank = (position as usize).min(item - 1);
        let (_, low, above) = x0.select_nth_unstable_by(rank, f32::total_cmp);
        let high = above.iter().copied().min_by(f32::total_cmp).unwrap_or(*low);
        *s = *low + (position - position.floor()) * (high - *low);
    }
}
