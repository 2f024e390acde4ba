//! The device's own clock: what passes take there.

use super::adapter::Gpu;
use super::queue::Staging;
use crate::error::Result;

/// Timestamps at the beginning and the end of passes.
pub(super) struct Clock {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    mapped: wgpu::Buffer,
    passes: u32,
    /// Seconds of a tick.
    tick: f64,
}

/// What its buffers are called.
const LABEL: &str = "timestamps";

impl Clock {
    /// Most passes that one can time.
    pub(super) const MOST: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;

    /// For so many passes, if the device has one.
    pub(super) fn new(gpu: &Gpu, passes: usize) -> Result<Option<Clock>> {
        let Some(tick) = gpu.clock_tick() else { return Ok(None) };
        let (passes, bytes) = (passes as u32, 16 * passes as u64);
        let copied = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let read = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let ty = wgpu::QueryType::Timestamp;
        let descriptor = wgpu::QuerySetDescriptor { label: Some(LABEL), ty, count: 2 * passes };
        Ok(Some(Clock {
            queries: gpu.device().create_query_set(&descriptor),
            resolved: gpu.buffer(LABEL, bytes, copied)?,
            mapped: gpu.buffer(LABEL, bytes, read)?,
            passes,
            tick,
        }))
    }

    /// What pass number `pass` writes.
    pub(super) fn pass(&self, pass: usize) -> wgpu::ComputePassTimestampWrites<'_> {
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(2 * pass as u32),
            end_of_pass_write_index: Some(2 * pass as u32 + 1),
        }
    }

    /// After the last pass.
    pub(super) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.resolve_query_set(&self.queries, 0..2 * self.passes, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.mapped, 0, 16 * u64::from(self.passes));
    }

    /// Seconds of each pass, once they are submitted.
    pub(super) fn read(&self, gpu: &Gpu) -> Result<Vec<f64>> {
        let bytes = mapped(gpu, &self.mapped)?;
        let ticks: Vec<u64> = bytes.as_chunks().0.iter().map(|tick| u64::from_le_bytes(*tick)).collect();
        let seconds = |pass: &[u64; 2]| pass[1].saturating_sub(pass[0]) as f64 * self.tick;
        Ok(ticks.as_chunks().0.iter().take(self.passes as usize).map(seconds).collect())
    }
}

/// A buffer's bytes, once all work is done.
pub(super) fn mapped(gpu: &Gpu, buffer: &wgpu::Buffer) -> Result<Vec<u8>> {
    let staging = Staging::new(buffer.clone());
    staging.map();
    gpu.wait(LABEL, None)?;
    let bytes = staging.bytes(gpu)?.to_vec();
    buffer.unmap();
    Ok(bytes)
}
