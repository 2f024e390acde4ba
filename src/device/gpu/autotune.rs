//! Which of a kernel's shaders, or which rewrite, computes a node: by rule where the node is small, else by a short
//! [measurement](super::trial) that is kept on disk ([`super::cache`]). A variant is admitted only after its result on the very
//! sizes matched the definition at some hundred places, and taken only if it [wins](super::decision) by more than chance.
//!
//! All of it follows from one item of a node's batch ([`Node::of_item`]): a choice that is made at one batch holds for all.

use super::adapter::Gpu;
use super::choices::{Choices, Measuring};
use super::decision::decide;
use super::trial::{Shared, Trial};
use crate::device::nmse::nmse;
use crate::device::options::{ProgramOptions, Variants};
use crate::error::{Error, Result};
use crate::graph::rewrites::Rewrite;
use crate::graph::{Graph, Node, Source};
use crate::kernels::{Needs, Precision, Shader};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Below this many operations of an item a node is not worth a measurement, nor what transforms lose of the last digits: some
/// milliseconds of a software adapter.
const SMALL: f64 = 1.5e7;
/// The same for measurements on hardware, which does it in some microseconds.
const SMALL_ON_HARDWARE: f64 = 1.5e8;
/// Weights that rewrites transform, of one graph, take at most this many bytes: Winograd's are four times the plain ones.
const MAX_TRANSFORMED: usize = 1 << 30;
/// A tensor between a rewrite's parts takes at most this many bytes: Winograd's are 2.25 times a convolution's pictures,
/// and no plan made before a choice knows of them.
const MAX_BETWEEN: u64 = 1 << 29;
/// A sample is a pass of as many dispatches as take about this long.
const SAMPLE: Duration = Duration::from_millis(1);
/// Most dispatches of a sample.
const MAX_REPEATS: f64 = 256.0;
/// Samples of each variant, in turn with the others' so that a clock that drifts does so for all; fewer where they take long.
const SAMPLES: usize = 15;
/// Fewest samples.
const FEWEST: usize = 3;
/// Samples are taken until this much time is spent on a variant.
const SPENT: Duration = Duration::from_millis(60);
/// A variant this many times slower than the fastest is given up after its first sample.
const HOPELESS: f64 = 2.0;
/// Random places of the output at which a result is checked, besides its last ones.
const CHECKED: usize = 256;
/// The last places, where tiles end.
const LAST: usize = 16;

/// A way to compute a node.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Variant {
    /// The kernel's shader of this index.
    Shader(usize),
    /// Nodes in its place, the work among them by the shader of this index.
    Rewritten(&'static Rewrite, usize),
}

impl Variant {
    /// The shader that does the work, where it is one.
    fn shader(self, node: &Node) -> Option<&'static Shader> {
        match self {
            Variant::Shader(i) => Some(&node.kernel.shaders[i]),
            Variant::Rewritten(rewrite, i) => rewrite.work.map(|kernel| &kernel.shaders[i]),
        }
    }

    fn rewrite(self) -> Option<&'static Rewrite> {
        if let Variant::Rewritten(rewrite, _) = self { Some(rewrite) } else { None }
    }

    fn name(self, node: &Node) -> &'static str {
        match self {
            Variant::Rewritten(rewrite @ Rewrite { work: None, .. }, _) => rewrite.name,
            _ => self.shader(node).map_or("", |shader| shader.name),
        }
    }

    /// What it needs of the adapter is experimental there: not used before its result matched.
    fn is_experimental(self, node: &Node) -> bool {
        self.shader(node).is_some_and(|shader| shader.needs.cooperative.is_some())
    }
}

impl Gpu {
    /// Gives every node its shader and puts rewrites in place. Measures what is not known yet.
    pub(in crate::device) fn choose(&self, graph: &mut Graph, options: &ProgramOptions) -> Result<()> {
        let mut chooser = Chooser::new(self, options);
        chooser.expected = chooser.unknown(graph);
        for node in std::mem::take(&mut graph.nodes) {
            chooser.place(graph, node)?;
        }
        if chooser.choices.measured > 0 {
            self.cache().save_choices();
            let done = chooser.choices.measured;
            self.tell(Measuring { done, total: done, size: "" });
        }
        self.count(chooser.choices);
        Ok(())
    }

    /// Whether the adapter has what a shader needs.
    pub fn meets(&self, needs: Needs, precision: Precision) -> bool {
        needs.subgroup.is_none_or(|size| self.subgroup() == Some(size))
            && needs.cooperative.is_none_or(|of| precision == Precision::F16 && self.has_matrices(of))
    }
}

/// Chooses for the nodes of a graph.
struct Chooser<'a> {
    gpu: &'a Gpu,
    options: &'a ProgramOptions,
    choices: Choices,
    /// Bytes of weights that rewrites transformed.
    transformed: usize,
    /// Sizes that will be measured, as far as is known.
    expected: usize,
}

impl<'a> Chooser<'a> {
    fn new(gpu: &'a Gpu, options: &'a ProgramOptions) -> Self {
        Chooser { gpu, options, choices: Choices::default(), transformed: 0, expected: 0 }
    }

    /// Appends a node as its variant computes it.
    fn place(&mut self, graph: &mut Graph, node: Node) -> Result<()> {
        let node = match self.options.precision.elem_f16 {
            true => node.kernel.rewrites.convert_inputs(graph, node),
            false => node,
        };
        let variant = self.variant(graph, &node)?;
        self.append(graph, node, variant)
    }

    fn append(&mut self, graph: &mut Graph, node: Node, variant: Variant) -> Result<()> {
        match variant {
            Variant::Shader(shader) => graph.nodes.push(Node { shader, ..node }),
            Variant::Rewritten(rewrite, shader) => {
                self.transformed += (rewrite.weights)(&node);
                if rewrite.work.is_some() {
                    (rewrite.apply)(graph, &node, shader, self.most_between());
                    return Ok(());
                }
                let rest = std::mem::take(&mut graph.nodes);
                (rewrite.apply)(graph, &node, shader, self.most_between());
                let parts = std::mem::replace(&mut graph.nodes, rest);
                for part in parts {
                    self.place(graph, part)?;
                }
            }
        }
        Ok(())
    }

    /// Most bytes of a tensor between a rewrite's parts.
    fn most_between(&self) -> u64 {
        self.gpu.limits().max_storage_buffer_binding_size.min(MAX_BETWEEN)
    }

    /// Every variant that can compute a node of one item here, the best guess last.
    fn candidates(&self, graph: &Graph, one: &Node) -> Vec<Variant> {
        let precision = self.options.precision;
        let shaders = one.kernel.shaders.iter().enumerate();
        let able = |s: &Shader| self.gpu.meets(s.needs, precision) && (s.fits)(&one.params);
        let mut all: Vec<Variant> =
            shaders.filter(|(_, s)| able(s)).map(|(i, _)| Variant::Shader(i)).collect();
        let small = graph.node_cost(one).flops < SMALL;
        let named = matches!(self.options.variants, Variants::Only(_));
        for rewrite in one.kernel.rewrites.others {
            // Where there is little to save, what transforms lose of the last digits is not worth it.
            let wanted = rewrite.accurate || named || !small;
            let room = self.transformed + (rewrite.weights)(one) <= MAX_TRANSFORMED
                && (rewrite.largest)(one) <= self.most_between();
            if !wanted || !room || !(rewrite.fits)(graph, one, precision) {
                continue;
            }
            let at = if (rewrite.preferred)(one, self.gpu.is_software()) { all.len() } else { 0 };
            let ways = match rewrite.work {
                None => vec![Variant::Rewritten(rewrite, 0)],
                Some(kernel) => (0..kernel.shaders.len())
                    .filter(|&i| self.gpu.meets(kernel.shaders[i].needs, precision))
                    .map(|i| Variant::Rewritten(rewrite, i))
                    .collect(),
            };
            all.splice(at..at, ways);
        }
        if self.gpu.is_software() && !named {
            // There is no real workgroup memory: such shaders are slow there, and slow to compile.
            all.retain(|v| v.shader(one).is_none_or(|s| !s.needs.hardware));
        }
        all
    }

    /// The best guess of candidates.
    fn guess(candidates: &[Variant], one: &Node) -> Variant {
        candidates.iter().rfind(|v| !v.is_experimental(one)).copied().unwrap_or(Variant::Shader(0))
    }

    /// Whether measuring a node of one item pays.
    fn worth_measuring(&self, graph: &Graph, one: &Node) -> bool {
        let small = if self.gpu.is_software() { SMALL } else { SMALL_ON_HARDWARE };
        // What a node updates in place has values of its own.
        let alone = one.outputs.len() == 1 && graph.is_made(one.output());
        alone && self.options.variants == Variants::Measured && graph.node_cost(one).flops >= small
    }

    /// How many sizes of a graph will have to be measured: more, where parts of rewrites are measured, too.
    fn unknown(&self, graph: &Graph) -> usize {
        let unknown = |node: &Node| {
            let one = node.of_item();
            let chosen = self.worth_measuring(graph, &one) && self.candidates(graph, &one).len() > 1;
            chosen.then(|| self.key(&one)).filter(|key| self.gpu.cache().choice(key).is_none())
        };
        graph.nodes.iter().filter_map(unknown).collect::<BTreeSet<String>>().len()
    }

    fn variant(&mut self, graph: &Graph, node: &Node) -> Result<Variant> {
        let one = node.of_item();
        let candidates = self.candidates(graph, &one);
        if let Variants::Only(name) = self.options.variants {
            return Ok(candidates.into_iter().find(|v| v.name(&one) == name).unwrap_or(Variant::Shader(0)));
        }
        let guess = Self::guess(&candidates, &one);
        if candidates.len() < 2 || self.options.variants == Variants::Rule {
            return Ok(guess);
        }
        let key = self.key(&one);
        if let Some(name) = self.gpu.cache().choice(&key) {
            if let Some(variant) = candidates.iter().find(|v| v.name(&one) == name) {
                self.choices.known += 1;
                return Ok(*variant);
            }
            log::warn!(
                "the tuning file names `{name}` for {key}, which does not compute it here: measured anew"
            );
        }
        if !self.worth_measuring(graph, &one) {
            return Ok(guess);
        }
        let done = self.choices.measured;
        self.gpu.tell(Measuring { done, total: self.expected.max(done + 1), size: &key });
        let best = self.measure(graph, node, &candidates)?;
        self.choices.measured += 1;
        self.gpu.cache().set_choice(&key, best.name(&one));
        Ok(best)
    }

    /// What a choice is kept under: the kernel, every size in the uniform of one item, the storage.
    fn key(&self, node: &Node) -> String {
        let precision = self.options.precision;
        let words = node.params.len() / 4 - if node.kernel.epilogue { 4 } else { 0 };
        let mut key = node.kernel.name.to_string();
        for word in node.params.as_chunks().0.iter().take(words) {
            key.push_str(&format!(" {}", u32::from_le_bytes(*word)));
        }
        let half = |half| if half { "f16" } else { "f32" };
        key.push_str(&format!(" {} {}", half(precision.elem_f16), half(precision.weight_f16)));
        key
    }

    /// The candidate to take among those whose result is right.
    fn measure(&self, graph: &Graph, node: &Node, candidates: &[Variant]) -> Result<Variant> {
        let precision = self.options.precision;
        let work = Work::new(graph, node);
        let shared = work.shared(self.gpu, precision)?;
        let guess = Self::guess(candidates, node);
        let others = candidates.iter().rev().copied().filter(|variant| *variant != guess);
        // The rule's first.
        let mut admitted = Vec::new();
        for variant in std::iter::once(guess).chain(others) {
            match self.admit(&work, &shared, variant) {
                Ok(trial) => admitted.extend(trial.map(|trial| (variant, trial))),
                Err(error) if variant.is_experimental(node) && !matches!(error, Error::Lost { .. }) => {
                    log::warn!("{error}: `{}` is not used", variant.name(node));
                }
                Err(error) => return Err(error),
            }
        }
        let trials: Vec<&Trial> = admitted.iter().map(|(_, trial)| trial).collect();
        let samples = sample(&trials)?;
        for ((variant, _), samples) in admitted.iter().zip(&samples) {
            let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
            let (key, name) = (self.key(&node.of_item()), variant.name(node));
            log::debug!("{key} {name}: {:.4} ms at least, {} samples", least * 1e3, samples.len());
        }
        Ok(admitted.get(decide(&samples)).map_or(Variant::Shader(0), |(variant, _)| *variant))
    }

    /// A variant ready to be timed, or none where its result is wrong.
    fn admit(&self, work: &Work, shared: &Shared, variant: Variant) -> Result<Option<Trial>> {
        let precision = self.options.precision;
        let (mut g, node) = work.graph(variant);
        let options = ProgramOptions { variants: Variants::Rule, ..*self.options };
        let name = variant.name(&node);
        Chooser::new(self.gpu, &options).append(&mut g, node, variant)?;
        let trial = self.gpu.scoped("a measurement", || Trial::new(self.gpu, &g, precision, shared))?;
        let found = self.gpu.scoped("a measurement", || {
            shared.clear(self.gpu)?;
            trial.first()?;
            shared.read(self.gpu, &work.places)
        })?;
        let nmse = nmse(&work.expected, &found);
        let tolerance = if precision == Precision::F32 { 1e-9 } else { 1e-5 };
        if nmse.is_nan() || nmse > tolerance {
            let (adapter, key) = (self.gpu.name(), self.key(&work.node.of_item()));
            log::warn!("{adapter}: `{name}` is wrong by NMSE {nmse:.1e} at {key}: not used");
            return Ok(None);
        }
        Ok(Some(trial))
    }
}

/// Samples of each trial's seconds: one of those that are far behind, several of the others, in turn.
fn sample(trials: &[&Trial]) -> Result<Vec<Vec<f64>>> {
    let mut samples: Vec<Vec<f64>> = Vec::new();
    for trial in trials {
        samples.push(vec![trial.sample(1)?]);
    }
    let fastest = samples.iter().map(|samples| samples[0]).fold(f64::INFINITY, f64::min);
    // The sample tells who is far behind, and how many make a whole one.
    let hopeful: Vec<(usize, usize)> = (0..trials.len())
        .filter(|i| samples[*i][0] <= HOPELESS * fastest)
        .map(|i| (i, (SAMPLE.as_secs_f64() / samples[i][0].max(1e-9)).ceil().min(MAX_REPEATS) as usize))
        .collect();
    hopeful.iter().filter(|(_, repeats)| *repeats > 1).for_each(|(i, _)| samples[*i].clear());
    let (start, budget) = (Instant::now(), SPENT * hopeful.len() as u32);
    for _ in 0..SAMPLES {
        let enough = hopeful.iter().all(|(i, _)| samples[*i].len() >= FEWEST);
        if enough && start.elapsed() > budget {
            break;
        }
        for (i, repeats) in &hopeful {
            samples[*i].push(trials[*i].sample(*repeats)?);
        }
    }
    Ok(samples)
}

/// A node alone, with numbers to compute, and what comes of them at some places.
struct Work<'a> {
    graph: &'a Graph,
    node: &'a Node,
    inputs: Vec<Vec<f32>>,
    places: Vec<usize>,
    expected: Vec<f32>,
}

impl<'a> Work<'a> {
    fn new(graph: &'a Graph, node: &'a Node) -> Self {
        let mut state = 1u64;
        let mut bits = || {
            // An LCG of Knuth's: any spread numbers do.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 40
        };
        let mut uniform = || bits() as f32 / 8_388_608.0 - 1.0;
        let inputs: Vec<Vec<f32>> =
            node.inputs.iter().map(|id| (0..graph.info(*id).len()).map(|_| uniform()).collect()).collect();
        let len = graph.info(node.output()).len();
        let random = (0..CHECKED).map(|_| (bits() as usize * len) >> 24);
        let places: Vec<usize> = random.chain(len.saturating_sub(LAST)..len).collect();
        let slices: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let expected = match node.kernel.element {
            Some(element) => {
                places.par_iter().map(|place| element(&node.params, &slices, *place) as f32).collect()
            }
            None => {
                let mut all = vec![0.0; len];
                (node.kernel.cpu)(&node.params, &slices, &mut [&mut all]);
                places.iter().map(|place| all[*place]).collect()
            }
        };
        Work { graph, node, inputs, places, expected }
    }

    /// The node with tensors of its own: inputs named by number, and those known before the run that a rewrite
    /// needs so.
    fn graph(&self, variant: Variant) -> (Graph, Node) {
        let mut g = Graph::new();
        let mut node = self.node.clone();
        for (i, id) in self.node.inputs.iter().enumerate() {
            let info = self.graph.info(*id);
            let constant = variant.rewrite().is_some_and(|rewrite| rewrite.known.contains(&i));
            let source = if constant {
                Source::Constant(self.inputs[i].clone())
            } else {
                Source::Input(i.to_string())
            };
            node.inputs[i] = g.add(&info.shape, info.storage, source).id;
        }
        let info = self.graph.info(self.node.output());
        let y = g.add(&info.shape, info.storage, Source::Node);
        node.outputs = vec![y.id];
        g.output("y", &y);
        (g, node)
    }

    /// Its inputs and output on the GPU.
    fn shared(&self, gpu: &Gpu, precision: Precision) -> Result<Shared> {
        let (graph, _) = self.graph(Variant::Shader(0));
        gpu.scoped("a measurement", || Shared::new(gpu, &graph, precision, &self.inputs))
    }
}
