//! Hoisting: what of a graph need not be computed again while some of its inputs stay as they are. A pure function
//! from a graph to two, so that no model has to know which of its parts are worth computing once.

use super::{Graph, Node, Source, TensorId, TensorInfo};
use std::collections::HashMap;

/// Divides `graph` into the nodes that depend on none of the inputs named in `varying`, and all others.
///
/// The first part's tensors that the second reads (crossing tensors) are outputs of the first and inputs of the
/// second, named as the node that makes them, with a number behind where several nodes are named alike. Names follow
/// from the order of recording alone: a network recorded twice, with another batch, crosses under the same names.
/// Outputs and taps go where their tensor is made. Hoist before fusing: a fused node may belong to both parts.
pub fn hoist(graph: &Graph, varying: &[&str]) -> (Graph, Graph) {
    let mut varies: Vec<bool> = graph
        .tensors
        .iter()
        .map(|t| matches!(&t.source, Source::Input(name) if varying.contains(&name.as_str())))
        .collect();
    let mut maker = HashMap::new();
    for node in &graph.nodes {
        let depends = node.inputs.iter().any(|id| varies[id.0]);
        for output in &node.outputs {
            varies[output.0] = depends;
            maker.insert(*output, node);
        }
    }
    let (mut once, mut each) = (Part::default(), Part::default());
    let mut names = Names::default();
    // A node may be called like an input; what crosses is not.
    graph.input_names().for_each(|input| drop(names.unique(input)));
    for node in &graph.nodes {
        if !varies[node.output().0] {
            once.push(graph, node);
            continue;
        }
        for &id in node.inputs.iter().filter(|id| !varies[id.0]) {
            if let (None, Some(made)) = (each.ids.get(&id), maker.get(&id)) {
                let name = names.unique(&made.label);
                let inside = once.take(graph, id);
                once.graph.outputs.push((name.clone(), inside));
                each.insert(id, TensorInfo { source: Source::Input(name), ..graph.info(id).clone() });
            }
        }
        each.push(graph, node);
    }
    let made_once = |id: TensorId| maker.contains_key(&id) && !varies[id.0];
    for (name, id) in &graph.outputs {
        let part = if made_once(*id) { &mut once } else { &mut each };
        let inside = part.take(graph, *id);
        part.graph.outputs.push((name.clone(), inside));
    }
    for (name, id) in &graph.taps {
        let part = if made_once(*id) { &mut once } else { &mut each };
        let inside = part.take(graph, *id);
        part.graph.taps.push((name.clone(), inside));
    }
    (once.graph, each.graph)
}

/// A graph made of nodes of another; it holds only the tensors that they touch.
#[derive(Default)]
struct Part {
    graph: Graph,
    ids: HashMap<TensorId, TensorId>,
}

impl Part {
    fn insert(&mut self, id: TensorId, info: TensorInfo) -> TensorId {
        let inside = TensorId(self.graph.tensors.len());
        self.graph.tensors.push(info);
        self.ids.insert(id, inside);
        inside
    }

    fn take(&mut self, graph: &Graph, id: TensorId) -> TensorId {
        match self.ids.get(&id) {
            Some(inside) => *inside,
            None => self.insert(id, graph.info(id).clone()),
        }
    }

    fn push(&mut self, graph: &Graph, node: &Node) {
        let inputs = node.inputs.iter().map(|id| self.take(graph, *id)).collect();
        let outputs = node.outputs.iter().map(|id| self.take(graph, *id)).collect();
        self.graph.nodes.push(Node { inputs, outputs, ..node.clone() });
    }
}

/// Labels made unique.
#[derive(Default)]
struct Names(HashMap<String, usize>);

impl Names {
    fn unique(&mut self, label: &str) -> String {
        let count = self.0.entry(label.to_string()).or_default();
        *count += 1;
        if *count == 1 { label.to_string() } else { format!("{label}#{count}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, ProgramOptions, Weights};
    use crate::graph::{Storage, Tensor};
    use crate::kernels::elementwise::{activate, add, scale};
    use crate::kernels::epilogue::Activation;

    /// y = silu(2a) + silu(2a)·(b + silu(2a)) and so on: both parts make something the other world reads.
    fn record() -> Graph {
        let mut g = Graph::new();
        let input = |g: &mut Graph, name: &str| g.input(name, &[2, 3], Storage::Elem);
        let (a, b) = (input(&mut g, "a"), input(&mut g, "b"));
        let twice = scale(&mut g, &a, 2.0);
        let once = activate(&mut g, &twice, Activation::Silu);
        g.tap("once", &once);
        let sum = add(&mut g, &b, &once);
        let y = add(&mut g, &sum, &twice);
        g.output("y", &y);
        g.output("once", &once);
        g
    }

    fn names(graph: &Graph) -> Vec<&str> {
        graph.input_names().collect()
    }

    #[test]
    fn parts_compute_what_the_whole_does() {
        let whole = record();
        let (once, each) = hoist(&whole, &["b"]);
        assert_eq!((once.nodes.len(), each.nodes.len()), (2, 2));
        assert_eq!(names(&once), ["a"]);
        assert_eq!(once.taps.len(), 1);
        assert!(each.find_input("a").is_none() && each.find_input("b").is_some());
        let program =
            |g: Graph| Device::Cpu.program(g, &Weights::none(), &ProgramOptions::default()).unwrap();
        let (a, b) = ([1.0, -2.0, 3.0, 0.5, 0.0, -1.0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]);
        let mut run = program(whole);
        run.write("a", &a);
        run.write("b", &b);
        run.run(&mut |_| true).unwrap();
        let expected = run.read("y").unwrap();
        let (mut first, mut second) = (program(once.clone()), program(each.clone()));
        first.write("a", &a);
        first.run(&mut |_| true).unwrap();
        second.write("b", &b);
        for name in names(&each).into_iter().filter(|n| *n != "b") {
            second.write(name, &first.read(name).unwrap());
        }
        second.run(&mut |_| true).unwrap();
        assert_eq!(second.read("y").unwrap(), expected);
        assert!(expected.iter().any(|v| *v != 0.0));
    }

    #[test]
    fn what_crosses_is_not_called_like_an_input() {
        let mut g = Graph::new();
        let a = g.input("scale", &[4], Storage::Elem);
        let b = g.input("b", &[4], Storage::Elem);
        let made = scale(&mut g, &a, 2.0);
        let y = add(&mut g, &b, &made);
        g.output("y", &y);
        let (once, each) = hoist(&g, &["b"]);
        assert_eq!((names(&once), names(&each)), (vec!["scale"], vec!["scale#2", "b"]));
    }

    #[test]
    fn nothing_varies_or_everything_does() {
        let whole = record();
        let (once, each) = hoist(&whole, &[]);
        assert_eq!((once.nodes.len(), each.nodes.len()), (4, 0));
        let (once, each) = hoist(&whole, &["a", "b"]);
        assert_eq!((once.nodes.len(), each.nodes.len()), (0, 4));
        assert!(once.tensors.is_empty(), "{:?}", once.tensors);
    }

    #[test]
    fn nodes_named_alike_cross_under_names_of_their_own() {
        let mut g = Graph::new();
        let a = g.input("a", &[4], Storage::Elem);
        let b = g.input("b", &[4], Storage::Elem);
        let made: Vec<Tensor> = (0..2).map(|i| scale(&mut g, &a, i as f32)).collect();
        let y = add(&mut g, &b, &made[0]);
        let y = add(&mut g, &y, &made[1]);
        g.output("y", &y);
        let (once, each) = hoist(&g, &["b"]);
        assert_eq!(once.outputs.len(), 2);
        assert_ne!(once.outputs[0].0, once.outputs[1].0);
        for (name, _) in &once.outputs {
            assert!(each.find_input(name).is_some(), "{name}");
        }
    }
}
