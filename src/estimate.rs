//! What a run will cost, from configs and tensor names alone: dispatches, arithmetic, traffic, memory, and which limit
//! of a device stands in the way. No weight is read and nothing is uploaded.
//!
//! Terms, as the report prints them:
//! - A **dispatch** is a node of the fused graph. Where a device computes one in several (Winograd's transforms around
//!   a product), because that measured faster there, it counts once.
//! - **Moved** bytes: every node reads each of its inputs once and writes its output once. Kernels that read a tensor
//!   again for want of registers or cache move more; nothing that runs node by node moves less.
//! - The **fewest** bytes: each weight, each input and each output of the part once, as if all that is between them
//!   never left the chip.
//! - **Activations** are what the plan's buffers take; **at least** is the largest set of them alive at once.

use crate::device::{Device, DeviceLimits};
use crate::error::{Error, Result};
use crate::graph::fuse::fuse;
use crate::graph::plan::{Limits, Plan};
use crate::graph::{Graph, Source, TensorId, WeightPart};
use crate::kernels::Precision;
use crate::models::{ar_prior, prior, t5, unet, unet2d};
use crate::request::{GenerateConfig, StageSide, check_request, stage_count, stage_sizes};
use crate::systems::denoise::{Network, Parts, Shape};
use crate::systems::imagen::PROMPTS;
use crate::systems::unclip::LARGE_CACHE;
use crate::systems::{ddpm, imagen, unclip};
use crate::weights::read_json;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

/// Tokens of a picture's embedding that unCLIP's decoder attends to where nothing says otherwise.
const PICTURE_TOKENS: usize = 4;
/// Most steps a schedule has.
const MAX_STEPS: usize = 1_000_000;

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
    /// Whether its memory is given back when it is done.
    released: bool,
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct RunCost {
    /// In the order in which they run.
    pub networks: Vec<NetworkCost>,
    /// The limits they are held against.
    pub limits: DeviceLimits,
    /// Most bytes on the device at once.
    pub peak: u64,
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

    /// A denoising network's cost for `steps` steps.
    pub(crate) fn of_denoiser(
        name: &str,
        shape: Shape,
        steps: usize,
        network: &Network,
        on: &Target,
    ) -> Self {
        let parts = Parts::record(shape, steps, network);
        let passes = steps.div_ceil(parts.steps_at_once.max(1));
        let guided = if shape.guided { " (guided)" } else { "" };
        let sizes =
            format!("{}x{}, batch {}{guided}, {steps} steps", shape.width, shape.height, shape.batch());
        let graphs =
            vec![("once", 1, parts.once), ("times", passes, parts.times), ("step", steps, parts.step)];
        let mut cost = NetworkCost::new(name, sizes, graphs, on);
        // As `Stage::sample` does: large networks make room for the next.
        const LARGE_ACTIVATIONS: u64 = 1 << 28;
        let activations: u64 = cost.parts.iter().map(|p| p.activations).sum();
        cost.released |= activations > LARGE_ACTIVATIONS;
        cost
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

    /// The cost of an autoregressive prior that draws so many embeddings for a caption.
    pub(crate) fn of_tokens(config: &ar_prior::Config, embeddings: usize, guided: bool, on: &Target) -> Self {
        let on = Target { precision: Precision { elem_f16: false, ..on.precision }, ..on.clone() };
        let (halves, steps) = (if guided { 2 } else { 1 }, config.num_components);
        let note = if guided { " (guided)" } else { "" };
        let sizes = format!("batch {}{note}, {steps} tokens", halves * embeddings);
        let graphs = vec![
            ("once", 1, config.prefix_graph(halves)),
            ("step", steps - 1, config.step_graph(halves * embeddings)),
        ];
        let mut cost = NetworkCost::new("autoregressive prior", sizes, graphs, &on);
        // As `AutoregressivePrior::draw` does: a large cache makes room for the next.
        let cache = 2 * config.width() * config.tokens() * config.num_layers * halves * embeddings * 4;
        cost.released |= cache > LARGE_CACHE;
        cost
    }

    /// The cost of a guidance by gradients, a forward and its gradient at each of `steps` steps, always in f32.
    pub(crate) fn of_guidance(name: &str, shape: Shape, steps: usize, graph: Graph, on: &Target) -> Self {
        let on = Target { precision: Precision::F32, ..on.clone() };
        let sizes = format!("{}x{}, batch {}, {steps} steps", shape.width, shape.height, shape.pictures);
        NetworkCost::new(name, sizes, vec![("step", steps, graph)], &on)
    }

    fn new(name: &str, sizes: String, graphs: Vec<(&'static str, usize, Graph)>, on: &Target) -> Self {
        let mut cost = NetworkCost {
            name: name.to_string(),
            sizes,
            parts: Vec::new(),
            weights: 0,
            largest: (String::new(), 0),
            refused: Vec::new(),
            released: false,
        };
        let mut weights: HashMap<Vec<WeightPart>, u64> = HashMap::new();
        for (part, runs, mut graph) in graphs {
            if graph.nodes.is_empty() {
                continue;
            }
            fuse(&mut graph);
            for (i, tensor) in graph.tensors.iter().enumerate() {
                if let Source::Weight { parts, .. } = &tensor.source {
                    weights.insert(parts.clone(), bytes(&graph, TensorId(i), on.precision));
                }
            }
            cost.check_tensors(&graph, on);
            let part = cost.part(part, runs, &graph, on);
            cost.parts.push(part);
        }
        cost.weights = weights.values().sum();
        cost.released = cost.weights > 1 << 30;
        cost
    }

    /// Notes the largest tensor, and those that no shader can bind or count.
    fn check_tensors(&mut self, graph: &Graph, on: &Target) {
        let mut makers = HashMap::new();
        for node in &graph.nodes {
            makers.insert(node.output, node.label.as_str());
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
            let uncountable = u32::try_from(tensor.len()).is_err();
            if uncountable || on.limits.binding.is_some_and(|most| size > most) {
                refused += 1;
                first.get_or_insert_with(|| {
                    if uncountable {
                        format!("`{}` has {} elements, shaders count to {}", name(), tensor.len(), u32::MAX)
                    } else {
                        let most = Bytes(on.limits.binding.unwrap_or(u64::MAX) as f64);
                        format!("`{}` takes {}, a shader binds at most {most}", name(), Bytes(size as f64))
                    }
                });
            }
        }
        if let Some(first) = first {
            let more = if refused > 1 { format!(" (and {} more)", refused - 1) } else { String::new() };
            self.refused.push(format!("{first}{more}"));
        }
    }

    fn part(&mut self, name: &'static str, runs: usize, graph: &Graph, on: &Target) -> PartCost {
        let size = |id: TensorId| bytes(graph, id, on.precision);
        let (mut flops, mut moved) = (0.0, 0.0);
        // What is read of each tensor by the node that reads most of it.
        let mut read: BTreeMap<TensorId, f64> = BTreeMap::new();
        for node in &graph.nodes {
            let cost = graph.node_cost(node);
            flops += cost.flops;
            let elements: usize = node.inputs.iter().map(|id| graph.info(*id).len()).sum();
            // A look-up reads a part of its table.
            let share = (cost.reads / elements.max(1) as f64).min(1.0);
            for id in &node.inputs {
                let bytes = size(*id) as f64 * share;
                moved += bytes;
                let most = read.entry(*id).or_default();
                *most = most.max(bytes);
            }
            moved += size(node.output) as f64;
        }
        let made = |id: &TensorId| matches!(graph.info(*id).source, Source::Node);
        let fewest = read.iter().filter(|(id, _)| !made(id)).map(|(_, bytes)| bytes).sum::<f64>()
            + graph.outputs.iter().map(|(_, id)| size(*id) as f64).sum::<f64>();
        let inputs = (0..graph.tensors.len())
            .filter(|i| matches!(graph.tensors[*i].source, Source::Input(_) | Source::Constant(_)))
            .map(|i| size(TensorId(i)))
            .sum();
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
        }
    }
}

impl RunCost {
    pub(crate) fn new(networks: Vec<NetworkCost>, limits: DeviceLimits) -> Self {
        let (mut kept, mut peak) = (0, 0);
        for network in &networks {
            peak = peak.max(kept + network.bytes());
            if !network.released {
                kept += network.bytes();
            }
        }
        let mut refused = Vec::new();
        if let Some(memory) = limits.memory.filter(|memory| peak > *memory) {
            refused.push(format!(
                "the run takes {}, the device has {} free",
                Bytes(peak as f64),
                Bytes(memory as f64)
            ));
        }
        RunCost { networks, limits, peak, refused }
    }

    /// Whether nothing stands in the way.
    pub fn fits(&self) -> bool {
        self.refused.is_empty() && self.networks.iter().all(|n| n.refused.is_empty())
    }
}

fn bytes(graph: &Graph, id: TensorId, precision: Precision) -> u64 {
    let info = graph.info(id);
    info.len() as u64 * if info.storage.is_half(precision) { 2 } else { 4 }
}

/// The class of a network's config.
#[derive(Deserialize)]
struct Class {
    #[serde(rename = "_class_name")]
    class_name: Option<String>,
    model_type: Option<String>,
}

/// Plans one network from its `config.json` alone. `layout` may name a listing of its tensors, `{"name": [shape], …}`,
/// which is then compared with what the config says.
///
/// Errors: files that are broken, of an unknown kind or of different networks; sizes the network cannot take.
/// Unset settings are 50 steps and, where the network takes text, guidance with dynamic thresholding.
pub fn plan_network(
    config: &Path,
    layout: Option<&Path>,
    cfg: &GenerateConfig<'_>,
    on: &Target,
) -> Result<RunCost> {
    const STEPS: usize = 50;
    check_request(cfg)?;
    stage_count(cfg, 1)?;
    let steps = cfg.steps.first().copied().unwrap_or(STEPS);
    if steps == 0 || steps > MAX_STEPS {
        return Err(Error::Request(format!("{steps} steps: give 1 to {MAX_STEPS}")));
    }
    let guided = cfg.guidance_scale.first().is_none_or(|scale| *scale > 1.0);
    let class: Class = read_json(config)?;
    let (pictures, height, width) = (cfg.count, 1, 1);
    let one = Shape { pictures, height, width, channels: 3, tokens: 0, guided: false, dynamic: false };
    let denoiser = |wanted: &Graph, sides: StageSide, shape: Shape, network: &Network| {
        check_layout(layout, wanted)?;
        let (width, height) = stage_sizes(&[sides], cfg.size)?[0];
        Ok(NetworkCost::of_denoiser("U-Net", Shape { height, width, ..shape }, steps, network, on))
    };
    let network = match (class.class_name.as_deref(), class.model_type.as_deref()) {
        (Some("UNet2DConditionModel"), _) => {
            let unet: unet::Config = read_json(config)?;
            unet.validate(config)?;
            let sides = StageSide { side: unet.sample_size, multiple: unet.size_multiple() };
            let channels = imagen::sample_channels(&unet);
            let (tokens, dynamic) = match unet.takes_embedding() {
                true => (imagen::MAX_TOKENS + PICTURE_TOKENS, false),
                false => (imagen::MAX_TOKENS, true),
            };
            let shape = Shape { channels, tokens, guided, dynamic, ..one };
            denoiser(&imagen::network_graph(&unet), sides, shape, &imagen::network(&unet))?
        }
        (Some("UNet2DModel"), _) => {
            let unet: unet2d::Config = read_json(config)?;
            unet.validate(config)?;
            let sides = StageSide { side: unet.sample_size, multiple: unet.size_multiple() };
            let shape = Shape { channels: unet.sample_channels(), ..one };
            denoiser(&ddpm::network_graph(&unet), sides, shape, &ddpm::network(&unet))?
        }
        (Some("PriorTransformer"), _) => {
            let prior: prior::Config = read_json(config)?;
            prior.validate(config)?;
            if cfg.size.is_some() {
                return Err(Error::Request("a prior draws embeddings: leave `--size` out".into()));
            }
            check_layout(layout, &prior.graph())?;
            let (channels, tokens) = (prior.embedding_dim, prior.num_embeddings);
            let shape = Shape { channels, tokens, guided, ..one };
            NetworkCost::of_denoiser("prior", shape, steps, &unclip::prior_network(&prior), on)
        }
        (Some("AutoregressivePrior"), _) => {
            let prior: ar_prior::Config = read_json(config)?;
            prior.validate(config)?;
            if cfg.size.is_some() {
                return Err(Error::Request("a prior draws embeddings: leave `--size` out".into()));
            }
            check_layout(layout, &prior.whole())?;
            NetworkCost::of_tokens(&prior, cfg.count, guided, on)
        }
        (_, Some("t5")) => {
            let encoder: t5::Config = read_json(config)?;
            encoder.validate(config)?;
            check_layout(layout, &t5::graph(&encoder, 1, 2))?;
            NetworkCost::of_text(t5::graph(&encoder, PROMPTS, imagen::MAX_TOKENS), on)
        }
        (name, kind) => {
            let found = name.or(kind).unwrap_or("no class");
            let what = format!(
                "`{found}` cannot be planned; UNet2DConditionModel, UNet2DModel, PriorTransformer, AutoregressivePrior and, as \
                 `model_type`, t5 can"
            );
            return Err(Error::config(config, "_class_name", what));
        }
    };
    Ok(RunCost::new(vec![network], on.limits.clone()))
}

/// Compares a listing of names and shapes with what a graph reads.
fn check_layout(layout: Option<&Path>, wanted: &Graph) -> Result<()> {
    let Some(path) = layout else { return Ok(()) };
    let listed: BTreeMap<String, Vec<usize>> = read_json(path)?;
    let wanted: BTreeMap<&str, &[usize]> = wanted.weights().collect();
    for (name, shape) in &wanted {
        match listed.get(*name) {
            Some(found) if found == shape => {}
            found => {
                let found = found.map_or("not listed".into(), |f| format!("listed as {f:?}"));
                let what = format!("the config says {shape:?}, {found}: give the config of this layout");
                return Err(Error::tensor(path, name, what));
            }
        }
    }
    // A tied embedding is saved under a second name.
    let known = |name: &str| wanted.contains_key(name) || name == "encoder.embed_tokens.weight";
    match listed.keys().find(|name| !known(name)) {
        Some(name) => {
            let what =
                "is listed, but the config's network has no such tensor: give the config of this layout";
            Err(Error::tensor(path, name, what))
        }
        None => Ok(()),
    }
}

impl Target {
    /// Storage that serves `device` best, and its limits.
    pub fn of(device: &Device) -> Self {
        Target { precision: device.precision(), limits: device.limits() }
    }
}

/// Bytes in the largest unit that leaves a whole number before the point.
struct Bytes(f64);

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

impl fmt::Display for NetworkCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.name, self.sizes)?;
        writeln!(
            f,
            "  {:<6} {:>6} {:>10} {:>10} {:>10} {:>10} {:>6} {:>12} {:>10}",
            "part", "runs", "dispatches", "GFLOP", "moved", "fewest", "ratio", "activations", "at least"
        )?;
        for p in &self.parts {
            writeln!(
                f,
                "  {:<6} {:>6} {:>10} {:>10.2} {:>10} {:>10} {:>6.2} {:>12} {:>10}",
                p.name,
                p.runs,
                p.dispatches,
                p.flops / 1e9,
                Bytes(p.moved),
                Bytes(p.fewest),
                p.moved / p.fewest.max(1.0),
                Bytes(p.activations as f64),
                Bytes(p.activations_least as f64)
            )?;
        }
        writeln!(f, "  whole run: {} dispatches, {:.1} GFLOP", self.dispatches(), self.flops() / 1e9)?;
        let of = |part: fn(&PartCost) -> u64| Bytes(self.parts.iter().map(part).sum::<u64>() as f64);
        writeln!(
            f,
            "  memory: {} = weights {} + activations {} + inputs {}; largest tensor {} (`{}`)",
            Bytes(self.bytes() as f64),
            Bytes(self.weights as f64),
            of(|p| p.activations),
            of(|p| p.inputs),
            Bytes(self.largest.1 as f64),
            self.largest.0
        )?;
        self.refused.iter().try_for_each(|what| writeln!(f, "  DOES NOT FIT: {what}"))
    }
}

impl fmt::Display for RunCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for network in &self.networks {
            writeln!(f, "{network}")?;
        }
        writeln!(f, "most memory at once: {}", Bytes(self.peak as f64))?;
        self.refused.iter().try_for_each(|what| writeln!(f, "DOES NOT FIT: {what}"))?;
        const REMEDY: &str =
            "it does not fit: take a smaller size or count, f16, a smaller model, or the CPU";
        write!(f, "limits: {}; {}", self.limits, if self.fits() { "it all fits" } else { REMEDY })
    }
}
