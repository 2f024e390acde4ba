//! Tensors put together from pieces of others.

use super::{Piece, Splitter};
use crate::graph::TensorId;
use crate::kernels::join::{Columns, join};
use std::ops::Range;

impl Splitter<'_> {
    /// A tensor of these elements of another.
    pub(super) fn take(&mut self, label: &str, id: TensorId, runs: &[Range<usize>]) -> TensorId {
        let taken: Vec<Columns> = runs.iter().flat_map(|run| self.within(id, run)).collect();
        if let [only] = &taken[..]
            && only.count == only.cols
        {
            return only.tensor.id;
        }
        let len = runs.iter().map(Range::len).sum();
        let (shape, storage) = (self.shape_of(id, len), self.graph.info(id).storage);
        join(self.graph, &format!("{label} (strip)"), &taken, 1, &shape, storage).id
    }

    /// A tensor of `columns` of a tensor's rows, each of `cols` columns: `[1, rows, columns]`.
    pub(super) fn take_columns(
        &mut self,
        label: &str,
        id: TensorId,
        (rows, cols): (&Range<usize>, usize),
        columns: &Range<usize>,
    ) -> TensorId {
        let (storage, count) = (self.graph.info(id).storage, columns.len());
        let label = format!("{label} (columns)");
        let mut parts = Vec::new();
        for piece in self.within(id, &(rows.start * cols..rows.end * cols)) {
            let rows = piece.count / cols;
            let tensor = match piece.count == piece.cols {
                true => piece.tensor,
                false => join(self.graph, &label, &[piece], 1, &[1, rows, cols], storage),
            };
            let only = Columns { tensor, cols, first: columns.start, count };
            let tensor = join(self.graph, &label, &[only], rows, &[1, rows, count], storage);
            parts.push(Columns { tensor, cols: rows * count, first: 0, count: rows * count });
        }
        match &parts[..] {
            [only] => only.tensor.id,
            parts => join(self.graph, &label, parts, 1, &[1, rows.len(), count], storage).id,
        }
    }

    /// Whether the pieces of a tensor are made of whole rows of so many columns.
    pub(super) fn lies_in_rows(&self, id: TensorId, cols: usize) -> bool {
        let whole = |end: usize| end.is_multiple_of(cols);
        self.pieces.get(&id).is_none_or(|pieces| pieces.iter().all(|piece| whole(piece.elements.end)))
    }

    /// A run of a tensor's elements, as parts of its pieces.
    fn within(&self, id: TensorId, run: &Range<usize>) -> Vec<Columns> {
        let whole = [Piece { elements: 0..self.graph.info(id).len(), id }];
        let pieces = self.pieces.get(&id).map_or(&whole[..], Vec::as_slice);
        let within = |piece: &Piece| {
            let (first, end) = (run.start.max(piece.elements.start), run.end.min(piece.elements.end));
            (first < end).then(|| Columns {
                tensor: self.graph.tensor(piece.id),
                cols: piece.elements.len(),
                first: first - piece.elements.start,
                count: end - first,
            })
        };
        pieces.iter().filter_map(within).collect()
    }
}
