//! The sample at another place of the chain, or with a known picture in it (RePaint: Lugmayr et al. 2022,
//! arXiv:2201.09865).

use crate::graph::{Graph, Tensor};
use crate::kernels::step::Real;
use crate::kernels::{Cost, INDEX, Kernel, Shader, fold_grid};
use rayon::prelude::*;

params! {
    /// Elements of x.
    len: u32,
    /// Channels of a picture.
    channels: u32,
}

/// How many numbers it reads.
pub const NUMBERS: usize = 8;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "renoise",
    shaders: &[Shader::plain("renoise", wgsl!("sampling/renoise"), &[INDEX], |_, x| {
        fold_grid(x.iter().product::<usize>().div_ceil(64))
    })],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(&Params::read(p), x, y[0]),
    cpu: |p, x, y| compute(&Params::read(p), x, y[0]),
    cost: |_, inputs, x| Cost::streaming(8.0 * x.iter().product::<usize>() as f64, inputs, x),
    ..Kernel::PLAIN
};

/// x ← m (signal k + noise z) + (1 − m) (of_x x + of_z z) with the picture k and its share beside it, `known`
/// `[N, H, W, C + 1]`, noise z `[N, H, W, C]`, and `numbers` `[8]`: of_x, of_z, signal, noise, and what m is of the share,
/// 0 or 1.
#[track_caller]
pub fn renoise(g: &mut Graph, x: &Tensor, known: &Tensor, z: &Tensor, numbers: &Tensor) {
    assert_eq!(z.len(), x.len(), "renoise: noise {:?} for {:?}", z.shape, x.shape);
    assert_eq!(numbers.len(), NUMBERS, "renoise: numbers {:?}", numbers.shape);
    let expected = x.rows() * (x.channels() + 1);
    assert_eq!(known.len(), expected, "renoise: a picture of {:?} for {:?}", known.shape, x.shape);
    let p = Params { len: x.len() as u32, channels: x.channels() as u32 };
    g.push_into(&KERNEL, "renoise", p.bytes(), &[known, z, numbers], &[x]);
}

fn compute<T: Real + Send + Sync>(p: &Params, inputs: &[&[T]], x: &mut [T]) {
    let ([known, z, numbers], channels) = ([inputs[0], inputs[1], inputs[2]], p.channels as usize);
    x.par_iter_mut().enumerate().with_min_len(4096).for_each(|(i, x)| {
        let pixel = &known[i / channels * (channels + 1)..][..=channels];
        let m = numbers[4] * pixel[channels];
        let moved = numbers[0] * *x + numbers[1] * z[i];
        *x = if m > T::from(0.0) {
            m * (numbers[2] * pixel[i % channels] + numbers[3] * z[i]) + (T::from(1.0) - m) * moved
        } else {
            moved
        };
    });
}
