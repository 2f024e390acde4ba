//! What a run will cost, from configs and tensor names alone: dispatches, arithmetic, traffic, memory, and which limit
//! of a device stands in the way. No weight is read and nothing is uploaded.
//!
//! Terms, as the report prints them:
//! - A **dispatch** is a node of the fused graph, in which tensors above the device's limits are in pieces. Where a device computes one in several (Winograd's transforms around
//!   a product), because that measured faster there, it counts once.
//! - **Moved** bytes: every node reads each of its inputs once and writes its output once. Kernels that read a tensor
//!   again for want of registers or cache move more; nothing that runs node by node moves less.
//! - The **fewest** bytes: each weight, each input and each output of the part once, as if all that is between them
//!   never left the chip.
//! - **Activations** are what the plan's buffers take; **at least** is the largest set of them alive at once.

use super::denoiser::{Parts, distinct, record_hand_over};
use super::node_cost::NodeCost;
use super::sampler::jumps;
use super::stepper::{Kind, Leads, record_renoise, record_steer, record_step};
use crate::device::{Device, DeviceLimits};
use crate::diffusion::Step;
use crate::diffusion::repaint::Keeping;
use crate::graph::fuse::fuse;
use crate::graph::plan::{Limits, Plan};
use crate::graph::split::split;
use crate::graph::{Graph, Source, TensorId, WeightPart};
use crate::kernels::Precision;
use crate::kernels::hand_over::HandOver;
use crate::models::ar_prior;
use crate::models::network::{DenoisingNetwork, Shape};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// One program of a network: how often it runs, and what a run costs.
#[derive(Clone, Debug)]
pub struct PartCost {
    /// `once`, `times` or `step`.
    pub name: &'static str,
    /// Runs of it in a whole run.
    pub runs: usize,
    /// Nodes of the fused graph.
    pub dispatches: usize,
    /// Floating-point operations; a multiply-add counts two.
    pub flops: f64,
    /// Bytes moved, node by node.
    pub moved: f64,
    /// Bytes of weights, inputs and outputs, each once.
    pub fewest: f64,
    /// Bytes of the plan's buffers.
    pub activations: u64,
    /// Bytes of the largest set of activations alive at once.
    pub activations_least: u64,
    /// Bytes of inputs and constants, which have buffers of their own.
    pub inputs: u64,
    /// Its dispatches.
    pub nodes: Vec<NodeCost>,
}

/// One network of a model.
#[derive(Clone, Debug)]
pub struct NetworkCost {
    /// Which one: `text encoder`, `stage 1 U-Net`.
    pub name: String,
    /// Sizes in words: `64x64, batch 2 (guided), 100 steps`.
    pub sizes: String,
    /// Its programs.
    pub parts: Vec<PartCost>,
    /// Bytes of its weights on the device; each once, whichever programs read it.
    pub weights: u64,
    /// The largest tensor a shader binds: its name and bytes.
    pub largest: (String, u64),
    /// What the device refuses, in words; empty if it all fits.
    pub refused: Vec<String>,
    /// Whether its programs are kept for the next run, not only its weights.
    stays: bool,
    /// Whether it runs while the one before it is at work, and not after it.
    beside: bool,
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct RunCost {
    /// In the order in which they run.
    pub networks: Vec<NetworkCost>,
    /// The limits they are held against.
    pub limits: DeviceLimits,
    /// Most bytes in use on the device at once: as little as a budget may be.
    pub peak: u64,
    /// Bytes that the next run finds there, within the budget.
    pub kept: u64,
    /// What the device refuses of the whole, in words.
    pub refused: Vec<String>,
}

/// How tensors are stored and what the device allows.
#[derive(Clone, Debug)]
pub struct Target {
    /// Storage types.
    pub precision: Precision,
    /// Limits.
    pub limits: DeviceLimits,
}

impl NetworkCost {
    /// Bytes on the device while it runs.
    pub fn bytes(&self) -> u64 {
        self.weights + self.parts.iter().map(|p| p.activations + p.inputs).sum::<u64>()
    }

    /// Dispatches of a whole run.
    pub fn dispatches(&self) -> usize {
        self.parts.iter().map(|p| p.runs * p.dispatches).sum()
    }

    /// Floating-point operations of a whole run.
    pub fn flops(&self) -> f64 {
        self.parts.iter().map(|p| p.runs as f64 * p.flops).sum()
    }

    /// A denoising network's cost over a stage's run of `steps`, with what keeps a picture and, where anything steers, by
    /// how many guides.
    pub(crate) fn of_denoiser(
        name: &str,
        (shape, steps): (Shape, &[Step]),
        (keeps, guides): (Option<Keeping>, Option<usize>),
        network: &dyn DenoisingNetwork,
        on: &Target,
    ) -> Self {
        let parts = Parts::record(shape, distinct(steps).len(), network);
        let guided = if shape.guided { " (guided)" } else { "" };
        let (width, height, batch, count) = (shape.width, shape.height, shape.batch(), steps.len());
        let sizes = format!("{width}x{height}, batch {batch}{guided}, {count} steps");
        let passes = passes(steps, parts.steps_at_once.max(1));
        let leads = Leads::of(guides.is_some(), keeps);
        let out = parts.out().to_vec();
        let all = [&parts.once, &parts.times, &parts.step];
        let enlarging = all.iter().filter(|graph| graph.find_input("low_res").is_some()).count();
        let mut graphs =
            vec![("once", 1, parts.once), ("times", passes, parts.times), ("step", count, parts.step)];
        if enlarging > 0 {
            graphs.push(("hand over", enlarging, record_hand_over(shape, HandOver::AsIs)));
        }
        // Steps of several kinds, each a program.
        let mut kinds: Vec<(Kind, usize)> = Vec::new();
        for kind in steps.iter().map(|step| Kind::of(step).led(leads)) {
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, runs)) => *runs += 1,
                None => kinds.push((kind, 1)),
            }
        }
        for (kind, runs) in kinds {
            if let Some(guides) = guides {
                graphs.push(("estimate", runs, record_step(kind.hold(), shape, &out)));
                graphs.push(("steer", runs * guides.max(1), record_steer(shape, leads.known)));
            }
            graphs.push(("update", runs, record_step(kind, shape, &out)));
        }
        let back = jumps(steps);
        let put = if matches!(keeps, Some(Keeping::Sample(_))) { count } else { 0 };
        if back + put > 0 {
            graphs.push(("renoise", back + put, record_renoise(shape)));
        }
        NetworkCost { stays: true, ..NetworkCost::new(name, sizes, graphs, on) }
    }

    /// The cost of a text encoder, whose input `ids` is `[prompts, tokens]`.
    pub(crate) fn of_text(graph: Graph, on: &Target) -> Self {
        let ids = graph.find_input("ids").map_or(Vec::new(), |id| graph.info(id).shape.clone());
        let on = Target { precision: Precision { elem_f16: false, ..on.precision }, ..on.clone() };
        let sizes = match ids[..] {
            [prompts, tokens] => format!("{prompts} prompts of {tokens} tokens"),
            _ => String::new(),
        };
        NetworkCost::new("text encoder", sizes, vec![("once", 1, graph)], &on)
    }

    /// The cost of a network that runs once, in f32.
    pub(crate) fn of_once(name: &str, sizes: String, graph: Graph, on: &Target) -> Self {
        let on = Target { precision: Precision::F32, ..on.clone() };
        NetworkCost::new(name, sizes, vec![("once", 1, graph)], &on)
    }

    /// The cost of an autoregressive prior that draws so many embeddings for captions, those of what is not drawn
    /// included.
    pub(crate) fn of_tokens(
        config: &ar_prior::Config,
        embeddings: usize,
        captions: usize,
        guided: bool,
        on: &Target,
    ) -> Self {
        let on = Target { precision: Precision { elem_f16: false, ..on.precision }, ..on.clone() };
        let (halves, steps) = (if guided { 2 } else { 1 }, config.num_components);
        let note = if guided { " (guided)" } else { "" };
        let sizes = format!("batch {}{note}, {steps} tokens", halves * embeddings);
        let graphs = vec![
            ("once", 1, config.prefix_graph(captions)),
            ("step", steps - 1, config.step_graph(halves * embeddings)),
        ];
        NetworkCost { stays: true, ..NetworkCost::new("autoregressive prior", sizes, graphs, &on) }
    }

    /// The cost of a guidance by gradients that runs so many times in a stage's run, always in f32.
    pub(crate) fn of_guidance(name: &str, shape: Shape, (runs, graph): (usize, Graph), on: &Target) -> Self {
        let on = Target { precision: Precision::F32, ..on.clone() };
        let sizes = format!("{}x{}, batch {}, {runs} runs", shape.width, shape.height, shape.pictures);
        let cost = NetworkCost::new(name, sizes, vec![("step", runs, graph)], &on);
        NetworkCost { stays: true, beside: true, ..cost }
    }

    fn new(name: &str, sizes: String, graphs: Vec<(&'static str, usize, Graph)>, on: &Target) -> Self {
        let mut cost = NetworkCost {
            name: name.to_string(),
            sizes,
            parts: Vec::new(),
            weights: 0,
            largest: (String::new(), 0),
            refused: Vec::new(),
            stays: false,
            beside: false,
        };
        let mut weights = HashMap::new();
        // Values that programs share, by name and bytes: each counts once.
        let mut shared = HashSet::new();
        for (part, runs, mut graph) in graphs {
            if graph.nodes.is_empty() {
                continue;
            }
            fuse(&mut graph);
            if let Err(unsplit) = split(&mut graph, on.limits.largest_tensor(), on.precision) {
                let most = Bytes(on.limits.largest_tensor() as f64);
                cost.refused.push(format!("{unsplit}; a shader binds at most {most}"));
            }
            for (i, tensor) in graph.tensors.iter().enumerate() {
                if let Source::Weight { parts, repack, .. } = &tensor.source {
                    let half = tensor.storage.is_half(on.precision);
                    let copy = (parts.clone(), *repack, half);
                    weights.insert(copy, bytes(&graph, TensorId(i), on.precision));
                }
            }
            cost.check_tensors(&graph, on);
            let part = cost.part((part, runs), &graph, on, &mut shared);
            cost.parts.push(part);
        }
        cost.weights = weights.values().sum();
        cost
    }

    /// Notes the largest tensor, and those that no shader can count.
    fn check_tensors(&mut self, graph: &Graph, on: &Target) {
        let mut makers = HashMap::new();
        for node in &graph.nodes {
            makers.insert(node.output(), node.label.as_str());
        }
        let (mut refused, mut first) = (0, None);
        for (i, tensor) in graph.tensors.iter().enumerate() {
            let (id, size) = (TensorId(i), bytes(graph, TensorId(i), on.precision));
            let name = || match &tensor.source {
                Source::Weight { parts, .. } => WeightPart::list(parts),
                Source::Input(name) => name.clone(),
                Source::Constant(_) => "a constant".into(),
                Source::Node => makers.get(&id).copied().unwrap_or_default().to_string(),
            };
            if size > self.largest.1 {
                self.largest = (name(), size);
            }
            if u32::try_from(tensor.len()).is_err() {
                refused += 1;
                first.get_or_insert_with(|| {
                    format!("`{}` has {} elements, shaders count to {}", name(), tensor.len(), u32::MAX)
                });
            }
        }
        if let Some(first) = first {
            let more = if refused > 1 { format!(" (and {} more)", refused - 1) } else { String::new() };
            self.refused.push(format!("{first}{more}"));
        }
    }

    fn part(
        &mut self,
        (name, runs): (&'static str, usize),
        graph: &Graph,
        on: &Target,
        shared: &mut HashSet<(String, u64)>,
    ) -> PartCost {
        let size = |id: TensorId| bytes(graph, id, on.precision);
        let (mut flops, mut moved, mut nodes) = (0.0, 0.0, Vec::new());
        // What is read of each tensor by the node that reads most of it.
        let mut read: BTreeMap<TensorId, f64> = BTreeMap::new();
        for node in &graph.nodes {
            let cost = graph.node_cost(node);
            flops += cost.flops;
            let elements: usize = node.inputs.iter().map(|id| graph.info(*id).len()).sum();
            // A look-up reads a part of its table.
            let share = (cost.reads / elements.max(1) as f64).min(1.0);
            let mut of_node = node.outputs.iter().map(|id| size(*id) as f64).sum::<f64>();
            for id in &node.inputs {
                let bytes = size(*id) as f64 * share;
                of_node += bytes;
                let most = read.entry(*id).or_default();
                *most = most.max(bytes);
            }
            moved += of_node;
            NodeCost::new(graph, node, of_node).join(&mut nodes);
        }
        let made = |id: &TensorId| matches!(graph.info(*id).source, Source::Node);
        let fewest = read.iter().filter(|(id, _)| !made(id)).map(|(_, bytes)| bytes).sum::<f64>()
            + graph.outputs.iter().map(|(_, id)| size(*id) as f64).sum::<f64>();
        let constants = (0..graph.tensors.len()).map(TensorId);
        let constants = constants.filter(|id| matches!(graph.info(*id).source, Source::Constant(_)));
        let named = graph.input_names().filter_map(|name| Some((name, graph.find_input(name)?)));
        let named = named.chain(graph.outputs.iter().map(|(name, id)| (name.as_str(), *id)));
        let inputs = constants.map(size).sum::<u64>()
            + named
                .map(|(name, id)| (name, size(id)))
                .filter(|(name, bytes)| shared.insert((name.to_string(), *bytes)))
                .map(|(_, bytes)| bytes)
                .sum::<u64>();
        let mut limits = on.limits.plan_limits();
        let plan = Plan::new(graph, limits, size, &[]).or_else(|id| {
            let most = Bytes(limits.max_buffer as f64);
            let what = Bytes(size(id) as f64);
            self.refused.push(format!("an activation takes {what}, a buffer at most {most}"));
            limits = Limits { max_buffer: u64::MAX, ..limits };
            Plan::new(graph, limits, size, &[])
        });
        let (activations, activations_least) = plan.map_or((0, 0), |p| (p.bytes(), p.lower_bound));
        PartCost {
            name,
            runs,
            dispatches: graph.nodes.len(),
            flops,
            moved,
            fewest,
            activations,
            activations_least,
            inputs,
            nodes,
        }
    }
}

impl RunCost {
    pub(crate) fn new(networks: Vec<NetworkCost>, limits: DeviceLimits) -> Self {
        let (mut at_once, mut peak, mut kept) = (0, 0, 0);
        for network in &networks {
            at_once = if network.beside { at_once } else { 0 } + network.bytes();
            peak = peak.max(at_once);
            kept += if network.stays { network.bytes() } else { network.weights };
        }
        let kept = limits.budget.map_or(kept, |most| kept.min(most));
        let mut refused = Vec::new();
        if let Some(memory) = limits.memory.filter(|memory| peak > *memory) {
            let (peak, memory) = (Bytes(peak as f64), Bytes(memory as f64));
            refused.push(format!("the run needs {peak} at once, the device has {memory} for it"));
        }
        RunCost { networks, limits, peak, kept, refused }
    }

    /// Whether nothing stands in the way.
    pub fn fits(&self) -> bool {
        self.refused.is_empty() && self.networks.iter().all(|n| n.refused.is_empty())
    }
}

/// Passes of the times' program: each computes what the steps from the one that is next need, so many at once.
fn passes(steps: &[Step], at_once: usize) -> usize {
    let (mut passes, mut ready) = (0, Vec::new());
    for (i, step) in steps.iter().enumerate() {
        if !ready.contains(&step.timestep) {
            ready = distinct(&steps[i..]);
            ready.truncate(at_once);
            passes += 1;
        }
    }
    passes
}

fn bytes(graph: &Graph, id: TensorId, precision: Precision) -> u64 {
    graph.info(id).bytes(precision)
}

impl Target {
    /// Storage that serves `device` best, and its limits.
    pub fn of(device: &Device) -> Self {
        Target { precision: device.precision(), limits: device.limits() }
    }
}

/// Bytes in the largest unit that leaves a whole number before the point.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub f64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            b if b >= 1e9 => (1e9, "GB"),
            b if b >= 1e6 => (1e6, "MB"),
            _ => (1e3, "kB"),
        };
        f.pad(&format!("{:.1} {name}", self.0 / unit))
    }
}
