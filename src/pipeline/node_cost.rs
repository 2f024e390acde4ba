//! What the nodes of a program cost: workgroups, operations, bytes.

use crate::graph::{Graph, Node};
use crate::kernels::Shader;

/// Nodes of a program that cost the same.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeCost {
    /// Their kernel.
    pub kernel: &'static str,
    /// What a card without matrix units computes it by, where no other choice measures faster.
    pub shader: &'static str,
    /// The first one's label.
    pub label: String,
    /// How many there are.
    pub count: usize,
    /// Workgroups of each.
    pub workgroups: u64,
    /// Floating-point operations of each; a multiply-add counts two.
    pub flops: f64,
    /// Bytes of each: its inputs and outputs once.
    pub moved: f64,
}

impl NodeCost {
    pub(super) fn new(graph: &Graph, node: &Node, moved: f64) -> Self {
        let shader = on_hardware(node);
        let grid = (shader.grid)(&node.params, &graph.info(node.output()).shape);
        NodeCost {
            kernel: node.kernel.name,
            shader: shader.name,
            label: node.label.clone(),
            count: 1,
            workgroups: grid.iter().map(|n| u64::from(*n)).product(),
            flops: graph.node_cost(node).flops,
            moved,
        }
    }

    /// Counts a node among those that cost the same.
    pub(super) fn join(self, nodes: &mut Vec<NodeCost>) {
        let same = |other: &&mut NodeCost| {
            let of = |n: &NodeCost| (n.shader, n.workgroups, n.flops.to_bits(), n.moved.to_bits());
            of(other) == of(&self)
        };
        match nodes.iter_mut().find(same) {
            Some(other) => other.count += 1,
            None => nodes.push(self),
        }
    }
}

/// The shader a card without matrix units begins with: the last one that fits, software's own left out.
fn on_hardware(node: &Node) -> &'static Shader {
    let shaders = node.kernel.shaders;
    let serves = |s: &&Shader| !s.needs.subgroups() && (s.fits)(&node.params);
    shaders.iter().rfind(serves).unwrap_or(&shaders[0])
}
