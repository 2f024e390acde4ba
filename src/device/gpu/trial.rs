//! A node alone on the GPU, several times over, to measure what a dispatch takes: by the device's own clock where it has
//! one, else by the difference of two lengths of a pass.

use super::adapter::Gpu;
use super::clock::{Clock, mapped};
use super::upload::STORAGE;
use crate::error::Result;
use crate::graph::{Graph, Source, TensorId, TensorInfo};
use crate::kernels::Precision;
use half::f16;
use std::time::Instant;

/// What trials of a node share: its inputs and its output.
pub(super) struct Shared {
    inputs: Vec<wgpu::Buffer>,
    output: wgpu::Buffer,
    /// The output is stored in f16.
    half: bool,
}

/// Dispatches that are ready to be encoded.
pub(super) struct Trial {
    gpu: Gpu,
    nodes: Vec<(wgpu::ComputePipeline, wgpu::BindGroup, [u32; 3])>,
    clock: Option<Clock>,
}

/// What its buffers are called.
const LABEL: &str = "a measurement";

impl Shared {
    /// Of a graph whose inputs are named by number and whose one output they lead to.
    pub(super) fn new(gpu: &Gpu, graph: &Graph, precision: Precision, values: &[Vec<f32>]) -> Result<Shared> {
        let size = |id: TensorId| graph.info(id).bytes(precision);
        let inputs = values.iter().zip(&graph.tensors).map(|(values, tensor)| {
            let made = gpu.buffer(LABEL, tensor.bytes(precision), STORAGE)?;
            gpu.write_values(&made, 0, values, tensor.storage.is_half(precision));
            Ok(made)
        });
        let output = graph.outputs[0].1;
        let half = graph.info(output).storage.is_half(precision);
        let inputs = inputs.collect::<Result<_>>()?;
        Ok(Shared { inputs, output: gpu.buffer(LABEL, size(output), STORAGE)?, half })
    }

    /// Zeros in the output, so that what was there before is no result.
    pub(super) fn clear(&self, gpu: &Gpu) -> Result<()> {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        encoder.clear_buffer(&self.output, 0, None);
        gpu.submit(encoder.finish(), LABEL).map(drop)
    }

    /// These elements of the output.
    pub(super) fn read(&self, gpu: &Gpu, elements: &[usize]) -> Result<Vec<f32>> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let words = gpu.buffer(LABEL, elements.len() as u64 * 4, usage)?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        for (i, element) in elements.iter().enumerate() {
            // Copies are in whole words.
            let word = *element as u64 / if self.half { 2 } else { 1 };
            encoder.copy_buffer_to_buffer(&self.output, word * 4, &words, i as u64 * 4, 4);
        }
        gpu.submit(encoder.finish(), LABEL)?;
        let words = mapped(gpu, &words)?;
        let value = |(word, element): (&[u8; 4], &usize)| match self.half {
            true => f16::from_le_bytes([word[element % 2 * 2], word[element % 2 * 2 + 1]]).to_f32(),
            false => f32::from_le_bytes(*word),
        };
        Ok(words.as_chunks().0.iter().zip(elements).map(value).collect())
    }
}

impl Trial {
    /// The nodes of a graph whose inputs and output are those that are shared.
    pub(super) fn new(gpu: &Gpu, graph: &Graph, precision: Precision, shared: &Shared) -> Result<Trial> {
        let made = |(i, tensor): (usize, &TensorInfo)| {
            Ok(match &tensor.source {
                Source::Input(_) => shared.inputs[i].clone(),
                _ if graph.outputs[0].1.index() == i => shared.output.clone(),
                Source::Constant(values) => {
                    let constant = gpu.buffer(LABEL, tensor.bytes(precision), STORAGE)?;
                    gpu.write_values(&constant, 0, values, tensor.storage.is_half(precision));
                    constant
                }
                _ => gpu.buffer(LABEL, tensor.bytes(precision), STORAGE)?,
            })
        };
        let buffers = graph.tensors.iter().enumerate().map(made).collect::<Result<Vec<wgpu::Buffer>>>()?;
        let mut nodes = Vec::with_capacity(graph.nodes.len());
        for node in &graph.nodes {
            let pipeline = gpu.pipeline(node.shader(), precision)?;
            let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
            let uniform = gpu.buffer(LABEL, node.params.len() as u64, usage)?;
            gpu.queue().write_buffer(&uniform, 0, &node.params);
            let tensors = node.inputs.iter().chain(&node.outputs).map(|id| &buffers[id.index()]);
            let entries: Vec<wgpu::BindGroupEntry<'_>> = std::iter::once(&uniform)
                .chain(tensors)
                .enumerate()
                .map(|(i, b)| wgpu::BindGroupEntry { binding: i as u32, resource: b.as_entire_binding() })
                .collect();
            let bind_group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&node.label),
                layout: &pipeline.get_bind_group_layout(0),
                entries: &entries,
            });
            let grid = (node.shader().grid)(&node.params, &graph.info(node.output()).shape);
            nodes.push((pipeline, bind_group, grid));
        }
        Ok(Trial { gpu: gpu.clone(), nodes, clock: Clock::new(gpu, 1)? })
    }

    /// Runs the nodes `repeats` times in a pass; seconds by the clock, or from the submission to its end.
    fn pass(&self, repeats: usize) -> Result<f64> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some(LABEL),
                timestamp_writes: self.clock.as_ref().map(|clock| clock.pass(0)),
            });
            for _ in 0..repeats {
                for (pipeline, bind_group, [x, y, z]) in &self.nodes {
                    pass.set_pipeline(pipeline);
                    pass.set_bind_group(0, bind_group, &[]);
                    pass.dispatch_workgroups(*x, *y, *z);
                }
            }
        }
        if let Some(clock) = &self.clock {
            clock.resolve(&mut encoder);
        }
        let commands = encoder.finish();
        let start = Instant::now();
        let submitted = self.gpu.submit(commands, LABEL)?;
        let Some(clock) = &self.clock else {
            self.gpu.wait_for(&submitted, LABEL)?;
            return Ok(start.elapsed().as_secs_f64());
        };
        Ok(clock.read(&self.gpu)?[0])
    }

    /// Seconds of one time through the nodes, from a sample of `repeats`.
    pub(super) fn sample(&self, repeats: usize) -> Result<f64> {
        self.gpu.scoped(LABEL, || {
            if self.clock.is_some() {
                return Ok(self.pass(repeats)? / repeats as f64);
            }
            // What encoding, submission and waiting take is in both.
            let (one, two) = (self.pass(repeats)?, self.pass(2 * repeats)?);
            Ok((two - one).max(0.0) / repeats as f64)
        })
    }

    /// Runs it once, cold.
    pub(super) fn first(&self) -> Result<()> {
        self.pass(1).map(drop)
    }
}
