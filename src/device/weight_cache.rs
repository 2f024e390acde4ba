//! A checkpoint's tensors on the devices.

use crate::error::{Result, request};
use crate::graph::{Graph, Repack, Source, Storage, TensorId, WeightPart};
use crate::weights::Checkpoint;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Devices' copies of weights of more bytes are given back when their network is done.
pub const LARGE_WEIGHTS: u64 = 1 << 30;

/// A checkpoint and what of it is on the device already, so that programs of several sizes share one copy.
pub struct Weights {
    checkpoint: Option<Checkpoint>,
    on_cpu: Mutex<HashMap<WeightKey, Arc<Vec<f32>>>>,
    /// By the GPU's number, and whether it is stored in f16.
    on_gpu: Mutex<HashMap<(u64, bool, WeightKey), wgpu::Buffer>>,
}

/// Parts and layout.
type WeightKey = (Vec<WeightPart>, Repack);

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
    pub(super) fn checkpoint(&self, parts: &[WeightPart]) -> Result<&Checkpoint> {
        let missing = || {
            let name = WeightPart::list(parts);
            request!(Graph, Missing, "the graph reads the weight `{name}`, but it was given no checkpoint")
        };
        self.checkpoint.as_ref().ok_or_else(missing)
    }

    /// Bytes of the graph's weights that the CPU device has not read yet.
    pub(super) fn bytes_to_read(&self, graph: &Graph) -> u64 {
        let cache = self.on_cpu.lock().unwrap_or_else(PoisonError::into_inner);
        weight_tensors(graph)
            .filter(|(_, parts, repack, _)| !cache.contains_key(&(parts.to_vec(), *repack)))
            .map(|(id, ..)| graph.info(id).len() as u64 * 4)
            .sum()
    }

    /// Bytes of the devices' copies.
    pub fn bytes(&self) -> u64 {
        let on_cpu = self.on_cpu.lock().unwrap_or_else(PoisonError::into_inner);
        let on_gpu = self.on_gpu.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = on_cpu.values().map(|v| v.len() as u64 * 4).sum::<u64>();
        bytes + on_gpu.values().map(wgpu::Buffer::size).sum::<u64>()
    }

    /// Gives the devices' copies back if they are large: a 10 GB encoder that is done must leave room for the U-Net.
    /// Small networks stay for the next picture. Programs that still run keep what they use.
    pub fn release_if_large(&self) {
        if self.bytes() > LARGE_WEIGHTS {
            self.on_cpu.lock().unwrap_or_else(PoisonError::into_inner).clear();
            self.on_gpu.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    pub(super) fn cpu(&self, parts: &[WeightPart], repack: Repack) -> Result<Arc<Vec<f32>>> {
        let key = (parts.to_vec(), repack);
        let lock = || self.on_cpu.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(values) = lock().get(&key) {
            return Ok(values.clone());
        }
        // Not under the lock: reading waits for other threads of the pool, and one of them may want the lock.
        let values = Arc::new(self.checkpoint(parts)?.read_parts(parts, repack)?);
        // Of two that read at once, one's copy is kept.
        Ok(lock().entry(key).or_insert(values).clone())
    }

    pub(super) fn gpu(
        &self,
        (gpu, f16): (u64, bool),
        parts: &[WeightPart],
        repack: Repack,
        upload: impl FnOnce() -> Result<wgpu::Buffer>,
    ) -> Result<wgpu::Buffer> {
        let key = (gpu, f16, (parts.to_vec(), repack));
        let cached = self.on_gpu.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(buffer) = cached {
            return Ok(buffer);
        }
        let buffer = upload()?;
        self.on_gpu.lock().unwrap_or_else(PoisonError::into_inner).insert(key, buffer.clone());
        Ok(buffer)
    }
}

/// The weight tensors a graph reads: id, parts, layout, storage.
pub(super) fn weight_tensors(
    graph: &Graph,
) -> impl Iterator<Item = (TensorId, &[WeightPart], Repack, Storage)> {
    graph.tensors.iter().enumerate().filter_map(|(i, t)| match &t.source {
        Source::Weight { parts, repack, .. } => Some((TensorId(i), parts.as_slice(), *repack, t.storage)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// Weights read by tasks of a pool, each in several pieces, some of which other threads take: whoever waits for them
    /// runs other tasks meanwhile, which want weights too.
    #[test]
    fn weights_are_read_inside_the_pool() {
        let path = std::env::temp_dir().join(format!("ancestral-pool-{}.safetensors", std::process::id()));
        let (rows, columns, count) = (3000, 1000, 8);
        let bytes = vec![0u8; rows * columns * 2];
        let tensor = |i: usize| {
            let view = TensorView::new(Dtype::F16, vec![rows, columns], &bytes).unwrap();
            (format!("w{i}"), view)
        };
        serialize_to_file((0..count).map(tensor), None, &path).unwrap();
        let weights = Weights::new(Checkpoint::open_file(&path).unwrap());
        let (done, finished) = channel();
        std::thread::spawn(move || {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
            let read = &|i: usize| {
                let part = [WeightPart::whole(format!("w{}", i % count))];
                assert_eq!(weights.cpu(&part, Repack::Transpose).unwrap().len(), rows * columns);
            };
            pool.scope(|scope| {
                for i in 0..4 * count {
                    scope.spawn(move |_| std::thread::sleep(Duration::from_millis(1)));
                    scope.spawn(move |_| read(i));
                }
            });
            done.send(()).unwrap();
        });
        let outcome = finished.recv_timeout(Duration::from_secs(60));
        let _ = std::fs::remove_file(path);
        outcome.expect("threads of the pool wait for each other");
    }
}
