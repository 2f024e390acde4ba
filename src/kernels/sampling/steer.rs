//! Adds a guidance's direction to what leads a step.

use crate::graph::{Graph, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, Shader, fold_grid};
use rayon::prelude::*;
use std::ops::{Add, Mul};

params! {
    /// Elements of the direction.
    len: u32,
}

/// How many factors there are: one for each term of [`Lead`](crate::kernels::step::Lead), and whether what is there stays.
pub const FACTORS: usize = 8;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "steer",
    shaders: &[Shader::plain("steer", wgsl!("sampling/steer"), &[INDEX], |params, _| {
        fold_grid((Params::read(params).len as usize).div_ceil(64))
    })],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(Params::read(p).len as usize, x, y[0]),
    cpu: |p, x, y| compute(Params::read(p).len as usize, x, y[0]),
    cost: |params, _, _| {
        let len = f64::from(Params::read(params).len);
        Cost { flops: 8.0 * len, reads: 5.0 * len, writes: 4.0 * len }
    },
    ..Kernel::PLAIN
};

/// lead_k ← keep · lead_k + f_k · d for the four terms of `lead` (`[4, len]` and what lies behind), of `factors`
/// `[8]`: f_0 to f_3, then keep, which is 0 or 1.
#[track_caller]
pub fn steer(g: &mut Graph, direction: &Tensor, factors: &Tensor, lead: &Tensor) {
    assert_eq!(factors.len(), FACTORS, "steer: factors {:?}", factors.shape);
    assert!(lead.len() >= 4 * direction.len(), "steer: {:?} into {:?}", direction.shape, lead.shape);
    let p = Params { len: direction.len() as u32 };
    g.push_into(&KERNEL, "steer", p.bytes(), &[direction, factors], &[lead]);
}

fn compute<T: Copy + Send + Sync + PartialEq + From<f32> + Add<Output = T> + Mul<Output = T>>(
    len: usize,
    inputs: &[&[T]],
    lead: &mut [T],
) {
    let (direction, factors) = (inputs[0], inputs[1]);
    let adds = factors[4] != T::from(0.0);
    for (lead, factor) in lead.chunks_exact_mut(len).zip(&factors[..4]) {
        lead.par_iter_mut().zip(direction).with_min_len(4096).for_each(|(lead, d)| {
            let term = *factor * *d;
            *lead = if adds { *lead + term } else { term };
        });
    }
}
