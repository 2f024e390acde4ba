//! What devices allow.

use crate::graph::plan::Limits;

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
    /// Most bytes that may be in use at once: the budget that was given, and what the machine has free. None where neither
    /// is known, as of a GPU without a budget.
    pub memory: Option<u64>,
    /// Bytes up to which weights and programs are kept between runs. None where there is no device.
    pub budget: Option<u64>,
}

impl DeviceLimits {
    /// What WebGPU guarantees on every adapter.
    pub fn webgpu() -> Self {
        DeviceLimits::of_wgpu("WebGPU's default limits", &wgpu::Limits::default())
    }

    pub(super) fn of_wgpu(name: &str, limits: &wgpu::Limits) -> Self {
        DeviceLimits {
            name: name.to_string(),
            binding: Some(limits.max_storage_buffer_binding_size),
            buffer: Some(limits.max_buffer_size),
            align: u64::from(limits.min_storage_buffer_offset_alignment),
            memory: None,
            budget: None,
        }
    }

    /// Most bytes of a tensor: larger ones are [split](mod@crate::graph::split).
    #[doc(hidden)]
    pub fn largest_tensor(&self) -> u64 {
        self.binding.unwrap_or(u64::MAX).min(self.plan_limits().max_buffer)
    }

    /// What the plan of a graph heeds of them.
    #[doc(hidden)]
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
        self.memory.map_or(Ok(()), |bytes| write!(f, ", {} MiB of memory", mib(bytes)))
    }
}
