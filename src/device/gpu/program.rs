//! A graph on the GPU: buffers, bind groups, submissions sized by cost.

use super::adapter::Gpu;
use super::upload::STORAGE;
use crate::device::budget::Refusal;
use crate::device::limits::DeviceLimits;
use crate::device::options::{Monitor, Transfer};
use crate::device::weight_cache::{Lease, Weights};
use crate::error::{Error, Result};
use crate::graph::plan::Plan;
use crate::graph::{Graph, Node, Source, TensorId};
use crate::kernels::{Precision, Shader};
use half::f16;
use std::time::{Duration, Instant};

/// A submission should take about this long, so that no watchdog fires and a cancel is heard.
const SUBMISSION: Duration = Duration::from_millis(100);

pub(in crate::device) struct GpuProgram {
    gpu: Gpu,
    precision: Precision,
    plan: Plan,
    arenas: Vec<wgpu::Buffer>,
    /// Per tensor: the buffer of a weight, input or constant.
    buffers: Vec<Option<wgpu::Buffer>>,
    nodes: Vec<Recorded>,
    /// Work (operations and elements moved) the device does in a second, as measured.
    pace: f64,
    /// What the driver said of a call that could not tell it: the next that can, does.
    fault: Option<Error>,
    /// What it holds of the device's budget.
    pub(in crate::device) lease: Lease,
}

/// A node ready to be encoded.
struct Recorded {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
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
        let mut lease = weights.lease(self.memory(), graph, (self.number(), precision), own)?;
        let arenas = plan.arenas.iter().map(|&size| self.allocate("activations", size, STORAGE));
        let arenas = arenas.collect::<Result<Vec<wgpu::Buffer>, Refusal>>()?;
        let mut buffers: Vec<Option<wgpu::Buffer>> = vec![None; graph.tensors.len()];
        for (i, tensor) in graph.tensors.iter().enumerate() {
            match &tensor.source {
                Source::Constant(values) => {
                    let buffer = self.buffer("constant", bytes(TensorId(i)), STORAGE);
                    self.write_values(&buffer, 0, values, false);
                    buffers[i] = Some(buffer);
                }
                Source::Input(name) => buffers[i] = Some(self.buffer(name, bytes(TensorId(i)), STORAGE)),
                _ => {}
            }
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
        let mut program = GpuProgram {
            gpu: self.clone(),
            precision,
            plan,
            arenas,
            buffers,
            nodes: Vec::new(),
            pace: 2e9,
            fault: None,
            lease,
        };
        program.record(graph)?;
        Ok(program)
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
        Some(match self.plan.places[id.0] {
            Some(place) => wgpu::BufferBinding {
                buffer: &self.arenas[place.arena],
                offset: place.offset,
                size: Some(size),
            },
            None => wgpu::BufferBinding { buffer: self.buffers[id.0].as_ref()?, offset: 0, size: None },
        })
    }

    fn record(&mut self, graph: &Graph) -> Result<()> {
        let align = u64::from(self.gpu.device().limits().min_uniform_buffer_offset_alignment);
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
        let uniforms = self.gpu.buffer("params", total, usage);
        let mut bytes = vec![0; uniforms.size() as usize];
        for (node, offset) in graph.nodes.iter().zip(&offsets) {
            bytes[*offset as usize..][..node.params.len()].copy_from_slice(&node.params);
        }
        self.gpu.queue().write_buffer(&uniforms, 0, &bytes);
        for (node, offset) in graph.nodes.iter().zip(offsets) {
            let recorded = self.record_node(graph, node, &uniforms, offset)?;
            self.nodes.push(recorded);
        }
        Ok(())
    }

    fn record_node(
        &self,
        graph: &Graph,
        node: &Node,
        uniforms: &wgpu::Buffer,
        offset: u64,
    ) -> Result<Recorded> {
        let pipeline = self.gpu.pipeline(node.shader(), self.precision)?;
        let params = wgpu::BufferBinding {
            buffer: uniforms,
            offset,
            size: std::num::NonZeroU64::new(node.params.len() as u64),
        };
        let mut entries =
            vec![wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(params) }];
        for (i, id) in node.inputs.iter().chain([&node.output]).enumerate() {
            let binding = self.binding(graph, *id).ok_or_else(|| {
                Error::device(format!("{}: tensor {i} has no memory; please report it", node.label))
            })?;
            let resource = wgpu::BindingResource::Buffer(binding);
            entries.push(wgpu::BindGroupEntry { binding: i as u32 + 1, resource });
        }
        let bind_group = self.gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&node.label),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let cost = graph.node_cost(node);
        // Arithmetic and traffic in one figure: a device that does 1 operation moves a fraction of an element.
        let work = cost.flops + 8.0 * (cost.reads + cost.writes) + 1e5;
        let grid = (node.shader().grid)(&node.params, &graph.info(node.output).shape);
        Ok(Recorded { pipeline, bind_group, grid, work })
    }

    pub(in crate::device) fn memory(&self) -> (u64, u64) {
        (self.plan.bytes(), self.plan.lower_bound)
    }

    pub(in crate::device) fn write(&mut self, graph: &Graph, id: TensorId, values: &[f32]) {
        if let Some(buffer) = &self.buffers[id.0] {
            let half = graph.info(id).storage.is_half(self.precision);
            let written = self.gpu.scoped("the writing of an input", || {
                self.gpu.write_values(buffer, 0, values, half);
                Ok(())
            });
            self.note(written);
        }
    }

    fn note(&mut self, outcome: Result<()>) {
        if let (Err(error), None) = (outcome, &self.fault) {
            self.fault = Some(error);
        }
    }

    pub(in crate::device) fn run(&mut self, graph: &Graph, monitor: &mut Monitor<'_>) -> Result<()> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let gpu = self.gpu.clone();
        gpu.scoped("a graph", || self.run_pieces(graph, monitor))
    }

    fn run_pieces(&mut self, graph: &Graph, monitor: &mut Monitor<'_>) -> Result<()> {
        let total: f64 = self.nodes.iter().map(|n| n.work).sum();
        let mut done = 0.0;
        let mut next = 0;
        let mut waiting: Option<(wgpu::SubmissionIndex, f64, usize)> = None;
        let mut since = Instant::now();
        while next < self.nodes.len() || waiting.is_some() {
            if !monitor((done / total) as f32) {
                return Err(Error::Cancelled);
            }
            let submitted = (next < self.nodes.len()).then(|| {
                let (end, work) = self.piece(next);
                let index = self.submit(graph, next..end);
                next = end;
                (index, work, end)
            });
            // One piece is always in flight while the next is encoded.
            if let Some((index, work, end)) = std::mem::replace(&mut waiting, submitted) {
                self.gpu.wait(&graph.nodes[end - 1].label, Some(index))?;
                let seconds = since.elapsed().as_secs_f64().max(1e-6);
                since = Instant::now();
                self.pace = 0.5 * self.pace + 0.5 * work / seconds;
                done += work;
            }
        }
        Ok(())
    }

    /// Seconds of each node, run alone.
    pub(in crate::device) fn profile(&mut self, graph: &Graph) -> Result<Vec<f64>> {
        let time = |i: usize| {
            let (label, start) = (&graph.nodes[i].label, Instant::now());
            self.gpu.scoped(label, || self.gpu.wait(label, Some(self.submit(graph, i..i + 1))))?;
            Ok(start.elapsed().as_secs_f64())
        };
        (0..self.nodes.len()).map(time).collect()
    }

    /// The end of the piece of work that starts at node `first`, and its work.
    fn piece(&self, first: usize) -> (usize, f64) {
        let budget = self.pace * SUBMISSION.as_secs_f64();
        let (mut end, mut work) = (first, 0.0);
        while end < self.nodes.len() && (end == first || work + self.nodes[end].work <= budget) {
            work += self.nodes[end].work;
            end += 1;
        }
        (end, work)
    }

    fn submit(&self, graph: &Graph, nodes: std::ops::Range<usize>) -> wgpu::SubmissionIndex {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: graph.nodes.get(nodes.start).map(|n| n.label.as_str()),
                timestamp_writes: None,
            });
            for node in &self.nodes[nodes] {
                pass.set_pipeline(&node.pipeline);
                pass.set_bind_group(0, &node.bind_group, &[]);
                pass.dispatch_workgroups(node.grid[0], node.grid[1], node.grid[2]);
            }
        }
        self.gpu.queue().submit([encoder.finish()])
    }

    pub(in crate::device) fn read(&self, graph: &Graph, id: TensorId) -> Result<Vec<f32>> {
        self.gpu.scoped("a read back", || self.read_back(graph, id))
    }

    fn read_back(&self, graph: &Graph, id: TensorId) -> Result<Vec<f32>> {
        let Some(binding) = self.binding(graph, id) else { return Ok(Vec::new()) };
        let size = graph.info(id).bytes(self.precision);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.gpu.buffer("read back", size, usage);
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(binding.buffer, binding.offset, &staging, 0, size);
        self.gpu.queue().submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |_| {});
        self.gpu.wait("a read back", None)?;
        let mapped = staging
            .get_mapped_range(..)
            .map_err(|e| Error::Lost { running: "a read back".into(), reason: e.to_string() })?;
        let len = graph.info(id).len();
        Ok(if graph.info(id).storage.is_half(self.precision) {
            let halves: &[f16] = bytemuck::cast_slice(&mapped);
            halves[..len].iter().map(|v| v.to_f32()).collect()
        } else {
            let values: &[f32] = bytemuck::cast_slice(&mapped);
            values[..len].to_vec()
        })
    }

    /// Encodes copies of pieces of a source's tensors into this program's inputs.
    fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        graph: &Graph,
        (source, source_graph): (&GpuProgram, &Graph),
        copies: &[Transfer],
    ) {
        for c in copies {
            let (Some(from), Some(to)) = (source.binding(source_graph, c.from), &self.buffers[c.to.0]) else {
                continue;
            };
            let size = if graph.info(c.to).storage.is_half(self.precision) { 2 } else { 4 };
            let (first, at, len) = (c.first as u64 * size, c.at as u64 * size, c.len as u64 * size);
            let whole = len.div_ceil(4) * 4;
            encoder.copy_buffer_to_buffer(from.buffer, from.offset + first, to, at, whole);
        }
    }

    pub(in crate::device) fn copy_from(
        &mut self,
        graph: &Graph,
        source: &GpuProgram,
        source_graph: &Graph,
        copies: &[Transfer],
    ) {
        let copied = self.copy(graph, (source, source_graph), copies);
        self.note(copied);
    }

    pub(in crate::device) fn keep(&mut self, graph: &Graph, copies: &[Transfer]) {
        let copied = self.copy(graph, (self, graph), copies);
        self.note(copied);
    }

    fn copy(&self, graph: &Graph, source: (&GpuProgram, &Graph), copies: &[Transfer]) -> Result<()> {
        self.gpu.scoped("a copy between programs", || {
            let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
            self.encode(&mut encoder, graph, source, copies);
            self.gpu.queue().submit([encoder.finish()]);
            Ok(())
        })
    }
}
