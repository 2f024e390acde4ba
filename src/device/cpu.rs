//! The CPU device: every node through its kernel's `cpu` function, activations where the plan puts them.

use super::budget::{Memory, Refusal};
use super::options::{Monitor, Transfer};
use super::weight_cache::{Lease, Weights, weight_tensors};
use crate::error::{Error, Result};
use crate::graph::plan::{Limits, Plan};
use crate::graph::{Graph, Source, TensorId};
use crate::kernels::Precision;
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
    pub(super) lease: Lease,
}

impl CpuProgram {
    pub(super) fn new(graph: &Graph, weights: &Weights, kept: &[TensorId]) -> Result<Self> {
        Memory::main().with_room(|| Ok(()), || CpuProgram::build(graph, weights, kept))
    }

    fn build(graph: &Graph, weights: &Weights, kept: &[TensorId]) -> Result<Self, Refusal> {
        let limits = Limits { align: size_of::<Line>() as u64, max_buffer: isize::MAX as u64 };
        let plan = Plan::new(graph, limits, |id| graph.info(id).len() as u64 * 4, kept);
        let plan = plan.map_err(|id| {
            Error::device(format!("a tensor of shape {:?} is larger than any memory", graph.info(id).shape))
        })?;
        let memory = Memory::main();
        let own = plan.bytes() + graph.given_bytes(Precision::F32);
        let mut lease = weights.lease(&memory, graph, (0, Precision::F32), own)?;
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
            values[id.0] = Values::Shared(weights.cpu(&mut lease, parts, repack)?);
        }
        lease.settle();
        let (mut arena, lines) = (Vec::new(), plan.bytes() as usize / size_of::<Line>());
        if memory.is_full() || arena.try_reserve_exact(lines).is_err() {
            return Err(Refusal::Memory { what: "activations".into(), bytes: plan.bytes() });
        }
        // What no kernel wrote shows.
        arena.resize(lines, Line([f32::NAN; 16]));
        Ok(CpuProgram { values, arena, memory: (plan.bytes(), plan.lower_bound), lease })
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
        let Values::Planned(output) = &self.values[node.output.0] else { return };
        // What lives while the output is written lies before or behind it.
        let (before, rest) = bytemuck::cast_slice_mut(&mut self.arena).split_at_mut(output.start);
        let (y, behind) = rest.split_at_mut(output.len());
        let (before, behind) = (&*before, &*behind);
        let value = |id: &TensorId| match &self.values[id.0] {
            Values::Absent => &[],
            Values::Shared(v) => &v[..],
            Values::Owned(v) => &v[..],
            Values::Planned(place) if place.end <= output.start => &before[place.clone()],
            Values::Planned(place) => &behind[place.start - output.end..place.end - output.end],
        };
        let inputs: Vec<&[f32]> = node.inputs.iter().map(value).collect();
        (node.kernel.cpu)(&node.params, &inputs, y);
    }
}
