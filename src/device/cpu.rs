//! The CPU device: every node through its kernel's `cpu` function, buffers reused as they fall free.

use super::{Copy, Monitor, Weights, weight_tensors};
use crate::error::{Error, Result};
use crate::graph::{Graph, Source, TensorId};
use std::sync::Arc;
use std::time::Instant;

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
        let peak = simulate_peak(graph, &dead_after);
        check_memory(peak + weights.bytes_to_read(graph))?;
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
        Ok(CpuProgram { values, dead_after, peak })
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

    /// Seconds of each node.
    pub(super) fn profile(&mut self, graph: &Graph) -> Result<Vec<f64>> {
        let mut marks = Vec::with_capacity(graph.nodes.len() + 1);
        self.run(graph, &mut |_| {
            marks.push(Instant::now());
            true
        })?;
        marks.push(Instant::now());
        Ok(marks.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect())
    }

    pub(super) fn copy_from(&mut self, source: &CpuProgram, copies: &[Copy]) {
        for c in copies {
            if let Values::Owned(to) = &mut self.values[c.to.0] {
                let from = &source.values[c.from.0].get()[c.first..][..c.len];
                to[c.at..][..c.len].copy_from_slice(from);
            }
        }
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

/// Bytes of the largest set of activations alive at once.
fn simulate_peak(graph: &Graph, dead_after: &[Vec<TensorId>]) -> u64 {
    let (mut alive, mut peak) = (0, 0);
    for (node, dead) in graph.nodes.iter().zip(dead_after) {
        alive += graph.info(node.output).len() as u64 * 4;
        peak = peak.max(alive);
        alive -= dead.iter().map(|id| graph.info(*id).len() as u64 * 4).sum::<u64>();
    }
    peak
}

/// Refuses what the machine has no memory for: the system would end the process, or others, without a word.
fn check_memory(needed: u64) -> Result<()> {
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    match free_memory() {
        Some(free) if needed > free => Err(Error::Device(format!(
            "this run needs {:.1} GB of memory, {:.1} GB are free: give a smaller --size, --count or model, or a GPU",
            gigabytes(needed),
            gigabytes(free)
        ))),
        _ => Ok(()),
    }
}

/// Bytes a program may still take, where the system says so (Linux; there also by its control group's limit).
pub(super) fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok()).unwrap_or(u64::MAX);
    Some(free.min(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(check_memory(0).is_ok());
        if cfg!(target_os = "linux") {
            let message = check_memory(1 << 60).unwrap_err().to_string();
            assert!(message.contains("needs 1152921504.6 GB") && message.contains("--size"), "{message}");
        }
    }
}
