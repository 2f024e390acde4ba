//! Terms of the variational bound (Ho et al. 2020, arXiv:2006.11239, eq. 5; Nichol & Dhariwal 2021, arXiv:2102.09672), in
//! bits per dimension.

use super::variational_bound_gradient::variational_bound_gradient;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Backward, Cost, Kernel, REDUCE, REDUCE_SUBGROUP, Shader};
use rayon::prelude::*;

params! {
    /// Elements of an item.
    item: u32,
    /// Channels of x₀.
    channels: u32,
    /// Channels of the output.
    out_channels: u32,
    /// 1 if the output holds the variance's share behind the prediction.
    learned: u32,
}

/// `shaders/shared/variational_bound.wgsl`: an element's term.
pub(super) const TERM: &str = wgsl!("shared/variational_bound");

/// Numbers of an item: x̂₀ = c0 x_t + c1 out; the posterior's mean is c2 x₀ + c3 x_t and its log variance c4; the network's
/// log variance lies between c4 and c5, or is c5; c6 is 1 at the first timestep; c7 weighs the item.
pub const NUMBERS: usize = 8;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "variational_bound",
    shaders: &[
        Shader::plain("variational_bound", wgsl!("training/variational_bound"), &[TERM, REDUCE], grid),
        Shader::narrow(
            "variational_bound_subgroup",
            wgsl!("training/variational_bound"),
            &[TERM, REDUCE_SUBGROUP],
            grid,
        ),
    ],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y[0], f64::from),
    cpu: |p, x, y| compute(p, x, y[0], |v| v as f32),
    gradient: Some(gradient),
    cost: |_, inputs, output| {
        Cost::streaming(30.0 * inputs[1].iter().product::<usize>() as f64, inputs, output)
    },
    ..Kernel::PLAIN
};

/// A workgroup for every item.
fn grid(_: &[u8], output: &[usize]) -> [u32; 3] {
    [output[0] as u32, 1, 1]
}

/// The terms of out `[N, .., OC]`, whose first channels are the prediction and, where there are twice as many as x₀'s,
/// whose others are the variance's share in [−1, 1]; x₀ and x_t `[N, .., C]` and [numbers](NUMBERS) in f32 → `[N]` in f32.
/// Its gradient goes to the variance alone: L_hybrid.
#[track_caller]
pub fn variational_bound(
    g: &mut Graph,
    label: &str,
    out: &Tensor,
    x0: &Tensor,
    x_t: &Tensor,
    numbers: &Tensor,
) -> Tensor {
    let n = out.dim(0);
    assert_eq!(out.rows(), x0.rows(), "{label}: {:?} for {:?}", out.shape, x0.shape);
    assert_eq!((x_t.len(), numbers.len()), (x0.len(), n * NUMBERS), "{label}: x_t, or the numbers");
    let p = Params {
        item: (x0.len() / n) as u32,
        channels: x0.channels() as u32,
        out_channels: out.channels() as u32,
        learned: (out.channels() == 2 * x0.channels()).into(),
    };
    g.push(&KERNEL, label, p.bytes(), &[out, x0, x_t, numbers], &[n], Storage::F32)
}

fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    of.refuse(&[(1, "x₀"), (2, "x_t"), (3, "the numbers of the timesteps")])?;
    let p = Params::read(&of.node.params);
    let inputs = [0, 1, 2, 3].map(|i| of.input(g, i));
    let dout = variational_bound_gradient(g, &of.label(), &inputs, of.dy, &p, p.learned != 0);
    Ok(vec![Some(dout), None, None, None])
}

/// An element's part in the bound.
pub(super) struct Term {
    pub x0: f64,
    pub mean: f64,
    /// The posterior's.
    pub true_mean: f64,
    pub log_variance: f64,
}

/// A byte's bin under the network's normal distribution.
pub(super) struct Bin {
    pub upper: f64,
    pub lower: f64,
    pub mass: f64,
}

/// √(2 / π)
const SLOPE: f64 = 0.797_884_560_802_865_4;
const CUBE: f64 = 0.044_715;
/// Masses below it count as it.
pub(super) const LEAST: f64 = 1e-12;

/// About the normal distribution's, (1 + tanh z) / 2, in a form that keeps its digits where it is small.
fn cdf(u: f64) -> f64 {
    1.0 / (1.0 + (-2.0 * SLOPE * (u + CUBE * u.powi(3))).exp())
}

/// The derivative of the cumulative function.
pub(super) fn density(u: f64) -> f64 {
    2.0 * cdf(u) * cdf(-u) * SLOPE * (1.0 + 3.0 * CUBE * u * u)
}

impl Term {
    /// Of element `at` of x₀.
    pub(super) fn new<T: Copy + Into<f64>>(p: &Params, inputs: &[&[T]], at: usize) -> Term {
        let value = at / p.channels as usize * p.out_channels as usize + at % p.channels as usize;
        let c: [f64; NUMBERS] = std::array::from_fn(|i| inputs[3][at / p.item as usize * NUMBERS + i].into());
        let (x0, x_t): (f64, f64) = (inputs[1][at].into(), inputs[2][at].into());
        let predicted = c[0] * x_t + c[1] * inputs[0][value].into();
        let log_variance = match p.learned {
            0 => c[5],
            _ => {
                let share = 0.5 * (inputs[0][value + p.channels as usize].into() + 1.0);
                share * c[5] + (1.0 - share) * c[4]
            }
        };
        Term { x0, mean: c[2] * predicted + c[3] * x_t, true_mean: c[2] * x0 + c[3] * x_t, log_variance }
    }

    pub(super) fn bin(&self) -> Bin {
        let over_deviation = (-0.5 * self.log_variance).exp();
        let [upper, lower] = [1.0, -1.0].map(|side| over_deviation * (self.x0 - self.mean + side / 255.0));
        let mass = if self.x0 < -0.999 {
            cdf(upper)
        } else if self.x0 > 0.999 {
            cdf(-lower)
        } else if self.x0 > self.mean {
            // On the side where both are small.
            cdf(-lower) - cdf(-upper)
        } else {
            cdf(upper) - cdf(lower)
        };
        Bin { upper, lower, mass }
    }
}

fn compute<T: Copy + Into<f64> + Send + Sync>(
    params: &[u8],
    inputs: &[&[T]],
    y: &mut [T],
    rounded: fn(f64) -> T,
) {
    let p = Params::read(params);
    let item = p.item as usize;
    y.par_iter_mut().enumerate().for_each(|(n, y)| {
        let c: [f64; NUMBERS] = std::array::from_fn(|i| inputs[3][n * NUMBERS + i].into());
        let nats = |at: usize| {
            let t = Term::new(&p, inputs, at);
            if c[6] != 0.0 {
                return -t.bin().mass.max(LEAST).ln();
            }
            let (d, ratio) = (t.true_mean - t.mean, c[4] - t.log_variance);
            0.5 * (ratio.exp() - 1.0 - ratio + d * d * (-t.log_variance).exp())
        };
        let sum: f64 = (n * item..(n + 1) * item).map(nats).sum();
        *y = rounded(c[7] * sum / (item as f64 * std::f64::consts::LN_2));
    });
}
