//! Element-wise: y = (activate(x) ∘ operand) · scale. Usually [fused](crate::graph::fuse) into a producer.

use crate::graph::split::parts;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::activation_gradient::activation_gradient;
use crate::kernels::concat::concat;
use crate::kernels::epilogue::{Activation, Epilogue, OperandOp};
use crate::kernels::sum_axis::sum_rows;
use crate::kernels::{
    ACTIVATION, Backward, Cost, EPILOGUE, INDEX, Kernel, STORE_QUAD_AT, Shader, element_grid, quad_grid,
};
use rayon::prelude::*;

params! {
    /// Elements of x and y.
    len: u32,
    /// Innermost dimension.
    cols: u32;
    epilogue
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "elementwise",
    shaders: &[
        Shader::plain(
            "elementwise",
            wgsl!("pointwise/elementwise"),
            &[INDEX, ACTIVATION, EPILOGUE],
            element_grid,
        ),
        Shader::plain(
            "elementwise_quads",
            wgsl!("pointwise/elementwise_quads"),
            &[INDEX, ACTIVATION, EPILOGUE, STORE_QUAD_AT],
            quad_grid,
        )
        .fitting(|p| Params::read(p).cols.is_multiple_of(4)),
    ],
    fields: Params::FIELDS,
    epilogue: true,
    reference: |p, x, y| reference(p, x, y[0]),
    cpu: |p, x, y| cpu(p, x, y[0]),
    gradient: Some(gradient),
    split: Some(parts::elementwise),
    cost: |_, inputs, output| Cost::streaming(output.iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

fn record(g: &mut Graph, label: &str, x: &Tensor, operand: Option<&Tensor>, epilogue: Epilogue) -> Tensor {
    let p = Params { len: x.len() as u32, cols: x.channels() as u32, epilogue };
    let x = as_elem(g, x);
    let operand = operand.map(|operand| as_elem(g, operand)).unwrap_or_else(|| g.empty());
    g.push(&KERNEL, label, p.bytes(), &[&x, &operand], &x.shape, Storage::Elem)
}

/// The tensor as the shader reads it: what is kept in f32, a learned position for one, is converted first.
#[track_caller]
pub(crate) fn as_elem(g: &mut Graph, x: &Tensor) -> Tensor {
    match g.info(x.id).storage {
        Storage::Elem => x.clone(),
        Storage::F32 => {
            let rows = g.reshape(x, &[1, x.rows(), x.channels()]);
            let y = concat(g, "to_elem", &rows, None, 1);
            g.reshape(&y, &x.shape)
        }
        Storage::Weight => panic!("a weight matrix {:?} is no element-wise operand", x.shape),
    }
}

/// activate(x), any shape.
pub fn activate(g: &mut Graph, x: &Tensor, act: Activation) -> Tensor {
    record(g, "act", x, None, Epilogue { act: act as u32, ..Default::default() })
}

/// x · factor, any shape.
pub fn scale(g: &mut Graph, x: &Tensor, factor: f32) -> Tensor {
    record(g, "scale", x, None, Epilogue { scale: factor, ..Default::default() })
}

/// x + other. `other` has x's shape, or one row (of x's channels) for every equal share of x's rows: a `[N, C]`
/// time embedding added to `[N, H, W, C]`.
#[track_caller]
pub fn add(g: &mut Graph, x: &Tensor, other: &Tensor) -> Tensor {
    let operand_rows = shared_rows(x, other);
    record(
        g,
        "add",
        x,
        Some(other),
        Epilogue { operand_op: OperandOp::Add as u32, operand_rows, ..Default::default() },
    )
}

/// x · other, shapes as in [`add`].
#[track_caller]
pub fn mul(g: &mut Graph, x: &Tensor, other: &Tensor) -> Tensor {
    let operand_rows = shared_rows(x, other);
    record(
        g,
        "mul",
        x,
        Some(other),
        Epilogue { operand_op: OperandOp::Mul as u32, operand_rows, ..Default::default() },
    )
}

#[track_caller]
fn shared_rows(x: &Tensor, other: &Tensor) -> u32 {
    let fits = other.channels() == x.channels() && x.rows().is_multiple_of(other.rows());
    assert!(fits, "operand {:?} does not broadcast over {:?}", other.shape, x.shape);
    (x.rows() / other.rows()) as u32
}

/// dx = dy · scale · activate'(x), for products times the operand; d operand = dy · scale, for products times
/// activate(x), summed over the rows that share a row.
fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    let p = Params::read(&of.node.params);
    let (cols, shared, label) = (p.cols as usize, p.epilogue.operand_rows as usize, of.label());
    let rows = of.dy.len() / cols;
    let (x, dy) = (of.input(g, 0), g.reshape(of.dy, &[rows, cols]));
    let x = g.reshape(&x, &[rows, cols]);
    let (act, multiplies) =
        (Activation::from_number(p.epilogue.act), p.epilogue.operand_op == OperandOp::Mul as u32);
    let scaled =
        |g: &mut Graph, d: Tensor| if p.epilogue.scale == 1.0 { d } else { scale(g, &d, p.epilogue.scale) };
    let dx = of.wants[0].then(|| {
        let mut d = match act {
            Activation::Identity => dy.clone(),
            _ => activation_gradient(g, &label, &x, &dy, act),
        };
        if multiplies {
            let operand = of.input(g, 1);
            let operand = g.reshape(&operand, &[rows / shared, cols]);
            d = mul(g, &d, &operand);
        }
        scaled(g, d)
    });
    let d_operand = of.wants[1].then(|| {
        let mut d = dy.clone();
        if multiplies {
            let factor = if act == Activation::Identity { x.clone() } else { activate(g, &x, act) };
            d = mul(g, &factor, &d);
        }
        let d = scaled(g, d);
        if shared == 1 { d } else { sum_rows(g, &label, &d, shared) }
    });
    Ok(vec![dx, d_operand])
}

fn reference(params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let p = Params::read(params);
    let (epilogue, cols) = (Epilogue::read(params), p.cols as usize);
    for (i, y) in y.iter_mut().enumerate() {
        *y = epilogue.reference(inputs[0][i], inputs[1], i / cols, i % cols, cols);
    }
}

fn cpu(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let (epilogue, cols) = (Epilogue::read(params), p.cols as usize);
    let rows = (16_384 / cols).max(1);
    y.par_chunks_mut(rows * cols).zip(inputs[0].par_chunks(rows * cols)).enumerate().for_each(
        |(i, (y, x))| {
            y.copy_from_slice(x);
            epilogue.apply(y, i * rows, cols, None, inputs[1]);
        },
    );
}
