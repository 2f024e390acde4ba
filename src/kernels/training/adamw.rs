//! One step of AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) and of the weights' moving average, in place.

use crate::graph::{Graph, Tensor};
use crate::kernels::simd::wide;
use crate::kernels::{Cost, INDEX, Kernel, Shader, element_grid};
use rayon::prelude::*;

params! {
    /// Elements.
    len: u32,
    /// Decay of the first moment.
    beta1: f32,
    /// Decay of the second moment.
    beta2: f32,
    /// Added to the second moment's root.
    eps: f32,
    /// 1 if the weights decay.
    decays: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "adamw",
    shaders: &[Shader::plain("adamw", wgsl!("training/adamw"), &[INDEX], element_grid)],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y),
    cpu: |p, x, y| cpu(p, x, y),
    cost: |_, inputs, output| {
        let count = output.iter().product::<usize>() as f64;
        Cost {
            flops: 18.0 * count,
            reads: 4.0 * count + inputs[0].iter().product::<usize>() as f64,
            writes: 4.0 * count,
        }
    },
    ..Kernel::PLAIN
};

/// A weight and what belongs to it, f32 inputs of the graph that are updated.
#[derive(Clone, Debug)]
pub struct Moved {
    /// The weight.
    pub weight: Tensor,
    /// Mean of the gradients.
    pub first: Tensor,
    /// Mean of their squares.
    pub second: Tensor,
    /// Moving average of the weight.
    pub average: Tensor,
}

/// Decay of the moments, and what is added to the second one's root.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// Decay of the first.
    pub beta1: f32,
    /// Decay of the second.
    pub beta2: f32,
    /// Added to the root of the second, once its bias is corrected.
    pub eps: f32,
}

/// A step by a gradient in f32, as [`optimiser_control`](super::optimiser_control) says.
#[track_caller]
pub fn adamw(
    g: &mut Graph,
    label: &str,
    gradient: &Tensor,
    control: &Tensor,
    of: &Moved,
    moments: Moments,
    decays: bool,
) {
    assert_eq!(gradient.len(), of.weight.len(), "{label}: {:?} of {:?}", gradient.shape, of.weight.shape);
    let Moments { beta1, beta2, eps } = moments;
    let p = Params { len: gradient.len() as u32, beta1, beta2, eps, decays: decays.into() };
    let outputs = [&of.weight, &of.first, &of.second, &of.average];
    g.push_into(&KERNEL, label, p.bytes(), &[gradient, control], &outputs);
}

fn reference(params: &[u8], inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
    let (p, control) = (Params::read(params), inputs[1]);
    let [w, m, v, e] = outputs else { return };
    if control[0] == 0.0 {
        return;
    }
    let (beta1, beta2) = (f64::from(p.beta1), f64::from(p.beta2));
    for (i, gradient) in inputs[0].iter().enumerate() {
        let g = control[1] * gradient;
        if p.decays != 0 {
            w[i] -= control[4] * w[i];
        }
        m[i] += (1.0 - beta1) * (g - m[i]);
        v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
        w[i] -= control[2] * m[i] / (v[i].sqrt() * control[3] + f64::from(p.eps));
        e[i] += (1.0 - control[5]) * (w[i] - e[i]);
    }
}

/// Elements that a thread takes at a time.
const BLOCK: usize = 8_192;

fn cpu(params: &[u8], inputs: &[&[f32]], outputs: &mut [&mut [f32]]) {
    let (p, control) = (Params::read(params), inputs[1]);
    let [w, m, v, e] = outputs else { return };
    if control[0] == 0.0 {
        return;
    }
    let decay = if p.decays != 0 { control[4] } else { 0.0 };
    let (new1, new2, new3) = (1.0 - p.beta1, 1.0 - p.beta2, 1.0 - control[5]);
    let moved = w.par_chunks_mut(BLOCK).zip(m.par_chunks_mut(BLOCK));
    let rest = v.par_chunks_mut(BLOCK).zip(e.par_chunks_mut(BLOCK));
    moved.zip(rest).zip(inputs[0].par_chunks(BLOCK)).for_each(|(((w, m), (v, e)), gradient)| {
        wide(
            #[inline(always)]
            || {
                for i in 0..gradient.len().min(w.len()).min(m.len()).min(v.len()).min(e.len()) {
                    let g = control[1] * gradient[i];
                    let weight = w[i] - decay * w[i];
                    let first = m[i] + new1 * (g - m[i]);
                    let second = p.beta2 * v[i] + new2 * g * g;
                    let weight = weight - control[2] * first / (second.sqrt() * control[3] + p.eps);
                    w[i] = weight;
                    m[i] = first;
                    v[i] = second;
                    e[i] += new3 * (weight - e[i]);
                }
            },
        );
    });
}
