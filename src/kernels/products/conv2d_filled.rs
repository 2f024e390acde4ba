//! Convolutions of channels that are no whole quads, as a network's first and last ones of 3 and 6 channels, filled up with
//! zeros, so that tiles of quads compute them: filters and biases at load, pictures by a pass before, or cut after.

use super::conv2d::Params;
use crate::graph::{Graph, Node, Repack, Source, Storage, Tensor};
use crate::kernels::cut::{columns, place};
use crate::kernels::epilogue::Epilogue;

/// The next whole quads.
fn quads(channels: u32) -> u32 {
    channels.next_multiple_of(4)
}

/// Filters `[taps, from[0] + from[1], from[2]]` with zeros behind each of the three → `[taps, to[0] + to[1], to[2]]`.
pub fn filled(w: &[f32], from: [u32; 3], to: [u32; 3]) -> Vec<f32> {
    let [[a, b, cols], [to_a, to_b, to_cols]] = [from, to].map(|sizes| sizes.map(|n| n as usize));
    let taps = w.len() / ((a + b) * cols).max(1);
    let mut out = vec![0.0; taps * (to_a + to_b) * to_cols];
    for (row, w) in w.chunks_exact(cols.max(1)).enumerate() {
        let (tap, i) = (row / (a + b), row % (a + b));
        let i = if i < a { i } else { to_a + i - a };
        out[(tap * (to_a + to_b) + i) * to_cols..][..cols].copy_from_slice(w);
    }
    out
}

/// Whether the values of an input are there before the run, so that they can be laid out anew.
fn is_known(graph: &Graph, node: &Node, input: usize) -> bool {
    match &graph.info(node.inputs[input]).source {
        Source::Weight { repack, .. } => match input {
            2 => matches!(repack, Repack::Conv(_) | Repack::Filled { .. }),
            _ => *repack == Repack::None,
        },
        Source::Constant(_) => true,
        _ => false,
    }
}

/// Whether a convolution of `inputs` inputs has some that are to be filled.
pub(crate) fn inputs_fit(graph: &Graph, node: &Node, inputs: u32) -> bool {
    let p = Params::read(&node.params);
    let whole = p.in_a.is_multiple_of(4) && p.in_b.is_multiple_of(4);
    !whole && p.up.is_power_of_two() && inputs == 1 + u32::from(p.in_b > 0) && is_known(graph, node, 2)
}

/// Whether a convolution's outputs are to be filled.
pub(crate) fn outputs_fit(graph: &Graph, node: &Node) -> bool {
    let p = Params::read(&node.params);
    let whole = p.in_a.is_multiple_of(4) && p.in_b.is_multiple_of(4) && p.up.is_power_of_two();
    let bias = p.has_bias == 0 || is_known(graph, node, 3);
    let plain = Epilogue::read(&node.params).operand_op == 0;
    whole && !p.cols.is_multiple_of(4) && plain && bias && is_known(graph, node, 2)
}

/// Bytes of the filters that are filled.
pub(crate) fn bytes(node: &Node) -> usize {
    let p = Params::read(&node.params);
    let taps = p.kernel_height * p.kernel_width;
    4 * (taps * (quads(p.in_a) + quads(p.in_b)) * quads(p.cols)) as usize
}

/// Bytes of the largest tensor before or behind, of the node.
pub(crate) fn largest(node: &Node) -> u64 {
    let p = Params::read(&node.params);
    let before = p.pictures * p.height * p.width * quads(p.in_a.max(p.in_b));
    4 * u64::from(before.max(p.rows * quads(p.cols)))
}

/// The filters, filled up to these sizes.
fn filters(graph: &mut Graph, node: &Node, to: [u32; 3]) -> Tensor {
    let p = Params::read(&node.params);
    let here = [p.in_a, p.in_b, p.cols];
    let source = match &graph.info(node.inputs[2]).source {
        Source::Constant(values) => Source::Constant(filled(values, here, to)),
        Source::Weight { parts, shape, repack } => {
            let (pass, from) = match *repack {
                Repack::Filled { pass, from, .. } => (pass, from),
                Repack::Conv(pass) => (pass, here),
                other => panic!("{}: filters by {other:?}", node.label),
            };
            Source::Weight {
                parts: parts.clone(),
                shape: shape.clone(),
                repack: Repack::Filled { pass, from, to },
            }
        }
        other => panic!("{}: filters from {other:?}", node.label),
    };
    let shape = [p.kernel_height, p.kernel_width, to[0] + to[1], to[2]].map(|n| n as usize);
    graph.add(&shape, Storage::Weight, source)
}

/// Appends the pictures among zeros and their convolution. The node must [fit](inputs_fit).
pub(crate) fn fill_inputs(graph: &mut Graph, node: &Node) {
    let p = Params::read(&node.params);
    let to = [quads(p.in_a), quads(p.in_b), p.cols];
    let mut inputs = node.inputs.clone();
    inputs[2] = filters(graph, node, to).id;
    for (i, (from, to)) in [p.in_a, p.in_b].into_iter().zip(to).enumerate().filter(|(_, (from, _))| *from > 0)
    {
        let x = graph.tensor(inputs[i]);
        let x = graph.reshape(&x, &[x.len() / from as usize, from as usize]);
        inputs[i] = place(graph, &format!("{} (filled)", node.label), &x, 1, 0, to as usize).id;
    }
    let params = Params { in_a: to[0], in_b: to[1], ..p }.bytes();
    graph.nodes.push(Node { params, inputs, ..node.clone() });
}

/// Appends the convolution to whole quads and the cut of what was wanted. The node must [fit](outputs_fit).
pub(crate) fn fill_outputs(graph: &mut Graph, node: &Node) {
    let p = Params::read(&node.params);
    let cols = quads(p.cols);
    let mut inputs = node.inputs.clone();
    inputs[2] = filters(graph, node, [p.in_a, p.in_b, cols]).id;
    if p.has_bias != 0 {
        let source = match &graph.info(inputs[3]).source {
            Source::Weight { parts, shape, .. } => {
                Source::Weight { parts: parts.clone(), shape: shape.clone(), repack: Repack::WholeQuads }
            }
            Source::Constant(values) => {
                let mut values = values.clone();
                values.resize(cols as usize, 0.0);
                Source::Constant(values)
            }
            other => panic!("{}: a bias from {other:?}", node.label),
        };
        inputs[3] = graph.add(&[cols as usize], Storage::F32, source).id;
    }
    let y = graph.add(&[p.rows as usize, cols as usize], Storage::Elem, Source::Node);
    let params = Params { cols, ..p }.bytes();
    graph.nodes.push(Node { params, inputs, outputs: vec![y.id], ..node.clone() });
    columns(graph, &format!("{} (cut)", node.label), &y, 0, p.cols as usize);
    if let Some(last) = graph.nodes.last_mut() {
        last.outputs = node.outputs.clone();
    }
}
