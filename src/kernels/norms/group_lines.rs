//! What the gradient of a [group norm](crate::kernels::group_norm) loses to the mean and the variance of each group, from the
//! [sums](crate::kernels::group_slopes) and [moments](crate::kernels::group_moments) of a picture's strips.

use super::group_blocks::Moments;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, Kernel, REDUCE, Shader};

params! {
    /// Strips of a picture.
    strips: u32,
    /// Number of groups.
    groups: u32,
    /// Added to the variance.
    eps: f32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "group_lines",
    shaders: &[Shader::plain("group_lines", wgsl!("norms/group_lines"), &[REDUCE], |params, output| {
        [Params::read(params).groups, output[0] as u32, 1]
    })],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y[0], |v| v),
    cpu: |p, x, y| compute(p, x, y[0], |v| v as f32),
    cost: |_, inputs, output| {
        Cost::streaming(3.0 * inputs[1].iter().product::<usize>() as f64, inputs, output)
    },
    ..Kernel::PLAIN
};

/// Level and slope of each group, level + slope · (x − mean), from sums `[N, strips, groups, 2]` and moments
/// `[N, strips, groups, 3]` → `[N, groups, 2]`, f32.
#[track_caller]
pub fn group_lines(g: &mut Graph, label: &str, slopes: &Tensor, moments: &Tensor, eps: f32) -> Tensor {
    let &[n, strips, groups, 3] = &moments.shape[..] else {
        panic!("{label}: moments [N, strips, groups, 3] are needed, {:?} given", moments.shape)
    };
    assert_eq!(slopes.shape, [n, strips, groups, 2], "{label}: moments {:?}", moments.shape);
    let p = Params { strips: strips as u32, groups: groups as u32, eps };
    g.push(&KERNEL, label, p.bytes(), &[slopes, moments], &[n, groups, 2], Storage::F32)
}

fn compute<T: Copy + Into<f64>>(params: &[u8], inputs: &[&[T]], y: &mut [T], rounded: fn(f64) -> T) {
    let p = Params::read(params);
    let (strips, groups) = (p.strips as usize, p.groups as usize);
    for (i, y) in y.chunks_exact_mut(2).enumerate() {
        let (n, group) = (i / groups, i % groups);
        let of = |s: usize| (n * strips + s) * groups + group;
        let strip = |s: usize| {
            let [count, mean, squares] = [0, 1, 2].map(|k| inputs[1][of(s) * 3 + k].into());
            Moments { count, mean, squares }
        };
        let moments: Vec<Moments> = (0..strips).map(strip).collect();
        let all = Moments::together(moments.iter());
        let sum = |k: usize| (0..strips).map(|s| -> f64 { inputs[0][of(s) * 2 + k].into() }).sum::<f64>();
        let variance = all.squares / all.count + f64::from(p.eps);
        y.copy_from_slice(&[sum(0) / all.count, sum(1) / all.count / variance].map(rounded));
    }
}
