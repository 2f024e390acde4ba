//! The CPU device: every node through its kernel's `cpu` function, activations where the plan puts them.

use super::memory::free_memory;
use super::options::{Monitor, Transfer};
use super::weight_cache::{Weights, weight_tensors};
use crate::error::{Error, Result};
use crate::graph::plan::{Limits, Plan};
use crate::graph::{Graph, Source, TensorId};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long nodes are computed before the monitor is asked again.
const MONITOR_EVERY: Duration = Duration::from_millis(10);

/// A tensor's values.
enum Values {
    Absent,
    /// A weight.
    Shared(Arc<Vec<f32>>),
    /// An input or a constant.
    Owned(Vec<f32>),
    /// An activation, by its place in the arena.
    Planned(Range<usize>),
}

/// A cache line, which activations begin on.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Line([f32; 16]);

pub(super) struct CpuProgram {
    values: Vec<Values>,
    arena: Vec<Line>,
    /// Bytes of the activations, and the least any plan could take.
    memory: (u64, u64),
}

impl CpuProgram {
    pub(super) fn new(graph: &Graph, weights: &Weights, kept: &[TensorId]) -> Result<Self> {
        let limits = Limits { align: size_of::<Line>() as u64, max_buffer: isize::MAX as u64 };
        let plan = Plan::new(graph, limits, |id| graph.info(id).len() as u64 * 4, kept);
        let plan = plan.map_err(|id| {
            Error::device(format!("a tensor of shape {:?} is larger than any memory", graph.info(id).shape))
        })?;
        check_memory(plan.bytes() + weights.bytes_to_read(graph))?;
        let mut values: Vec<Values> = graph
            .tensors
            .iter()
            .zip(&plan.places)
            .map(|(t, place)| match (&t.source, place) {
                (Source::Constant(v), _) => Values::Owned(v.clone()),
                (Source::Input(_), _) => Values::Owned(vec![0.0; t.len()]),
                (_, Some(place)) => {
                    let start = place.offset as usize / size_of::<f32>();
                    Values::Planned(start..start + t.len())
                }
                _ => Values::Absent,
            })
            .collect();
        for (id, parts, repack, _) in weight_tensors(graph) {
            values[id.0] = Values::Shared(weights.cpu(parts, repack)?);
        }
        let lines = plan.bytes() as usize / size_of::<Line>();
        Ok(CpuProgram {
            values,
            // What no kernel wrote shows.
            arena: vec![Line([f32::NAN; 16]); lines],
            memory: (plan.bytes(), plan.lower_bound),
        })
    }

    pub(super) fn memory(&self) -> (u64, u64) {
        self.memory
    }

    pub(super) fn write(&mut self, id: TensorId, values: &[f32]) {
        self.values[id.0] = Values::Owned(values.to_vec());
    }

    fn get(&self, id: TensorId) -> &[f32] {
        match &self.values[id.0] {
            Values::Absent => &[],
            Values::Shared(v) => v,
            Values::Owned(v) => v,
            Values::Planned(place) => &bytemuck::cast_slice(&self.arena)[place.clone()],
        }
    }

    pub(super) fn read(&self, id: TensorId) -> Vec<f32> {
        self.get(id).to_vec()
    }

    pub(super) fn keep(&mut self, copies: &[Transfer]) {
        for c in copies {
            // Out of the list while the rest of it is read.
            let mut target = std::mem::replace(&mut self.values[c.to.0], Values::Absent);
            if let Values::Owned(to) = &mut target {
                to[c.at..][..c.len].copy_from_slice(&self.get(c.from)[c.first..][..c.len]);
            }
            self.values[c.to.0] = target;
        }
    }

    pub(super) fn copy_from(&mut self, source: &CpuProgram, copies: &[Transfer]) {
        for c in copies {
            if let Values::Owned(to) = &mut self.values[c.to.0] {
                to[c.at..][..c.len].copy_from_slice(&source.get(c.from)[c.first..][..c.len]);
            }
        }
    }

    /// Seconds of each node.
    pub(super) fn profile(&mut self, graph: &Graph) -> Vec<f64> {
        let time = |at: usize| {
            let start = Instant::now();
            self.compute(graph, at);
            start.elapsed().as_secs_f64()
        };
        rayon::scope(|_| (0..graph.nodes.len()).map(time).collect())
    }

    pub(super) fn run(&mut self, graph: &Graph, monitor: &mut Monitor<'_>) -> Result<()> {
        let total = graph.nodes.len();
        let mut at = 0;
        while at < total {
            if !monitor(at as f32 / total as f32) {
                return Err(Error::Cancelled);
            }
            // On a thread of the pool: its parallel loops begin and end without waking anyone up.
            at = rayon::scope(|_| {
                let start = Instant::now();
                (at..total).find(|&at| {
                    self.compute(graph, at);
                    start.elapsed() > MONITOR_EVERY
                })
            })
            .map_or(total, |last| last + 1);
        }
        Ok(())
    }

    /// Computes a node.
    fn compute(&mut self, graph: &Graph, at: usize) {
        let node = &graph.nodes[at];
        // What is updated in place is taken out of the list while the rest of it is read.
        let mut updated: Vec<(TensorId, Values)> = Vec::new();
        for id in &node.outputs {
            if matches!(self.values[id.0], Values::Owned(_)) {
                updated.push((*id, std::mem::replace(&mut self.values[id.0], Values::Absent)));
            }
        }
        let place = |id: &TensorId| match &self.values[id.0] {
            Values::Planned(place) => Some((*id, place.clone())),
            _ => None,
        };
        let (mut outputs, rest) =
            carve(bytemuck::cast_slice_mut(&mut self.arena), node.outputs.iter().filter_map(place).collect());
        for (id, values) in &mut updated {
            if let Values::Owned(values) = values {
                outputs.push((*id, values));
            }
        }
        outputs.sort_by_key(|(id, _)| node.outputs.iter().position(|output| output == id));
        let mut outputs: Vec<&mut [f32]> = outputs.into_iter().map(|(_, y)| y).collect();
        let value = |id: &TensorId| match &self.values[id.0] {
            Values::Absent => &[],
            Values::Shared(v) => &v[..],
            Values::Owned(v) => &v[..],
            Values::Planned(place) => {
                let around = rest.iter().rfind(|(start, _)| *start <= place.start);
                around.map_or(&[][..], |(start, values)| &values[place.start - start..place.end - start])
            }
        };
        let inputs: Vec<&[f32]> = node.inputs.iter().map(value).collect();
        (node.kernel.cpu)(&node.params, &inputs, &mut outputs);
        updated.into_iter().for_each(|(id, values)| self.values[id.0] = values);
    }
}

/// Outputs by tensor, and what lies between them with where it begins.
type Carved<'a> = (Vec<(TensorId, &'a mut [f32])>, Vec<(usize, &'a [f32])>);

/// Divides the arena into the outputs at their places, and all else: what lives while they are written lies between them.
fn carve(arena: &mut [f32], mut places: Vec<(TensorId, Range<usize>)>) -> Carved<'_> {
    places.sort_by_key(|(_, place)| place.start);
    let (mut outputs, mut rest) = (Vec::new(), Vec::new());
    let (mut at, mut left) = (0, arena);
    for (id, place) in places {
        let (between, behind) = left.split_at_mut(place.start - at);
        let (output, behind) = behind.split_at_mut(place.len());
        rest.push((at, &*between));
        outputs.push((id, output));
        (at, left) = (place.end, behind);
    }
    rest.push((at, &*left));
    (outputs, rest)
}

/// Refuses what the machine has no memory for: the system would end the process, or others, without a word.
fn check_memory(needed: u64) -> Result<()> {
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    match free_memory() {
        Some(free) if needed > free => {
            let (large, small) = (gigabytes(needed), gigabytes(free));
            let what = format!("this run needs {large:.1} GB of memory, {small:.1} GB are free");
            Err(Error::Limit { what, needed, available: free })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(check_memory(0).is_ok());
        if cfg!(target_os = "linux") {
            let message = check_memory(1 << 60).unwrap_err().to_string();
            assert!(message.contains("needs 1152921504.6 GB"), "{message}");
        }
    }
}
