//! Values on a device.

use super::gpu::adapter::Gpu;
use super::ledger;
use super::number::number;
use crate::error::Result;
use std::sync::{Arc, PoisonError, RwLock};

/// A value on a device, or a part of one. Clones are the same value; programs bind it as an input or an output, so that
/// it goes from one to the next without passing through the host.
#[derive(Clone)]
pub struct DeviceTensor {
    pub(super) memory: Place,
    /// No other value of this process has it.
    pub(super) number: u64,
    /// First element in the memory.
    pub(super) first: usize,
    pub(super) len: usize,
    /// Stored in f16.
    pub(super) half: bool,
}

/// Where a value lies.
#[derive(Clone)]
pub(super) enum Place {
    Cpu(Arc<RwLock<Vec<f32>>>),
    Gpu(Gpu, wgpu::Buffer),
}

impl DeviceTensor {
    /// Zeros on the CPU.
    pub(super) fn on_cpu(len: usize) -> Self {
        DeviceTensor::of(Place::Cpu(Arc::new(RwLock::new(vec![0.0; len]))), len, false)
    }

    /// A GPU's buffer.
    pub(super) fn on_gpu(gpu: &Gpu, buffer: wgpu::Buffer, len: usize, half: bool) -> Self {
        DeviceTensor::of(Place::Gpu(gpu.clone(), buffer), len, half)
    }

    fn of(memory: Place, len: usize, half: bool) -> Self {
        DeviceTensor { memory, number: number(), first: 0, len, half }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` elements from `first` on: the same value, seen in part. In f16 it begins and ends at even elements, for copies
    /// are in whole words.
    ///
    /// # Panics
    /// Where there are not as many.
    #[track_caller]
    pub fn part(&self, first: usize, len: usize) -> DeviceTensor {
        assert!(first + len <= self.len, "elements {first} to {} of {}", first + len, self.len);
        DeviceTensor { first: self.first + first, len, ..self.clone() }
    }

    /// The values, once all work that was submitted is done.
    ///
    /// Errors: a device that fails.
    pub fn read(&self) -> Result<Vec<f32>> {
        match &self.memory {
            Place::Cpu(values) => {
                let values = values.read().unwrap_or_else(PoisonError::into_inner);
                Ok(values[self.first..][..self.len].to_vec())
            }
            Place::Gpu(gpu, buffer) => {
                ledger::count(|traffic| traffic.read_back += self.bytes());
                gpu.read_back(buffer, self.offset(), (self.len, self.half))
            }
        }
    }

    /// Sets the values for the work that is submitted from now on.
    ///
    /// Errors: a device that fails.
    ///
    /// # Panics
    /// Where there are not as many.
    #[track_caller]
    pub fn write(&self, values: &[f32]) -> Result<()> {
        assert_eq!(values.len(), self.len, "{} elements, {} given", self.len, values.len());
        match &self.memory {
            Place::Cpu(to) => {
                let mut to = to.write().unwrap_or_else(PoisonError::into_inner);
                to[self.first..][..self.len].copy_from_slice(values);
                Ok(())
            }
            Place::Gpu(gpu, buffer) => {
                ledger::count(|traffic| traffic.uploaded += self.bytes());
                gpu.scoped("the writing of a tensor", || {
                    gpu.write_values(buffer, self.first, values, self.half);
                    Ok(())
                })
            }
        }
    }

    pub(super) fn size(&self) -> u64 {
        if self.half { 2 } else { 4 }
    }

    /// Where it begins in its memory, in bytes.
    pub(super) fn offset(&self) -> u64 {
        self.first as u64 * self.size()
    }

    /// How many bytes it takes.
    pub(super) fn bytes(&self) -> u64 {
        self.len as u64 * self.size()
    }

    /// Whether both are the same elements of one value.
    pub(super) fn is(&self, other: &DeviceTensor) -> bool {
        (self.number, self.first, self.len) == (other.number, other.first, other.len)
    }
}

impl std::fmt::Debug for DeviceTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (end, kind) = (self.first + self.len, if self.half { "f16" } else { "f32" });
        write!(f, "tensor {}[{}..{end}] {kind}", self.number, self.first)
    }
}
