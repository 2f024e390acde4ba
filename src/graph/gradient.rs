//! Reverse mode: graph in, graph out. A recorded forward gets the nodes that compute the gradient of a scalar with
//! respect to some of its tensors (the adjoint or vector-Jacobian product, Griewank & Walther 2008), each made by the
//! forward node's [`Kernel::gradient`](crate::kernels::Kernel::gradient).

use super::{Graph, Storage, Tensor, TensorId};
use crate::error::{Result, request};
use crate::kernels::Backward;
use crate::kernels::add_f32::add_f32;
use crate::kernels::elementwise::{add, as_elem};
use crate::kernels::widen::widen;
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
    let ones = g.constant(&scalar.shape, vec![1.0; scalar.len()]);
    gradient_times(g, scalar, &ones, inputs)
}

/// [`gradient`] of the sum of `scalar`'s elements times those of `factors`, f32 of its shape.
///
/// # Errors
/// As [`gradient`]'s.
pub fn gradient_times(
    g: &mut Graph,
    scalar: &Tensor,
    factors: &Tensor,
    inputs: &[&Tensor],
) -> Result<Vec<Tensor>> {
    let forward = g.nodes.len();
    let mut depends = vec![false; g.tensors.len()];
    inputs.iter().for_each(|input| depends[input.id.0] = true);
    for node in &g.nodes {
        depends[node.output().0] |= node.inputs.iter().any(|id| depends[id.0]);
    }
    // A loss stays f32.
    let factors =
        if g.info(scalar.id).storage == Storage::F32 { factors.clone() } else { as_elem(g, factors) };
    let mut gradients: HashMap<TensorId, Tensor> = HashMap::from([(scalar.id, factors)]);
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
        // A loss takes its gradient as it stores itself.
        let dy = if g.info(node.output()).storage == Storage::F32 { widen(g, "widen", &dy) } else { dy };
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
                    match (g.info(sum.id).storage, g.info(part.id).storage) {
                        (Storage::F32, _) | (_, Storage::F32) => {
                            let [sum, part] = [sum, part].map(|part| widen(g, "widen", &part));
                            add_f32(g, "add", &sum, &part)
                        }
                        _ => add(g, &sum, &part),
                    }
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
