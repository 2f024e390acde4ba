//! A checkpoint's tensors on the devices: what programs hold of them.

use super::budget::{self, Charge, Held, Memory, now};
use super::number::number;
use super::weight_key::{Copied, Form, Mix, WeightKey};
use crate::error::{Result, request};
use crate::graph::{Graph, Repack, Source, TensorId, WeightPart};
use crate::kernels::gemm::pack;
use crate::weights::Checkpoint;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A checkpoint. Programs of several sizes share one copy of it on each device, which stays there as long as the device's
/// budget has room for it.
pub struct Weights {
    checkpoint: Option<Checkpoint>,
    number: u64,
    mix: Mix,
}

impl Weights {
    /// Nothing is read before a program needs it.
    pub fn new(checkpoint: Checkpoint) -> Self {
        Weights::of(Some(checkpoint))
    }

    /// No weights: for graphs that are made of inputs and constants only.
    pub fn none() -> Self {
        Weights::of(None)
    }

    fn of(checkpoint: Option<Checkpoint>) -> Self {
        Weights { checkpoint, number: number(), mix: Mix::default() }
    }

    /// The file or files. Errors: there are [none](Self::none), and the graph reads the weight.
    pub(super) fn checkpoint(&self, parts: &[WeightPart]) -> Result<&Checkpoint> {
        let missing = || {
            let name = WeightPart::list(parts);
            request!(Graph, Missing, "the graph reads the weight `{name}`, but it was given no checkpoint")
        };
        self.checkpoint.as_ref().ok_or_else(missing)
    }

    /// A weight's values in main memory, as the file has them.
    ///
    /// Errors: there is no file; it cannot be read.
    pub fn values(&self, parts: &[WeightPart], repack: Repack) -> Result<Vec<f32>> {
        self.checkpoint(parts)?.read_parts(parts, repack)
    }

    /// The file or files, if there are any.
    pub(crate) fn file(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    fn key(&self, (device, form): (u64, Form), parts: &[WeightPart], repack: Repack) -> WeightKey {
        let adapters = self.file().map(|file| file.adapters_of(parts)).unwrap_or_default();
        let (owner, mix) = (self.number, Mix { adapters, ..self.mix.clone() });
        WeightKey { owner, device, form, parts: parts.to_vec(), repack, mix }
    }

    /// What a program of `own` bytes holds: those of its weights that the device has, and room for the others and for
    /// itself. `form` says how each is stored, and in how many bytes.
    ///
    /// Errors: more than the device's budget has.
    pub(super) fn lease(
        &self,
        memory: &Arc<Memory>,
        graph: &Graph,
        device: u64,
        own: u64,
        form: impl Fn(TensorId) -> (Form, u64),
    ) -> Result<Lease> {
        let mut wanted = HashMap::new();
        for (id, parts, repack) in weight_tensors(graph) {
            let (form, bytes) = form(id);
            wanted.insert(self.key((device, form), parts, repack), bytes);
        }
        let weights = memory.pin(self.number, wanted.keys());
        let missing = wanted.iter().filter(|(key, _)| !weights.contains_key(*key)).map(|(_, bytes)| bytes);
        let mut room = memory.charge(own + missing.sum::<u64>())?;
        let own = room.split(own);
        let (memory, last_used) = (memory.clone(), AtomicU64::new(now()));
        Ok(Lease { memory, weights, _own: own, room, uploaded: 0, last_used })
    }

    /// A weight's copy in main memory; in panels if it has so many columns.
    ///
    /// Errors: it cannot be read.
    pub(super) fn cpu(
        &self,
        lease: &mut Lease,
        (parts, repack): (&[WeightPart], Repack),
        cols: Option<usize>,
    ) -> Result<Arc<Vec<f32>>> {
        let form = if cols.is_some() { Form::Panels } else { Form::F32 };
        let read = || {
            let values = self.checkpoint(parts)?.read_parts(parts, repack)?;
            let values = match cols {
                Some(cols) => pack(&values, cols),
                None => values,
            };
            let bytes = values.len() as u64 * 4;
            Ok((Copied::Cpu(Arc::new(values)), bytes))
        };
        match &lease.hold(self.key((0, form), parts, repack), read)?.copy {
            Copied::Cpu(values) => Ok(values.clone()),
            Copied::Gpu(_) => Ok(Arc::default()),
        }
    }

    /// A weight's buffer on a GPU; `upload` makes it, and says how many bytes it takes.
    ///
    /// Errors: those of `upload`.
    pub(super) fn gpu<E>(
        &self,
        lease: &mut Lease,
        on: (u64, Form),
        (parts, repack): (&[WeightPart], Repack),
        upload: impl FnOnce() -> Result<(wgpu::Buffer, u64), E>,
    ) -> Result<Option<wgpu::Buffer>, E> {
        let make = || upload().map(|(buffer, bytes)| (Copied::Gpu(buffer), bytes));
        match &lease.hold(self.key(on, parts, repack), make)?.copy {
            Copied::Gpu(buffer) => Ok(Some(buffer.clone())),
            Copied::Cpu(_) => Ok(None),
        }
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        budget::forget(self.number);
    }
}

/// What a program holds of its device's budget as long as it lives: its weights, and its own bytes.
pub(super) struct Lease {
    memory: Arc<Memory>,
    weights: HashMap<WeightKey, Arc<Held>>,
    /// Given back when the program is dropped.
    _own: Charge,
    /// For weights that are still to come.
    room: Charge,
    /// Bytes of weights that came.
    pub uploaded: u64,
    last_used: AtomicU64,
}

impl Lease {
    /// The copy of this key, which is made if it is not there.
    fn hold<E>(
        &mut self,
        key: WeightKey,
        make: impl FnOnce() -> Result<(Copied, u64), E>,
    ) -> Result<Arc<Held>, E> {
        if let Some(held) = self.weights.get(&key) {
            return Ok(held.clone());
        }
        // Another thread may have brought it meanwhile.
        let held = match self.memory.find(&key) {
            Some(held) => held,
            None => {
                // Not under a lock: reading waits for other threads of the pool, and one of them may want it.
                let (copy, bytes) = make()?;
                self.uploaded += bytes;
                self.memory.keep(key.clone(), Held::new(copy, self.room.split(bytes)))
            }
        };
        self.weights.insert(key, held.clone());
        Ok(held)
    }

    /// Gives back what is left of the room for weights: all have come.
    pub fn settle(&mut self) {
        drop(self.room.split(u64::MAX));
    }

    /// Notes that the program runs.
    pub fn touch(&self) {
        self.last_used.store(now(), Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let last_used = self.last_used.load(Relaxed);
        for held in self.weights.values() {
            held.last_used.fetch_max(last_used, Relaxed);
        }
    }
}

/// The weight tensors a graph reads: id, parts, layout.
pub(super) fn weight_tensors(graph: &Graph) -> impl Iterator<Item = (TensorId, &[WeightPart], Repack)> {
    graph.tensors.iter().enumerate().filter_map(|(i, t)| match &t.source {
        Source::Weight { parts, repack, .. } => Some((TensorId(i), parts.as_slice(), *repack)),
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
                let form = |_| (Form::F32, 0);
                let mut lease = weights.lease(&Memory::main(), &Graph::new(), 0, 0, form).unwrap();
                let values = weights.cpu(&mut lease, (&part, Repack::Transpose), None).unwrap();
                assert_eq!(values.len(), rows * columns);
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
