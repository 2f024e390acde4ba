//! The gradient through an activation function: dy · activate'(x).

use crate::graph::split::parts;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::epilogue::{Activation, Epilogue};
use crate::kernels::simd::wide;
use crate::kernels::{
    ACTIVATION, ACTIVATION_DERIVATIVE, Cost, EPILOGUE, INDEX, Kernel, STORE_AT, STORE_QUAD_AT, Shader,
    element_grid, quad_grid,
};
use rayon::prelude::*;

params! {
    /// Elements of x and y.
    len: u32,
    /// Innermost dimension.
    cols: u32,
    /// Number of the activation whose gradient it is.
    activation: u32;
    epilogue
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "activation_gradient",
    shaders: &[
        Shader::plain(
            "activation_gradient",
            wgsl!("pointwise/activation_gradient"),
            &[INDEX, ACTIVATION, ACTIVATION_DERIVATIVE, EPILOGUE, STORE_AT],
            element_grid,
        ),
        Shader::plain(
            "activation_gradient_quads",
            wgsl!("pointwise/activation_gradient_quads"),
            &[INDEX, ACTIVATION, ACTIVATION_DERIVATIVE, EPILOGUE, STORE_QUAD_AT],
            quad_grid,
        )
        .fitting(|p| Params::read(p).cols.is_multiple_of(4)),
    ],
    fields: Params::FIELDS,
    epilogue: true,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    split: Some(parts::activation_gradient),
    cost: |_, inputs, output| Cost::streaming(8.0 * output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// The gradient of `act` at x, given that of its result: dy · activate'(x), of x's shape.
#[track_caller]
pub fn activation_gradient(g: &mut Graph, label: &str, x: &Tensor, dy: &Tensor, act: Activation) -> Tensor {
    assert_eq!(x.len(), dy.len(), "{label}: {:?} with a gradient of {:?}", x.shape, dy.shape);
    let p = Params {
        len: x.len() as u32,
        cols: x.channels() as u32,
        activation: act as u32,
        epilogue: Epilogue::default(),
    };
    let empty = g.empty();
    g.push(&KERNEL, label, p.bytes(), &[x, dy, &empty], &x.shape, Storage::Elem)
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let (epilogue, cols) = (Epilogue::read(params), p.cols as usize);
    let act = Activation::from_number(p.activation);
    for (i, y) in y.iter_mut().enumerate() {
        let dx = inputs[1][i] * act.derivative_reference(inputs[0][i]);
        *y = epilogue.reference(dx, inputs[2], i / cols, i % cols, cols);
    }
}

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (epilogue, cols) = (Epilogue::read(params), p.cols as usize);
    let act = Activation::from_number(p.activation);
    let rows = (16_384 / cols).max(1);
    let given = inputs[0].par_chunks(rows * cols).zip(inputs[1].par_chunks(rows * cols));
    y.par_chunks_mut(rows * cols).zip(given).enumerate().for_each(|(i, (y, (x, dy)))| {
        y.copy_from_slice(x);
        wide(
            #[inline(always)]
            || act.differentiate_all(y, dy),
        );
        epilogue.apply(y, i * rows, cols, None, inputs[2]);
    });
}
