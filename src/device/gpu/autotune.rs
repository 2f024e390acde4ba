//! Which of a kernel's shaders, or which rewrite, computes a node: by rule where the node is small, else by a short
//! measurement that is kept on disk ([`super::cache`]). A variant is admitted only after its result on the very sizes
//! matched the CPU device's.

use super::adapter::Gpu;
use super::choices::Choices;
use super::queue::GpuQueue;
use crate::device::nmse::nmse;
use crate::device::options::{ProgramOptions, Variants};
use crate::device::tensor::DeviceTensor;
use crate::device::weight_cache::Weights;
use crate::error::{Error, Result};
use crate::graph::rewrites::Rewrite;
use crate::graph::{Graph, Node, Source};
use crate::kernels::{Needs, Precision, Shader};
use std::time::{Duration, Instant};

/// Below this many operations a node is not worth a measurement.
const WORTH_MEASURING: f64 = 3e7;
/// Weights that rewrites transform, of one graph, take at most this many bytes: Winograd's are four times the plain ones.
const MAX_TRANSFORMED: usize = 1 << 30;
/// A tensor between a rewrite's parts takes at most this many bytes: Winograd's are 2.25 times a convolution's pictures,
/// and no plan made before a choice knows of them.
const MAX_BETWEEN: u64 = 1 << 29;
/// Runs of a variant are timed until this much time is spent.
const SPENT: Duration = Duration::from_millis(60);

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
        self.shader(node).is_some_and(|shader| shader.needs.cooperative)
    }
}

impl Gpu {
    /// Gives every node its shader and puts rewrites in place. Measures what is not known yet.
    pub(in crate::device) fn choose(&self, graph: &mut Graph, options: &ProgramOptions) -> Result<()> {
        let mut chooser = Chooser::new(self, options);
        for node in std::mem::take(&mut graph.nodes) {
            chooser.place(graph, node)?;
        }
        if chooser.choices.measured > 0 {
            self.cache().save_choices();
        }
        self.count(chooser.choices);
        Ok(())
    }

    /// Whether the adapter has what a shader needs.
    pub fn meets(&self, needs: Needs, precision: Precision) -> bool {
        needs.subgroup.is_none_or(|size| self.subgroup() == Some(size))
            && (!needs.cooperative || (self.has_cooperative() && precision == Precision::F16))
    }
}

/// Chooses for the nodes of a graph.
struct Chooser<'a> {
    gpu: &'a Gpu,
    options: &'a ProgramOptions,
    choices: Choices,
    /// Bytes of weights that rewrites transformed.
    transformed: usize,
}

impl<'a> Chooser<'a> {
    fn new(gpu: &'a Gpu, options: &'a ProgramOptions) -> Self {
        Chooser { gpu, options, choices: Choices::default(), transformed: 0 }
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
                    (rewrite.apply)(graph, &node, shader);
                    return Ok(());
                }
                let rest = std::mem::take(&mut graph.nodes);
                (rewrite.apply)(graph, &node, shader);
                let parts = std::mem::replace(&mut graph.nodes, rest);
                for part in parts {
                    self.place(graph, part)?;
                }
            }
        }
        Ok(())
    }

    /// Every variant that can compute a node here, the best guess last.
    fn candidates(&self, graph: &Graph, node: &Node) -> Vec<Variant> {
        let precision = self.options.precision;
        let shaders = node.kernel.shaders.iter().enumerate();
        let able = |s: &Shader| self.gpu.meets(s.needs, precision) && (s.fits)(&node.params);
        let mut all: Vec<Variant> =
            shaders.filter(|(_, s)| able(s)).map(|(i, _)| Variant::Shader(i)).collect();
        let most = self.gpu.limits().max_storage_buffer_binding_size.min(MAX_BETWEEN);
        for rewrite in node.kernel.rewrites.others {
            let wanted = rewrite.accurate || !self.options.accurate;
            if !wanted || !(rewrite.fits)(graph, node, precision) || (rewrite.largest)(node) > most {
                continue;
            }
            match rewrite.work {
                None => all.push(Variant::Rewritten(rewrite, 0)),
                Some(kernel) => all.extend(
                    (0..kernel.shaders.len())
                        .filter(|&i| self.gpu.meets(kernel.shaders[i].needs, precision))
                        .map(|i| Variant::Rewritten(rewrite, i)),
                ),
            }
        }
        all
    }

    fn variant(&mut self, graph: &Graph, node: &Node) -> Result<Variant> {
        let mut candidates = self.candidates(graph, node);
        let small = graph.node_cost(node).flops < WORTH_MEASURING;
        let named = matches!(self.options.variants, Variants::Only(_));
        // Where there is little to save, what transforms lose of the last digits is not worth it.
        candidates.retain(|v| {
            v.rewrite().is_none_or(|rewrite| {
                let room = self.transformed + (rewrite.weights)(node) <= MAX_TRANSFORMED;
                room && (rewrite.accurate || named || !small)
            })
        });
        if let Variants::Only(name) = self.options.variants {
            return Ok(candidates.into_iter().find(|v| v.name(node) == name).unwrap_or(Variant::Shader(0)));
        }
        if self.gpu.is_software() {
            // There is no real workgroup memory: such shaders are slow there, and slow to compile.
            candidates.retain(|v| v.shader(node).is_none_or(|s| !s.needs.hardware));
        }
        let guess =
            candidates.iter().rfind(|v| !v.is_experimental(node)).copied().unwrap_or(Variant::Shader(0));
        if candidates.len() < 2 || self.options.variants == Variants::Rule {
            return Ok(guess);
        }
        let key = self.key(node);
        if let Some(name) = self.gpu.cache().choice(&key) {
            if let Some(variant) = candidates.iter().find(|v| v.name(node) == name) {
                self.choices.known += 1;
                return Ok(*variant);
            }
            log::warn!(
                "the tuning file names `{name}` for {key}, which does not compute it here: measured anew"
            );
        }
        if small {
            return Ok(guess);
        }
        let best = self.measure(graph, node, &candidates)?;
        self.choices.measured += 1;
        self.gpu.cache().set_choice(&key, best.name(node));
        Ok(best)
    }

    /// What a choice is kept under: the kernel, every size in its uniform, the storage.
    fn key(&self, node: &Node) -> String {
        let precision = self.options.precision;
        let words = node.params.len() / 4 - if node.kernel.epilogue { 4 } else { 0 };
        let mut key = node.kernel.name.to_string();
        for word in node.params.as_chunks().0.iter().take(words) {
            key.push_str(&format!(" {}", u32::from_le_bytes(*word)));
        }
        let half = |half| if half { "f16" } else { "f32" };
        key.push_str(&format!(" {} {}", half(precision.elem_f16), half(precision.weight_f16)));
        if self.options.accurate {
            key.push_str(" accurate");
        }
        key
    }

    /// The fastest of the candidates whose result is right.
    fn measure(&self, graph: &Graph, node: &Node, candidates: &[Variant]) -> Result<Variant> {
        let precision = self.options.precision;
        let trial = Trial::new(graph, node);
        let tolerance = if precision == Precision::F32 { 1e-9 } else { 1e-5 };
        let mut best: Option<(f64, Variant)> = None;
        // The best guess first, so that a slow one is given up after its first run.
        for &variant in candidates.iter().rev() {
            let name = variant.name(node);
            let timed = match self.time(&trial, variant, best.map(|(t, _)| t)) {
                Err(error) if variant.is_experimental(node) && !matches!(error, Error::Lost { .. }) => {
                    log::warn!("{error}: `{name}` is not used");
                    continue;
                }
                timed => timed?,
            };
            match timed {
                Timed { nmse, .. } if nmse.is_nan() || nmse > tolerance => {
                    log::warn!(
                        "{}: `{name}` is wrong by NMSE {nmse:.1e} at {}: not used",
                        self.gpu.name(),
                        self.key(node)
                    );
                }
                Timed { seconds, .. } => {
                    log::debug!("{} {name}: {:.3} ms", self.key(node), seconds * 1e3);
                    if best.is_none_or(|(least, _)| seconds < least) {
                        best = Some((seconds, variant));
                    }
                }
            }
        }
        Ok(best.map_or(Variant::Shader(0), |(_, variant)| variant))
    }

    fn time(&self, trial: &Trial, variant: Variant, best: Option<f64>) -> Result<Timed> {
        let (mut g, node) = trial.graph(variant);
        let options = ProgramOptions { variants: Variants::Rule, ..*self.options };
        Chooser::new(self.gpu, &options).append(&mut g, node, variant)?;
        let program = self.gpu.program(&g, &Weights::none(), options.precision, &[])?;
        for (i, values) in trial.inputs.iter().enumerate() {
            if let Some(input) = g.find_input(&i.to_string()).and_then(|id| program.value(id)) {
                input.write(values)?;
            }
        }
        let mut queue = GpuQueue::new(self.gpu);
        let mut run = || -> Result<f64> {
            let start = Instant::now();
            program.enqueue(&g, &mut queue, &mut |_| true)?;
            self.gpu.scoped("a trial", || self.gpu.wait_for(&queue.submit()?, "a trial"))?;
            Ok(start.elapsed().as_secs_f64())
        };
        // The first run finds everything cold: it only tells whether a second is worth its time.
        let first = run()?;
        let mut times = Vec::new();
        let start = Instant::now();
        if best.is_none_or(|best| first < 3.0 * best) {
            while times.len() < 2 || (start.elapsed() < SPENT && times.len() < 20) {
                times.push(run()?);
            }
        }
        times.sort_by(f64::total_cmp);
        let nmse = nmse(
            &trial.expected,
            &program.value(g.outputs[0].1).map_or_else(|| Ok(Vec::new()), DeviceTensor::read)?,
        );
        Ok(Timed { seconds: times.get(times.len() / 4).copied().unwrap_or(first), nmse })
    }
}

struct Timed {
    seconds: f64,
    nmse: f64,
}

/// A node alone, with numbers to compute and their result.
struct Trial<'a> {
    graph: &'a Graph,
    node: &'a Node,
    inputs: Vec<Vec<f32>>,
    expected: Vec<f32>,
}

impl<'a> Trial<'a> {
    fn new(graph: &'a Graph, node: &'a Node) -> Self {
        let mut state = 1u64;
        let mut uniform = || {
            // An LCG of Knuth's: any spread numbers do.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        };
        let inputs: Vec<Vec<f32>> =
            node.inputs.iter().map(|id| (0..graph.info(*id).len()).map(|_| uniform()).collect()).collect();
        let mut expected = vec![0.0; graph.info(node.output()).len()];
        let slices: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        (node.kernel.cpu)(&node.params, &slices, &mut [&mut expected]);
        Trial { graph, node, inputs, expected }
    }

    /// The node with tensors of its own: inputs named by number, and those known before the run that a rewrite
    /// needs so.
    fn graph(&self, variant: Variant) -> (Graph, Node) {
        let mut g = Graph::new();
        let mut node = self.node.clone();
        for (i, id) in self.node.inputs.iter().enumerate() {
            let info = self.graph.info(*id);
            let constant = variant.rewrite().is_some_and(|rewrite| rewrite.known == Some(i));
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
}
