//! Adapters, compute pipelines, what the driver reports.

use super::cache::Cache;
use super::choices::{Choices, Measuring};
use super::submissions::Submissions;
use crate::device::budget::{Memory, Usual};
use crate::device::number::number;
use crate::error::{Error, Result};
use crate::kernels::{Matrices, Precision, Shader};

use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Told of each measurement.
pub type OnMeasuring = Box<dyn FnMut(Measuring<'_>) + Send>;

/// A wgpu device with the pipelines made on it so far. Cheap to clone.
#[derive(Clone)]
pub struct Gpu {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    /// No other device of this process has it.
    number: u64,
    info: wgpu::AdapterInfo,
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipelines: Mutex<HashMap<(&'static str, Precision), wgpu::ComputePipeline>>,
    /// The driver's own memory of compiled pipelines, where the backend has one.
    pipeline_cache: Option<wgpu::PipelineCache>,
    cache: Cache,
    choices: Mutex<Choices>,
    measuring: Mutex<Option<OnMeasuring>>,
    /// Rows of the square cooperative matrices of f16 with f32 sums that it has.
    matrices: Vec<u32>,
    /// What is kept on the card.
    memory: Arc<Memory>,
    /// Why the device was lost, once it is.
    lost: Arc<OnceLock<String>>,
    pub(super) submissions: Submissions,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    wgpu::Instance::new(descriptor)
}

fn adapters() -> Vec<wgpu::Adapter> {
    pollster::block_on(instance().enumerate_adapters(wgpu::Backends::all()))
}

/// The descriptions of all adapters.
pub(in crate::device) fn adapter_names() -> Vec<String> {
    adapters().iter().map(|a| describe(&a.get_info())).collect()
}

/// The same for messages.
pub(in crate::device) fn found_adapters() -> String {
    let names = adapter_names();
    if names.is_empty() { "no adapter found".into() } else { format!("found: {}", names.join("; ")) }
}

fn describe(info: &wgpu::AdapterInfo) -> String {
    format!("{} ({:?}, {})", info.name, info.backend, info.driver_info)
}

/// What a card's budget comes from: its own memory where the driver says how much it has.
fn usual(info: &wgpu::AdapterInfo, device: &wgpu::Device) -> Usual {
    let shared = matches!(info.device_type, wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::Cpu);
    match heap(device) {
        Some(bytes) if shared => Usual::Shared(bytes),
        Some(bytes) => Usual::Card(bytes),
        None => Usual::Unknown,
    }
}

/// Bytes of the largest heap that is the device's own, where it is Vulkan's.
#[cfg(not(any(target_vendor = "apple", target_family = "wasm")))]
fn heap(device: &wgpu::Device) -> Option<u64> {
    // SAFETY: the device is only asked for what its adapter has, and neither kept nor destroyed.
    let properties = unsafe {
        let device = device.as_hal::<wgpu::hal::api::Vulkan>()?;
        let instance = device.shared_instance().raw_instance();
        instance.get_physical_device_memory_properties(device.raw_physical_device())
    };
    const DEVICE_LOCAL: u32 = 1;
    let heaps = properties.memory_heaps.iter().take(properties.memory_heap_count as usize);
    heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).max()
}

/// Other backends do not say.
#[cfg(any(target_vendor = "apple", target_family = "wasm"))]
fn heap(_: &wgpu::Device) -> Option<u64> {
    None
}

impl Gpu {
    /// The best hardware adapter, if there is one: discrete before integrated before virtual.
    pub(in crate::device) fn open_hardware() -> Result<Option<Gpu>> {
        let rank = |a: &wgpu::Adapter| match a.get_info().device_type {
            wgpu::DeviceType::DiscreteGpu => Some(0),
            wgpu::DeviceType::IntegratedGpu => Some(1),
            wgpu::DeviceType::VirtualGpu => Some(2),
            wgpu::DeviceType::Other | wgpu::DeviceType::Cpu => None,
        };
        let best = adapters().into_iter().filter(|a| rank(a).is_some()).min_by_key(rank);
        best.map(Gpu::open).transpose()
    }

    /// The first adapter whose description holds `name`, case aside.
    pub(in crate::device) fn open_named(name: &str) -> Result<Gpu> {
        let wanted = name.to_lowercase();
        let found = adapters().into_iter().find(|a| describe(&a.get_info()).to_lowercase().contains(&wanted));
        let missing = || {
            Error::device(format!(
                "no adapter's name holds `{name}` ({}); the list of devices has the names",
                found_adapters()
            ))
        };
        Gpu::open(found.ok_or_else(missing)?)
    }

    fn open(adapter: wgpu::Adapter) -> Result<Gpu> {
        let info = adapter.get_info();
        let edge = |m: wgpu::CooperativeMatrixProperties| {
            let types = (m.ab_type, m.cr_type)
                == (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32);
            (types && m.m_size == m.n_size && m.n_size == m.k_size).then_some(m.m_size)
        };
        let matrices: Vec<u32> =
            adapter.cooperative_matrix_properties().into_iter().filter_map(edge).collect();
        let mut features =
            wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP | wgpu::Features::PIPELINE_CACHE;
        features |= wgpu::Features::TIMESTAMP_QUERY;
        if !matrices.is_empty() {
            features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("ancestral"),
            required_features: adapter.features() & features,
            // SAFETY: what is experimental here is cooperative matrices, whose shaders are chosen only after
            // their results matched, and never read or write past their tensors.
            experimental_features: if matrices.is_empty() {
                wgpu::ExperimentalFeatures::disabled()
            } else {
                unsafe { wgpu::ExperimentalFeatures::enabled() }
            },
            // All the adapter has: large models bind large weights.
            required_limits: adapter.limits(),
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| Error::device(format!("{} does not open: {e}", describe(&info))))?;
        Ok(Gpu::new(info, device, queue, matrices))
    }

    /// Wraps a device and queue the caller already has. f16 kernels run if it was opened with `SHADER_F16`, those of
    /// subgroups with `SUBGROUP`.
    pub fn from_wgpu(info: wgpu::AdapterInfo, device: wgpu::Device, queue: wgpu::Queue) -> Gpu {
        Gpu::new(info, device, queue, Vec::new())
    }

    fn new(info: wgpu::AdapterInfo, device: wgpu::Device, queue: wgpu::Queue, matrices: Vec<u32>) -> Gpu {
        // Errors of our own calls are asked for where they are made: these are of the caller's own, if it is its device.
        device.on_uncaptured_error(Arc::new(|error: wgpu::Error| log::error!("{error}")));
        let lost = Arc::new(OnceLock::new());
        let reason_lost = lost.clone();
        device.set_device_lost_callback(move |reason, message| {
            let _ = reason_lost.set(format!("{reason:?}: {message}"));
        });
        let cache = Cache::new(&info);
        let pipeline_cache = device.features().contains(wgpu::Features::PIPELINE_CACHE).then(|| {
            let data = cache.pipelines();
            let descriptor =
                wgpu::PipelineCacheDescriptor { label: None, data: data.as_deref(), fallback: true };
            // SAFETY: the data is what `get_data` gave for this adapter and driver, by its name and checksum; wgpu checks
            // its header, and falls back to an empty cache.
            unsafe { device.create_pipeline_cache(&descriptor) }
        });
        // One budget for all devices of a card, whatever their backend.
        let card = format!("{} {:x}:{:x} {}", info.name, info.vendor, info.device, info.device_pci_bus_id);
        let memory = Memory::of(card.trim_end(), || usual(&info, &device));
        let (pipelines, choices, measuring) = (Mutex::default(), Mutex::default(), Mutex::default());
        Gpu {
            inner: Arc::new(Inner {
                number: number(),
                info,
                device,
                queue,
                pipelines,
                pipeline_cache,
                cache,
                choices,
                measuring,
                matrices,
                memory,
                lost,
                submissions: Submissions::default(),
            }),
        }
    }

    /// Adapter, backend and driver.
    pub fn name(&self) -> String {
        describe(&self.inner.info)
    }

    /// Whether it is the same device.
    pub(crate) fn is(&self, other: &Gpu) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Whether kernels with f16 storage can run.
    pub fn has_f16(&self) -> bool {
        self.inner.device.features().contains(wgpu::Features::SHADER_F16)
    }

    pub(in crate::device) fn limits(&self) -> wgpu::Limits {
        self.device().limits()
    }

    pub(in crate::device) fn prefers_f16(&self) -> bool {
        self.has_f16() && !self.is_software()
    }

    /// Whether the adapter is a driver that computes on the CPU.
    pub fn is_software(&self) -> bool {
        self.inner.info.device_type == wgpu::DeviceType::Cpu
    }

    /// Invocations of a subgroup, where it has always the same and kernels may use it.
    pub(super) fn subgroup(&self) -> Option<u32> {
        let (least, most) = match self.inner.info.backend {
            // wgpu gives bounds for every GPU that Metal runs on; Apple's all have 32.
            wgpu::Backend::Metal if !self.inner.matrices.is_empty() => (32, 32),
            _ => (self.inner.info.subgroup_min_size, self.inner.info.subgroup_max_size),
        };
        (least == most && self.device().features().contains(wgpu::Features::SUBGROUP)).then_some(least)
    }

    /// Whether it has such cooperative matrices, and subgroups and workgroup memory of sizes that the shaders can take.
    pub(super) fn has_matrices(&self, of: Matrices) -> bool {
        self.inner.matrices.contains(&of.edge)
            && self.limits().max_compute_workgroup_storage_size >= Matrices::WORKGROUP_BYTES
            && self.subgroup().is_some_and(|size| of.take(size))
    }

    pub(super) fn cache(&self) -> &Cache {
        &self.inner.cache
    }

    /// Where measured choices are kept, if anywhere.
    pub fn tuning_file(&self) -> Option<std::path::PathBuf> {
        self.cache().tuning_path()
    }

    /// How many nodes were chosen by measurement so far.
    pub fn choices(&self) -> Choices {
        *self.inner.choices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, more: Choices) {
        let mut choices = self.inner.choices.lock().unwrap_or_else(PoisonError::into_inner);
        choices.known += more.known;
        choices.measured += more.measured;
    }

    /// Calls `told` before every measurement of kernels, while programs are built on this device; none is told no longer.
    pub fn on_measuring(&self, told: Option<OnMeasuring>) {
        *self.inner.measuring.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }

    pub(super) fn tell(&self, measuring: Measuring<'_>) {
        if let Some(told) = &mut *self.inner.measuring.lock().unwrap_or_else(PoisonError::into_inner) {
            told(measuring);
        }
    }

    /// Seconds of a tick of its clock, where passes can be timed by it.
    pub(super) fn clock_tick(&self) -> Option<f64> {
        let has = self.device().features().contains(wgpu::Features::TIMESTAMP_QUERY);
        let tick = f64::from(self.queue().get_timestamp_period()) * 1e-9;
        (has && tick > 0.0).then_some(tick)
    }

    /// Forgets the measured choices: the next program measures anew.
    pub fn forget_tuning(&self) {
        self.cache().clear_choices();
    }

    /// What is kept on the card, and within which budget.
    pub(in crate::device) fn memory(&self) -> &Arc<Memory> {
        &self.inner.memory
    }

    /// A number that no other device of this process has.
    pub(super) fn number(&self) -> u64 {
        self.inner.number
    }

    pub(super) fn device(&self) -> &wgpu::Device {
        &self.inner.device
    }

    pub(super) fn queue(&self) -> &wgpu::Queue {
        &self.inner.queue
    }

    /// Runs calls to the driver. What it reports of them is theirs: its scopes of errors are one thread's, so that calls
    /// made meanwhile on others have their own.
    pub(in crate::device) fn scoped<T, E: From<Error>>(
        &self,
        running: &str,
        calls: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let scope = |filter| self.device().push_error_scope(filter);
        let validation = scope(wgpu::ErrorFilter::Validation);
        let memory = scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = scope(wgpu::ErrorFilter::Internal);
        let result = calls();
        let reported = [internal, memory, validation].map(|scope| pollster::block_on(scope.pop()));
        let reported = reported.into_iter().flatten().next();
        if reported.is_some() {
            // Of a device that is lost everything is invalid; that it is, it says once its work is over.
            let _ = self.device().poll(wgpu::PollType::wait_indefinitely());
        }
        self.check_lost(running)?;
        match reported {
            Some(wgpu::Error::OutOfMemory { .. }) => Err(self.out_of_memory(running).into()),
            Some(error) => Err(Error::device(format!(
                "{}: while running {running}: {error}. Please report it",
                self.name()
            ))
            .into()),
            None => result,
        }
    }

    pub(super) fn check_lost(&self, running: &str) -> Result<()> {
        let lost = |reason: &String| Error::Lost { running: running.into(), reason: reason.clone() };
        self.inner.lost.get().map_or(Ok(()), |reason| Err(lost(reason)))
    }

    /// The pipeline of a shader, compiled once per precision.
    pub(super) fn pipeline(
        &self,
        shader: &'static Shader,
        precision: Precision,
    ) -> Result<wgpu::ComputePipeline> {
        let key = (shader.name, precision);
        let lock = || self.inner.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = lock().get(&key).cloned() {
            return Ok(pipeline);
        }
        let scope = self.device().push_error_scope(wgpu::ErrorFilter::Validation);
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(shader.name),
            source: wgpu::ShaderSource::Wgsl(shader.source(precision).into()),
        };
        // SAFETY: the kernels guard their own indices and every loop is bounded by the uniform; the tests run each
        // of them against its reference at ragged sizes. What is switched off is naga's injected clamping and loop
        // counting, not the driver's robust buffer access.
        let module = unsafe {
            self.device().create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
        };
        let size = shader.needs.cooperative.and_then(|_| self.subgroup());
        let size = size.map(|size| ("SUBGROUP", f64::from(size)));
        let constants: Vec<(&str, f64)> = shader.constants.iter().copied().chain(size).collect();
        let pipeline = self.device().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(shader.name),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                ..Default::default()
            },
            cache: self.inner.pipeline_cache.as_ref(),
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(Error::device(format!("{}: shader `{}`: {error}", self.name(), shader.name)));
        }
        lock().insert(key, pipeline.clone());
        Ok(pipeline)
    }

    /// Compiles shaders in parallel, and keeps what the driver made of new ones.
    pub(super) fn compile(&self, shaders: &[&'static Shader], precision: Precision) -> Result<()> {
        let compiled = || self.inner.pipelines.lock().unwrap_or_else(PoisonError::into_inner).len();
        let before = compiled();
        shaders.par_iter().try_for_each(|shader| self.pipeline(shader, precision).map(drop))?;
        if compiled() > before
            && let Some(data) = self.inner.pipeline_cache.as_ref().and_then(wgpu::PipelineCache::get_data)
        {
            self.cache().save_pipelines(&data);
        }
        Ok(())
    }
}
