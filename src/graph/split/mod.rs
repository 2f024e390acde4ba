//! Splitting: tensors above what a device binds become pieces that are below it. A pure function from graph to graph; where
//! every tensor fits, it does nothing.
//!
//! - **Activations** are cut by picture of the batch first, a picture that is too large into strips of its lines. A piece is a
//!   tensor of its own. A node of several pieces becomes a node for each; what it reads of an input that lies otherwise, a
//!   strip with the lines around it, is put together by [`join`](mod@crate::kernels::join).
//! - A **group norm** of a picture in strips is the [moments](crate::kernels::group_moments) of each, put together.
//! - **Weights** are cut by the outputs they make, and read from the checkpoint so. Tables are cut by rows.
//!
//! Where pictures are cut follows from the shape of one and the limit, whatever the batch. Sums are taken in the order of
//! the whole, but for a group norm's in strips, so that numbers are the same within rounding.

mod norm;
pub(crate) mod parts;
mod take;
mod weights;

use super::hoist::Extract;
use super::{Graph, Node, Source, Storage, TensorId, WeightPart};
use crate::kernels::join::{Columns, join};
use crate::kernels::{Precision, group_norm};
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

/// What a kernel says of a piece of its output, a range of elements; none where such a piece cannot be computed alone. Pieces
/// are items of the output's first dimension, or indices of the second in one of them.
pub type Split = fn(&Node, Range<usize>) -> Option<Part>;

/// How a piece of a node's output is computed.
#[derive(Clone, Debug)]
pub struct Part {
    /// The kernel's uniform.
    pub params: Vec<u8>,
    /// What is read of each input.
    pub reads: Vec<Read>,
}

/// What is read of an input.
#[derive(Clone, Debug)]
pub enum Read {
    /// All of it.
    Whole,
    /// All of a weight, a part of whose outputs may be computed at a time.
    Weight,
    /// Runs of elements, one after another.
    Runs(Vec<Range<usize>>),
    /// Some of the columns of rows of so many.
    Columns {
        /// The rows.
        rows: Range<usize>,
        /// Columns of a row.
        cols: usize,
        /// Those that are read.
        columns: Range<usize>,
    },
}

/// A tensor that is too large and was not split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsplit {
    /// A weight's parts, an input's name, or the label of the node that makes it.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its bytes.
    pub bytes: u64,
}

impl fmt::Display for Unsplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.bytes as f64 / f64::from(1 << 20);
        write!(f, "`{}` of shape {:?} takes {mib:.1} MiB and cannot be cut", self.name, self.shape)
    }
}

/// Splits what takes more than `most` bytes in `precision`.
///
/// Errors: what cannot be split, such as an output, or what a sampler's step reads. The graph is then as it was.
pub fn split(graph: &mut Graph, most: u64, precision: Precision) -> Result<(), Unsplit> {
    if graph.tensors.iter().all(|info| info.bytes(precision) <= most) {
        return Ok(());
    }
    let before = graph.clone();
    let mut splitter = Splitter {
        graph,
        most,
        precision,
        pieces: HashMap::new(),
        slices: HashMap::new(),
        strips: HashMap::new(),
        makers: HashMap::new(),
    };
    let done = splitter.all();
    match done {
        Ok(()) => {
            *graph = compact(graph);
            Ok(())
        }
        Err(unsplit) => {
            *graph = before;
            Err(unsplit)
        }
    }
}

/// The graph with the tensors that its nodes, outputs and inputs are made of, and with the taps that are left.
fn compact(graph: &Graph) -> Graph {
    let mut extract = Extract::default();
    let inputs = graph.tensors.iter().enumerate().filter(|(_, t)| matches!(t.source, Source::Input(_)));
    for (i, _) in inputs {
        extract.take(graph, TensorId(i));
    }
    graph.nodes.iter().for_each(|node| extract.push(graph, node));
    for (name, id) in &graph.outputs {
        let inside = extract.take(graph, *id);
        extract.graph.outputs.push((name.clone(), inside));
    }
    for (name, id) in &graph.taps {
        if let Some(inside) = extract.find(*id) {
            extract.graph.taps.push((name.clone(), inside));
        }
    }
    extract.graph
}

/// Elements of a tensor that are one of their own.
#[derive(Clone, Debug)]
struct Piece {
    elements: Range<usize>,
    id: TensorId,
}

struct Splitter<'a> {
    graph: &'a mut Graph,
    most: u64,
    precision: Precision,
    /// Of tensors that were split, in order.
    pieces: HashMap<TensorId, Vec<Piece>>,
    /// Of weights that were: the outputs, and the weight that makes them.
    slices: HashMap<TensorId, Vec<Piece>>,
    /// Most lines of a strip, of pictures by their height and width: the widest decides, so that all are cut alike.
    strips: HashMap<[usize; 2], usize>,
    /// Labels of the nodes that make tensors.
    makers: HashMap<TensorId, String>,
}

impl Splitter<'_> {
    fn all(&mut self) -> Result<(), Unsplit> {
        let nodes = std::mem::take(&mut self.graph.nodes);
        for node in &nodes {
            self.makers.extend(node.outputs.iter().map(|id| (*id, node.label.clone())));
        }
        let graph = &*self.graph;
        let outputs = graph.outputs.iter().map(|(_, id)| *id);
        let given = (0..graph.tensors.len())
            .map(TensorId)
            .filter(|id| matches!(graph.info(*id).source, Source::Input(_) | Source::Constant(_)));
        if let Some(large) = given.chain(outputs).find(|id| !self.fits(*id)) {
            return Err(self.unsplit(large));
        }
        self.strips = self.lines();
        nodes.into_iter().try_for_each(|node| self.place(node))
    }

    /// How many lines of the widest pictures that are cut into strips fit.
    fn lines(&self) -> HashMap<[usize; 2], usize> {
        let mut lines = HashMap::new();
        for info in self.graph.tensors.iter().filter(|info| matches!(info.source, Source::Node)) {
            let room = self.room(info.storage);
            if let [_, height, width, channels] = info.shape[..]
                && height * width * channels > room
            {
                let fit = lines.entry([height, width]).or_insert(height);
                *fit = (room / (width * channels)).min(*fit);
            }
        }
        lines
    }

    fn fits(&self, id: TensorId) -> bool {
        self.graph.info(id).bytes(self.precision) <= self.most
    }

    fn unsplit(&self, id: TensorId) -> Unsplit {
        let info = self.graph.info(id);
        let name = match &info.source {
            Source::Weight { parts, .. } => WeightPart::list(parts),
            Source::Input(name) => name.clone(),
            Source::Constant(_) => "a constant".into(),
            Source::Node => self.makers.get(&id).cloned().unwrap_or_default(),
        };
        Unsplit { name, shape: info.shape.clone(), bytes: info.bytes(self.precision) }
    }

    /// Elements of a tensor's storage that fit.
    fn room(&self, storage: Storage) -> usize {
        (self.most / if storage.is_half(self.precision) { 2 } else { 4 }) as usize
    }

    /// Appends a node, in as many pieces as it takes.
    fn place(&mut self, node: Node) -> Result<(), Unsplit> {
        let touched = |id: &&TensorId| !self.fits(**id);
        let Some(large) = node.inputs.iter().chain(&node.outputs).find(touched).copied() else {
            self.graph.nodes.push(node);
            return Ok(());
        };
        let alone = node.outputs.len() == 1 && matches!(self.graph.info(node.output()).source, Source::Node);
        if node.kernel.split.is_none() || !alone {
            return Err(self.unsplit(large));
        }
        if *node.kernel == group_norm::KERNEL && self.is_in_strips(&node) {
            return self.group_norm(&node);
        }
        let output = node.output();
        let mut pieces = Vec::new();
        for elements in self.cuts(output)? {
            let id = self.compute(&node, elements.clone())?;
            pieces.push(Piece { elements, id });
        }
        if self.fits(output) {
            // Its maker came last.
            if let Some(last) = self.graph.nodes.last_mut() {
                last.outputs = vec![output];
            }
        } else {
            self.pieces.insert(output, pieces);
        }
        Ok(())
    }

    /// The elements of each piece of a tensor.
    fn cuts(&self, id: TensorId) -> Result<Vec<Range<usize>>, Unsplit> {
        /// Lines that are left free in a strip, for what convolutions read around it.
        const HALO: usize = 4;
        let info = self.graph.info(id);
        let (room, all) = (self.room(info.storage), info.len());
        if self.fits(id) {
            return Ok(std::iter::once(0..all).collect());
        }
        let item = all / info.shape[0];
        if item <= room {
            let each = balanced(info.shape[0], room / item) * item;
            return Ok((0..all).step_by(each).map(|first| first..all.min(first + each)).collect());
        }
        let Some(lines) = info.shape.get(1).filter(|_| info.shape.len() > 2) else {
            return Err(self.unsplit(id));
        };
        let line = item / lines;
        let fit = room / line;
        if fit == 0 {
            return Err(self.unsplit(id));
        }
        let alike =
            if let [_, height, width, _] = info.shape[..] { self.strips.get(&[height, width]) } else { None };
        let fit = alike.copied().unwrap_or(fit);
        let each = balanced(*lines, if fit > 2 * HALO { fit - HALO } else { fit }) * line;
        let strips =
            |first: usize| (0..item).step_by(each).map(move |at| first + at..first + item.min(at + each));
        Ok((0..all).step_by(item).flat_map(strips).collect())
    }

    /// The shape of elements of a tensor: items of it, or indices of its second dimension.
    fn shape_of(&self, id: TensorId, len: usize) -> Vec<usize> {
        let shape = &self.graph.info(id).shape;
        let inner = |axis: usize| shape[axis.min(shape.len())..].iter().product::<usize>();
        match (inner(1), inner(2)) {
            (item, _) if len.is_multiple_of(item) => [&[len / item], &shape[1..]].concat(),
            (_, line) if shape.len() > 2 && len.is_multiple_of(line) => {
                [&[1, len / line], &shape[2..]].concat()
            }
            _ => vec![1, len],
        }
    }

    /// Computes elements of a node's output, in one piece or several that are put together.
    fn compute(&mut self, node: &Node, elements: Range<usize>) -> Result<TensorId, Unsplit> {
        let mut leaves = Vec::new();
        self.divide(node, elements.clone(), &mut leaves)?;
        let mut runs = Vec::new();
        for (elements, part) in leaves {
            let id = self.leaf(node, &elements, part)?;
            runs.push(Columns {
                tensor: self.graph.tensor(id),
                cols: elements.len(),
                first: 0,
                count: elements.len(),
            });
        }
        if let [run] = &runs[..] {
            return Ok(run.tensor.id);
        }
        let shape = self.shape_of(node.output(), elements.len());
        let storage = self.graph.info(node.output()).storage;
        Ok(join(self.graph, &format!("{} (whole)", node.label), &runs, 1, &shape, storage).id)
    }

    /// Halves a range of a node's output until what each part reads fits.
    fn divide(
        &self,
        node: &Node,
        elements: Range<usize>,
        leaves: &mut Vec<(Range<usize>, Part)>,
    ) -> Result<(), Unsplit> {
        let part = node.kernel.split.and_then(|split| split(node, elements.clone()));
        if let Some(part) = part.filter(|part| self.is_affordable(node, part)) {
            leaves.push((elements, part));
            return Ok(());
        }
        let shape = &self.graph.info(node.output()).shape;
        let item: usize = shape[1..].iter().product();
        let line: usize = if shape.len() > 2 { shape[2..].iter().product() } else { item };
        let unit = if elements.len() > item { item } else { line };
        let units = elements.len() / unit;
        if units < 2 {
            let large = node.inputs.iter().chain(&node.outputs).find(|id| !self.fits(**id));
            return Err(self.unsplit(large.copied().unwrap_or(node.output())));
        }
        // At an even number where that can be, so that strips of what is halved or doubled meet.
        let half = units / 2;
        let half = [8, 4, 2].into_iter().find(|even| half >= *even).map_or(half, |even| half / even * even);
        let middle = elements.start + half * unit;
        self.divide(node, elements.start..middle, leaves)?;
        self.divide(node, middle..elements.end, leaves)
    }

    /// Whether all that a part reads can be bound.
    fn is_affordable(&self, node: &Node, part: &Part) -> bool {
        node.inputs.iter().zip(&part.reads).all(|(id, read)| match read {
            Read::Whole => self.fits(*id),
            Read::Weight => true,
            Read::Runs(runs) => {
                runs.iter().map(Range::len).sum::<usize>() <= self.room(self.graph.info(*id).storage)
            }
            Read::Columns { rows, cols, columns } => {
                let fits = rows.len() * columns.len() <= self.room(self.graph.info(*id).storage);
                fits && self.lies_in_rows(*id, *cols)
            }
        })
    }

    /// Computes elements of a node's output in one piece.
    fn leaf(&mut self, node: &Node, elements: &Range<usize>, part: Part) -> Result<TensorId, Unsplit> {
        let mut inputs = Vec::new();
        let mut taken: Vec<(TensorId, Vec<Range<usize>>, TensorId)> = Vec::new();
        for (id, read) in node.inputs.iter().zip(part.reads) {
            let runs = match read {
                Read::Whole | Read::Weight => {
                    inputs.push(*id);
                    continue;
                }
                Read::Columns { rows, cols, columns } => {
                    inputs.push(self.take_columns(&node.label, *id, (&rows, cols), &columns));
                    continue;
                }
                Read::Runs(runs) => runs,
            };
            let known = taken.iter().find(|(of, same, _)| of == id && *same == runs).map(|(.., id)| *id);
            let input = known.unwrap_or_else(|| self.take(&node.label, *id, &runs));
            taken.push((*id, runs, input));
            inputs.push(input);
        }
        let output = node.output();
        let shape = self.shape_of(output, elements.len());
        let made = self.graph.make(&shape, self.graph.info(output).storage);
        let node = Node { params: part.params, inputs, outputs: vec![made.id], ..node.clone() };
        self.emit(node)?;
        Ok(made.id)
    }
}

/// So many of `all` for each of the parts that are needed where at most `most` fit in one, parts about alike: a multiple of 8,
/// 4 or 2 where that fits, so that what is halved or doubled has strips that meet.
fn balanced(all: usize, most: usize) -> usize {
    let each = all.div_ceil(all.div_ceil(most));
    [8, 4, 2].into_iter().map(|unit| each.next_multiple_of(unit)).find(|each| *each <= most).unwrap_or(each)
}
