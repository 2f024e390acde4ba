//! Parameters: weights of a network that change. In a graph each is an input, in the layout that its kernels read; in a
//! checkpoint it lies as the file's tensors do.

use crate::diffusion::NoiseStream;
use crate::error::{Result, request};
use crate::graph::{Graph, Pass, Repack, Source, Tensor, TensorId, WeightPart};
use crate::kernels::{conv2d, embedding, group_norm, layer_norm, matmul};
use std::collections::{BTreeMap, HashMap};

/// What a parameter is to the kernel that reads it: how it begins where nothing was trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A factor of a product, of so many inputs to each output.
    Matrix {
        /// Inputs of an output.
        fan_in: usize,
    },
    /// What is added to such a product.
    Bias {
        /// Inputs of an output.
        fan_in: usize,
    },
    /// A factor of a norm.
    Gain,
    /// What is added to a norm.
    Shift,
    /// Rows by number, or what is added to activations.
    Table,
}

/// A weight that is trained.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its input of the graph.
    pub tensor: Tensor,
    /// That input's name.
    pub name: String,
    /// The tensors of the checkpoint, or rows of them, that it is made of.
    pub parts: Vec<WeightPart>,
    /// Shape in the checkpoint, of each tensor.
    pub shape: Vec<usize>,
    /// Layout change from there.
    pub repack: Repack,
    /// What it is.
    pub role: Role,
}

/// Tensors by name: shape in the checkpoint, values in its layout.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Makes inputs of the weights whose names `trained` takes: one of each, wherever the graph reads it. Record the forward
/// before, and its gradient after.
///
/// # Errors
/// [`Request`](crate::Error::Request) where two parameters share rows of a tensor in different layouts.
pub fn parameters(g: &mut Graph, trained: impl Fn(&str) -> bool) -> Result<Vec<Parameter>> {
    let mut first: HashMap<(Vec<WeightPart>, Repack), TensorId> = HashMap::new();
    let mut same: HashMap<TensorId, TensorId> = HashMap::new();
    let mut found = Vec::new();
    for i in 0..g.tensors.len() {
        let Source::Weight { parts, shape, repack } = g.tensors[i].source.clone() else { continue };
        if !parts.iter().any(|part| trained(&part.name)) {
            continue;
        }
        let id = TensorId(i);
        if let Some(first) = first.get(&(parts.clone(), repack)) {
            same.insert(id, *first);
            // Nothing reads it any more.
            g.tensors[i].source = Source::Node;
            continue;
        }
        first.insert((parts.clone(), repack), id);
        let name = format!("weight {}", WeightPart::list(&parts));
        g.tensors[i].source = Source::Input(name.clone());
        found.push((id, name, parts, shape, repack));
    }
    for input in g.nodes.iter_mut().flat_map(|node| &mut node.inputs) {
        *input = same.get(input).copied().unwrap_or(*input);
    }
    let parameters: Vec<Parameter> = found
        .into_iter()
        .map(|(id, name, parts, shape, repack)| {
            let role = role(g, id);
            Parameter { tensor: g.tensor(id), name, parts, shape, repack, role }
        })
        .collect();
    alone(&parameters)?;
    Ok(parameters)
}

/// Rows of a tensor belong to one parameter.
fn alone(parameters: &[Parameter]) -> Result<()> {
    let mut taken: HashMap<&str, Vec<std::ops::Range<usize>>> = HashMap::new();
    for (parameter, part) in parameters.iter().flat_map(|p| p.parts.iter().map(move |part| (p, part))) {
        let rows = part.rows.clone().unwrap_or(0..parameter.shape.first().copied().unwrap_or(1));
        let others = taken.entry(&part.name).or_default();
        if others.iter().any(|other| other.start < rows.end && rows.start < other.end) {
            let what = "is read in two layouts, which cannot be trained";
            return Err(request!(Graph, Unsupported, "the weight `{part}` {what}"));
        }
        others.push(rows);
    }
    Ok(())
}

/// What the first node that reads an input takes it for.
fn role(g: &Graph, id: TensorId) -> Role {
    let reader = g.nodes.iter().find_map(|node| {
        let at = node.inputs.iter().position(|input| *input == id)?;
        Some((node, at))
    });
    let Some((node, at)) = reader else { return Role::Table };
    let fan_in = |weight: usize| {
        let shape = &g.info(node.inputs[weight]).shape;
        shape[..shape.len() - 1].iter().product()
    };
    match at {
        1 if *node.kernel == matmul::KERNEL => Role::Matrix { fan_in: fan_in(1) },
        2 if *node.kernel == matmul::KERNEL => Role::Bias { fan_in: fan_in(1) },
        2 if *node.kernel == conv2d::KERNEL => Role::Matrix { fan_in: fan_in(2) },
        3 if *node.kernel == conv2d::KERNEL => Role::Bias { fan_in: fan_in(2) },
        2 if *node.kernel == group_norm::KERNEL => Role::Gain,
        1 if *node.kernel == layer_norm::KERNEL => Role::Gain,
        3 if *node.kernel == group_norm::KERNEL => Role::Shift,
        2 if *node.kernel == layer_norm::KERNEL => Role::Shift,
        1 if *node.kernel == embedding::KERNEL => Role::Table,
        _ => Role::Table,
    }
}

impl Parameter {
    /// Values to begin with, as PyTorch's layers begin: uniform in ±1/√fan-in for products and their biases, normal for
    /// tables, 1 and 0 for norms.
    pub fn initial(&self, noise: &mut NoiseStream) -> Vec<f32> {
        let len = self.tensor.len();
        let mut uniform = |fan_in: usize| {
            let most = 1.0 / (fan_in.max(1) as f32).sqrt();
            (0..len).map(|_| (2.0 * noise.uniform() - 1.0) * most).collect()
        };
        match self.role {
            Role::Matrix { fan_in } | Role::Bias { fan_in } => uniform(fan_in),
            Role::Gain => vec![1.0; len],
            Role::Shift => vec![0.0; len],
            Role::Table => noise.normal(len),
        }
    }

    /// Rows of all parts, one below the other.
    fn rows(&self) -> impl Iterator<Item = (&WeightPart, std::ops::Range<usize>)> {
        let all = self.shape.first().copied().unwrap_or(1);
        self.parts.iter().map(move |part| (part, part.rows.clone().unwrap_or(0..all)))
    }

    /// Index of each element of row `row` of the checkpoint's layout, `at` rows below the first part's first, in the graph's.
    fn index(&self, at: usize) -> impl Fn(usize) -> usize + use<> {
        let total: usize = self.rows().map(|(_, rows)| rows.len()).sum();
        let width: usize = self.shape.iter().skip(1).product();
        let (repack, shape) = (self.repack, self.shape.clone());
        move |i: usize| match (repack, &shape[..]) {
            (Repack::Transpose, _) => i * total + at,
            (Repack::Conv(Pass::Forward), &[_, inputs, kh, kw]) => {
                let (c, tap) = (i / (kh * kw), i % (kh * kw));
                (tap * inputs + c) * total + at
            }
            _ => at * width + i,
        }
    }

    /// Puts values in the graph's layout where they belong in the checkpoint's tensors, which are made where they are not
    /// there.
    pub fn store(&self, values: &[f32], tensors: &mut Tensors) {
        let width: usize = self.shape.iter().skip(1).product();
        let mut at = 0;
        for (part, rows) in self.rows() {
            let len = self.shape.iter().product();
            let (_, tensor) =
                tensors.entry(part.name.clone()).or_insert_with(|| (self.shape.clone(), vec![0.0; len]));
            for row in rows {
                let index = self.index(at);
                let to = &mut tensor[row * width..][..width];
                to.iter_mut().enumerate().for_each(|(i, to)| *to = values[index(i)]);
                at += 1;
            }
        }
    }

    /// The values in the graph's layout of a checkpoint's tensors; none where one is absent or of another shape.
    pub fn load(&self, tensors: &Tensors) -> Option<Vec<f32>> {
        let width: usize = self.shape.iter().skip(1).product();
        let mut values = vec![0.0; self.tensor.len()];
        let mut at = 0;
        for (part, rows) in self.rows() {
            let (shape, tensor) = tensors.get(&part.name)?;
            if *shape != self.shape {
                return None;
            }
            for row in rows {
                let index = self.index(at);
                for (i, value) in tensor[row * width..][..width].iter().enumerate() {
                    values[index(i)] = *value;
                }
                at += 1;
            }
        }
        Some(values)
    }
}
