//! The CPU device: every node through its kernel's `cpu` function, buffers reused as they fall free.

use super::{Monitor, Weights, weight_tensors};
use crate::error::{Error, Result};
use crate::graph::{Graph, Source, TensorId};
use std::sync::Arc;

/// A tensor's values.
enum Values {
    Absent,
    Shared(Arc<Vec<f32>>),
    Owned(Vec<f32>),
}

impl Values {
    fn get(&self) -> &[f32] {
        match self {
            Values::Absent => &[],
            Values::Shared(v) => v,
            Values::Owned(v) => v,
        }
    }
}

pub(super) struct CpuProgram {
    values: Vec<Values>,
    /// Per node: the tensors nobody reads after it.
    dead_after: Vec<Vec<TensorId>>,
    peak: u64,
}

impl CpuProgram {
    pub(super) fn new(graph: &Graph, weights: &Weights, kept: &[TensorId]) -> Result<Self> {
        let mut values: Vec<Values> = graph
            .tensors
            .iter()
            .map(|t| match &t.source {
                Source::Constant(v) => Values::Owned(v.clone()),
                Source::Input(_) => Values::Owned(vec![0.0; t.len()]),
                _ => Values::Absent,
            })
            .collect();
        for (id, name, repack, _) in weight_tensors(graph) {
            values[id.0] = Values::Shared(weights.cpu(name, repack)?);
        }
        let mut last = vec![None; graph.tensors.len()];
        for (at, node) in graph.nodes.iter().enumerate() {
            last[node.output.0] = Some(at);
            for input in &node.inputs {
                if matches!(graph.info(*input).source, Source::Node) {
                    last[input.0] = Some(at);
                }
            }
        }
        for id in graph.outputs.iter().map(|(_, id)| id).chain(kept) {
            last[id.0] = None;
        }
        let mut dead_after = vec![Vec::new(); graph.nodes.len()];
        for (i, at) in last.iter().enumerate() {
            if let Some(at) = at {
                dead_after[*at].push(TensorId(i));
            }
        }
        let mut program = CpuProgram { values, dead_after, peak: 0 };
        program.peak = program.simulate_peak(graph);
        Ok(program)
    }

    fn simulate_peak(&self, graph: &Graph) -> u64 {
        let (mut alive, mut peak) = (0, 0);
        for (node, dead) in graph.nodes.iter().zip(&self.dead_after) {
            alive += graph.info(node.output).len() as u64 * 4;
            peak = peak.max(alive);
            alive -= dead.iter().map(|id| graph.info(*id).len() as u64 * 4).sum::<u64>();
        }
        peak
    }

    pub(super) fn peak_bytes(&self) -> u64 {
        self.peak
    }

    pub(super) fn write(&mut self, id: TensorId, values: &[f32]) {
        self.values[id.0] = Values::Owned(values.to_vec());
    }

    pub(super) fn read(&self, id: TensorId) -> Vec<f32> {
        self.values[id.0].get().to_vec()
    }

    pub(super) fn copy(&mut self, from: TensorId, to: TensorId) {
        let len = self.values[to.0].get().len();
        self.values[to.0] = Values::Owned(self.values[from.0].get()[..len].to_vec());
    }

    pub(super) fn run(&mut self, graph: &Graph, monitor: &mut Monitor<'_>) -> Result<()> {
        let total = graph.nodes.len().max(1);
        let mut free: Vec<Vec<f32>> = Vec::new();
        for (at, node) in graph.nodes.iter().enumerate() {
            if !monitor(at as f32 / total as f32) {
                return Err(Error::Cancelled);
            }
            let len = graph.info(node.output).len();
            // The smallest free buffer that is large enough, without growing one.
            let fit =
                (0..free.len()).filter(|&i| free[i].capacity() >= len).min_by_key(|&i| free[i].capacity());
            let mut out = fit.map_or_else(Vec::new, |i| free.swap_remove(i));
            out.clear();
            out.resize(len, 0.0);
            let inputs: Vec<&[f32]> = node.inputs.iter().map(|id| self.values[id.0].get()).collect();
            (node.kernel.cpu)(&node.params, &inputs, &mut out);
            self.values[node.output.0] = Values::Owned(out);
            for id in &self.dead_after[at] {
                if let Values::Owned(buffer) = std::mem::replace(&mut self.values[id.0], Values::Absent) {
                    free.push(buffer);
                }
            }
        }
        Ok(())
    }
}
