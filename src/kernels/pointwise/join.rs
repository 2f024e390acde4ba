//! Runs of columns of several tensors, one after another: pieces of one tensor put together, or cut out of it.

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::join_f32;
use crate::kernels::{Cost, INDEX, Kernel, Shader, element_grid};
use rayon::prelude::*;

params! {
    /// Elements of y.
    len: u32,
    /// Columns of y.
    cols: u32,
    /// Columns of a.
    cols_a: u32,
    /// Column of a that is y's first.
    first_a: u32,
    /// Columns of b.
    cols_b: u32,
    /// First column of b that is taken.
    first_b: u32,
    /// Where it comes in y; y's end if nothing of b does.
    start_b: u32,
    /// Columns of c.
    cols_c: u32,
    /// First column of c that is taken.
    first_c: u32,
    /// Where it comes in y.
    start_c: u32,
    /// Columns of d.
    cols_d: u32,
    /// First column of d that is taken.
    first_d: u32,
    /// Where it comes in y.
    start_d: u32,
}

/// `shaders/shared/item_elem.wgsl`: activations are moved.
const ITEM: &str = wgsl!("shared/item_elem");

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "join",
    shaders: &[Shader::plain("join", wgsl!("pointwise/join"), &[INDEX, ITEM], element_grid)],
    ..COMMON
};

/// What is the same for tensors of every storage.
pub(super) const COMMON: Kernel = Kernel {
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y[0]),
    cpu: |p, x, y| compute(p, x, y[0]),
    cost: |_, _, output| {
        let count = output.iter().product::<usize>() as f64;
        Cost { flops: 0.0, reads: count, writes: count }
    },
    ..Kernel::PLAIN
};

/// Inputs of a node.
const RUNS: usize = 4;

/// Columns `first` to `first + count` of a tensor that is read as rows of `cols` columns.
#[derive(Clone, Debug)]
pub struct Columns {
    /// The tensor.
    pub tensor: Tensor,
    /// Its columns.
    pub cols: usize,
    /// First that is taken.
    pub first: usize,
    /// How many are.
    pub count: usize,
}

/// So many rows, in which the runs follow one another, as `shape`. All tensors are stored as the result, in [`Storage::Elem`]
/// or [`Storage::F32`]. More than four runs take several nodes.
#[track_caller]
pub fn join(
    g: &mut Graph,
    label: &str,
    runs: &[Columns],
    rows: usize,
    shape: &[usize],
    storage: Storage,
) -> Tensor {
    let count = |runs: &[Columns]| runs.iter().map(|run| run.count).sum::<usize>();
    let (len, cols) = (shape.iter().product::<usize>(), count(runs));
    assert_eq!(len, rows * cols, "{label}: {rows} rows of {cols} columns as {shape:?}");
    if runs.len() > RUNS {
        // As few levels as can be.
        let mut part = RUNS;
        while part * RUNS < runs.len() {
            part *= RUNS;
        }
        let joined = |g: &mut Graph, part: &[Columns]| match part {
            [run] => run.clone(),
            part => {
                let cols = count(part);
                let tensor = join(g, label, part, rows, &[rows, cols], storage);
                Columns { tensor, cols, first: 0, count: cols }
            }
        };
        let parts: Vec<Columns> = runs.chunks(part).map(|part| joined(g, part)).collect();
        return join(g, label, &parts, rows, shape, storage);
    }
    let empty = g.empty();
    // Where nothing is taken of an input, it begins at the end.
    let mut inputs = [const { None }; RUNS];
    let mut numbers = [[0, 0, cols as u32]; RUNS];
    let mut start = 0;
    for (i, run) in runs.iter().enumerate() {
        let whole = run.first + run.count <= run.cols && run.tensor.len() == rows * run.cols;
        assert!(whole, "{label}: {} from {} of {:?}", run.count, run.first, run.tensor.shape);
        numbers[i] = [run.cols, run.first, start].map(|n| n as u32);
        inputs[i] = Some(&run.tensor);
        start += run.count;
    }
    let [
        [cols_a, first_a, _],
        [cols_b, first_b, start_b],
        [cols_c, first_c, start_c],
        [cols_d, first_d, start_d],
    ] = numbers;
    let (len, cols) = (len as u32, cols as u32);
    let p = Params {
        len,
        cols,
        cols_a,
        first_a,
        cols_b,
        first_b,
        start_b,
        cols_c,
        first_c,
        start_c,
        cols_d,
        first_d,
        start_d,
    };
    // Stored as the shader reads its inputs.
    let absent = runs.first().map_or(&empty, |run| &run.tensor);
    let kernel = if storage == Storage::F32 { &join_f32::KERNEL } else { &KERNEL };
    g.push(kernel, label, p.bytes(), &inputs.map(|tensor| tensor.unwrap_or(absent)), shape, storage)
}

fn compute<T: Copy + Send + Sync>(params: &[u8], inputs: &[&[T]], y: &mut [T]) {
    let p = Params::read(params);
    let cols = p.cols as usize;
    let runs = [
        [p.cols_a, p.first_a, 0, p.start_b],
        [p.cols_b, p.first_b, p.start_b, p.start_c],
        [p.cols_c, p.first_c, p.start_c, p.start_d],
        [p.cols_d, p.first_d, p.start_d, p.cols],
    ]
    .map(|numbers| numbers.map(|n| n as usize));
    // Blocks of whole rows, or of a part of one.
    let block = if cols < BLOCK { BLOCK / cols * cols } else { BLOCK };
    y.par_chunks_mut(block).enumerate().for_each(|(i, y)| {
        let mut at = i * block;
        let mut left = y;
        while !left.is_empty() {
            let (row, col) = (at / cols, at % cols);
            let run = runs.iter().position(|run| col < run[3]).unwrap_or(RUNS - 1);
            let [from, first, start, end] = runs[run];
            let count = (end - col).min(left.len());
            let (now, later) = left.split_at_mut(count);
            now.copy_from_slice(&inputs[run][row * from + first + col - start..][..count]);
            (left, at) = (later, at + count);
        }
    });
}

/// Elements that a thread takes at a time.
const BLOCK: usize = 16_384;
