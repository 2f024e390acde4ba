//! Other ways to compute a node: several nodes in its place, chosen where they measure faster.

use super::{Graph, Node, Repack, Source, Storage, Tensor};
use crate::kernels::epilogue::Epilogue;
use crate::kernels::matmul::{self, batched_matmul};
use crate::kernels::product_slices::{self, product_slices};
use crate::kernels::sum_slices::sum_slices;
use crate::kernels::winograd_input::{PLANES, filters, tiles, winograd_input};
use crate::kernels::winograd_output::winograd_output;
use crate::kernels::{Precision, conv2d};

/// Largest transformed filter: beyond it, reading four times the weights costs more than the arithmetic saved.
const MAX_FILTERS: usize = 128 << 20;
/// Fewest tiles: below it, most of a product's rows would be empty.
const MIN_TILES: u32 = 12;

/// Whether [`winograd`] computes a node: a 3×3 convolution of stride 1 and padding 1 whose filters are known before
/// the run, in f32 (in f16 the transformed numbers lose too much), and large enough for it to pay.
pub fn winograd_fits(graph: &Graph, node: &Node, precision: Precision) -> bool {
    if node.kernel.name != conv2d::KERNEL.name || precision != Precision::F32 {
        return false;
    }
    let p = conv2d::Params::read(&node.params);
    let same = (p.out_height, p.out_width) == (p.height * p.up, p.width * p.up);
    let plain = (p.kernel_height, p.kernel_width, p.stride, p.pad_top, p.pad_left) == (3, 3, 1, 1, 1);
    let known = match graph.info(node.inputs[2]).source {
        Source::Weight { repack, .. } => matches!(repack, Repack::Conv(_)),
        Source::Constant(_) => true,
        _ => false,
    };
    let [.., tiles] = tiles(&p);
    let weights = winograd_bytes(node);
    same && plain
        && known
        && tiles >= MIN_TILES
        && p.in_a + p.in_b >= 8
        && p.cols >= 8
        && weights <= MAX_FILTERS
}

/// Bytes of a convolution's transformed filters.
pub fn winograd_bytes(node: &Node) -> usize {
    let p = conv2d::Params::read(&node.params);
    PLANES * 4 * (p.in_a + p.in_b) as usize * p.cols as usize
}

/// Bytes of the larger of the tensors between a convolution's transforms, windows and products.
pub fn winograd_largest(node: &Node) -> u64 {
    let p = conv2d::Params::read(&node.params);
    let [.., tiles] = tiles(&p);
    PLANES as u64 * 4 * u64::from(tiles) * u64::from((p.in_a + p.in_b).max(p.cols))
}

/// Appends a convolution as input transform, 36 products and output transform with the epilogue. The node must
/// [fit](winograd_fits).
pub fn winograd(graph: &mut Graph, node: &Node) {
    let p = conv2d::Params::read(&node.params);
    let [a, b, w, bias, operand] = [0, 1, 2, 3, 4].map(|i| graph.tensor(node.inputs[i]));
    let shape = [PLANES, (p.in_a + p.in_b) as usize, p.cols as usize];
    let source = match &graph.info(w.id).source {
        Source::Weight { name, shape, repack: Repack::Conv(pass) } => {
            Source::Weight { name: name.clone(), shape: shape.clone(), repack: Repack::Winograd(*pass) }
        }
        Source::Constant(values) => Source::Constant(filters(values)),
        other => panic!("{}: filters from {other:?}", node.label),
    };
    let u = graph.add(&shape, Storage::Weight, source);
    let v = winograd_input(graph, &format!("{} (windows)", node.label), (&a, &b), &p);
    let m = batched_matmul(graph, &format!("{} (planes)", node.label), &v, &u);
    winograd_output(graph, &node.label, &m, (&bias, &operand), &p);
    if let Some(last) = graph.nodes.last_mut() {
        last.output = node.output;
    }
}

/// The first pass of a product or convolution in slices of its inner dimension, where they help it: its output is small
/// and its inner dimension deep.
pub fn slices_fit(node: &Node) -> Option<product_slices::Params> {
    if node.kernel.name == conv2d::KERNEL.name {
        product_slices::Params::of_conv2d(&conv2d::Params::read(&node.params))
    } else if node.kernel.name == matmul::KERNEL.name {
        product_slices::Params::of_matmul(&matmul::Params::read(&node.params))
    } else {
        None
    }
}

/// Appends a product or convolution as the sums of slices, by this shader of `product_slices`, and their sum with the
/// epilogue. `p` is what [`slices_fit`] gave.
pub fn slices(graph: &mut Graph, node: &Node, p: &product_slices::Params, shader: usize) {
    let mut inputs: Vec<Tensor> = node.inputs.iter().map(|id| graph.tensor(*id)).collect();
    if node.kernel.name == matmul::KERNEL.name {
        inputs.insert(1, graph.empty());
    }
    let [a, b, w, bias, operand] = &inputs[..] else {
        panic!("{}: {} inputs of a product", node.label, inputs.len());
    };
    let x = product_slices(graph, &format!("{} (slices)", node.label), [a, b, w], p);
    if let Some(first) = graph.nodes.last_mut() {
        first.shader = shader;
    }
    let has_bias = match node.kernel.name {
        name if name == matmul::KERNEL.name => matmul::Params::read(&node.params).has_bias,
        _ => conv2d::Params::read(&node.params).has_bias,
    };
    let shape = graph.info(node.output).shape.clone();
    let bias = (has_bias != 0).then_some(bias);
    sum_slices(graph, &node.label, &x, (bias, operand), &Epilogue::read(&node.params), &shape);
    if let Some(last) = graph.nodes.last_mut() {
        last.output = node.output;
    }
}
