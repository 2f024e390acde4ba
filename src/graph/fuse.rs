//! Fusion: element-wise nodes join the epilogue of the product or convolution that makes their input, where nobody
//! else reads it. A pure function from graph to graph; the numbers stay the same but for rounding to storage.

use super::{Graph, Node, TensorId};
use crate::kernels::elementwise;
use crate::kernels::epilogue::{Epilogue, OperandOp};

/// Merges what can be merged; node order stays valid.
pub fn fuse(graph: &mut Graph) {
    let mut uses = vec![0usize; graph.tensors.len()];
    for id in graph
        .nodes
        .iter()
        .flat_map(|n| &n.inputs)
        .chain(graph.outputs.iter().chain(&graph.taps).map(|(_, id)| id))
    {
        uses[id.0] += 1;
    }
    let mut nodes: Vec<Option<Node>> = std::mem::take(&mut graph.nodes).into_iter().map(Some).collect();
    let mut producer = vec![None; graph.tensors.len()];
    for at in 0..nodes.len() {
        let fused = nodes[at].as_ref().and_then(|consumer| {
            let candidates = operands(consumer);
            candidates.into_iter().flatten().find_map(|(through, other)| {
                let from: usize = producer[through.0]?;
                let node = nodes[from].as_ref()?;
                // A reshape between the two leaves the numbers where they are, but not what a row is.
                let last = |id: TensorId| graph.tensors[id.0].shape.last();
                let rows_alike = Epilogue::read(&consumer.params).operand_rows == 1
                    || last(through) == last(consumer.output());
                let storage = |id: TensorId| graph.tensors[id.0].storage;
                let single =
                    rows_alike && uses[through.0] == 1 && storage(through) == storage(consumer.output());
                let merged = if single { merge(node, consumer, other) } else { None };
                merged.map(|merged| (from, merged))
            })
        });
        if let Some((from, merged)) = fused {
            // At the consumer's place, so that its other operand is computed before.
            nodes[from] = None;
            nodes[at] = Some(merged);
        }
        if let Some(node) = &nodes[at] {
            producer[node.output().0] = Some(at);
        }
    }
    graph.nodes = nodes.into_iter().flatten().collect();
}

/// Of an element-wise node: through which input a producer may absorb it, and the operand that remains.
fn operands(consumer: &Node) -> [Option<(TensorId, Option<TensorId>)>; 2] {
    if *consumer.kernel != elementwise::KERNEL {
        return [None, None];
    }
    let epilogue = Epilogue::read(&consumer.params);
    let [x, operand] = consumer.inputs[..] else { return [None, None] };
    if epilogue.operand_op == OperandOp::None as u32 {
        return [Some((x, None)), None];
    }
    // x ∘ operand = operand ∘ x where nothing happens to x before and the operand is as large as x.
    let swaps = epilogue.act == 0 && epilogue.operand_rows == 1;
    [Some((x, Some(operand))), swaps.then_some((operand, Some(x)))]
}

/// The producer with the consumer's epilogue after its own, if the two make one epilogue.
fn merge(producer: &Node, consumer: &Node, operand: Option<TensorId>) -> Option<Node> {
    if !producer.kernel.epilogue {
        return None;
    }
    let (first, then) = (Epilogue::read(&producer.params), Epilogue::read(&consumer.params));
    let plain = Epilogue::default();
    let only_scales = Epilogue { scale: then.scale, ..plain } == then;
    let nothing_after_act = Epilogue { act: first.act, ..plain } == first;
    let mut merged = if only_scales {
        Epilogue { scale: first.scale * then.scale, ..first }
    } else if first == plain || (nothing_after_act && then.act == 0) {
        Epilogue { act: first.act | then.act, ..then }
    } else {
        return None;
    };
    let mut node = producer.clone();
    if let Some(operand) = operand {
        *node.inputs.last_mut()? = operand;
    } else {
        merged.operand_rows = first.operand_rows;
    }
    merged.write(&mut node.params);
    node.outputs.clone_from(&consumer.outputs);
    Some(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Storage;
    use crate::kernels::elementwise::{activate, add, scale};
    use crate::kernels::epilogue::Activation;
    use crate::kernels::matmul::matmul;

    #[test]
    fn act_residual_and_scale_join_the_product() {
        let mut g = Graph::new();
        let x = g.input("x", &[4, 8], Storage::Elem);
        let w = g.matrix("w", 8, 8);
        let y = matmul(&mut g, "y", &x, &w, None);
        let y = activate(&mut g, &y, Activation::Silu);
        let y = add(&mut g, &x, &y);
        let y = scale(&mut g, &y, 0.5);
        g.output("y", &y);
        fuse(&mut g);
        assert_eq!(g.nodes.len(), 1);
        let e = Epilogue::read(&g.nodes[0].params);
        assert_eq!((e.act, e.operand_op, e.operand_rows, e.scale), (1, 1, 1, 0.5));
        assert_eq!((g.nodes[0].inputs[3], g.nodes[0].output()), (x.id, y.id));
    }

    #[test]
    fn what_others_read_stays() {
        let mut g = Graph::new();
        let x = g.input("x", &[4, 8], Storage::Elem);
        let w = g.matrix("w", 8, 8);
        let h = matmul(&mut g, "h", &x, &w, None);
        let y = activate(&mut g, &h, Activation::Silu);
        let y = add(&mut g, &y, &h);
        g.output("y", &y);
        fuse(&mut g);
        // The product is read twice; the activation and the sum become one node.
        assert_eq!(g.nodes.len(), 2);
    }

    #[test]
    fn order_of_act_and_scale_is_kept() {
        let mut g = Graph::new();
        let x = g.input("x", &[4, 8], Storage::Elem);
        let y = scale(&mut g, &x, 2.0);
        let y = activate(&mut g, &y, Activation::Relu);
        g.output("y", &y);
        fuse(&mut g);
        assert_eq!(g.nodes.len(), 2);
    }
}
