//! The kernels: one module per file of `shaders/`, same name.
//!
//! Each module holds the kernel's `Params` (the WGSL uniform), `record` functions that prove shapes and append
//! nodes to a [`Graph`], the `reference` (the definition in plain loops with f64 sums), the
//! `cpu` version the CPU device runs, and the cost. Adding a kernel is `shaders/x.wgsl`, `src/kernels/x.rs`, one
//! word in `kernels!` below, and its cases in `kernels-tests/`.

pub use crate::graph::rewrites::Rewrites;
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
    fn streaming(flops: f64, inputs: &[&[usize]], output: &[usize]) -> Cost {
        let count = |s: &[usize]| s.iter().product::<usize>() as f64;
        Cost { flops, reads: inputs.iter().map(|s| count(s)).sum(), writes: count(output) }
    }
}

/// Type of a member of a kernel's uniform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// WGSL `u32`.
    U32,
    /// WGSL `f32`.
    F32,
}

/// A member of a kernel's uniform, to hold Rust and WGSL to the same layout in a test.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Member name in both languages.
    pub name: &'static str,
    /// Byte offset.
    pub offset: usize,
    /// Scalar type.
    pub ty: FieldType,
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
    /// Whether `Params` ends with the [`epilogue`] block and the last input is its operand.
    pub epilogue: bool,
    /// The definition: f64 sums, plain loops. What the tests compare every device with.
    pub reference: Definition,
    /// What the CPU device runs: the same numbers within rounding, fast.
    pub cpu: Compute,
    /// Records the gradient; none where the kernel has none.
    pub gradient: Option<Gradient>,
    /// What may stand in a node's place on a GPU.
    pub rewrites: Rewrites,
    /// Arithmetic and least traffic from the parameters and the shapes of inputs and output.
    pub cost: CostOf,
}

/// Records what computes the gradients of a node's inputs, in the inputs' order, none for those nobody
/// [asks](Backward::wants) for. Errors say which input has no gradient ("the filter", "the bias").
pub type Gradient = fn(&mut Graph, &Backward<'_>) -> Result<Vec<Option<Tensor>>, &'static str>;

/// A node on the way back: what its kernel's gradient is recorded from.
#[derive(Clone, Copy, Debug)]
pub struct Backward<'a> {
    /// The node, as it was recorded: nothing is fused into it.
    pub node: &'a Node,
    /// The gradient of its output, of the output's shape.
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
        g.tensor(self.node.output)
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

/// A kernel's cost from its uniform, the shapes of its inputs, and the shape of its output.
pub type CostOf = fn(&[u8], &[&[usize]], &[usize]) -> Cost;

/// Computes a kernel on the CPU: uniform, inputs, output. The output holds anything before; all of it is written.
pub type Compute = fn(&[u8], &[&[f32]], &mut [f32]);

/// Defines a kernel, in f64 throughout: uniform, inputs, output.
pub type Definition = fn(&[u8], &[&[f64]], &mut [f64]);

/// The definition of a kernel that is what its `cpu` function computes: values rounded to f32 are part of it, or it only
/// serves another kernel, whose definition holds.
fn defined_in_f32(cpu: Compute, params: &[u8], inputs: &[&[f64]], y: &mut [f64]) {
    let inputs: Vec<Vec<f32>> = inputs.iter().map(|x| x.iter().map(|v| *v as f32).collect()).collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let mut out = vec![0.0; y.len()];
    cpu(params, &inputs, &mut out);
    y.iter_mut().zip(out).for_each(|(y, v)| *y = f64::from(v));
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

/// Storage types a pipeline is compiled for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Precision {
    /// `Elem` (activations) is f16.
    pub elem_f16: bool,
    /// `Weight` (weight matrices) is f16.
    pub weight_f16: bool,
}

impl Precision {
    /// Activations and weights in f32.
    pub const F32: Precision = Precision { elem_f16: false, weight_f16: false };
    /// Activations and weights stored in f16; sums stay f32.
    pub const F16: Precision = Precision { elem_f16: true, weight_f16: true };
}

/// One WGSL file that computes a kernel.
pub struct Shader {
    /// The file's name, with a suffix where other snippets or constants make another shader of it.
    pub name: &'static str,
    /// The WGSL file.
    pub wgsl: &'static str,
    /// Function snippets of `shaders/shared/` the file calls.
    pub shared: &'static [&'static str],
    /// Values of the file's overrides that differ from their defaults.
    pub constants: &'static [(&'static str, f64)],
    /// What the adapter must have.
    pub needs: Needs,
    /// Whether it computes the sizes in a uniform.
    pub fits: fn(&[u8]) -> bool,
    /// Workgroups in x, y, z from the uniform and the shape of the output.
    pub grid: fn(&[u8], &[usize]) -> [u32; 3],
}

/// What a shader asks of an adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Subgroups of exactly this many invocations.
    pub subgroup: Option<u32>,
    /// Cooperative matrices of 16 × 16: f16 factors, f32 sums, activations and weights stored in f16.
    pub cooperative: bool,
    /// Real workgroup memory: it runs on software adapters too, but slower than what does without.
    pub hardware: bool,
}

impl Needs {
    /// Subgroups of 8: the vectors of software adapters.
    pub const SUBGROUP8: Needs = Needs { subgroup: Some(8), ..Needs::NOTHING };
    /// Real workgroup memory.
    pub const HARDWARE: Needs = Needs { hardware: true, ..Needs::NOTHING };
    /// Runs everywhere.
    pub const NOTHING: Needs = Needs { subgroup: None, cooperative: false, hardware: false };
    /// Cooperative matrices of subgroups of 32.
    pub const COOPERATIVE: Needs = Needs { subgroup: Some(32), cooperative: true, hardware: true };
}

impl Shader {
    /// A shader that runs everywhere and computes all sizes.
    pub(crate) const fn plain(
        name: &'static str,
        wgsl: &'static str,
        shared: &'static [&'static str],
        grid: fn(&[u8], &[usize]) -> [u32; 3],
    ) -> Shader {
        Shader { name, wgsl, shared, constants: &[], needs: Needs::NOTHING, fits: |_| true, grid }
    }

    /// A shader whose workgroups are subgroups of 8, with sums over them (`shared/reduce_subgroup.wgsl`).
    pub(crate) const fn narrow(
        name: &'static str,
        wgsl: &'static str,
        shared: &'static [&'static str],
        grid: fn(&[u8], &[usize]) -> [u32; 3],
    ) -> Shader {
        let constants = &[("WG", 8.0)];
        Shader { name, wgsl, shared, constants, needs: Needs::SUBGROUP8, fits: |_| true, grid }
    }

    /// Name of its file in `shaders/`, as the file's first words say it.
    pub fn file(&self) -> &'static str {
        self.wgsl.trim_start_matches("// ").split(':').next().unwrap_or_default()
    }

    /// The complete WGSL source: prelude (storage aliases), shared functions, the file.
    pub fn source(&self, precision: Precision) -> String {
        let name = |half: bool| if half { "f16" } else { "f32" };
        let f16 = if precision.elem_f16 || precision.weight_f16 { "enable f16;\n" } else { "" };
        let cooperative = if self.needs.cooperative { "enable wgpu_cooperative_matrix;\n" } else { "" };
        let mut source = format!(
            "{f16}{cooperative}alias Elem = {};\nalias Weight = {};\n",
            name(precision.elem_f16),
            name(precision.weight_f16)
        );
        for part in self.shared.iter().chain([&self.wgsl]) {
            source.push_str(part);
        }
        source
    }
}

/// Largest workgroup count along one axis that every adapter accepts (WebGPU's default limit).
pub const MAX_GRID: usize = 65_535;

/// A one-dimensional grid of `groups` workgroups, folded into y above [`MAX_GRID`]; shaders undo it with
/// `linear_group` of `shared/index.wgsl`.
pub(crate) fn fold_grid(groups: usize) -> [u32; 3] {
    let rows = groups.div_ceil(MAX_GRID).max(1);
    [groups.div_ceil(rows).max(1) as u32, rows as u32, 1]
}

/// The grid of a kernel whose workgroups compute 64 elements of the output each.
pub(crate) fn element_grid(_: &[u8], output: &[usize]) -> [u32; 3] {
    fold_grid(output.iter().product::<usize>().div_ceil(64))
}

/// The grid of a kernel whose workgroups compute a row of the output each.
pub(crate) fn row_grid(_: &[u8], output: &[usize]) -> [u32; 3] {
    fold_grid(output.iter().rev().skip(1).product())
}

/// The grid of `batches` products of `rows` by `cols`, in the tiles of `shared/tile.wgsl`.
pub(crate) fn tile_grid(rows: usize, cols: usize, batches: usize) -> [u32; 3] {
    let across = cols.div_ceil(8).clamp(1, 8);
    let down = 64 / across;
    fold_grid(batches * cols.div_ceil(8 * across) * rows.div_ceil(4 * down))
}

/// The grid of `batches` products of `rows` by `cols`, in the tiles of `tile` rows of `shared/subgroup.wgsl`.
pub(crate) fn subgroup_grid(rows: u32, cols: u32, batches: u32, tile: u32) -> [u32; 3] {
    fold_grid(batches as usize * rows.div_ceil(tile) as usize * cols.div_ceil(16) as usize)
}

/// The grid of `batches` products of `rows` by `cols`, in tiles of `tall` by 64.
pub(crate) fn wide_grid(rows: u32, cols: u32, batches: u32, tall: u32) -> [u32; 3] {
    fold_grid(batches as usize * rows.div_ceil(tall) as usize * cols.div_ceil(64) as usize)
}

/// Declares a kernel's uniform: a `repr(C)` struct of u32 and f32 and the table of its members.
macro_rules! params {
    (@ty u32) => { $crate::kernels::FieldType::U32 };
    (@ty f32) => { $crate::kernels::FieldType::F32 };
    ($($(#[$doc:meta])* $field:ident: $ty:ident),* $(,)?) => {
        /// The uniform of this kernel; members as in the WGSL file.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct Params { $($(#[$doc])* pub $field: $ty),* }
        impl Params {
            pub(crate) const FIELDS: &'static [$crate::kernels::Field] = &[$($crate::kernels::Field {
                name: stringify!($field),
                offset: std::mem::offset_of!(Params, $field),
                ty: $crate::kernels::params!(@ty $ty),
            }),*];
            pub(crate) fn read(bytes: &[u8]) -> Self {
                bytemuck::pod_read_unaligned(bytes)
            }
            pub(crate) fn bytes(&self) -> Vec<u8> {
                bytemuck::bytes_of(self).to_vec()
            }
        }
    };
}
pub(crate) use params;

macro_rules! kernels {
    ($($name:ident),* $(,)?) => {
        $(pub mod $name;)*
        /// Every kernel; pipelines, tests and benches walk this table.
        pub static ALL: &[&Kernel] = &[$(&$name::KERNEL),*];
    };
}

pub mod epilogue;
pub(crate) mod simd;

kernels! {
    activation_gradient, attention, attention_key_gradient, attention_query_gradient, attention_statistics, batch_norm,
    concat, conv2d, conv2d_gradient, cut, elementwise, embedding, group_norm, group_norm_gradient, layer_norm,
    layer_norm_gradient, matmul, pick, product, product_slices, quantile, resample, resample_gradient, softmax,
    softmax_gradient, step, sum_axis, sum_slices, timestep_embedding, transpose, winograd_input, winograd_output,
}

/// `shaders/shared/index.wgsl`: folded grids.
pub(crate) const INDEX: &str = include_str!("../../shaders/shared/index.wgsl");
/// `shaders/shared/tile.wgsl`: which part of a product an invocation computes.
pub(crate) const TILE: &str = include_str!("../../shaders/shared/tile.wgsl");
/// `shaders/shared/rows12.wgsl`: 12 rows in the tiles of [`SUBGROUP`].
pub(crate) const ROWS12: &str = include_str!("../../shaders/shared/rows12.wgsl");
/// `shaders/shared/rows16.wgsl`: 16 rows in the tiles of [`SUBGROUP`].
pub(crate) const ROWS16: &str = include_str!("../../shaders/shared/rows16.wgsl");
/// `shaders/shared/subgroup.wgsl`: a tile of a product by a subgroup of 8.
pub(crate) const SUBGROUP: &str = include_str!("../../shaders/shared/subgroup.wgsl");
/// `shaders/shared/tile64.wgsl`: 64 × 64 of a product through workgroup memory.
pub(crate) const TILE64: &str = include_str!("../../shaders/shared/tile64.wgsl");
/// `shaders/shared/cooperative.wgsl`: 128 × 64 of a product in cooperative matrices.
pub(crate) const COOPERATIVE: &str = include_str!("../../shaders/shared/cooperative.wgsl");
/// `shaders/shared/gather.wgsl`: a convolution's input as the left side of a product.
pub(crate) const GATHER: &str = include_str!("../../shaders/shared/gather.wgsl");
/// `shaders/shared/store.wgsl`: an element of a product, with bias and epilogue, to y.
pub(crate) const STORE: &str = include_str!("../../shaders/shared/store.wgsl");
/// `shaders/shared/store_quad.wgsl`: bias, epilogue and store of four columns.
pub(crate) const STORE_QUAD: &str = include_str!("../../shaders/shared/store_quad.wgsl");
/// `shaders/shared/activation.wgsl`: the activation functions by number.
pub(crate) const ACTIVATION: &str = include_str!("../../shaders/shared/activation.wgsl");
/// `shaders/shared/activation_derivative.wgsl`: their derivatives.
pub(crate) const ACTIVATION_DERIVATIVE: &str =
    include_str!("../../shaders/shared/activation_derivative.wgsl");
/// `shaders/shared/store_at.wgsl`: an element, with epilogue, to y.
pub(crate) const STORE_AT: &str = include_str!("../../shaders/shared/store_at.wgsl");
/// `shaders/shared/group_walk.wgsl`: the two inputs of a group norm.
pub(crate) const GROUP_WALK: &str = include_str!("../../shaders/shared/group_walk.wgsl");
/// `shaders/shared/epilogue.wgsl`: activation, operand and scale after a sum.
pub(crate) const EPILOGUE: &str = include_str!("../../shaders/shared/epilogue.wgsl");
/// `shaders/shared/reduce.wgsl`: sums and maxima over a workgroup.
pub(crate) const REDUCE: &str = include_str!("../../shaders/shared/reduce.wgsl");
/// `shaders/shared/reduce_subgroup.wgsl`: sums and maxima over a subgroup that is the workgroup.
pub(crate) const REDUCE_SUBGROUP: &str = include_str!("../../shaders/shared/reduce_subgroup.wgsl");
/// `shaders/shared/resample.wgsl`: what an output coordinate of a resized picture reads.
pub(crate) const RESAMPLE: &str = include_str!("../../shaders/shared/resample.wgsl");
/// `shaders/shared/predict.wgsl`: guidance and x̂₀, shared by `quantile` and `step`.
pub(crate) const PREDICT: &str = include_str!("../../shaders/shared/predict.wgsl");
