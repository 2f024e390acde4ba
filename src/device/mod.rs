//! Devices run graphs: the GPU through wgpu, the CPU through the kernels' `cpu` functions.

mod budget;
mod cpu;
mod gpu;
pub mod ledger;
mod limits;
mod memory;
mod nmse;
mod number;
mod options;
mod program;
mod shelf;
mod tensor;
mod weight_cache;
mod weight_key;
mod work;

pub use budget::{ASSUMED, Memory};
pub use gpu::{Choices, Fault, Gpu, Measuring};
pub use limits::DeviceLimits;
pub use nmse::nmse;
pub(crate) use number::number;
pub use options::{Keep, Monitor, ProgramOptions, Variants};
pub use program::{NodeTime, Program};
pub use shelf::Shelf;
pub use tensor::DeviceTensor;
pub use weight_cache::Weights;
pub use weight_key::Mix;
pub use work::{Reading, Ticket, Work};

use crate::error::{Error, Result, request};
use crate::graph::{Graph, TensorId, fuse::fuse, split::split};
use crate::kernels::Precision;
use program::Backend;
use std::sync::Arc;

/// Which device to take.
#[derive(Clone, Debug, Default)]
pub enum DeviceChoice {
    /// A hardware GPU, else the CPU.
    #[default]
    Auto,
    /// The best hardware GPU, or an error.
    Gpu,
    /// The CPU device.
    Cpu,
    /// The adapter whose name holds this text, case aside; also how software Vulkan is chosen.
    Named(String),
    /// A wgpu device and queue the caller already has.
    Existing(Gpu),
}

impl DeviceChoice {
    /// `auto`, `gpu`, `cpu`, or part of an adapter's name.
    pub fn parse(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "" | "auto" => DeviceChoice::Auto,
            "gpu" => DeviceChoice::Gpu,
            "cpu" => DeviceChoice::Cpu,
            _ => DeviceChoice::Named(text.to_string()),
        }
    }
}

/// Every device there is, as [`Device::name`] calls it.
pub fn list_adapters() -> Vec<String> {
    let mut names = gpu::adapter_names();
    names.push(Device::Cpu.name());
    names
}

/// Something that runs graphs. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Device {
    /// Plain parallel loops and blocked matrix products.
    Cpu,
    /// Compute pipelines through wgpu.
    Gpu(Gpu),
}

impl Device {
    /// Opens the chosen device. Errors name the adapters there are.
    pub fn open(choice: &DeviceChoice) -> Result<Device> {
        match choice {
            DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Existing(gpu) => Ok(Device::Gpu(gpu.clone())),
            DeviceChoice::Gpu => Gpu::open_hardware()?.map(Device::Gpu).ok_or_else(|| {
                Error::device(format!(
                    "no hardware GPU answers ({}); it needs its Vulkan driver",
                    gpu::found_adapters()
                ))
            }),
            DeviceChoice::Named(name) => Gpu::open_named(name).map(Device::Gpu),
            DeviceChoice::Auto => match Gpu::open_hardware() {
                Ok(Some(gpu)) => Ok(Device::Gpu(gpu)),
                Ok(None) => Ok(Device::Cpu),
                Err(error) => {
                    log::warn!("{error}; taking the CPU");
                    Ok(Device::Cpu)
                }
            },
        }
    }

    /// Whether it is the same device, not only one of the same kind.
    pub fn is(&self, other: &Device) -> bool {
        match (self, other) {
            (Device::Cpu, Device::Cpu) => true,
            (Device::Gpu(a), Device::Gpu(b)) => a.is(b),
            _ => false,
        }
    }

    /// What a person calls it: the adapter with its driver, or the CPU and its threads.
    pub fn name(&self) -> String {
        match self {
            Device::Cpu => format!("CPU, {} threads", rayon::current_num_threads()),
            Device::Gpu(gpu) => gpu.name(),
        }
    }

    /// The storage types that serve this device best: f16 where its shaders have it and it is hardware.
    pub fn precision(&self) -> Precision {
        match self {
            Device::Gpu(gpu) if gpu.prefers_f16() => Precision::F16,
            _ => Precision::F32,
        }
    }

    /// What it allows.
    pub fn limits(&self) -> DeviceLimits {
        let limits = match self {
            Device::Cpu => DeviceLimits {
                name: self.name(),
                binding: None,
                buffer: None,
                align: 4,
                memory: None,
                budget: None,
            },
            Device::Gpu(gpu) => DeviceLimits::of_wgpu(&gpu.name(), &gpu.limits()),
        };
        let budget = self.memory().budget();
        DeviceLimits { memory: budget.refuses, budget: Some(budget.keeps), ..limits }
    }

    /// What is kept on it, and within which budget: one for all devices of a card.
    #[doc(hidden)]
    pub fn memory(&self) -> Arc<Memory> {
        match self {
            Device::Cpu => Memory::main(),
            Device::Gpu(gpu) => gpu.memory().clone(),
        }
    }

    /// Work of one thread on it; none yet.
    #[doc(hidden)]
    pub fn work(&self) -> Work {
        match self {
            Device::Cpu => Work::on_cpu(),
            Device::Gpu(gpu) => Work::on_gpu(gpu),
        }
    }

    /// A value of zeros, `len` elements, in f32 or where `half` says so in f16 (which the CPU has not).
    ///
    /// Errors: a device without the memory.
    #[doc(hidden)]
    pub fn tensor(&self, len: usize, half: bool) -> Result<DeviceTensor> {
        match self {
            Device::Cpu => Ok(DeviceTensor::on_cpu(len)),
            Device::Gpu(gpu) => gpu.scoped("a tensor", || gpu.tensor("a tensor", len, half)),
        }
    }

    /// Cuts tensors that the device does not bind into pieces.
    fn split(&self, graph: &mut Graph, precision: Precision) -> Result<()> {
        let limits = self.limits();
        let available = limits.largest_tensor();
        split(graph, available, precision).map_err(|unsplit| {
            let what = format!("{unsplit}, but {limits}");
            Error::Limit { what, needed: unsplit.bytes, available }
        })
    }

    /// Makes a graph runnable: fuses, splits, plans, uploads the weights it reads, compiles pipelines.
    ///
    /// `kept` tensors stay readable after a run. Errors: weights that are missing or of another shape, a tensor
    /// above the device's limits, a kernel its compiler refuses.
    #[doc(hidden)]
    pub fn program(&self, mut graph: Graph, weights: &Weights, options: &ProgramOptions) -> Result<Program> {
        // The kernels count elements in 32 bits.
        if let Some(large) = graph.tensors.iter().find(|t| u32::try_from(t.len()).is_err()) {
            let what = "has more elements than kernels can count; give a smaller `--size` or `--count`";
            return Err(request!(Graph, Missing, "a tensor of shape {:?} {what}", large.shape));
        }
        fuse(&mut graph);
        if let Device::Gpu(gpu) = self {
            self.split(&mut graph, options.precision)?;
            gpu.choose(&mut graph, options)?;
        }
        let kept: Vec<TensorId> = match options.keep {
            Keep::Outputs => Vec::new(),
            Keep::Taps => graph.taps.iter().map(|(_, id)| *id).collect(),
            Keep::All => graph.nodes.iter().map(|n| n.output()).collect(),
        };
        let backend = match self {
            Device::Cpu => Backend::Cpu(cpu::CpuProgram::new(&graph, weights, &kept)?),
            Device::Gpu(gpu) => {
                Backend::Gpu(Box::new(gpu.program(&graph, weights, options.precision, &kept)?))
            }
        };
        let program = Program { graph, backend, number: number(), fault: None };
        ledger::uploaded(program.lease().uploaded);
        Ok(program)
    }
}
