//! What there is to know of a kernel.

use super::params::Field;
use super::shader::Shader;
use crate::graph::rewrites::Rewrites;
use crate::graph::split::Split;
use crate::graph::{Graph, Node, Tensor};
use std::iter::Sum;
use std::ops::Add;

/// Arithmetic and least memory traffic of a dispatch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts two.
    pub flops: f64,
    /// Elements read at least once.
    pub reads: f64,
    /// Elements written.
    pub writes: f64,
}

impl Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost {
            flops: self.flops + other.flops,
            reads: self.reads + other.reads,
            writes: self.writes + other.writes,
        }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), Add::add)
    }
}

impl Cost {
    /// The cost of a kernel that reads all inputs once, writes its output once and does `flops`.
    pub(crate) fn streaming(flops: f64, inputs: &[&[usize]], output: &[usize]) -> Cost {
        let count = |s: &[usize]| s.iter().product::<usize>() as f64;
        Cost { flops, reads: inputs.iter().map(|s| count(s)).sum(), writes: count(output) }
    }
}

/// Everything there is to know of a kernel.
pub struct Kernel {
    /// File and module name.
    pub name: &'static str,
    /// The WGSL files that compute it, all with the same bindings and uniform. The first runs everywhere; each of
    /// the others is better where it fits (`device/gpu/autotune.rs` chooses).
    pub shaders: &'static [Shader],
    /// Members of the uniform.
    pub fields: &'static [Field],
    /// Whether `Params` ends with the [`epilogue`](crate::kernels::epilogue) block and the last input is its operand.
    pub epilogue: bool,
    /// The definition: f64 sums, plain loops. What the tests compare every device with.
    pub reference: Definition,
    /// What the CPU device runs: the same numbers within rounding, fast.
    pub cpu: Compute,
    /// The same where one of its inputs is in panels.
    pub packed: Option<Packed>,
    /// Records the gradient; none where the kernel has none.
    pub gradient: Option<Gradient>,
    /// The uniform of a node that computes one of so many items, as choices among shaders and rewrites see it.
    pub of_item: fn(&[u8], u32) -> Vec<u8>,
    /// One element of the output by the definition: how a shader's result is checked on the sizes it is measured at. None
    /// where all of them take little.
    pub element: Option<Element>,
    /// What may stand in a node's place on a GPU.
    pub rewrites: Rewrites,
    /// How a piece of its output is computed where a tensor is above a device's limits; none where all of it is computed
    /// at once.
    pub split: Option<Split>,
    /// Arithmetic and least traffic from the parameters and the shapes of inputs and first output.
    pub cost: CostOf,
}

impl Kernel {
    /// No epilogue, no gradient, no rewrites, no items in the uniform. All else is each kernel's own: this computes nothing.
    pub(crate) const PLAIN: Kernel = Kernel {
        name: "",
        shaders: &[],
        fields: &[],
        epilogue: false,
        reference: |_, _, _| (),
        cpu: |_, _, _| (),
        packed: None,
        gradient: None,
        of_item: |params, _| params.to_vec(),
        element: None,
        rewrites: Rewrites::NONE,
        split: None,
        cost: |_, _, _| Cost { flops: 0.0, reads: 0.0, writes: 0.0 },
    };
}

/// How the CPU device computes a kernel with one of its inputs laid out for it, once, at load.
#[derive(Clone, Copy)]
pub struct Packed {
    /// Which input: a matrix of as many columns as its last axis has.
    pub input: usize,
    /// Whether a node reads it as one.
    pub fits: fn(&[u8]) -> bool,
    /// What is run: the input comes in panels of columns, as `gemm.rs` makes them.
    pub cpu: Compute,
}

/// Records what computes the gradients of a node's inputs, in the inputs' order, none for those nobody
/// [asks](Backward::wants) for. Errors say which input has no gradient ("the filter", "the bias").
pub type Gradient = fn(&mut Graph, &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str>;

/// A node on the way back: what its kernel's gradient is recorded from.
#[derive(Clone, Copy, Debug)]
pub struct Backward<'a> {
    /// The node, as it was recorded: nothing is fused into it.
    pub node: &'a Node,
    /// The gradient of its output, of the output's shape: kernels that are differentiated have one.
    pub dy: &'a Tensor,
    /// For each input: its gradient is asked for.
    pub wants: &'a [bool],
}

impl Backward<'_> {
    /// An input as the forward computed it.
    pub(crate) fn input(&self, g: &Graph, i: usize) -> Tensor {
        g.tensor(self.node.inputs[i])
    }

    /// The output as the forward computed it.
    pub(crate) fn output(&self, g: &Graph) -> Tensor {
        g.tensor(self.node.output())
    }

    /// An error if one of these inputs is asked for: its index and what it is.
    pub(crate) fn refuse(&self, inputs: &[(usize, &'static str)]) -> Result<(), &'static str> {
        let asked = inputs.iter().find(|(i, _)| self.wants[*i]);
        asked.map_or(Ok(()), |(_, what)| Err(what))
    }

    /// A label for a node of the gradient.
    pub(crate) fn label(&self) -> String {
        format!("{} (gradient)", self.node.label)
    }
}

/// A kernel's cost from its uniform, the shapes of its inputs, and the shape of its first output.
pub type CostOf = fn(&[u8], &[&[usize]], &[usize]) -> Cost;

/// Computes a kernel on the CPU: uniform, inputs, outputs. An output holds anything before and all of it is written, but
/// where the node updates an input of its graph: that holds the input's values.
pub type Compute = fn(&[u8], &[&[f32]], &mut [&mut [f32]]);

/// Defines a kernel, in f64 throughout: uniform, inputs, outputs, as [`Compute`] has them.
pub type Definition = fn(&[u8], &[&[f64]], &mut [&mut [f64]]);

/// Defines an element of a kernel's output, in f64: uniform, inputs, index.
pub type Element = fn(&[u8], &[&[f32]], usize) -> f64;

/// The definition of a kernel that is what its `cpu` function computes: values rounded to f32 are part of it, or it only
/// serves another kernel, whose definition holds.
pub(crate) fn defined_in_f32(
    cpu: fn(&[u8], &[&[f32]], &mut [f32]),
    params: &[u8],
    inputs: &[&[f64]],
    y: &mut [f64],
) {
    let inputs: Vec<Vec<f32>> = inputs.iter().map(|x| x.iter().map(|v| *v as f32).collect()).collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let mut out: Vec<f32> = y.iter().map(|v| *v as f32).collect();
    cpu(params, &inputs, &mut out);
    y.iter_mut().zip(out).for_each(|(y, v)| *y = f64::from(v));
}

/// The same of a kernel with several outputs.
pub(crate) fn defined_in_f32_all(cpu: Compute, params: &[u8], inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
    let narrow = |x: &[f64]| x.iter().map(|v| *v as f32).collect::<Vec<f32>>();
    let inputs: Vec<Vec<f32>> = inputs.iter().map(|x| narrow(x)).collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let mut made: Vec<Vec<f32>> = outputs.iter().map(|y| narrow(y)).collect();
    let mut slices: Vec<&mut [f32]> = made.iter_mut().map(Vec::as_mut_slice).collect();
    cpu(params, &inputs, &mut slices);
    for (y, made) in outputs.iter_mut().zip(made) {
        y.iter_mut().zip(made).for_each(|(y, v)| *y = f64::from(v));
    }
}

/// Whether they are one kernel: a table of its own.
impl PartialEq for Kernel {
    fn eq(&self, other: &Kernel) -> bool {
        std::ptr::eq(self, other)
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
