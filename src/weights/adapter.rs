//! What adapters add to a checkpoint's tensors as they are read.

use super::element::{Element, Float};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// `scale · up · down`, added to a tensor.
#[derive(Clone, Debug)]
pub struct Change {
    /// What the product is scaled by.
    pub scale: f32,
    /// Rows of `down`, columns of `up`.
    pub rank: usize,
    /// `[rank, I·KH·KW]`.
    pub down: Vec<f32>,
    /// `[O, rank]`.
    pub up: Vec<f32>,
}

impl Change {
    /// Adds it to a tensor of so many rows.
    fn add_to(&self, values: &mut [f32], rows: usize) {
        let columns = values.len() / rows.max(1);
        if columns == 0 || self.rank == 0 {
            return;
        }
        let rows = values.par_chunks_exact_mut(columns).zip(self.up.par_chunks_exact(self.rank));
        rows.for_each_init(Vec::new, |sum, (row, up)| {
            sum.clear();
            sum.resize(columns, 0.0);
            for (up, down) in up.iter().zip(self.down.chunks_exact(columns)) {
                sum.iter_mut().zip(down).for_each(|(sum, down)| *sum += up * down);
            }
            row.iter_mut().zip(sum).for_each(|(value, sum)| *value += self.scale * *sum);
        });
    }
}

/// The changes of a checkpoint's tensors.
#[derive(Debug, Default)]
pub struct Adapters(BTreeMap<String, Vec<(u64, Change)>>);

impl Adapters {
    /// Adds a change of a tensor by the adapter of this number.
    pub fn add(&mut self, tensor: String, adapter: u64, change: Change) {
        self.0.entry(tensor).or_default().push((adapter, change));
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The adapters that change a tensor, by number and the bits of their scale.
    pub(super) fn of(&self, tensor: &str) -> impl Iterator<Item = (u64, u32)> {
        let changes = self.0.get(tensor).into_iter().flatten();
        changes.map(|(number, change)| (*number, change.scale.to_bits()))
    }

    /// A tensor's bytes in f32 with what is added to it; nothing where that is nothing.
    pub(super) fn merged(&self, name: &str, rows: usize, kind: Float, bytes: &[u8]) -> Option<Vec<u8>> {
        let changes = self.0.get(name)?;
        let mut values = vec![0.0; bytes.len() / kind.size()];
        f32::read(kind, bytes, &mut values);
        changes.iter().for_each(|(_, change)| change.add_to(&mut values, rows));
        Some(values.into_iter().flat_map(f32::to_le_bytes).collect())
    }
}
