//! The gradient of [`attention`](crate::kernels::attention::attention) at the bias of its scores: position biases.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::attention_query_gradient::{Params, WEIGHTS};
use crate::kernels::{Cost, INDEX, Kernel, Shader, element_grid};
use rayon::prelude::*;

/// The kernel. Its uniform is `attention_query_gradient`'s.
pub static KERNEL: Kernel = Kernel {
    name: "attention_bias_gradient",
    shaders: &[Shader::plain(
        "attention_bias_gradient",
        wgsl!("training/attention_bias_gradient"),
        &[WEIGHTS, INDEX],
        element_grid,
    )],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y[0], f64::from),
    cpu: |p, x, y| compute(p, x, y[0], |v| v as f32),
    cost: |params, inputs, output| {
        let p = Params::read(params);
        let each = 4.0 * f64::from(p.head_dim) * f64::from(p.pictures);
        Cost::streaming(each * output.iter().product::<usize>() as f64, inputs, output)
    },
    ..Kernel::PLAIN
};

/// Of attention's inputs q, k, v, bias and mask, the gradient of its output and its statistics, as
/// [`attention_query_gradient`](crate::kernels::attention_query_gradient) takes them, of its only set of keys →
/// `[LQ, L, heads]` in f32.
pub fn attention_bias_gradient(g: &mut Graph, label: &str, inputs: [&Tensor; 7], p: &Params) -> Tensor {
    assert_eq!(p.keys, p.all_keys, "{label}: a bias of two sets of keys");
    let p = Params { pictures: inputs[5].dim(0) as u32, ..*p };
    let shape = [p.queries, p.keys, p.heads].map(|n| n as usize);
    g.push(&KERNEL, label, p.bytes(), &inputs, &shape, Storage::F32)
}

fn compute<T: Copy + Default + Into<f64> + Send + Sync>(
    params: &[u8],
    inputs: &[&[T]],
    y: &mut [T],
    rounded: fn(f64) -> T,
) {
    let p = Params::read(params);
    let (heads, dim, queries, keys) =
        (p.heads as usize, p.head_dim as usize, p.queries as usize, p.keys as usize);
    let row = |x: usize, row: usize, stride: u32, offset: u32, head: usize| {
        &inputs[x][row * stride as usize + offset as usize + head * dim..][..dim]
    };
    let dot =
        |a: &[T], b: &[T]| a.iter().zip(b).map(|(a, b)| -> f64 { (*a).into() * (*b).into() }).sum::<f64>();
    y.par_iter_mut().with_min_len(64).enumerate().for_each(|(i, y)| {
        let (query, key, head) = (i / heads / keys, i / heads % keys, i % heads);
        let mut sum = 0.0;
        for n in (0..p.pictures as usize).filter(|_| p.causal == 0 || key <= query) {
            let (q_row, k_row) = (n * queries + query, n * keys + key);
            let product =
                dot(row(0, q_row, p.q_stride, p.q_offset, head), row(1, k_row, p.k_stride, p.k_offset, head));
            let passed =
                dot(row(5, q_row * heads, dim as u32, 0, head), row(2, k_row, p.v_stride, p.v_offset, head));
            let mut score = product * f64::from(p.scale);
            if p.has_bias != 0 {
                score += inputs[3][(query * keys + key) * heads + head].into();
            }
            if p.has_mask != 0 {
                score += inputs[4][k_row].into();
            }
            let statistics = &inputs[6][(q_row * heads + head) * 3..][..3];
            let [top, over_total, level]: [f64; 3] = [0, 1, 2].map(|i| statistics[i].into());
            sum += (score.max(-3e38) - top).exp() * over_total * (passed - level);
        }
        *y = rounded(sum);
    });
}
