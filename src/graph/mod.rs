//! The graph: plain data, recorded once, read by every device.
//!
//! Recording is infallible and knows no GPU. A [`Node`] names a [`Kernel`], its parameters, inputs, output and
//! a label taken from the weights' path; shapes are proved by assertions while the node is recorded.
//! Readers: [`crate::device`] runs it on the GPU or the CPU, [`plan`] lays its tensors out in memory,
//! [`hoist`] divides it into what is computed once and what each step needs, [`mod@gradient`] differentiates it,
//! [`fuse`] merges element-wise nodes into their producers, [`mod@split`] cuts tensors that a device cannot bind,
//! [`Graph::cost`] adds up arithmetic and bytes,
//! [`Graph::weights`] lists what a checkpoint must hold.

pub mod fuse;
pub mod gradient;
pub mod hoist;
mod layout;
mod norm_strips;
pub mod plan;
pub mod recompute;
pub mod rewrites;
pub mod split;
pub mod weight_parts;

pub use layout::{Pass, Repack, Storage};
pub use weight_parts::WeightPart;

use crate::kernels::{Cost, Kernel, Precision, Shader};
use std::ops::Range;

/// Names one tensor of a [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub(crate) usize);

impl TensorId {
    /// Its place in [`Graph::tensors`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// A tensor as forwards pass it around: its id and its shape, outermost dimension first.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Which tensor of the graph.
    pub id: TensorId,
    /// Row-major shape; pictures are `[N, H, W, C]`, tokens `[N, L, C]`.
    pub shape: Vec<usize>,
}

impl Tensor {
    /// Size of dimension `axis`.
    pub fn dim(&self, axis: usize) -> usize {
        self.shape[axis]
    }

    /// Size of the innermost dimension: channels, in every layout used here.
    pub fn channels(&self) -> usize {
        *self.shape.last().unwrap_or(&1)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Product of all dimensions but the innermost.
    pub fn rows(&self) -> usize {
        self.len() / self.channels().max(1)
    }
}

/// Where a tensor's values come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Written by the caller before a run, by name.
    Input(String),
    /// A checkpoint's tensor, or several: their names and shape there, and how they are laid out here.
    Weight {
        /// What is stacked along the first dimension; mostly one whole tensor.
        parts: Vec<WeightPart>,
        /// Shape in the checkpoint, of each.
        shape: Vec<usize>,
        /// Layout change at load.
        repack: Repack,
    },
    /// Numbers known while recording: frequency tables, bucket indices.
    Constant(Vec<f32>),
    /// An output of a node.
    Node,
}

/// What the graph knows of one tensor.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Storage type.
    pub storage: Storage,
    /// Origin.
    pub source: Source,
}

impl TensorInfo {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes it takes on a GPU: whole words.
    pub fn bytes(&self, precision: Precision) -> u64 {
        let size = if self.storage.is_half(precision) { 2 } else { 4 };
        (self.len() as u64 * size).next_multiple_of(4)
    }
}

/// One dispatch: a kernel, its uniform, what it reads and writes.
#[derive(Clone, Debug)]
pub struct Node {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// The kernel's `Params`, as the uniform buffer holds them.
    pub params: Vec<u8>,
    /// Bound in this order after the uniform.
    pub inputs: Vec<TensorId>,
    /// Bound last, in this order; one at least. An output that is an input of the graph is updated in place.
    pub outputs: Vec<TensorId>,
    /// Which of the kernel's shaders computes it on a GPU.
    pub shader: usize,
    /// Items it computes side by side: pictures, captions, the halves of guidance. What is chosen of ways to compute it
    /// follows from one of them, so that an item's bits do not depend on how many there are.
    pub items: usize,
    /// Path of the weights plus the operation: `unet.down_blocks.0.resnets.1.conv1`.
    pub label: String,
}

impl Node {
    /// The first output: the only one of all kernels that networks are made of.
    pub fn output(&self) -> TensorId {
        self.outputs[0]
    }

    /// The shader that computes it on a GPU.
    pub fn shader(&self) -> &'static Shader {
        &self.kernel.shaders[self.shader]
    }
}

/// A network (or any computation) as plain data.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// In an order in which every input comes before its reader.
    pub nodes: Vec<Node>,
    /// Indexed by [`TensorId`].
    pub tensors: Vec<TensorInfo>,
    /// What the caller wants to read, by name.
    pub outputs: Vec<(String, TensorId)>,
    /// Block outputs by name, kept readable only where a program is built to keep them.
    pub taps: Vec<(String, TensorId)>,
    scope: Vec<String>,
    empty: Option<TensorId>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `record` with `name` appended to the path of weights and labels.
    pub fn scope<R>(&mut self, name: impl ToString, record: impl FnOnce(&mut Self) -> R) -> R {
        self.scope.push(name.to_string());
        let result = record(self);
        self.scope.pop();
        result
    }

    /// The current path joined with `name`.
    pub fn path(&self, name: &str) -> String {
        let mut path = self.scope.join(".");
        if !path.is_empty() && !name.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        path
    }

    pub(crate) fn add(&mut self, shape: &[usize], storage: Storage, source: Source) -> Tensor {
        let id = TensorId(self.tensors.len());
        self.tensors.push(TensorInfo { shape: shape.to_vec(), storage, source });
        Tensor { id, shape: shape.to_vec() }
    }

    /// A tensor the caller writes before each run.
    pub fn input(&mut self, name: &str, shape: &[usize], storage: Storage) -> Tensor {
        self.add(shape, storage, Source::Input(name.to_string()))
    }

    /// Numbers known now.
    #[track_caller]
    pub fn constant(&mut self, shape: &[usize], values: Vec<f32>) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "constant's shape and length differ");
        self.add(shape, Storage::F32, Source::Constant(values))
    }

    /// A one-element stand-in for an optional operand a kernel does not read.
    pub fn empty(&mut self) -> Tensor {
        let id = match self.empty {
            Some(id) => id,
            None => {
                let id = self.constant(&[1], vec![0.0]).id;
                self.empty = Some(id);
                id
            }
        };
        Tensor { id, shape: vec![1] }
    }

    fn weight(&mut self, name: &str, shape: &[usize], storage: Storage, repack: Repack) -> Tensor {
        self.stacked(&[WeightPart::whole(name)], shape, storage, repack)
    }

    fn stacked(&mut self, parts: &[WeightPart], shape: &[usize], storage: Storage, repack: Repack) -> Tensor {
        let parts: Vec<_> =
            parts.iter().map(|p| WeightPart { name: self.path(&p.name), ..p.clone() }).collect();
        let all = shape.first().copied().unwrap_or(1);
        let outputs = parts.iter().map(|part| part.rows.as_ref().map_or(all, Range::len)).sum();
        let here = match (repack, shape) {
            (Repack::Transpose, &[_, i, ..]) => vec![i, outputs],
            (Repack::Conv(Pass::Forward), &[_, i, kh, kw]) => vec![kh, kw, i, outputs],
            (_, [_, rest @ ..]) => [&[outputs], rest].concat(),
            (_, []) => Vec::new(),
        };
        let source = Source::Weight { parts, shape: shape.to_vec(), repack };
        self.add(&here, storage, source)
    }

    /// A bias, norm weight or other small tensor, kept in f32 and in the file's layout.
    pub fn vector(&mut self, name: &str, shape: &[usize]) -> Tensor {
        self.weight(name, shape, Storage::F32, Repack::None)
    }

    /// A linear layer's `[out, in]` weight, laid out `[in, out]`.
    pub fn matrix(&mut self, name: &str, out: usize, input: usize) -> Tensor {
        self.weight(name, &[out, input], Storage::Weight, Repack::Transpose)
    }

    /// Several linear layers' `[out, in]` weights of one input, or rows of them, side by side: `[in, all rows]`.
    pub fn matrices(&mut self, parts: &[WeightPart], out: usize, input: usize) -> Tensor {
        self.stacked(parts, &[out, input], Storage::Weight, Repack::Transpose)
    }

    /// [`Graph::matrices`] that lie in the file as convolutions of one tap, `[out, in, 1]`.
    pub fn pointwise(&mut self, parts: &[WeightPart], out: usize, input: usize) -> Tensor {
        self.stacked(parts, &[out, input, 1], Storage::Weight, Repack::Transpose)
    }

    /// Several vectors, or entries of them, one after another: `[all entries]`.
    pub fn vectors(&mut self, parts: &[WeightPart], len: usize) -> Tensor {
        self.stacked(parts, &[len], Storage::F32, Repack::None)
    }

    /// A convolution's `[out, in, k, k]` weight, laid out `[k, k, in, out]`.
    pub fn filter(&mut self, name: &str, out: usize, input: usize, kernel: usize) -> Tensor {
        self.weight(name, &[out, input, kernel, kernel], Storage::Weight, Repack::Conv(Pass::Forward))
    }

    /// An embedding table `[rows, channels]`, in the file's layout.
    pub fn table(&mut self, name: &str, rows: usize, channels: usize) -> Tensor {
        self.weight(name, &[rows, channels], Storage::Weight, Repack::None)
    }

    /// Records one dispatch of a kernel: its uniform, what it reads, its output's shape and storage. Kernels' `record`
    /// functions call it after proving the shapes.
    pub(crate) fn push(
        &mut self,
        kernel: &'static Kernel,
        label: &str,
        params: Vec<u8>,
        inputs: &[&Tensor],
        shape: &[usize],
        storage: Storage,
    ) -> Tensor {
        let output = self.make(shape, storage);
        self.push_into(kernel, label, params, inputs, &[&output]);
        output
    }

    /// Records one dispatch of a kernel into tensors: [made](Graph::make) for it, or inputs of the graph that it updates in
    /// place.
    pub(crate) fn push_into(
        &mut self,
        kernel: &'static Kernel,
        label: &str,
        params: Vec<u8>,
        inputs: &[&Tensor],
        outputs: &[&Tensor],
    ) {
        let ids = |tensors: &[&Tensor]| tensors.iter().map(|t| t.id).collect();
        let label = self.path(label);
        self.nodes.push(Node {
            kernel,
            params,
            inputs: ids(inputs),
            outputs: ids(outputs),
            shader: 0,
            items: outputs.first().and_then(|output| output.shape.first()).map_or(1, |items| (*items).max(1)),
            label,
        });
    }

    /// A tensor for a node to make.
    pub(crate) fn make(&mut self, shape: &[usize], storage: Storage) -> Tensor {
        self.add(shape, storage, Source::Node)
    }

    /// Names a tensor the caller wants to read after a run.
    pub fn output(&mut self, name: &str, tensor: &Tensor) {
        self.outputs.push((name.to_string(), tensor.id));
    }

    /// Notes a block's output under `name` for tests and debugging; costs nothing unless a program keeps it.
    pub fn tap(&mut self, name: &str, tensor: &Tensor) {
        self.taps.push((name.to_string(), tensor.id));
    }

    /// The tensor under another shape of the same size; nothing is computed.
    #[track_caller]
    pub fn reshape(&self, tensor: &Tensor, shape: &[usize]) -> Tensor {
        assert_eq!(tensor.len(), shape.iter().product::<usize>(), "reshape {:?} to {shape:?}", tensor.shape);
        Tensor { id: tensor.id, shape: shape.to_vec() }
    }

    /// A tensor under the shape it was recorded with.
    pub fn tensor(&self, id: TensorId) -> Tensor {
        Tensor { id, shape: self.info(id).shape.clone() }
    }

    /// What the graph knows of a tensor.
    pub fn info(&self, id: TensorId) -> &TensorInfo {
        &self.tensors[id.0]
    }

    /// Whether a node makes it.
    pub fn is_made(&self, id: TensorId) -> bool {
        matches!(self.info(id).source, Source::Node)
    }

    /// Bytes of inputs, outputs and constants on a GPU, which have buffers of their own.
    pub fn given_bytes(&self, precision: Precision) -> u64 {
        let given = |t: &&TensorInfo| matches!(t.source, Source::Input(_) | Source::Constant(_));
        let given = self.tensors.iter().filter(given).map(|t| t.bytes(precision)).sum::<u64>();
        let made = self.outputs.iter().filter(|(_, id)| self.is_made(*id));
        given + made.map(|(_, id)| self.info(*id).bytes(precision)).sum::<u64>()
    }

    /// The input of that name.
    pub fn find_input(&self, name: &str) -> Option<TensorId> {
        let is = |t: &TensorInfo| matches!(&t.source, Source::Input(n) if n == name);
        self.tensors.iter().position(is).map(TensorId)
    }

    /// What the caller has to write.
    pub fn input_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().filter_map(|t| match &t.source {
            Source::Input(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The output of that name.
    pub fn find_output(&self, name: &str) -> Option<TensorId> {
        self.outputs.iter().find(|(n, _)| n == name).map(|(_, id)| *id)
    }

    /// Every checkpoint tensor the graph reads: name, shape in the file. One that is read in several places comes
    /// several times.
    pub fn weights(&self) -> impl Iterator<Item = (&str, &[usize])> {
        let weights = self.tensors.iter().filter_map(|t| match &t.source {
            Source::Weight { parts, shape, .. } => Some((parts, shape.as_slice())),
            _ => None,
        });
        weights.flat_map(|(parts, shape)| {
            let mut names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
            names.dedup();
            names.into_iter().map(move |name| (name, shape))
        })
    }

    /// Arithmetic and least traffic of one run, summed over the nodes.
    pub fn cost(&self) -> Cost {
        self.nodes.iter().map(|n| self.node_cost(n)).sum()
    }

    /// Arithmetic and least traffic of one node.
    pub fn node_cost(&self, node: &Node) -> Cost {
        let shapes: Vec<&[usize]> = node.inputs.iter().map(|t| self.info(*t).shape.as_slice()).collect();
        (node.kernel.cost)(&node.params, &shapes, &self.info(node.output()).shape)
    }
}
