//! Where a tensor lies in a checkpoint's files.

use safetensors::Dtype;

/// Where one tensor lies.
#[derive(Debug)]
pub(super) struct Entry {
    /// Index into the checkpoint's shards.
    pub(super) shard: usize,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Range of bytes in that file, from the first element to the last; proved to lie inside and to fit the
    /// shape when the file was opened.
    pub(super) bytes: std::ops::Range<usize>,
    /// Elements from one index to the next, of each dimension, where the elements do not lie in a row: views
    /// in PyTorch's files.
    pub(super) strides: Option<Vec<usize>>,
}
