//! Products of two computed tensors, each with a gradient: Gram matrices. [`crate::kernels::matmul`] is for a known right side.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::gemm::gemm;
use crate::kernels::transpose::transpose;
use crate::kernels::{Backward, Cost, INDEX, Kernel, Shader, TILE, tile_grid};
use rayon::prelude::*;

params! {
    /// Products, one after another in x, z and y.
    batches: u32,
    /// Rows of x and y, of one product.
    rows: u32,
    /// Columns of x, rows of z.
    inner: u32,
    /// Columns of z and y.
    cols: u32,
    /// Factor at the end.
    scale: f32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "product",
    shaders: &[Shader::plain("product", wgsl!("products/product"), &[INDEX, TILE], |params, _| {
        let p = Params::read(params);
        tile_grid(p.rows as usize, p.cols as usize, p.batches as usize)
    })],
    fields: Params::FIELDS,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    gradient: Some(gradient),
    cost: |params, inputs, output| {
        let p = Params::read(params);
        let flops = 2.0 * f64::from(p.batches) * f64::from(p.rows) * f64::from(p.inner) * f64::from(p.cols);
        Cost::streaming(flops, inputs, output)
    },
    ..Kernel::PLAIN
};

/// scale · x `[B, R, K]` · z `[B, K, C]` → `[B, R, C]`.
#[track_caller]
pub fn product(g: &mut Graph, label: &str, x: &Tensor, z: &Tensor, scale: f32) -> Tensor {
    let (&[batches, rows, inner], &[b, k, cols]) = (&x.shape[..], &z.shape[..]) else {
        panic!("{label}: product of {:?} with {:?}: [B, R, K] and [B, K, C] are needed", x.shape, z.shape);
    };
    assert_eq!((batches, inner), (b, k), "{label}: x {:?} and z {:?} do not fit", x.shape, z.shape);
    let [b, r, k, c] = [batches, rows, inner, cols].map(|n| n as u32);
    let p = Params { batches: b, rows: r, inner: k, cols: c, scale };
    g.push(&KERNEL, label, p.bytes(), &[x, z], &[batches, rows, cols], Storage::Elem)
}

/// The Gram matrix of features x `[N, P, C]` over their places: xᵀ x / (P C) → `[N, C, C]` (Gatys et al. 2015,
/// arXiv:1508.06576).
#[track_caller]
pub fn gram(g: &mut Graph, label: &str, x: &Tensor) -> Tensor {
    let by_channel = transpose(g, label, x);
    product(g, label, &by_channel, x, 1.0 / (x.dim(1) * x.dim(2)) as f32)
}

/// dx = scale dy · zᵀ and dz = scale xᵀ · dy.
fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    let p = Params::read(&of.node.params);
    let [batches, rows, inner, cols] = [p.batches, p.rows, p.inner, p.cols].map(|n| n as usize);
    let (x, z, label) = (of.input(g, 0), of.input(g, 1), of.label());
    let x = g.reshape(&x, &[batches, rows, inner]);
    let z = g.reshape(&z, &[batches, inner, cols]);
    let dy = g.reshape(of.dy, &[batches, rows, cols]);
    let dx = of.wants[0].then(|| {
        let z = transpose(g, &label, &z);
        product(g, &label, &dy, &z, p.scale)
    });
    let dz = of.wants[1].then(|| {
        let x = transpose(g, &label, &x);
        product(g, &label, &x, &dy, p.scale)
    });
    Ok(vec![dx, dz])
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let (rows, inner, cols) = (p.rows as usize, p.inner as usize, p.cols as usize);
    for (i, y) in y.iter_mut().enumerate() {
        let (row, col) = (i / cols, i % cols);
        let (x, z) = (&inputs[0][row * inner..], &inputs[1][row / rows * inner * cols + col..]);
        *y = f64::from(p.scale) * (0..inner).map(|k| x[k] * z[k * cols]).sum::<f64>();
    }
}

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (rows, inner, cols) = (p.rows as usize, p.inner as usize, p.cols as usize);
    let block = rows.div_ceil(rayon::current_num_threads()).clamp(1, 256);
    for (b, y) in y.chunks_exact_mut(rows * cols).enumerate() {
        let (x, z) = (&inputs[0][b * rows * inner..], &inputs[1][b * inner * cols..][..inner * cols]);
        y.par_chunks_mut(block * cols).enumerate().for_each(|(i, y)| {
            let size = [y.len() / cols, inner, cols];
            let x = &x[i * block * inner..][..size[0] * inner];
            gemm(y, cols, x, inner, (z, cols, 1), size, p.scale);
        });
    }
}
