//! The forward process, q(x_t | x₀) (Ho et al. 2020, arXiv:2006.11239, eq. 4), and what a network learns to say of it.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::{Cost, INDEX, Kernel, Shader, element_grid};
use rayon::prelude::*;

params! {
    /// Elements of x₀.
    len: u32,
    /// Elements of an item.
    item: u32,
}

/// Numbers of an item: what x₀ and the noise are multiplied by in x_t, then in the goal.
pub const NUMBERS: usize = 4;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "diffuse",
    shaders: &[Shader::plain("diffuse", wgsl!("training/diffuse"), &[INDEX], element_grid)],
    fields: Params::FIELDS,
    reference: |p, x, y| {
        let item = Params::read(p).item as usize;
        for i in 0..x[0].len() {
            let c = &x[2][i / item * NUMBERS..][..NUMBERS];
            y[0][i] = c[0] * x[0][i] + c[1] * x[1][i];
            y[1][i] = c[2] * x[0][i] + c[3] * x[1][i];
        }
    },
    cpu: |p, x, y| {
        let item = Params::read(p).item as usize;
        let [x_t, goal] = y else { return };
        let made = x_t.par_chunks_mut(item).zip(goal.par_chunks_mut(item));
        let given = x[0].par_chunks(item).zip(x[1].par_chunks(item)).zip(x[2].par_chunks(NUMBERS));
        made.zip(given).for_each(|((x_t, goal), ((x0, noise), c))| {
            for i in 0..x_t.len() {
                x_t[i] = c[0] * x0[i] + c[1] * noise[i];
                goal[i] = c[2] * x0[i] + c[3] * noise[i];
            }
        });
    },
    cost: |_, inputs, output| Cost::streaming(6.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// x₀ and noise `[N, ..]` and [so many numbers](NUMBERS) of each item, all f32 → x_t and the goal, of x₀'s shape.
#[track_caller]
pub fn diffuse(g: &mut Graph, label: &str, x0: &Tensor, noise: &Tensor, numbers: &Tensor) -> [Tensor; 2] {
    let n = x0.dim(0);
    assert_eq!(x0.len(), noise.len(), "{label}: {:?} with noise {:?}", x0.shape, noise.shape);
    assert_eq!(numbers.len(), n * NUMBERS, "{label}: numbers {:?} of {n} items", numbers.shape);
    let p = Params { len: x0.len() as u32, item: (x0.len() / n) as u32 };
    let made = [g.make(&x0.shape, Storage::F32), g.make(&x0.shape, Storage::F32)];
    g.push_into(&KERNEL, label, p.bytes(), &[x0, noise, numbers], &[&made[0], &made[1]]);
    made
}
