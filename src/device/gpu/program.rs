//! A graph on the GPU: buffers, bind groups, submissions sized by cost.

use super::adapter::Gpu;
use super::clock::Clock;
use super::queue::{Dispatch, GpuQueue, Staging};
use super::upload::STORAGE;
use crate::device::budget::Refusal;
use crate::device::limits::DeviceLimits;
use crate::device::tensor::{DeviceTensor, Place};
use crate::device::weight_cache::{Lease, Weights};
use crate::device::weight_key::Form;
use crate::error::{Error, Result};
use crate::graph::plan::Plan;
use crate::graph::{Graph, Node, Source, TensorId};
use crate::kernels::{Precision, Shader};
use half::f16;
use std::time::Instant;

/// How many bindings of a node are remembered: one that alternates between two values needs two.
const REMEMBERED: usize = 4;

/// The values a node is bound to.
type Bound = Vec<(u64, usize)>;

pub(in crate::device) struct GpuProgram {
    gpu: Gpu,
    precision: Precision,
    plan: Plan,
    arenas: Vec<wgpu::Buffer>,
    /// Per tensor: the buffer of a weight or constant.
    buffers: Vec<Option<wgpu::Buffer>>,
    /// Per tensor: the value of an input or output.
    values: Vec<Option<DeviceTensor>>,
    nodes: Vec<Recorded>,
    /// Every node's parameters.
    uniforms: wgpu::Buffer,
    /// What it holds of the device's budget.
    pub(in crate::device) lease: Lease,
}

/// A node ready to be encoded.
struct Recorded {
    pipeline: wgpu::ComputePipeline,
    /// The last for each of the values it was bound to; the first is what it is bound to now.
    bind_groups: Vec<(Bound, wgpu::BindGroup)>,
    /// Where its parameters begin.
    params: u64,
    grid: [u32; 3],
    work: f64,
}

impl Gpu {
    pub(in crate::device) fn program(
        &self,
        graph: &Graph,
        weights: &Weights,
        precision: Precision,
        kept: &[TensorId],
    ) -> Result<GpuProgram> {
        let settle = || self.wait("what makes room", None);
        let build =
            || self.scoped("the recording of the graph", || self.build(graph, weights, precision, kept));
        self.memory().with_room(settle, build)
    }

    fn build(
        &self,
        graph: &Graph,
        weights: &Weights,
        precision: Precision,
        kept: &[TensorId],
    ) -> Result<GpuProgram, Refusal> {
        if (precision.elem_f16 || precision.weight_f16) && !self.has_f16() {
            return Err(Error::device(format!("{} has no f16 shaders; use f32", self.name())).into());
        }
        let limits = self.device().limits();
        let bytes = |id: TensorId| graph.info(id).bytes(precision);
        let too_large = |id: TensorId, what: &str| {
            let (needed, available) = (bytes(id), limits.max_storage_buffer_binding_size);
            let what = format!(
                "{what} of shape {:?} takes {} MiB, but {} binds at most {} MiB",
                graph.info(id).shape,
                needed >> 20,
                self.name(),
                available >> 20,
            );
            Error::Limit { what, needed, available }
        };
        let plan_limits = DeviceLimits::of_wgpu("", &limits).plan_limits();
        let plan = Plan::new(graph, plan_limits, bytes, kept).map_err(|id| too_large(id, "an activation"))?;
        for i in 0..graph.tensors.len() {
            if bytes(TensorId(i)) > limits.max_storage_buffer_binding_size {
                return Err(too_large(TensorId(i), "a tensor").into());
            }
        }
        let own = plan.bytes() + graph.given_bytes(precision);
        let form = |id: TensorId| (Form::of(graph.info(id).storage.is_half(precision)), bytes(id));
        let mut lease = weights.lease(self.memory(), graph, self.number(), own, form)?;
        let arenas = plan.arenas.iter().map(|&size| self.allocate("activations", size, STORAGE));
        let arenas = arenas.collect::<Result<Vec<wgpu::Buffer>, Refusal>>()?;
        let mut values: Vec<Option<DeviceTensor>> = vec![None; graph.tensors.len()];
        let mut buffers: Vec<Option<wgpu::Buffer>> = vec![None; graph.tensors.len()];
        for (i, tensor) in graph.tensors.iter().enumerate() {
            match &tensor.source {
                Source::Constant(values) => {
                    let buffer = self.buffer("constant", bytes(TensorId(i)), STORAGE)?;
                    self.write_values(&buffer, 0, values, tensor.storage.is_half(precision));
                    buffers[i] = Some(buffer);
                }
                Source::Input(name) => {
                    values[i] = Some(self.tensor(name, tensor.len(), tensor.storage.is_half(precision))?);
                }
                _ => {}
            }
        }
        for (name, id) in graph.outputs.iter().filter(|(_, id)| graph.is_made(*id)) {
            let info = graph.info(*id);
            values[id.0] = Some(self.tensor(name, info.len(), info.storage.is_half(precision))?);
        }
        // The driver compiles on its own threads while weights are read and uploaded here.
        // It may be another thread's.
        let upload = || {
            self.scoped("the upload of weights", || {
                self.upload(graph, weights, precision, &mut lease, &mut buffers)
            })
        };
        let (compiled, uploaded) = rayon::join(|| self.compile_for(graph, precision), upload);
        compiled?;
        uploaded?;
        self.wait("the upload of weights", None)?;
        let (uniforms, offsets) = self.params(graph)?;
        let mut program = GpuProgram {
            gpu: self.clone(),
            precision,
            plan,
            arenas,
            buffers,
            values,
            nodes: Vec::new(),
            uniforms,
            lease,
        };
        program.record(graph, offsets)?;
        Ok(program)
    }

    /// The parameters of a graph's nodes, and where each node's begin.
    fn params(&self, graph: &Graph) -> Result<(wgpu::Buffer, Vec<u64>)> {
        let align = u64::from(self.device().limits().min_uniform_buffer_offset_alignment);
        let offsets: Vec<u64> = graph
            .nodes
            .iter()
            .scan(0, |at, node| {
                let offset = *at;
                *at += (node.params.len() as u64).div_ceil(align) * align;
                Some(offset)
            })
            .collect();
        let total = offsets.last().map_or(0, |last| last + align.max(256));
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let uniforms = self.buffer("params", total, usage)?;
        let mut bytes = vec![0; uniforms.size() as usize];
        for (node, offset) in graph.nodes.iter().zip(&offsets) {
            bytes[*offset as usize..][..node.params.len()].copy_from_slice(&node.params);
        }
        self.queue().write_buffer(&uniforms, 0, &bytes);
        Ok((uniforms, offsets))
    }

    /// Compiles the shaders of a graph.
    fn compile_for(&self, graph: &Graph, precision: Precision) -> Result<()> {
        let mut shaders: Vec<&'static Shader> = graph.nodes.iter().map(Node::shader).collect();
        shaders.sort_by_key(|s| s.name);
        shaders.dedup_by_key(|s| s.name);
        self.compile(&shaders, precision)
    }
}

impl GpuProgram {
    /// The buffer and byte range a tensor is bound from.
    fn binding(&self, graph: &Graph, id: TensorId) -> Option<wgpu::BufferBinding<'_>> {
        let size = std::num::NonZeroU64::new(graph.info(id).bytes(self.precision))?;
        if let Some(value) = &self.values[id.0]
            && let Place::Gpu(_, buffer) = &value.memory
        {
            let offset = value.offset();
            // A whole one has the padding that shaders of quads want.
            return Some(wgpu::BufferBinding { buffer, offset, size: (offset > 0).then_some(size) });
        }
        Some(match self.plan.places[id.0] {
            Some(place) => wgpu::BufferBinding {
                buffer: &self.arenas[place.arena],
                offset: place.offset,
                size: Some(size),
            },
            None => wgpu::BufferBinding { buffer: self.buffers[id.0].as_ref()?, offset: 0, size: None },
        })
    }

    fn record(&mut self, graph: &Graph, offsets: Vec<u64>) -> Result<()> {
        for (node, params) in graph.nodes.iter().zip(offsets) {
            let pipeline = self.gpu.pipeline(node.shader(), self.precision)?;
            let cost = graph.node_cost(node);
            // Arithmetic and traffic in one figure: a device that does 1 operation moves a fraction of an element.
            let work = cost.flops + 8.0 * (cost.reads + cost.writes) + 1e5;
            let grid = (node.shader().grid)(&node.params, &graph.info(node.output()).shape);
            let mut recorded = Recorded { pipeline, bind_groups: Vec::new(), params, grid, work };
            let group = self.bind_group(graph, node, &recorded)?;
            recorded.bind_groups.push((self.bound(node), group));
            self.nodes.push(recorded);
        }
        Ok(())
    }

    /// The values a node is bound to now.
    fn bound(&self, node: &Node) -> Bound {
        let values = node.inputs.iter().chain(&node.outputs).filter_map(|id| self.values[id.0].as_ref());
        values.map(|value| (value.number, value.first)).collect()
    }

    fn bind_group(&self, graph: &Graph, node: &Node, recorded: &Recorded) -> Result<wgpu::BindGroup> {
        let params = wgpu::BufferBinding {
            buffer: &self.uniforms,
            offset: recorded.params,
            size: std::num::NonZeroU64::new(node.params.len() as u64),
        };
        let mut entries =
            vec![wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(params) }];
        for (i, id) in node.inputs.iter().chain(&node.outputs).enumerate() {
            let binding = self.binding(graph, *id).ok_or_else(|| {
                Error::device(format!("{}: tensor {i} has no memory; please report it", node.label))
            })?;
            let resource = wgpu::BindingResource::Buffer(binding);
            entries.push(wgpu::BindGroupEntry { binding: i as u32 + 1, resource });
        }
        Ok(self.gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&node.label),
            layout: &recorded.pipeline.get_bind_group_layout(0),
            entries: &entries,
        }))
    }

    pub(in crate::device) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The value of an input or output.
    pub(in crate::device) fn value(&self, id: TensorId) -> Option<&DeviceTensor> {
        self.values[id.0].as_ref()
    }

    /// Has an input or output be another value from now on.
    pub(in crate::device) fn bind(
        &mut self,
        graph: &Graph,
        id: TensorId,
        value: &DeviceTensor,
    ) -> Result<()> {
        self.values[id.0] = Some(value.clone());
        let gpu = self.gpu.clone();
        let touched = |node: &Node| node.inputs.contains(&id) || node.outputs.contains(&id);
        for (at, node) in graph.nodes.iter().enumerate().filter(|(_, node)| touched(node)) {
            let bound = self.bound(node);
            let groups = &self.nodes[at].bind_groups;
            let group = match groups.iter().position(|(values, _)| *values == bound) {
                Some(known) => self.nodes[at].bind_groups.remove(known).1,
                None => gpu.scoped("a binding", || self.bind_group(graph, node, &self.nodes[at]))?,
            };
            let groups = &mut self.nodes[at].bind_groups;
            groups.insert(0, (bound, group));
            groups.truncate(REMEMBERED);
        }
        Ok(())
    }

    pub(in crate::device) fn memory(&self) -> (u64, u64) {
        (self.plan.bytes(), self.plan.lower_bound)
    }

    /// Encodes every node.
    pub(in crate::device) fn enqueue(
        &self,
        graph: &Graph,
        queue: &mut GpuQueue,
        monitor: &mut dyn FnMut(f32) -> bool,
    ) -> Result<()> {
        let label = graph.nodes.first().map_or("a graph", |node| node.label.as_str());
        self.gpu.scoped(label, || queue.dispatch(self.dispatches(graph), monitor))
    }

    fn dispatches<'a>(&'a self, graph: &'a Graph) -> impl ExactSizeIterator<Item = Dispatch<'a>> + Clone {
        self.nodes.iter().zip(&graph.nodes).map(|(recorded, node)| Dispatch {
            pipeline: &recorded.pipeline,
            bind_group: &recorded.bind_groups[0].1,
            grid: recorded.grid,
            work: recorded.work,
            label: &node.label,
        })
    }

    /// Seconds of each node: one after another by the device's clock, where it has one; else each alone, waited for.
    pub(in crate::device) fn profile(&self, graph: &Graph) -> Result<Vec<f64>> {
        match self.gpu.clock_tick() {
            Some(_) => self.profile_by_clock(graph),
            None => self.profile_alone(graph),
        }
    }

    /// Each node is a pass, so many passes a submission.
    fn profile_by_clock(&self, graph: &Graph) -> Result<Vec<f64>> {
        let mut seconds = Vec::new();
        let mut rest = self.dispatches(graph).peekable();
        while let Some(label) = rest.peek().map(|first| first.label) {
            let some: Vec<Dispatch<'_>> = rest.by_ref().take(Clock::MOST).collect();
            self.gpu.scoped(label, || {
                let Some(clock) = Clock::new(&self.gpu, some.len())? else { return Ok(()) };
                let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
                for (i, dispatch) in some.iter().enumerate() {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                        label: Some(dispatch.label),
                        timestamp_writes: Some(clock.pass(i)),
                    });
                    pass.set_pipeline(dispatch.pipeline);
                    pass.set_bind_group(0, dispatch.bind_group, &[]);
                    let [x, y, z] = dispatch.grid;
                    pass.dispatch_workgroups(x, y, z);
                }
                clock.resolve(&mut encoder);
                self.gpu.submit(encoder.finish(), label)?;
                seconds.extend(clock.read(&self.gpu)?);
                Ok::<_, Error>(())
            })?;
        }
        Ok(seconds)
    }

    fn profile_alone(&self, graph: &Graph) -> Result<Vec<f64>> {
        let mut queue = GpuQueue::new(&self.gpu);
        let mut time = |dispatch: Dispatch<'_>| {
            let (label, start) = (dispatch.label, Instant::now());
            self.gpu.scoped(label, || {
                queue.dispatch(std::iter::once(dispatch.clone()), &mut |_| true)?;
                self.gpu.wait_for(&queue.submit()?, label)
            })?;
            Ok(start.elapsed().as_secs_f64())
        };
        self.dispatches(graph).map(&mut time).collect()
    }

    /// The values of a tensor that is kept.
    pub(in crate::device) fn read(&self, graph: &Graph, id: TensorId) -> Result<Vec<f32>> {
        let Some(binding) = self.binding(graph, id) else { return Ok(Vec::new()) };
        let info = graph.info(id);
        self.gpu.read_back(binding.buffer, binding.offset, (info.len(), info.storage.is_half(self.precision)))
    }
}

impl Gpu {
    /// `len` values in a buffer, once all that was submitted is done.
    pub(in crate::device) fn read_back(
        &self,
        buffer: &wgpu::Buffer,
        offset: u64,
        (len, half): (usize, bool),
    ) -> Result<Vec<f32>> {
        self.scoped("a read back", || {
            let mut queue = GpuQueue::new(self);
            let staging = queue.read((buffer, offset), len as u64 * if half { 2 } else { 4 })?;
            self.wait_for(&queue.submit()?, "a read back")?;
            self.mapped(&staging, (len, half))
        })
    }

    /// The values in a buffer that is mapped.
    pub(in crate::device) fn mapped(
        &self,
        staging: &Staging,
        (len, half): (usize, bool),
    ) -> Result<Vec<f32>> {
        let mapped = staging.bytes(self)?;
        Ok(if half {
            let halves: &[f16] = bytemuck::cast_slice(&mapped);
            halves[..len].iter().map(|v| v.to_f32()).collect()
        } else {
            let values: &[f32] = bytemuck::cast_slice(&mapped);
            values[..len].to_vec()
        })
    }
}
