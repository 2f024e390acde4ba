//! A group norm and its gradient by strips of a picture's pixels: many workgroups, where the nodes have one for each group.

use super::{Graph, Node, Tensor};
use crate::kernels::epilogue::{Activation, Epilogue};
use crate::kernels::group_affine::group_affine;
use crate::kernels::group_apply::group_apply;
use crate::kernels::group_gradient_apply::group_gradient_apply;
use crate::kernels::group_lines::group_lines;
use crate::kernels::group_moments::group_moments;
use crate::kernels::group_norm::{self, GroupNorm};
use crate::kernels::group_norm_gradient;
use crate::kernels::group_slopes::group_slopes;

/// Appends a norm as moments of strips, what they do to each channel, and the map.
pub(super) fn norm_strips(graph: &mut Graph, node: &Node) {
    let p = group_norm::Params::read(&node.params);
    let (pixels, pictures) = (p.pixels as usize, graph.info(node.output()).len() / p.elements());
    let input = |i: usize, channels: u32| {
        graph.reshape(&graph.tensor(node.inputs[i]), &[pictures, pixels, channels as usize])
    };
    let a = input(0, p.in_a);
    let b = (p.in_b > 0).then(|| input(1, p.in_b));
    let [weight, bias, emb] = [2, 3, 4].map(|i| graph.tensor(node.inputs[i]));
    let norm = GroupNorm { weight, bias, groups: p.groups as usize, eps: p.eps };
    let x = (&a, b.as_ref());
    let moments = group_moments(graph, &format!("{} (moments)", node.label), x, norm.groups);
    let emb = (p.has_emb != 0).then_some(&emb);
    let affine = group_affine(graph, &format!("{} (sums)", node.label), &moments, &norm, emb);
    group_apply(graph, &node.label, x, &affine, Activation::from_number(p.act));
    if let Some(last) = graph.nodes.last_mut() {
        last.outputs = node.outputs.clone();
    }
}

/// Appends a norm's gradient as moments and map of the norm, sums of strips, what they say of each group, and the gradient
/// with its epilogue.
pub(super) fn norm_gradient_strips(graph: &mut Graph, node: &Node) {
    let p = group_norm_gradient::Params::read(&node.params);
    let (pixels, channels) = (p.pixels as usize, (p.in_a + p.in_b) as usize);
    let pictures = graph.info(node.output()).len() / (pixels * channels);
    let [a, b, weight, bias, emb, dy, operand] = [0, 1, 2, 3, 4, 5, 6].map(|i| graph.tensor(node.inputs[i]));
    let input = |x: &Tensor, channels: u32| graph.reshape(x, &[pictures, pixels, channels as usize]);
    let (a, b) = (input(&a, p.in_a), (p.in_b > 0).then(|| input(&b, p.in_b)));
    let norm = GroupNorm { weight, bias, groups: p.groups as usize, eps: p.eps };
    let (x, act) = ((&a, b.as_ref()), Activation::from_number(p.activation));
    let label = |part: &str| format!("{} ({part})", node.label);
    let moments = group_moments(graph, &label("moments"), x, norm.groups);
    let emb = (p.has_emb != 0).then_some(&emb);
    let affine = group_affine(graph, &label("map"), &moments, &norm, emb);
    let slopes = group_slopes(graph, &label("slopes"), x, &affine, &dy, (norm.groups, act));
    let lines = group_lines(graph, &label("lines"), &slopes, &moments, p.eps);
    let epilogue = (&Epilogue::read(&node.params), &operand);
    group_gradient_apply(graph, &node.label, x, [&affine, &lines, &dy], act, epilogue);
    if let Some(last) = graph.nodes.last_mut() {
        last.outputs = node.outputs.clone();
    }
}
