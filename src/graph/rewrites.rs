//! Other ways to compute a node: several nodes in its place, chosen where they measure faster.

use super::norm_strips::{norm_gradient_strips, norm_strips};
use super::{Graph, Node, Repack, Source, Storage, Tensor};
use crate::kernels::concat::concat;
use crate::kernels::cut::cut;
use crate::kernels::epilogue::Epilogue;
use crate::kernels::filter_gradient;
use crate::kernels::group_norm;
use crate::kernels::group_norm_gradient;
use crate::kernels::group_quads::in_quads;
use crate::kernels::matmul::{self, batched_matmul};
use crate::kernels::product_slices::{self, product_slices};
use crate::kernels::quantile;
use crate::kernels::quantile_counts::quantile_counts;
use crate::kernels::quantile_digits::quantile_digits;
use crate::kernels::quantile_merge::quantile_merge;
use crate::kernels::sum_parts::sum_parts;
use crate::kernels::sum_slices::sum_slices;
use crate::kernels::winograd::{PLANES, filters};
use crate::kernels::winograd_input::{tiles, winograd_input};
use crate::kernels::winograd_output::winograd_output;
use crate::kernels::{Kernel, Precision, conv2d, conv2d_filled};

/// What may stand in the place of a kernel's nodes on a GPU.
#[derive(Clone, Copy, Debug)]
pub struct Rewrites {
    /// So many of its first inputs are read as [`Storage::Elem`]: one that stays f32 is converted where activations are
    /// f16.
    pub elem_inputs: usize,
    /// Several nodes in a node's place.
    pub others: &'static [Rewrite],
}

impl Rewrites {
    /// Its nodes are computed as they are recorded.
    pub const NONE: Rewrites = Rewrites { elem_inputs: 0, others: &[] };

    /// The node with its inputs converted, by nodes appended to the graph, where activations are f16.
    pub(crate) fn convert_inputs(&self, graph: &mut Graph, mut node: Node) -> Node {
        for input in &mut node.inputs[..self.elem_inputs] {
            let info = graph.info(*input);
            if info.storage == Storage::F32 && !matches!(info.source, Source::Constant(_)) {
                let x = Tensor { id: *input, shape: info.shape.clone() };
                *input = concat(graph, &format!("{} (to f16)", node.label), &x, None, x.dim(0)).id;
            }
        }
        node
    }
}

impl Node {
    /// The same of one of its items.
    pub(crate) fn of_item(&self) -> Node {
        Node { params: (self.kernel.of_item)(&self.params, self.items as u32), items: 1, ..self.clone() }
    }
}

/// Several nodes that compute what one does.
#[derive(Clone, Copy)]
pub struct Rewrite {
    /// What it is called in measurements.
    pub name: &'static str,
    /// The kernels that stand in the node's place, in their order.
    pub parts: &'static [&'static str],
    /// The kernel whose shaders do the work: each is a variant of its own, called as the shader. None where the parts
    /// are chosen one by one.
    pub work: Option<&'static Kernel>,
    /// Whether the rounding errors are about those of the node itself.
    pub accurate: bool,
    /// Which inputs' values must be known before the run.
    pub known: &'static [usize],
    /// Whether it is a better guess than the kernel's shaders for a node of one item, on a software adapter or on hardware.
    pub preferred: fn(&Node, bool) -> bool,
    /// Whether it computes a node of one item in a graph.
    pub fits: fn(&Graph, &Node, Precision) -> bool,
    /// Bytes of the weights it makes of the node's.
    pub weights: fn(&Node) -> usize,
    /// Bytes of the largest tensor between its parts, of one item.
    pub largest: fn(&Node) -> u64,
    /// Appends its parts; the work is done by the shader of this index. Tensors between them take at most so many bytes.
    pub apply: fn(&mut Graph, &Node, usize, u64),
}

impl PartialEq for Rewrite {
    fn eq(&self, other: &Rewrite) -> bool {
        self.name == other.name
    }
}

impl std::fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// A 3×3 convolution as input transform, 36 products and output transform (Winograd's F(4×4, 3×3)).
pub const WINOGRAD: Rewrite = Rewrite {
    name: "winograd",
    parts: &["winograd_input", "matmul", "winograd_output"],
    work: None,
    accurate: false,
    known: &[2],
    preferred: |_, _| true,
    fits: winograd_fits,
    weights: winograd_bytes,
    largest: winograd_largest,
    apply: |graph, node, _, most| winograd(graph, node, most),
};

/// A convolution of one input whose channels are no whole quads, filled up with zeros.
pub const FILLED_INPUT: Rewrite = Rewrite {
    name: "filled_input",
    parts: &["cut", "conv2d"],
    work: None,
    accurate: true,
    known: &[2],
    preferred: |_, software| !software,
    fits: |graph, node, _| conv2d_filled::inputs_fit(graph, node, 1),
    weights: conv2d_filled::bytes,
    largest: conv2d_filled::largest,
    apply: |graph, node, _, _| conv2d_filled::fill_inputs(graph, node),
};

/// [`FILLED_INPUT`] of two.
pub const FILLED_INPUTS: Rewrite = Rewrite {
    name: "filled_inputs",
    parts: &["cut", "cut", "conv2d"],
    fits: |graph, node, _| conv2d_filled::inputs_fit(graph, node, 2),
    ..FILLED_INPUT
};

/// [`FILLED_INPUT`] of the output.
pub const FILLED_OUTPUT: Rewrite = Rewrite {
    name: "filled_output",
    parts: &["conv2d", "cut"],
    known: &[2, 3],
    fits: |graph, node, _| conv2d_filled::outputs_fit(graph, node),
    apply: |graph, node, _, _| conv2d_filled::fill_outputs(graph, node),
    ..FILLED_INPUT
};

/// A product as the sums of slices of its inner dimension, and their sum.
pub const MATMUL_SLICES: Rewrite = Rewrite {
    name: "slices",
    parts: &["product_slices", "sum_slices"],
    work: Some(&product_slices::KERNEL),
    accurate: true,
    known: &[],
    preferred: |_, _| true,
    fits: |_, node, _| product_slices::Params::of_matmul(&matmul::Params::read(&node.params), 1).is_some(),
    weights: |_| 0,
    largest: |_| 0,
    apply: matmul_slices,
};

/// A filter's gradient as the sums of slices of the output's pixels, and their sum: many workgroups for a small filter.
pub const FILTER_SLICES: Rewrite = Rewrite {
    name: "filter_slices",
    parts: &["filter_gradient", "sum_parts"],
    work: None,
    accurate: true,
    known: &[],
    preferred: |_, _| true,
    fits: |_, node, _| filter_gradient::Params::read(&node.params).slices == 1 && filter_parts(node) > 1,
    weights: |_| 0,
    largest: |node| {
        let p = filter_gradient::Params::read(&node.params);
        (4 * filter_parts(node) * p.inner() * p.cols as usize) as u64
    },
    apply: |graph, node, _, _| filter_slices(graph, node),
};

/// [`MATMUL_SLICES`] of a convolution.
pub const CONV2D_SLICES: Rewrite = Rewrite {
    fits: |_, node, _| product_slices::Params::of_conv2d(&conv2d::Params::read(&node.params), 1).is_some(),
    apply: conv2d_slices,
    ..MATMUL_SLICES
};

/// A group norm as the moments of strips of pixels, their sums, and the map of each channel that follows: many workgroups at
/// any size of a picture, where the node itself has one for each group.
pub const NORM_STRIPS: Rewrite = Rewrite {
    name: "strips",
    parts: &["group_moments", "group_affine", "group_apply"],
    work: None,
    accurate: true,
    known: &[],
    preferred: |node, software| !software && group_norm::Params::read(&node.params).elements() >= LARGE_NORM,
    fits: |_, _, _| true,
    weights: |_| 0,
    largest: |_| 0,
    apply: |graph, node, _, _| norm_strips(graph, node),
};

/// The same of a group norm's gradient, of whole quads of channels.
pub const NORM_GRADIENT_STRIPS: Rewrite = Rewrite {
    name: "gradient_strips",
    parts: &["group_moments", "group_affine", "group_slopes", "group_lines", "group_gradient_apply"],
    preferred: |node, software| {
        let p = group_norm_gradient::Params::read(&node.params);
        !software && (p.pixels * (p.in_a + p.in_b)) as usize >= LARGE_NORM
    },
    fits: |_, node, _| {
        let p = group_norm_gradient::Params::read(&node.params);
        in_quads(p.pixels as usize, [p.in_a, p.in_b], p.groups)
    },
    apply: |graph, node, _, _| norm_gradient_strips(graph, node),
    ..NORM_STRIPS
};

/// A quantile as counts by parts of a picture: many workgroups for each, where the node itself has one.
pub const QUANTILE_PARTS: Rewrite = Rewrite {
    name: "parts",
    parts: &["quantile_counts", "quantile_digits", "quantile_digits", "quantile_merge"],
    work: None,
    accurate: true,
    known: &[],
    preferred: |node, software| !software && quantile::Params::read(&node.params).item >= LARGE_QUANTILE,
    // Ranks are kept as f32.
    fits: |_, node, _| quantile::Params::read(&node.params).item <= 1 << f32::MANTISSA_DIGITS,
    weights: |_| 0,
    largest: |node| 4 * u64::from(quantile::Params::read(&node.params).item),
    apply: |graph, node, _, _| quantile_parts(graph, node),
};

/// From so many elements of a picture on, one workgroup takes longer to find a quantile than three dispatches more.
const LARGE_QUANTILE: u32 = 1 << 15;
/// From so many elements of a picture on, a group norm's few workgroups take longer than two dispatches more.
const LARGE_NORM: usize = 1 << 18;
/// Largest transformed filter: beyond it, reading four times the weights costs more than the arithmetic saved.
const MAX_FILTERS: usize = 128 << 20;
/// Fewest tiles of a picture: below it, most of a product's rows would be empty.
const MIN_TILES: u32 = 12;

/// Whether [`winograd`] computes a convolution: 3×3, of stride 1 and padding 1 whose filters are known before
/// the run, in f32 (in f16 the transformed numbers lose too much), and large enough for it to pay.
fn winograd_fits(graph: &Graph, node: &Node, precision: Precision) -> bool {
    let p = conv2d::Params::read(&node.params);
    if precision != Precision::F32 || p.direct != 0 {
        return false;
    }
    // Of a picture that is read several times there is no part.
    let once = graph.info(node.inputs[0]).shape.first() == graph.info(node.output()).shape.first();
    let same = (p.out_height, p.out_width) == (p.height * p.up, p.width * p.up);
    let plain = (p.kernel_height, p.kernel_width, p.stride, p.pad_top, p.pad_left) == (3, 3, 1, 1, 1);
    let known = match graph.info(node.inputs[2]).source {
        Source::Weight { repack, .. } => matches!(repack, Repack::Conv(_)),
        Source::Constant(_) => true,
        _ => false,
    };
    let [.., tiles] = tiles(&p);
    let weights = winograd_bytes(node);
    once && same
        && plain
        && known
        && tiles >= MIN_TILES
        && p.in_a + p.in_b >= 8
        && p.cols >= 8
        && weights <= MAX_FILTERS
}

/// Bytes of a convolution's transformed filters.
fn winograd_bytes(node: &Node) -> usize {
    let p = conv2d::Params::read(&node.params);
    PLANES * 4 * (p.in_a + p.in_b) as usize * p.cols as usize
}

/// Bytes of the larger of the tensors between a picture's transforms, windows and products.
fn winograd_largest(node: &Node) -> u64 {
    let p = conv2d::Params::read(&node.of_item().params);
    let [.., tiles] = tiles(&p);
    PLANES as u64 * 4 * u64::from(tiles) * u64::from((p.in_a + p.in_b).max(p.cols))
}

/// Appends a convolution as input transform, 36 products and output transform with the epilogue. The node must
/// [fit](winograd_fits). So many pictures at a time that tensors between the parts take at most `most` bytes: a batch is
/// computed as its pictures are.
fn winograd(graph: &mut Graph, node: &Node, most: u64) {
    let p = conv2d::Params::read(&node.params);
    let w = graph.tensor(node.inputs[2]);
    let shape = [PLANES, (p.in_a + p.in_b) as usize, p.cols as usize];
    let source = match &graph.info(w.id).source {
        Source::Weight { parts, shape, repack: Repack::Conv(pass) } => {
            Source::Weight { parts: parts.clone(), shape: shape.clone(), repack: Repack::Winograd(*pass) }
        }
        Source::Constant(values) => Source::Constant(filters(values)),
        other => panic!("{}: filters from {other:?}", node.label),
    };
    let u = graph.add(&shape, Storage::Weight, source);
    let at_once = ((most / winograd_largest(node).max(1)) as usize).clamp(1, node.items);
    if at_once == node.items {
        winograd_of(graph, node, &u);
    } else {
        let mut joined: Option<Tensor> = None;
        for first in (0..node.items).step_by(at_once) {
            let group = pictures_of(graph, node, first, at_once.min(node.items - first));
            let y = winograd_of(graph, &group, &u);
            let y = graph.reshape(&y, &[1, y.len()]);
            joined = Some(match joined {
                Some(before) => concat(graph, &format!("{} (beside)", node.label), &before, Some(&y), 1),
                None => y,
            });
        }
    }
    if let Some(last) = graph.nodes.last_mut() {
        last.outputs = node.outputs.clone();
    }
}

/// A convolution's windows, products with the transformed filters `u`, and pixels.
fn winograd_of(graph: &mut Graph, node: &Node, u: &Tensor) -> Tensor {
    let p = conv2d::Params::read(&node.params);
    let [a, b, _, bias, operand] = [0, 1, 2, 3, 4].map(|i| graph.tensor(node.inputs[i]));
    let v = winograd_input(graph, &format!("{} (windows)", node.label), (&a, &b), &p);
    let m = batched_matmul(graph, &format!("{} (planes)", node.label), &v, u);
    if let Some(planes) = graph.nodes.last_mut() {
        planes.items = node.items;
    }
    winograd_output(graph, &node.label, &m, (&bias, &operand), &p)
}

/// The convolution of `count` of a node's pictures from `first` on.
fn pictures_of(graph: &mut Graph, node: &Node, first: usize, count: usize) -> Node {
    let p = conv2d::Params::read(&node.params);
    let of_picture = p.out_height * p.out_width;
    let mut group = node.clone();
    group.items = count;
    group.params = conv2d::Params { rows: count as u32 * of_picture, pictures: count as u32, ..p }.bytes();
    // An operand of one row for all pictures stays whole.
    let has_operand = p.epilogue.operand_op != 0 && p.epilogue.operand_rows <= of_picture;
    for (input, divided) in [(0, true), (1, p.in_b > 0), (4, has_operand)] {
        if divided {
            let x = graph.tensor(node.inputs[input]);
            let x = graph.reshape(&x, &[node.items, x.len() / node.items]);
            group.inputs[input] = cut(graph, &format!("{} (pictures)", node.label), &x, 0, first, count).id;
        }
    }
    group
}

/// Slices of a filter's gradient: so many that hundreds of workgroups have something to do, each with hundreds of pixels.
fn filter_parts(node: &Node) -> usize {
    let p = filter_gradient::Params::read(&node.params);
    (512 / p.tiles().max(1)).min(p.rows as usize / 256)
}

fn filter_slices(graph: &mut Graph, node: &Node) {
    let p = filter_gradient::Params::read(&node.params);
    let inputs = [0, 1, 2].map(|i| graph.tensor(node.inputs[i]));
    let p = filter_gradient::Params { slices: filter_parts(node) as u32, ..p };
    let [a, b, dy] = &inputs;
    let parts = filter_gradient::filter_gradient(graph, &format!("{} (slices)", node.label), [a, b, dy], &p);
    let shape = graph.info(node.output()).shape.clone();
    sum_parts(graph, &node.label, &parts, &shape);
    if let Some(last) = graph.nodes.last_mut() {
        last.outputs = node.outputs.clone();
    }
}

fn matmul_slices(graph: &mut Graph, node: &Node, shader: usize, _: u64) {
    let p = matmul::Params::read(&node.params);
    let [x, w, bias, operand] = [0, 1, 2, 3].map(|i| graph.tensor(node.inputs[i]));
    let empty = graph.empty();
    let bias = (p.has_bias != 0).then_some(&bias);
    slices(
        graph,
        node,
        shader,
        ([&x, &empty, &w], product_slices::Params::of_matmul(&p, node.items as u32)),
        (bias, &operand),
    );
}

fn conv2d_slices(graph: &mut Graph, node: &Node, shader: usize, _: u64) {
    let p = conv2d::Params::read(&node.params);
    let [a, b, w, bias, operand] = [0, 1, 2, 3, 4].map(|i| graph.tensor(node.inputs[i]));
    let bias = (p.has_bias != 0).then_some(&bias);
    slices(
        graph,
        node,
        shader,
        ([&a, &b, &w], product_slices::Params::of_conv2d(&p, node.items as u32)),
        (bias, &operand),
    );
}

/// Appends the sums of slices, where they help: the output is small and the inner dimension deep. Then their sum with
/// the epilogue.
fn slices(
    graph: &mut Graph,
    node: &Node,
    shader: usize,
    (factors, p): ([&Tensor; 3], Option<product_slices::Params>),
    epilogue: (Option<&Tensor>, &Tensor),
) {
    let Some(p) = p else { return graph.nodes.push(node.clone()) };
    let x = product_slices(graph, &format!("{} (slices)", node.label), factors, &p);
    if let Some(first) = graph.nodes.last_mut() {
        first.shader = shader;
    }
    let shape = graph.info(node.output()).shape.clone();
    sum_slices(graph, &node.label, &x, epilogue, &Epilogue::read(&node.params), &shape);
    if let Some(last) = graph.nodes.last_mut() {
        last.outputs = node.outputs.clone();
    }
}

fn quantile_parts(graph: &mut Graph, node: &Node) {
    let p = quantile::Params::read(&node.params);
    let [x, out, lead] = [0, 1, 2].map(|i| graph.tensor(node.inputs[i]));
    let numbers = graph.tensor(node.output());
    let label = |part: &str| format!("{} ({part})", node.label);
    let (magnitudes, counts) = quantile_counts(graph, &label("counts"), [&x, &out, &lead, &numbers], &p);
    let ten = quantile_digits(graph, &label("ten bits"), &magnitudes, &counts, &numbers);
    let twenty = quantile_digits(graph, &label("twenty bits"), &magnitudes, &ten, &numbers);
    quantile_merge(graph, &node.label, &twenty, &numbers, p.item as usize);
}
