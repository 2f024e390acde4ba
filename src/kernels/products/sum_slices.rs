//! Second pass of a product in slices ([`crate::kernels::product_slices`]): their sum, bias and epilogue.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::epilogue::Epilogue;
use crate::kernels::{
    ACTIVATION, Cost, EPILOGUE, INDEX, Kernel, STORE_QUAD, Shader, defined_in_f32, fold_grid,
};

params! {
    /// Slices.
    slices: u32,
    /// Rows of y.
    rows: u32,
    /// Columns of y, a multiple of 4.
    cols: u32,
    /// 1 if a bias is bound.
    has_bias: u32;
    epilogue
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "sum_slices",
    shaders: &[Shader::plain(
        "sum_slices",
        wgsl!("products/sum_slices"),
        &[INDEX, ACTIVATION, EPILOGUE, STORE_QUAD],
        |_, output| fold_grid(output.iter().product::<usize>().div_ceil(4 * 64)),
    )],
    fields: Params::FIELDS,
    epilogue: true,
    reference: |params, inputs, y| defined_in_f32(compute, params, inputs, y[0]),
    cpu: |p, x, y| compute(p, x, y[0]),
    cost: |_, inputs, output| Cost::streaming(inputs[0].iter().product::<usize>() as f64, inputs, output),
    ..Kernel::PLAIN
};

/// The sum of the slices of x `[slices, rows, cols]` with bias `[cols]` and an epilogue of `operand` → `shape`, `rows`
/// by `cols` elements.
#[track_caller]
pub fn sum_slices(
    g: &mut Graph,
    label: &str,
    x: &Tensor,
    (bias, operand): (Option<&Tensor>, &Tensor),
    epilogue: &Epilogue,
    shape: &[usize],
) -> Tensor {
    let &[slices, rows, cols] = &x.shape[..] else {
        panic!("{label}: slices {:?}: [S, R, C] are needed", x.shape);
    };
    assert!(cols.is_multiple_of(4), "{label}: {cols} columns are no quads");
    assert_eq!(shape.iter().product::<usize>(), rows * cols, "{label}: {:?} to {shape:?}", x.shape);
    let p = Params {
        slices: slices as u32,
        rows: rows as u32,
        cols: cols as u32,
        has_bias: bias.is_some().into(),
        epilogue: *epilogue,
    };
    let empty = g.empty();
    g.push(&KERNEL, label, p.bytes(), &[x, bias.unwrap_or(&empty), operand], shape, Storage::Elem)
}

fn compute(params: &[u8], inputs: &[&[f32]], y: &mut [f32]) {
    let p = Params::read(params);
    let epilogue = Epilogue::read(params);
    let cols = p.cols as usize;
    let len = y.len();
    for (i, y) in y.iter_mut().enumerate() {
        let mut sum = if p.has_bias != 0 { f64::from(inputs[1][i % cols]) } else { 0.0 };
        for slice in 0..p.slices as usize {
            sum += f64::from(inputs[0][slice * len + i]);
        }
        *y = epilogue.reference(sum, inputs[2], i / cols, i % cols, cols) as f32;
    }
}
