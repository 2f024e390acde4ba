//! Recomputation (checkpointing; Chen et al. 2016, arXiv:1604.06174): what the backward nodes read of the forward is
//! kept, or computed a second time just before they read it, so that the tensors alive at once stay within a budget.

use super::{Graph, Node, Source, TensorId};
use std::collections::{HashMap, HashSet};

/// Most nodes that are computed again for one tensor.
const LONGEST_CHAIN: usize = 24;

/// Bytes of activations in f32.
fn bytes(graph: &Graph, id: TensorId) -> u64 {
    4 * graph.info(id).len() as u64
}

/// Where each tensor is made and read.
struct Uses {
    /// Node that makes it.
    made: HashMap<TensorId, usize>,
    /// Nodes that read it, in order; the end of the graph for outputs.
    read: HashMap<TensorId, Vec<usize>>,
}

impl Uses {
    fn of(graph: &Graph) -> Self {
        let mut uses = Uses { made: HashMap::new(), read: HashMap::new() };
        for (at, node) in graph.nodes.iter().enumerate() {
            uses.made.extend(node.outputs.iter().filter(|id| graph.is_made(**id)).map(|id| (*id, at)));
            for id in &node.inputs {
                uses.read.entry(*id).or_default().push(at);
            }
        }
        for (_, id) in &graph.outputs {
            uses.read.entry(*id).or_default().push(graph.nodes.len());
        }
        uses
    }

    fn last_read(&self, id: TensorId) -> usize {
        self.read.get(&id).and_then(|at| at.last()).or(self.made.get(&id)).copied().unwrap_or(0)
    }

    /// Whether a tensor has its values at node `at`.
    fn alive(&self, graph: &Graph, id: TensorId, at: usize) -> bool {
        match graph.info(id).source {
            Source::Node => self.made.get(&id).is_some_and(|made| *made < at) && self.last_read(id) >= at,
            _ => true,
        }
    }

    /// Bytes alive at each node, but for outputs: these have memory of their own.
    fn alive_bytes(&self, graph: &Graph) -> Vec<u64> {
        let mut change = vec![0i128; graph.nodes.len() + 2];
        let here = |(id, _): &(&TensorId, &usize)| !graph.outputs.iter().any(|(_, output)| output == *id);
        for (id, made) in self.made.iter().filter(here) {
            let size = i128::from(bytes(graph, *id));
            change[*made] += size;
            change[self.last_read(*id) + 1] -= size;
        }
        let mut alive = 0;
        let sums = change.iter().map(|c| {
            alive += c;
            alive as u64
        });
        sums.take(graph.nodes.len()).collect()
    }

    /// The nodes that make a tensor again at node `at`, in order, from what is alive there; none if they are too many.
    fn chain(&self, graph: &Graph, id: TensorId, at: usize) -> Option<Vec<usize>> {
        let (mut nodes, mut open, mut seen) = (Vec::new(), vec![id], HashSet::new());
        while let Some(id) = open.pop() {
            let made = *self.made.get(&id)?;
            if !seen.insert(made) {
                continue;
            }
            // What updates a value has done so already.
            if !graph.nodes[made].outputs.iter().all(|id| graph.is_made(*id)) {
                return None;
            }
            nodes.push(made);
            if nodes.len() > LONGEST_CHAIN {
                return None;
            }
            let missing = graph.nodes[made].inputs.iter().filter(|id| !self.alive(graph, **id, at));
            open.extend(missing);
        }
        nodes.sort_unstable();
        Some(nodes)
    }
}

/// Most bytes of activations alive at once, in f32, without outputs.
pub fn peak(graph: &Graph) -> u64 {
    Uses::of(graph).alive_bytes(graph).into_iter().max().unwrap_or(0)
}

/// Lets nodes of a graph with a gradient be computed again until its activations stay within `budget` bytes, the
/// cheapest arithmetic for the memory first. `scalar` is where the forward ends. Fuse the graph before.
///
/// Returns the bytes alive at once that remain: above `budget` where computing again does not help further.
pub fn recompute(graph: &mut Graph, scalar: TensorId, budget: u64) -> u64 {
    loop {
        let uses = Uses::of(graph);
        let alive = uses.alive_bytes(graph);
        let Some((at, most)) = alive.iter().copied().enumerate().max_by_key(|(_, bytes)| *bytes) else {
            return 0;
        };
        let Some(forward) = uses.made.get(&scalar).copied() else { return most };
        if most <= budget {
            return most;
        }
        // What waits at the peak for a backward node, with what it costs to make it again there.
        let waiting = |(id, made): (&TensorId, &usize)| {
            let read = uses.read.get(id)?;
            let (before, next) = (*made < at && *made <= forward, *read.iter().find(|read| **read >= at)?);
            // What the peak's own node reads, and outputs, cannot wait.
            if !before || next == at || next <= forward || next == graph.nodes.len() {
                return None;
            }
            let chain = uses.chain(graph, *id, next)?;
            let flops: f64 = chain.iter().map(|node| graph.node_cost(&graph.nodes[*node]).flops).sum();
            let price = flops.max(1.0) / bytes(graph, *id) as f64;
            // The chain's own tensors must not make a peak as high.
            let outputs = chain.iter().flat_map(|node| &graph.nodes[*node].outputs);
            let extra: u64 = outputs.map(|id| bytes(graph, *id)).sum();
            (alive[next] + extra < most).then_some((price, *id, next, chain))
        };
        let best =
            uses.made.iter().filter_map(waiting).min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let Some((_, id, next, chain)) = best else { return most };
        insert(graph, id, next, &chain);
    }
}

/// Puts copies of the nodes of `chain` before node `next`; it and those behind it read `id` from the copy.
fn insert(graph: &mut Graph, id: TensorId, next: usize, chain: &[usize]) {
    let mut again: HashMap<TensorId, TensorId> = HashMap::new();
    let mut copies: Vec<Node> = Vec::with_capacity(chain.len());
    for at in chain {
        let node = graph.nodes[*at].clone();
        let inputs = node.inputs.iter().map(|id| again.get(id).copied().unwrap_or(*id)).collect();
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for id in &node.outputs {
            let output = graph.add(&graph.info(*id).shape.clone(), graph.info(*id).storage, Source::Node);
            again.insert(*id, output.id);
            outputs.push(output.id);
        }
        copies.push(Node { inputs, outputs, label: format!("{} (again)", node.label), ..node });
    }
    for node in &mut graph.nodes[next..] {
        for input in &mut node.inputs {
            if *input == id {
                *input = again[&id];
            }
        }
    }
    graph.nodes.splice(next..next, copies);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, ProgramOptions, Weights};
    use crate::graph::fuse::fuse;
    use crate::graph::gradient::gradient;
    use crate::graph::plan::{Limits, Plan};
    use crate::graph::{Storage, Tensor};
    use crate::kernels::elementwise::{add, mul, scale};

    const LEN: usize = 64;

    /// x ← x + x²/4 many times; the backward reads every x.
    fn record() -> (Graph, Tensor) {
        let mut g = Graph::new();
        let x = g.input("x", &[1, LEN], Storage::Elem);
        let mut h = x.clone();
        for _ in 0..12 {
            let square = mul(&mut g, &h, &h);
            let quarter = scale(&mut g, &square, 0.25);
            h = add(&mut g, &h, &quarter);
        }
        let d = gradient(&mut g, &h, &[&x]).expect("defined");
        g.output("scalar", &h);
        g.output("gradient", &d[0]);
        fuse(&mut g);
        (g, h)
    }

    fn run(g: &Graph) -> Vec<f32> {
        let x: Vec<f32> = (0..LEN).map(|i| i as f32 * 0.01 - 0.3).collect();
        let mut program =
            Device::Cpu.program(g.clone(), &Weights::none(), &ProgramOptions::default()).unwrap();
        program.write("x", &x);
        program.run(&mut |_| true).unwrap();
        [program.read("scalar").unwrap(), program.read("gradient").unwrap()].concat()
    }

    #[test]
    fn less_memory_and_the_same_numbers() {
        let (kept, scalar) = record();
        let (expected, all) = (run(&kept), peak(&kept));
        let mut last = all;
        for budget in [all * 3 / 4, all * 2 / 3] {
            let mut g = kept.clone();
            let left = recompute(&mut g, scalar.id, budget);
            assert!(left <= budget && left < last, "{left} of {budget} bytes, {all} at first");
            assert_eq!(left, peak(&g));
            assert!(g.nodes.len() > kept.nodes.len());
            let limits = Limits { align: 4, max_buffer: u64::MAX };
            let plan = Plan::new(&g, limits, |id| bytes(&g, id), &[]).expect("fits");
            assert_eq!(plan.lower_bound, left, "the plan's bound is the peak");
            assert_eq!(run(&g), expected);
            last = left;
        }
    }

    #[test]
    fn enough_memory_changes_nothing_and_too_little_says_so() {
        let (kept, scalar) = record();
        let mut g = kept.clone();
        assert_eq!(recompute(&mut g, scalar.id, peak(&kept)), peak(&kept));
        assert_eq!(g.nodes.len(), kept.nodes.len());
        let left = recompute(&mut g, scalar.id, 1);
        assert!(left > 1 && left < peak(&kept));
        assert_eq!(run(&g), run(&kept));
    }
}
