//! Devices run graphs: the GPU through wgpu, the CPU through the kernels' `cpu` functions.

mod cpu;
mod gpu;

pub use gpu::{Choices, Gpu};

use crate::error::{Error, Result};
use crate::graph::plan::Limits;
use crate::graph::{Graph, Node, Repack, Source, Storage, TensorId, WeightPart, fuse::fuse};
use crate::kernels::{Cost, Precision};
use crate::weights::Checkpoint;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Which device to take.
#[derive(Clone, Debug, Default)]
pub enum DeviceChoice {
    /// A hardware GPU, else the CPU.
    #[default]
    Auto,
    /// The best hardware GPU, or an error.
    Gpu,
    /// The CPU device.
    Cpu,
    /// The adapter whose name holds this text, case aside; also how software Vulkan is chosen.
    Named(String),
    /// A wgpu device and queue the caller already has.
    Existing(Gpu),
}

impl DeviceChoice {
    /// `auto`, `gpu`, `cpu`, or part of an adapter's name.
    pub fn parse(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "" | "auto" => DeviceChoice::Auto,
            "gpu" => DeviceChoice::Gpu,
            "cpu" => DeviceChoice::Cpu,
            _ => DeviceChoice::Named(text.to_string()),
        }
    }
}

/// Every device there is, as [`Device::name`] calls it.
pub fn list_adapters() -> Vec<String> {
    let mut names = gpu::adapter_names();
    names.push(Device::Cpu.name());
    names
}

/// Something that runs graphs. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Device {
    /// Plain parallel loops and blocked matrix products.
    Cpu,
    /// Compute pipelines through wgpu.
    Gpu(Gpu),
}

impl Device {
    /// Opens the chosen device. Errors name the adapters there are.
    pub fn open(choice: &DeviceChoice) -> Result<Device> {
        match choice {
            DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Existing(gpu) => Ok(Device::Gpu(gpu.clone())),
            DeviceChoice::Gpu => Gpu::open_hardware()?.map(Device::Gpu).ok_or_else(|| {
                Error::Device(format!(
                    "no hardware GPU answers ({}); install its Vulkan driver, or use `--device cpu`",
                    gpu::found_adapters()
                ))
            }),
            DeviceChoice::Named(name) => Gpu::open_named(name).map(Device::Gpu),
            DeviceChoice::Auto => match Gpu::open_hardware() {
                Ok(Some(gpu)) => Ok(Device::Gpu(gpu)),
                Ok(None) => Ok(Device::Cpu),
                Err(error) => {
                    log::warn!("{error}; taking the CPU");
                    Ok(Device::Cpu)
                }
            },
        }
    }

    /// What a person calls it: the adapter with its driver, or the CPU and its threads.
    pub fn name(&self) -> String {
        match self {
            Device::Cpu => format!("CPU, {} threads", rayon::current_num_threads()),
            Device::Gpu(gpu) => gpu.name(),
        }
    }

    /// The storage types that serve this device best: f16 where its shaders have it and it is hardware.
    pub fn precision(&self) -> Precision {
        match self {
            Device::Gpu(gpu) if gpu.prefers_f16() => Precision::F16,
            _ => Precision::F32,
        }
    }

    /// What it allows.
    pub fn limits(&self) -> DeviceLimits {
        match self {
            Device::Cpu => DeviceLimits {
                name: self.name(),
                binding: None,
                buffer: None,
                align: 4,
                memory: cpu::free_memory(),
            },
            Device::Gpu(gpu) => DeviceLimits::of_wgpu(&gpu.name(), &gpu.limits()),
        }
    }

    /// Makes a graph runnable: fuses, plans, uploads the weights it reads, compiles pipelines.
    ///
    /// `kept` tensors stay readable after a run. Errors: weights that are missing or of another shape, a tensor
    /// above the device's limits, a kernel its compiler refuses.
    pub fn program(&self, mut graph: Graph, weights: &Weights, options: &ProgramOptions) -> Result<Program> {
        // The kernels count elements in 32 bits.
        if let Some(large) = graph.tensors.iter().find(|t| u32::try_from(t.len()).is_err()) {
            let what = "has more elements than kernels can count; give a smaller `--size` or `--count`";
            return Err(Error::Request(format!("a tensor of shape {:?} {what}", large.shape)));
        }
        fuse(&mut graph);
        if let Device::Gpu(gpu) = self {
            gpu.choose(&mut graph, options)?;
        }
        let kept: Vec<TensorId> = match options.keep {
            Keep::Outputs => Vec::new(),
            Keep::Taps => graph.taps.iter().map(|(_, id)| *id).collect(),
            Keep::All => graph.nodes.iter().map(|n| n.output).collect(),
        };
        let backend = match self {
            Device::Cpu => Backend::Cpu(cpu::CpuProgram::new(&graph, weights, &kept)?),
            Device::Gpu(gpu) => {
                Backend::Gpu(Box::new(gpu.program(&graph, weights, options.precision, &kept)?))
            }
        };
        Ok(Program { graph, backend })
    }
}

/// What a device allows, as far as a plan can run into it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceLimits {
    /// What a person calls the device.
    pub name: String,
    /// Most bytes of a tensor that a shader binds; none where nothing is bound.
    pub binding: Option<u64>,
    /// Most bytes of a buffer.
    pub buffer: Option<u64>,
    /// Offsets of tensors in a buffer are multiples of this.
    pub align: u64,
    /// Free memory, where it is known: wgpu does not say it of a GPU.
    pub memory: Option<u64>,
}

impl DeviceLimits {
    /// What WebGPU guarantees on every adapter.
    pub fn webgpu() -> Self {
        DeviceLimits::of_wgpu("WebGPU's default limits", &wgpu::Limits::default())
    }

    fn of_wgpu(name: &str, limits: &wgpu::Limits) -> Self {
        DeviceLimits {
            name: name.to_string(),
            binding: Some(limits.max_storage_buffer_binding_size),
            buffer: Some(limits.max_buffer_size),
            align: u64::from(limits.min_storage_buffer_offset_alignment),
            memory: None,
        }
    }

    /// What the plan of a graph heeds of them.
    pub fn plan_limits(&self) -> Limits {
        Limits { align: self.align, max_buffer: self.buffer.map_or(u64::MAX, |most| most.min(1 << 31)) }
    }
}

impl std::fmt::Display for DeviceLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        let mib = |bytes: u64| bytes >> 20;
        if let (Some(binding), Some(buffer)) = (self.binding, self.buffer) {
            write!(f, ": a shader binds {} MiB, a buffer holds {} MiB", mib(binding), mib(buffer))?;
        }
        self.memory.map_or(Ok(()), |bytes| write!(f, ", {} MiB of memory free", mib(bytes)))
    }
}

/// How a graph is built into a program.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProgramOptions {
    /// Storage of activations and weights on the GPU; the CPU computes in f32.
    pub precision: Precision,
    /// What stays readable after a run.
    pub keep: Keep,
    /// Which shaders compute it on the GPU.
    pub variants: Variants,
    /// Only ways to compute that keep f32's accuracy: without Winograd's transforms, whose rounding errors are about
    /// three times a plain convolution's.
    pub accurate: bool,
}

/// How the GPU's shaders are chosen among those that compute a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variants {
    /// The fastest, as measured on this adapter now or earlier; small nodes by rule.
    #[default]
    Measured,
    /// By rule alone.
    Rule,
    /// The one of this name wherever it computes a node, else the first.
    Only(&'static str),
}

/// What stays readable after a run, besides the outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: memory is reused as soon as possible.
    #[default]
    Outputs,
    /// The blocks' outputs ([`Graph::tap`]).
    Taps,
    /// Every node's output, to compare two devices node by node.
    All,
}

/// A checkpoint and what of it is on the device already, so that programs of several sizes share one copy.
pub struct Weights {
    checkpoint: Option<Checkpoint>,
    on_cpu: Mutex<HashMap<WeightKey, Arc<Vec<f32>>>>,
    on_gpu: Mutex<HashMap<WeightKey, wgpu::Buffer>>,
}

/// Parts, layout, and whether it is stored in f16.
type WeightKey = (Vec<WeightPart>, Repack, bool);

impl Weights {
    /// Nothing is read before a program needs it.
    pub fn new(checkpoint: Checkpoint) -> Self {
        Weights { checkpoint: Some(checkpoint), on_cpu: Mutex::default(), on_gpu: Mutex::default() }
    }

    /// No weights: for graphs that are made of inputs and constants only.
    pub fn none() -> Self {
        Weights { checkpoint: None, on_cpu: Mutex::default(), on_gpu: Mutex::default() }
    }

    /// The file or files. Errors: there are [none](Self::none), and the graph reads the weight.
    fn checkpoint(&self, parts: &[WeightPart]) -> Result<&Checkpoint> {
        let missing = || {
            let name = WeightPart::list(parts);
            Error::Request(format!("the graph reads the weight `{name}`, but it was given no checkpoint"))
        };
        self.checkpoint.as_ref().ok_or_else(missing)
    }

    /// Bytes of the graph's weights that the CPU device has not read yet.
    fn bytes_to_read(&self, graph: &Graph) -> u64 {
        let cache = self.on_cpu.lock().unwrap_or_else(PoisonError::into_inner);
        weight_tensors(graph)
            .filter(|(_, parts, repack, _)| !cache.contains_key(&(parts.to_vec(), *repack, false)))
            .map(|(id, ..)| graph.info(id).len() as u64 * 4)
            .sum()
    }

    /// Whether the devices' copies take more than a gigabyte.
    pub fn is_large(&self) -> bool {
        const LARGE: u64 = 1 << 30;
        let on_cpu = self.on_cpu.lock().unwrap_or_else(PoisonError::into_inner);
        let on_gpu = self.on_gpu.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = on_cpu.values().map(|v| v.len() as u64 * 4).sum::<u64>();
        bytes + on_gpu.values().map(wgpu::Buffer::size).sum::<u64>() > LARGE
    }

    /// Gives the devices' copies back if they are large: a 10 GB encoder that is done must leave room for the U-Net.
    /// Small networks stay for the next picture. Programs that still run keep what they use.
    pub fn release_if_large(&self) {
        if self.is_large() {
            self.on_cpu.lock().unwrap_or_else(PoisonError::into_inner).clear();
            self.on_gpu.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    fn cpu(&self, parts: &[WeightPart], repack: Repack) -> Result<Arc<Vec<f32>>> {
        let key = (parts.to_vec(), repack, false);
        let mut cache = self.on_cpu.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(values) = cache.get(&key) {
            return Ok(values.clone());
        }
        let values = Arc::new(self.checkpoint(parts)?.read_parts(parts, repack)?);
        cache.insert(key, values.clone());
        Ok(values)
    }

    fn gpu(
        &self,
        parts: &[WeightPart],
        repack: Repack,
        f16: bool,
        upload: impl FnOnce() -> Result<wgpu::Buffer>,
    ) -> Result<wgpu::Buffer> {
        let key = (parts.to_vec(), repack, f16);
        let cached = self.on_gpu.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(buffer) = cached {
            return Ok(buffer);
        }
        let buffer = upload()?;
        self.on_gpu.lock().unwrap_or_else(PoisonError::into_inner).insert(key, buffer.clone());
        Ok(buffer)
    }
}

enum Backend {
    Cpu(cpu::CpuProgram),
    Gpu(Box<gpu::GpuProgram>),
}

/// A piece of one program's output that becomes a piece of another's input; in elements.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Output of the source.
    pub from: TensorId,
    /// First element there.
    pub first: usize,
    /// Input of the target.
    pub to: TensorId,
    /// First element there.
    pub at: usize,
    /// How many.
    pub len: usize,
}

/// Called between pieces of work with the share of the run that is done; returning false cancels.
pub type Monitor<'a> = dyn FnMut(f32) -> bool + 'a;

/// A graph on a device: write inputs, run, read outputs, as often as you like.
pub struct Program {
    graph: Graph,
    backend: Backend,
}

impl Program {
    /// The graph as it runs: after fusion.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Bytes of activations, and the least any plan could take.
    pub fn memory(&self) -> (u64, u64) {
        match &self.backend {
            Backend::Cpu(p) => p.memory(),
            Backend::Gpu(p) => p.memory(),
        }
    }

    #[track_caller]
    fn input(&self, name: &str) -> TensorId {
        match self.graph.find_input(name) {
            Some(id) => id,
            None => panic!("the graph has no input `{name}`"),
        }
    }

    #[track_caller]
    fn output(&self, name: &str) -> TensorId {
        match self.graph.find_output(name) {
            Some(id) => id,
            None => panic!("the graph has no output `{name}`"),
        }
    }

    /// Sets an input.
    #[track_caller]
    pub fn write(&mut self, name: &str, values: &[f32]) {
        let id = self.input(name);
        let expected = self.graph.info(id).len();
        assert_eq!(values.len(), expected, "input `{name}` has {expected} elements, {} given", values.len());
        match &mut self.backend {
            Backend::Cpu(p) => p.write(id, values),
            Backend::Gpu(p) => p.write(&self.graph, id, values),
        }
    }

    /// Computes every node.
    pub fn run(&mut self, monitor: &mut Monitor<'_>) -> Result<()> {
        match &mut self.backend {
            Backend::Cpu(p) => p.run(&self.graph, monitor),
            Backend::Gpu(p) => p.run(&self.graph, monitor),
        }
    }

    /// Runs every node by itself and times it: on a GPU as a submission of its own, waited for, which adds some tenths
    /// of a millisecond to each.
    pub fn profile(&mut self) -> Result<Vec<NodeTime>> {
        let times = match &mut self.backend {
            Backend::Cpu(p) => p.profile(&self.graph),
            Backend::Gpu(p) => p.profile(&self.graph)?,
        };
        let named = |(node, seconds): (&Node, f64)| {
            let shader =
                if matches!(self.backend, Backend::Cpu(_)) { node.kernel.name } else { node.shader().name };
            NodeTime { label: node.label.clone(), shader, seconds, cost: self.graph.node_cost(node) }
        };
        Ok(self.graph.nodes.iter().zip(times).map(named).collect())
    }

    /// An output's values.
    #[track_caller]
    pub fn read(&mut self, name: &str) -> Result<Vec<f32>> {
        let id = self.output(name);
        self.read_tensor(id)
    }

    /// A kept tensor's values.
    pub fn read_tensor(&mut self, id: TensorId) -> Result<Vec<f32>> {
        match &mut self.backend {
            Backend::Cpu(p) => Ok(p.read(id)),
            Backend::Gpu(p) => p.read(&self.graph, id),
        }
    }

    /// Copies pieces of another program's outputs into this one's inputs, on the device. Both programs were made for
    /// one device and precision.
    ///
    /// Pieces begin and end at even elements, unless they are whole tensors: copies are in whole words.
    #[track_caller]
    pub fn copy_from(&mut self, source: &Program, copies: &[Transfer]) {
        for c in copies {
            let within = |p: &Program, id: TensorId, first: usize| first + c.len <= p.graph.info(id).len();
            assert!(within(source, c.from, c.first) && within(self, c.to, c.at), "{c:?} leaves its tensors");
        }
        match (&mut self.backend, &source.backend) {
            (Backend::Cpu(to), Backend::Cpu(from)) => to.copy_from(from, copies),
            (Backend::Gpu(to), Backend::Gpu(from)) => to.copy_from(&self.graph, from, &source.graph, copies),
            _ => panic!("the programs are on different devices"),
        }
    }

    /// Copies the first elements of an output to an input, as many as it holds, for the next run.
    #[track_caller]
    pub fn feed_back(&mut self, output: &str, input: &str) {
        let (from, to) = (self.output(output), self.input(input));
        let len = self.graph.info(to).len();
        self.keep(&[Transfer { from, first: 0, to, at: 0, len }]);
    }

    /// Copies pieces of its own outputs to its own inputs, for the runs to come: a cache grows so. Pieces as
    /// [`Program::copy_from`] takes them.
    #[track_caller]
    pub fn keep(&mut self, copies: &[Transfer]) {
        for c in copies {
            let within = |id: TensorId, first: usize| first + c.len <= self.graph.info(id).len();
            assert!(within(c.from, c.first) && within(c.to, c.at), "{c:?} leaves its tensors");
        }
        match &mut self.backend {
            Backend::Cpu(p) => p.keep(copies),
            Backend::Gpu(p) => p.keep(&self.graph, copies),
        }
    }
}

/// What a node took.
#[derive(Clone, Debug)]
pub struct NodeTime {
    /// The node's label.
    pub label: String,
    /// The shader, or on the CPU the kernel, that computed it.
    pub shader: &'static str,
    /// Seconds.
    pub seconds: f64,
    /// Its arithmetic and least traffic.
    pub cost: Cost,
}

/// The weight tensors a graph reads: id, parts, layout, storage.
fn weight_tensors(graph: &Graph) -> impl Iterator<Item = (TensorId, &[WeightPart], Repack, Storage)> {
    graph.tensors.iter().enumerate().filter_map(|(i, t)| match &t.source {
        Source::Weight { parts, repack, .. } => Some((TensorId(i), parts.as_slice(), *repack, t.storage)),
        _ => None,
    })
}
