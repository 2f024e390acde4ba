//! Weights cut by the outputs they make.

use super::{Piece, Splitter, Unsplit};
use crate::graph::{Node, Pass, Repack, Source, Storage, Tensor, TensorId, WeightPart};
use crate::kernels::elementwise::add;
use crate::kernels::embedding::{self, embedding_of_part};
use crate::kernels::epilogue::{Epilogue, OperandOp};
use crate::kernels::join::{Columns, join};
use crate::kernels::{conv2d, matmul};
use std::ops::Range;

impl Splitter<'_> {
    /// Appends a node whose other tensors fit, by parts of its weight where that does not.
    pub(super) fn emit(&mut self, node: Node) -> Result<(), Unsplit> {
        let Some(weight) = node.inputs.iter().copied().find(|id| !self.fits(*id)) else {
            self.graph.nodes.push(node);
            return Ok(());
        };
        match node.kernel {
            kernel if *kernel == embedding::KERNEL => self.look_up(&node, weight),
            _ => self.product(&node, weight),
        }
    }

    /// A product's columns, some at a time.
    fn product(&mut self, node: &Node, weight: TensorId) -> Result<(), Unsplit> {
        // Both kernels end with weight, bias and operand.
        let first = node.inputs.len() - 3;
        let (bias, operand) = (node.inputs[first + 1], node.inputs[first + 2]);
        let epilogue = Epilogue::read(&node.params);
        let shape = self.graph.info(node.output()).shape.clone();
        let cols = shape.last().copied().unwrap_or(1);
        let rows = self.graph.info(node.output()).len() / cols;
        let mut parts = Vec::new();
        for Piece { elements: part, id } in self.slices(weight, true)? {
            let count = part.len();
            let params = with_columns(node, count as u32);
            let mut inputs = node.inputs.clone();
            inputs[first] = id;
            if self.graph.info(bias).len() == cols {
                inputs[first + 1] = self.entries(&node.label, bias, &part);
            }
            if epilogue.operand_op != OperandOp::None as u32 {
                let rows = self.graph.info(operand).len() / cols;
                let run = Columns { tensor: self.graph.tensor(operand), cols, first: part.start, count };
                let label = format!("{} (columns)", node.label);
                inputs[first + 2] = join(self.graph, &label, &[run], rows, &[rows, count], Storage::Elem).id;
            }
            let tensor = self.graph.make(&[rows, count], Storage::Elem);
            let outputs = vec![tensor.id];
            self.graph.nodes.push(Node { params, inputs, outputs, ..node.clone() });
            parts.push(Columns { tensor, cols: count, first: 0, count });
        }
        join(self.graph, &format!("{} (columns)", node.label), &parts, rows, &shape, Storage::Elem);
        self.rename(node.output());
        Ok(())
    }

    /// Rows of a table, of which each part gives those that it has.
    fn look_up(&mut self, node: &Node, table: TensorId) -> Result<(), Unsplit> {
        let (ids, all) = (self.graph.tensor(node.inputs[0]), self.graph.info(table).shape[0]);
        let mut sum: Option<Tensor> = None;
        for Piece { elements: rows, id } in self.slices(table, false)? {
            let part = self.graph.tensor(id);
            let found = embedding_of_part(self.graph, &node.label, &ids, &part, rows.start, all);
            sum = Some(match sum {
                Some(sum) => add(self.graph, &sum, &found),
                None => found,
            });
        }
        self.rename(node.output());
        Ok(())
    }

    /// What the last node makes is `output`.
    fn rename(&mut self, output: TensorId) {
        if let Some(last) = self.graph.nodes.last_mut() {
            last.outputs = vec![output];
        }
    }

    /// The weights that make some of a weight's outputs each: as columns of a product, or as rows of a table.
    fn slices(&mut self, weight: TensorId, columns: bool) -> Result<Vec<Piece>, Unsplit> {
        if let Some(slices) = self.slices.get(&weight) {
            return Ok(slices.clone());
        }
        let info = self.graph.info(weight).clone();
        let Source::Weight { repack, .. } = &info.source else { return Err(self.unsplit(weight)) };
        let axis = match (repack, columns) {
            (Repack::Transpose | Repack::Conv(Pass::Forward), true) => info.shape.len() - 1,
            (Repack::None, false) => 0,
            _ => return Err(self.unsplit(weight)),
        };
        let all = info.shape[axis];
        let most = self.room(info.storage) / (info.len() / all);
        if most == 0 {
            return Err(self.unsplit(weight));
        }
        let each = all.div_ceil(all.div_ceil(most));
        // Whole tiles of the products where that fits, else whole quads.
        let each = [64, 4]
            .into_iter()
            .map(|unit| each.next_multiple_of(unit))
            .find(|each| *each <= most)
            .unwrap_or(each);
        let parts = (0..all).step_by(each).map(|first| first..all.min(first + each));
        let slices: Vec<Piece> =
            parts.map(|part| Piece { id: self.slice(weight, axis, &part), elements: part }).collect();
        self.slices.insert(weight, slices.clone());
        Ok(slices)
    }

    /// A weight of some of another's outputs, which lie along `axis`; rows of the tensors in the checkpoint.
    fn slice(&mut self, weight: TensorId, axis: usize, part: &Range<usize>) -> TensorId {
        let info = self.graph.info(weight).clone();
        let Source::Weight { parts, shape, repack } = info.source else { return weight };
        let mut at = 0;
        let mut within = Vec::new();
        for whole in &parts {
            let rows = whole.rows.clone().unwrap_or(0..shape[0]);
            let (first, end) = (part.start.max(at), part.end.min(at + rows.len()));
            if first < end {
                let rows = rows.start + first - at..rows.start + end - at;
                within.push(WeightPart::rows(whole.name.clone(), rows));
            }
            at += whole.rows.as_ref().map_or(shape[0], Range::len);
        }
        let mut here = info.shape;
        here[axis] = part.len();
        self.graph.add(&here, info.storage, Source::Weight { parts: within, shape, repack }).id
    }

    /// Some of a vector's entries.
    fn entries(&mut self, label: &str, vector: TensorId, part: &Range<usize>) -> TensorId {
        match self.graph.info(vector).source {
            Source::Weight { repack: Repack::None, .. } => self.slice(vector, 0, part),
            _ => self.take(label, vector, std::slice::from_ref(part)),
        }
    }
}

/// The uniform of a product of so many columns.
fn with_columns(node: &Node, cols: u32) -> Vec<u8> {
    if *node.kernel == conv2d::KERNEL {
        conv2d::Params { cols, ..conv2d::Params::read(&node.params) }.bytes()
    } else {
        matmul::Params { cols, ..matmul::Params::read(&node.params) }.bytes()
    }
}
