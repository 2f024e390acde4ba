//! The plan: lifetimes of a graph's tensors → places in a few large buffers. A pure function of the graph.

use super::{Graph, TensorId};

/// Where an activation lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which of the plan's buffers.
    pub arena: usize,
    /// Byte offset, a multiple of [`Limits::align`].
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// What a device allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Offsets are multiples of this.
    pub align: u64,
    /// Largest buffer, in bytes.
    pub max_buffer: u64,
}

/// Memory of a graph's activations. Weights, inputs, outputs and constants have buffers of their own.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Per tensor: its place, if a node makes it.
    pub places: Vec<Option<Place>>,
    /// Bytes of each buffer.
    pub arenas: Vec<u64>,
    /// Bytes of the largest set of activations alive at once: no plan can take less.
    pub lower_bound: u64,
}

/// First and last node at which a tensor must exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lifetime {
    first: usize,
    last: usize,
}

impl Plan {
    /// Packs tensors of `bytes(tensor)` bytes. Tensors of `kept` are never overwritten (a caller wants to see them).
    ///
    /// Returns the tensor that is larger than a buffer may be, if there is one.
    pub fn new(
        graph: &Graph,
        limits: Limits,
        bytes: impl Fn(TensorId) -> u64,
        kept: &[TensorId],
    ) -> Result<Plan, TensorId> {
        let lifetimes = lifetimes(graph, kept);
        let round = |size: u64| size.div_ceil(limits.align) * limits.align;
        let mut plan = Plan { places: vec![None; graph.tensors.len()], arenas: Vec::new(), lower_bound: 0 };
        let mut order: Vec<(usize, u64)> = Vec::new();
        for (i, life) in lifetimes.iter().enumerate() {
            if life.is_some() {
                let size = round(bytes(TensorId(i)));
                if size > limits.max_buffer {
                    return Err(TensorId(i));
                }
                order.push((i, size));
            }
        }
        plan.lower_bound = (0..graph.nodes.len().max(1))
            .map(|at| {
                let alive = |i: &usize| lifetimes[*i].is_some_and(|l| l.first <= at && at <= l.last);
                order.iter().filter(|(i, _)| alive(i)).map(|(_, size)| size).sum()
            })
            .max()
            .unwrap_or(0);
        // Largest first, each at the lowest gap among those it overlaps in time.
        order.sort_by_key(|&(i, size)| (std::cmp::Reverse(size), i));
        let mut placed: Vec<(Lifetime, Place)> = Vec::new();
        for (i, size) in order {
            let Some(life) = lifetimes[i] else { continue };
            let place = (0..)
                .map(|arena| lowest_gap(&placed, life, arena, size))
                .find(|p| p.offset + p.size <= limits.max_buffer)
                .unwrap_or(Place { arena: 0, offset: 0, size });
            plan.arenas.resize(plan.arenas.len().max(place.arena + 1), 0);
            plan.arenas[place.arena] = plan.arenas[place.arena].max(place.offset + place.size);
            plan.places[i] = Some(place);
            placed.push((life, place));
        }
        Ok(plan)
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> u64 {
        self.arenas.iter().sum()
    }
}

fn lowest_gap(placed: &[(Lifetime, Place)], life: Lifetime, arena: usize, size: u64) -> Place {
    let overlaps = |l: &Lifetime| l.first <= life.last && life.first <= l.last;
    let mut taken: Vec<(u64, u64)> = placed
        .iter()
        .filter(|(l, p)| p.arena == arena && overlaps(l))
        .map(|(_, p)| (p.offset, p.offset + p.size))
        .collect();
    taken.sort_unstable();
    let mut offset = 0;
    for (start, end) in taken {
        if start >= offset + size {
            break;
        }
        offset = offset.max(end);
    }
    Place { arena, offset, size }
}

fn lifetimes(graph: &Graph, kept: &[TensorId]) -> Vec<Option<Lifetime>> {
    let end = graph.nodes.len();
    let mut lives: Vec<Option<Lifetime>> = vec![None; graph.tensors.len()];
    for (at, node) in graph.nodes.iter().enumerate() {
        // What is updated in place, and what the caller reads, has memory of its own.
        let here = |id: &&TensorId| graph.is_made(**id) && !graph.outputs.iter().any(|(_, o)| o == *id);
        for id in node.outputs.iter().filter(here) {
            lives[id.0] = Some(Lifetime { first: at, last: at });
        }
        for input in &node.inputs {
            if let Some(life) = &mut lives[input.0] {
                life.last = life.last.max(at);
            }
        }
    }
    for id in kept {
        if let Some(life) = &mut lives[id.0] {
            life.last = end;
        }
    }
    lives
}
