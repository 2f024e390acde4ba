//! Reverse mode: graph in, graph out. A recorded forward gets the nodes that compute the gradient of a scalar with
//! respect to some of its tensors (the adjoint or vector-Jacobian product, Griewank & Walther 2008), each made by the
//! forward node's [`Kernel::gradient`](crate::kernels::Kernel::gradient).

use super::{Graph, Tensor, TensorId};
use crate::error::{Result, request};
use crate::kernels::Backward;
use crate::kernels::elementwise::{add, as_elem};
use std::collections::HashMap;

/// Appends what computes the gradient of the sum of `scalar`'s elements with respect to each of `inputs`, in their
/// order and shapes. A scalar of one element per picture gives each picture its own gradient, as long as pictures do
/// not see each other.
///
/// Tensors that no path leads to `scalar` from have no gradient. Record before the graph is made a program: fused
/// nodes are not taken apart. What the backward nodes read of the forward lives until they have read it;
/// [`recompute`](super::recompute::recompute) trades that memory for time.
///
/// # Errors
/// [`Request`](crate::Error::Request) where a kernel on the way has no gradient, or none with respect to the tensor in question; where
/// `scalar` does not depend on one of `inputs`.
pub fn gradient(g: &mut Graph, scalar: &Tensor, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let forward = g.nodes.len();
    let mut depends = vec![false; g.tensors.len()];
    inputs.iter().for_each(|input| depends[input.id.0] = true);
    for node in &g.nodes {
        depends[node.output().0] |= node.inputs.iter().any(|id| depends[id.0]);
    }
    let ones = g.constant(&scalar.shape, vec![1.0; scalar.len()]);
    let mut gradients: HashMap<TensorId, Tensor> = HashMap::from([(scalar.id, as_elem(g, &ones))]);
    for at in (0..forward).rev() {
        let node = g.nodes[at].clone();
        if !depends[node.output().0] {
            continue;
        }
        // The gradient of a requested tensor stays to be returned.
        let wanted_itself = inputs.iter().any(|input| input.id == node.output());
        let dy = if wanted_itself {
            gradients.get(&node.output()).cloned()
        } else {
            gradients.remove(&node.output())
        };
        let Some(dy) = dy else { continue };
        let dy = g.reshape(&dy, &g.info(node.output()).shape.clone());
        let wants: Vec<bool> = node.inputs.iter().map(|id| depends[id.0]).collect();
        let refused = |what: &str| {
            request!(
                Guide,
                Unsupported,
                "the gradient through `{}` ({}) with respect to {what} is not defined",
                node.label,
                node.kernel.name
            )
        };
        let record = node.kernel.gradient.ok_or_else(|| refused("its inputs"))?;
        let parts = record(g, &Backward { node: &node, dy: &dy, wants: &wants }).map_err(refused)?;
        for (id, part) in node.inputs.iter().zip(parts).filter(|(id, _)| depends[id.0]) {
            let Some(part) = part else { continue };
            let sum = match gradients.remove(id) {
                Some(sum) => {
                    let sum = g.reshape(&sum, &part.shape);
                    add(g, &sum, &part)
                }
                None => part,
            };
            gradients.insert(*id, sum);
        }
    }
    let of = |input: &&Tensor| {
        let found = gradients.get(&input.id);
        let found = found.map(|gradient| g.reshape(gradient, &input.shape));
        found.ok_or_else(|| {
            request!(Guide, Unsupported, "the scalar does not depend on what its gradient is asked for")
        })
    };
    inputs.iter().map(of).collect()
}
