//! The last pass of a [quantile](crate::kernels::quantile) by many workgroups: the element that is sought, the next larger one,
//! and the number between them.

use super::quantile_digits::{BINS, NONE, ROW, select};
use crate::diffusion::numbers;
use crate::graph::{Graph, Tensor};
use crate::kernels::{Cost, Kernel, SELECT_BIN, Shader, defined_in_f32};

params! {
    /// Elements of a picture.
    item: u32,
    /// Parts of a picture.
    parts: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "quantile_merge",
    shaders: &[Shader::plain(
        "quantile_merge",
        wgsl!("sampling/quantile_merge"),
        &[SELECT_BIN],
        |_, output| [(output[0] - numbers::COUNT) as u32, 1, 1],
    )],
    fields: Params::FIELDS,
    reference: |params, inputs, y| defined_in_f32(compute, params, inputs, y[0]),
    cpu: |params, inputs, y| compute(params, inputs, y[0]),
    cost: |_, inputs, output| Cost::streaming(inputs[0].iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// Puts the quantiles of pictures of `item` elements behind a step's `numbers` `[64 + B]`, given what two passes of
/// [`quantile_digits`](crate::kernels::quantile_digits) found, `[B, parts, 1027]`.
#[track_caller]
pub fn quantile_merge(g: &mut Graph, label: &str, before: &Tensor, numbers: &Tensor, item: usize) {
    assert_eq!(numbers.len(), numbers::COUNT + before.dim(0), "{label}: numbers {:?}", numbers.shape);
    let p = Params { item: item as u32, parts: before.dim(1) as u32 };
    g.push_into(&KERNEL, label, p.bytes(), &[before], &[numbers]);
}

fn compute(params: &[u8], inputs: &[&[f32]], numbers: &mut [f32]) {
    let p = Params::read(params);
    let (coefficients, quantiles) = numbers.split_at_mut(numbers::COUNT);
    let position = coefficients[numbers::QUANTILE] * (p.item - 1) as f32;
    for (before, s) in inputs[0].chunks_exact(p.parts as usize * ROW).zip(quantiles) {
        let known = (before[BINS] as u32) << 10;
        let (bin, rank, count) = select(before, ROW, BINS, before[BINS + 1] as u32);
        let low = f32::from_bits(known | bin);
        let mut high = low;
        if rank + 1 >= count {
            let parts = || before.chunks_exact(ROW);
            let bins = (bin as usize + 1..BINS).filter(|bin| parts().any(|part| part[*bin] > 0.0));
            let counted = bins.map(|bin| f32::from_bits(known | bin as u32));
            let above = parts().map(|part| part[ROW - 1]).filter(|next| *next != NONE);
            high = counted.chain(above).min_by(f32::total_cmp).unwrap_or(low);
        }
        *s = low + (position - position.floor()) * (high - low);
    }
}
