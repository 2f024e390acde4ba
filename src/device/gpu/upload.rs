//! What goes into buffers: weights, a bounded piece at a time, and values of inputs.

use super::adapter::Gpu;
use crate::device::budget::Refusal;
use crate::device::tensor::DeviceTensor;
use crate::device::weight_cache::{Lease, Weights, weight_tensors};
use crate::device::weight_key::Form;
use crate::error::Result;
use crate::graph::{Graph, Repack, WeightPart};
use crate::kernels::Precision;
use crate::weights::Element;
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::sync::{Mutex, PoisonError};

/// What tensors' buffers are used for.
pub(super) const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

/// Bytes on their way after which those of the round before must have arrived: at most twice as many are in staging.
const ROUND: u64 = 32 << 20;

/// Bytes on their way to the GPU.
#[derive(Default)]
struct UnderWay {
    /// Of this round.
    bytes: u64,
    /// The last round.
    round: Option<wgpu::SubmissionIndex>,
}

impl Gpu {
    /// Puts the graph's weights into buffers, a bounded piece at a time; what the device has already is shared.
    pub(super) fn upload(
        &self,
        graph: &Graph,
        weights: &Weights,
        precision: Precision,
        lease: &mut Lease,
        buffers: &mut [Option<wgpu::Buffer>],
    ) -> Result<(), Refusal> {
        let under_way = Mutex::default();
        for (id, parts, repack) in weight_tensors(graph) {
            let half = graph.info(id).storage.is_half(precision);
            let bytes = graph.info(id).bytes(precision);
            let on = (self.number(), Form::of(half));
            buffers[id.0] = weights.gpu(lease, on, (parts, repack), || {
                let buffer = self.allocate(&WeightPart::list(parts), bytes, STORAGE)?;
                match half {
                    true => self.stream::<f16>(weights, (parts, repack), &buffer, &under_way)?,
                    false => self.stream::<f32>(weights, (parts, repack), &buffer, &under_way)?,
                }
                Ok::<_, Refusal>((buffer, bytes))
            })?;
        }
        lease.settle();
        Ok(())
    }

    /// One weight into its buffer, in the buffer's element type.
    fn stream<E: Element>(
        &self,
        weights: &Weights,
        (parts, repack): (&[WeightPart], Repack),
        buffer: &wgpu::Buffer,
        under_way: &Mutex<UnderWay>,
    ) -> Result<()> {
        weights.checkpoint(parts)?.stream(parts, repack, &|first, piece: &[E]| {
            self.write(buffer, first, piece);
            self.sent(under_way, size_of_val(piece) as u64)
        })
    }

    /// Writes elements from `first`, an even one, on.
    fn write<E: Element>(&self, buffer: &wgpu::Buffer, first: usize, elements: &[E]) {
        let (at, bytes) = ((first * size_of::<E>()) as u64, bytemuck::cast_slice::<E, u8>(elements));
        // Copies are in whole words: an odd last half is padded.
        let (words, rest) = bytes.split_at(bytes.len() / 4 * 4);
        self.queue().write_buffer(buffer, at, words);
        if let [a, b, ..] = *rest {
            self.queue().write_buffer(buffer, at + words.len() as u64, &[a, b, 0, 0]);
        }
    }

    /// Counts bytes; at a round's end they are sent on their way, and those of the round before are waited for.
    fn sent(&self, under_way: &Mutex<UnderWay>, bytes: u64) -> Result<()> {
        let mut under_way = under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.bytes += bytes;
        if under_way.bytes < ROUND {
            return Ok(());
        }
        under_way.bytes = 0;
        let sent = self.queue().submit([]);
        match under_way.round.replace(sent) {
            Some(before) => self.wait("the upload of weights", Some(before)),
            None => Ok(()),
        }
    }

    /// Writes values from element `first`, an even one, on.
    pub(in crate::device) fn write_values(
        &self,
        buffer: &wgpu::Buffer,
        first: usize,
        values: &[f32],
        half: bool,
    ) {
        if !half {
            return self.write(buffer, first, values);
        }
        let mut halves = vec![f16::ZERO; values.len()];
        halves.convert_from_f32_slice(values);
        self.write(buffer, first, &halves);
    }

    /// A value of zeros.
    pub(in crate::device) fn tensor(&self, label: &str, len: usize, half: bool) -> Result<DeviceTensor> {
        let bytes = len as u64 * if half { 2 } else { 4 };
        Ok(DeviceTensor::on_gpu(self, self.buffer(label, bytes, STORAGE)?, len, half))
    }

    /// [`Gpu::buffer`], if the device has memory for it.
    pub(super) fn allocate(
        &self,
        label: &str,
        size: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, Refusal> {
        let scope = self.device().push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.buffer(label, size, usage);
        match (buffer, pollster::block_on(scope.pop())) {
            (Ok(buffer), None) if !self.memory().is_full() => Ok(buffer),
            _ => Err(Refusal::Memory { what: format!("`{label}`"), bytes: size }),
        }
    }
}
