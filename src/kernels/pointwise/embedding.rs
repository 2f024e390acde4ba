//! Rows of a table by their numbers: token embeddings, relative position biases.

use crate::graph::split::parts;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::embedding_gradient::embedding_gradient;
use crate::kernels::{Backward, Cost, INDEX, Kernel, Shader, element_grid};

params! {
    /// Elements of y.
    len: u32,
    /// Columns of the table.
    channels: u32,
    /// Rows of the table, or of the part of it that is bound.
    entries: u32,
    /// Number of the part's first row.
    first: u32,
    /// Rows of the whole table.
    all: u32,
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    name: "embedding",
    shaders: &[Shader::plain("embedding", wgsl!("pointwise/embedding"), &[INDEX], element_grid)],
    fields: Params::FIELDS,
    reference: |p, x, y| compute(p, x, y[0]),
    cpu: |p, x, y| compute(p, x, y[0]),
    gradient: Some(gradient),
    split: Some(parts::embedding),
    cost: |_, inputs, output| {
        let count = |s: &[usize]| s.iter().product::<usize>() as f64;
        Cost { flops: 0.0, reads: count(inputs[0]) + count(output), writes: count(output) }
    },
    ..Kernel::PLAIN
};

/// Rows of table `[entries, C]` numbered by ids `[..]` (f32 whole numbers; those beyond the last row are the last) →
/// `[.., C]`.
pub fn embedding(g: &mut Graph, label: &str, ids: &Tensor, table: &Tensor) -> Tensor {
    embedding_of_part(g, label, ids, table, 0, table.dim(0))
}

/// [`embedding`] from a part of a table of `all` rows, from row `first` on; 0 for what lies in another part.
#[track_caller]
pub fn embedding_of_part(
    g: &mut Graph,
    label: &str,
    ids: &Tensor,
    table: &Tensor,
    first: usize,
    all: usize,
) -> Tensor {
    assert!(first + table.dim(0) <= all, "{label}: {:?} from row {first} of {all}", table.shape);
    let mut shape = ids.shape.clone();
    shape.push(table.channels());
    let len: usize = shape.iter().product();
    let p = Params {
        len: len as u32,
        channels: table.channels() as u32,
        entries: table.dim(0) as u32,
        first: first as u32,
        all: all as u32,
    };
    g.push(&KERNEL, label, p.bytes(), &[ids, table], &shape, Storage::Elem)
}

fn gradient(g: &mut Graph, of: &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str> {
    of.refuse(&[(0, "the ids")])?;
    let p = Params::read(&of.node.params);
    if p.entries != p.all {
        return Err("a part of its table");
    }
    let (ids, table) = (of.input(g, 0), of.input(g, 1));
    let dy = g.reshape(of.dy, &[ids.len(), p.channels as usize]);
    let gradient = embedding_gradient(g, &of.label(), &ids, &dy, p.entries as usize);
    Ok(vec![None, Some(g.reshape(&gradient, &table.shape))])
}

fn compute<T: Copy + Default + Into<f64>>(params: &[u8], inputs: &[&[T]], y: &mut [T]) {
    let p = Params::read(params);
    let channels = p.channels as usize;
    for (y, id) in y.chunks_exact_mut(channels).zip(inputs[0]) {
        let entry = ((*id).into() as usize).min(p.all as usize - 1).checked_sub(p.first as usize);
        match entry.filter(|entry| *entry < p.entries as usize) {
            Some(entry) => y.copy_from_slice(&inputs[1][entry * channels..][..channels]),
            None => y.fill(T::default()),
        }
    }
}
