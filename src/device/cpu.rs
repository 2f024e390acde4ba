//! The CPU device: every node through its kernel's `cpu` function, activations where the plan puts them.

use super::budget::{Memory, Refusal};
use super::options::Monitor;
use super::tensor::{DeviceTensor, Place};
use super::weight_cache::{Lease, Weights, weight_tensors};
use super::weight_key::Form;
use crate::error::{Error, Result};
use crate::graph::plan::{Limits, Plan};
use crate::graph::{Graph, Source, TensorId};
use crate::kernels::gemm::PANEL;
use crate::kernels::{Packed, Precision};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// How long nodes are computed before the monitor is asked again.
const MONITOR_EVERY: Duration = Duration::from_millis(10);

/// A tensor's values.
enum Values {
    Absent,
    /// A weight, and whether it is in panels.
    Shared(Arc<Vec<f32>>, bool),
    /// A constant.
    Owned(Vec<f32>),
    /// An input or an output.
    Bound(DeviceTensor),
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
        let columns = packed(graph);
        let form = |id: TensorId| {
            let form = if columns.contains_key(&id) { Form::Panels } else { Form::F32 };
            (form, graph.info(id).bytes(Precision::F32))
        };
        let mut lease = weights.lease(&memory, graph, 0, own, form)?;
        let mut values: Vec<Values> = graph
            .tensors
            .iter()
            .zip(&plan.places)
            .map(|(t, place)| match (&t.source, place) {
                (Source::Constant(v), _) => Values::Owned(v.clone()),
                (Source::Input(_), _) => Values::Bound(DeviceTensor::on_cpu(t.len())),
                (_, Some(place)) => {
                    let start = place.offset as usize / size_of::<f32>();
                    Values::Planned(start..start + t.len())
                }
                _ => Values::Absent,
            })
            .collect();
        for (_, id) in graph.outputs.iter().filter(|(_, id)| graph.is_made(*id)) {
            values[id.0] = Values::Bound(DeviceTensor::on_cpu(graph.info(*id).len()));
        }
        for (id, parts, repack) in weight_tensors(graph) {
            let cols = columns.get(&id).copied();
            values[id.0] = Values::Shared(weights.cpu(&mut lease, (parts, repack), cols)?, cols.is_some());
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

    /// The value of an input or output.
    pub(super) fn value(&self, id: TensorId) -> Option<&DeviceTensor> {
        if let Values::Bound(value) = &self.values[id.0] { Some(value) } else { None }
    }

    /// Has an input or output be another value from now on.
    pub(super) fn bind(&mut self, id: TensorId, value: &DeviceTensor) {
        self.values[id.0] = Values::Bound(value.clone());
    }

    /// The values of a tensor that is kept.
    pub(super) fn read(&self, id: TensorId) -> Result<Vec<f32>> {
        Ok(match &self.values[id.0] {
            Values::Absent => Vec::new(),
            Values::Shared(v, _) => v.to_vec(),
            Values::Owned(v) => v.clone(),
            Values::Bound(value) => value.read()?,
            Values::Planned(place) => bytemuck::cast_slice(&self.arena)[place.clone()].to_vec(),
        })
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
        let at_place = |id: &TensorId| match &self.values[id.0] {
            Values::Planned(place) => Some((*id, place.clone())),
            _ => None,
        };
        let places = node.outputs.iter().filter_map(at_place).collect();
        let (mut made, rest) = carve(bytemuck::cast_slice_mut(&mut self.arena), places);
        // Values of other programs, too.
        let bound = |id: &TensorId| match &self.values[id.0] {
            Values::Bound(DeviceTensor { memory: Place::Cpu(values), first, len, .. }) => {
                Some((*id, values, *first..first + len))
            }
            _ => None,
        };
        let mut written: Vec<Written<'_>> =
            node.outputs.iter().filter_map(bound).map(|(id, v, range)| (id, lock(v), range)).collect();
        let read: Vec<Read<'_>> =
            node.inputs.iter().filter_map(bound).map(|(id, v, range)| (id, share(v), range)).collect();
        made.extend(written.iter_mut().map(|(id, values, range)| (*id, &mut values[range.clone()])));
        made.sort_by_key(|(id, _)| node.outputs.iter().position(|output| output == id));
        let mut outputs: Vec<&mut [f32]> = made.into_iter().map(|(_, y)| y).collect();
        let value = |id: &TensorId| match &self.values[id.0] {
            Values::Absent => &[],
            Values::Shared(v, _) => &v[..],
            Values::Owned(v) => &v[..],
            Values::Bound(_) => {
                let found = read.iter().find(|(of, ..)| of == id);
                found.map_or(&[][..], |(_, values, range)| &values[range.clone()])
            }
            Values::Planned(place) => {
                let around = rest.iter().rfind(|(start, _)| *start <= place.start);
                around.map_or(&[][..], |(start, values)| &values[place.start - start..place.end - start])
            }
        };
        let inputs: Vec<&[f32]> = node.inputs.iter().map(value).collect();
        let in_panels =
            |packed: &Packed| matches!(self.values[node.inputs[packed.input].0], Values::Shared(_, true));
        let cpu = node.kernel.packed.filter(in_panels).map_or(node.kernel.cpu, |packed| packed.cpu);
        cpu(&node.params, &inputs, &mut outputs);
    }
}

/// The weights that all their readers can read in panels, with their columns.
fn packed(graph: &Graph) -> HashMap<TensorId, usize> {
    let is_weight = |id: &TensorId| matches!(graph.info(*id).source, Source::Weight { .. });
    let (mut columns, mut others) = (HashMap::new(), HashSet::new());
    for node in &graph.nodes {
        let input =
            node.kernel.packed.filter(|packed| (packed.fits)(&node.params)).map(|packed| packed.input);
        for (i, id) in node.inputs.iter().enumerate().filter(|(_, id)| is_weight(id)) {
            // Whole panels: others would take more memory than was planned.
            match graph.info(*id).shape.last().filter(|cols| input == Some(i) && cols.is_multiple_of(PANEL)) {
                Some(&cols) => drop(columns.insert(*id, cols)),
                None => drop(others.insert(*id)),
            }
        }
    }
    others.extend(graph.outputs.iter().map(|(_, id)| *id));
    columns.retain(|id, _| !others.contains(id));
    columns
}

/// A value that a node writes, and which of its elements.
type Written<'a> = (TensorId, RwLockWriteGuard<'a, Vec<f32>>, Range<usize>);
/// A value that it reads.
type Read<'a> = (TensorId, RwLockReadGuard<'a, Vec<f32>>, Range<usize>);

fn lock(values: &RwLock<Vec<f32>>) -> RwLockWriteGuard<'_, Vec<f32>> {
    values.write().unwrap_or_else(PoisonError::into_inner)
}

fn share(values: &RwLock<Vec<f32>>) -> RwLockReadGuard<'_, Vec<f32>> {
    values.read().unwrap_or_else(PoisonError::into_inner)
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
