//! Graphs made runnable.

use super::cpu::CpuProgram;
use super::gpu::GpuProgram;
use super::ledger;
use super::options::Monitor;
use super::tensor::DeviceTensor;
use super::weight_cache::Lease;
use super::work::{Way, Work};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, TensorId};
use crate::kernels::Cost;

pub(super) enum Backend {
    Cpu(CpuProgram),
    Gpu(Box<GpuProgram>),
}

/// A graph on a device. Its inputs and outputs are values on the device: its own, until others are bound in their place.
pub struct Program {
    pub(super) graph: Graph,
    pub(super) backend: Backend,
    /// Its number in a [ledger].
    pub(super) number: u64,
    /// What went wrong in a call that could not tell it: the next that can, does.
    pub(super) fault: Option<Error>,
}

impl Program {
    /// The graph as it runs: after fusion.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// What it holds of its device's budget.
    pub(super) fn lease(&self) -> &Lease {
        match &self.backend {
            Backend::Cpu(p) => &p.lease,
            Backend::Gpu(p) => &p.lease,
        }
    }

    /// Bytes of activations, and the least any plan could take.
    pub fn memory(&self) -> (u64, u64) {
        match &self.backend {
            Backend::Cpu(p) => p.memory(),
            Backend::Gpu(p) => p.memory(),
        }
    }

    /// The input or output of that name.
    fn find(&self, name: &str) -> Option<TensorId> {
        self.graph.find_input(name).or_else(|| self.graph.find_output(name))
    }

    #[track_caller]
    fn id(&self, name: &str) -> TensorId {
        self.find(name).unwrap_or_else(|| panic!("the graph has no input or output `{name}`"))
    }

    /// Whether it has an input or output of that name.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The value that an input of that name, or else an output, is now.
    ///
    /// # Panics
    /// Where there is none.
    #[track_caller]
    pub fn value(&self, name: &str) -> DeviceTensor {
        self.value_of(self.find(name), name)
    }

    /// The value of the input of that name.
    ///
    /// # Panics
    /// Where there is none.
    #[track_caller]
    pub fn input(&self, name: &str) -> DeviceTensor {
        self.value_of(self.graph.find_input(name), name)
    }

    /// The value of the output of that name.
    ///
    /// # Panics
    /// Where there is none.
    #[track_caller]
    pub fn output(&self, name: &str) -> DeviceTensor {
        self.value_of(self.graph.find_output(name), name)
    }

    #[track_caller]
    fn value_of(&self, id: Option<TensorId>, name: &str) -> DeviceTensor {
        let value = id.and_then(|id| match &self.backend {
            Backend::Cpu(p) => p.value(id),
            Backend::Gpu(p) => p.value(id),
        });
        value.cloned().unwrap_or_else(|| panic!("the graph has no such value `{name}`"))
    }

    /// Has an input or output be another value from now on: another program's output, say, or one that two programs take
    /// turns at.
    ///
    /// Errors: a device that fails.
    ///
    /// # Panics
    /// Where there is none of that name, or it has another length or type.
    #[track_caller]
    pub fn bind(&mut self, name: &str, value: &DeviceTensor) -> Result<()> {
        let (id, now) = (self.id(name), self.value(name));
        assert_eq!((now.len, now.half), (value.len, value.half), "`{name}` is {now:?}, not {value:?}");
        if now.is(value) {
            return Ok(());
        }
        match &mut self.backend {
            Backend::Cpu(p) => {
                p.bind(id, value);
                Ok(())
            }
            Backend::Gpu(p) => p.bind(&self.graph, id, value),
        }
    }

    /// Sets an input.
    #[track_caller]
    pub fn write(&mut self, name: &str, values: &[f32]) {
        let value = self.value(name);
        assert_eq!(
            values.len(),
            value.len,
            "input `{name}` has {} elements, {} given",
            value.len,
            values.len()
        );
        if let (Err(error), None) = (value.write(values), &self.fault) {
            self.fault = Some(error);
        }
    }

    /// Has every node computed as a part of a thread's work. `monitor` hears of the share that is done, and cancels by saying
    /// false.
    ///
    /// Errors: a device that fails; [`Error::Cancelled`].
    pub fn enqueue(&mut self, work: &mut Work, monitor: &mut Monitor<'_>) -> Result<()> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        ledger::note(self.number, self.graph.nodes.len());
        self.lease().touch();
        match (&mut self.backend, &mut work.way) {
            (Backend::Cpu(p), Way::Cpu) => p.run(&self.graph, monitor),
            (Backend::Gpu(p), Way::Gpu(queue)) => p.enqueue(&self.graph, queue, monitor),
            _ => Err(Error::device("a program of one device is given work of another; please report it")),
        }
    }

    /// Computes every node, and waits until that is done.
    pub fn run(&mut self, monitor: &mut Monitor<'_>) -> Result<()> {
        let mut work = match &self.backend {
            Backend::Cpu(_) => Work::on_cpu(),
            Backend::Gpu(p) => Work::on_gpu(p.gpu()),
        };
        self.enqueue(&mut work, monitor)?;
        work.finish()
    }

    /// Runs every node by itself and times it: on a GPU by its clock, or, where it has none, as a submission of its own,
    /// waited for, which adds some tenths of a millisecond to each.
    pub fn profile(&mut self) -> Result<Vec<NodeTime>> {
        let times = match &mut self.backend {
            Backend::Cpu(p) => p.profile(&self.graph),
            Backend::Gpu(p) => p.profile(&self.graph)?,
        };
        let named = |(node, seconds): (&Node, f64)| {
            let shader =
                if matches!(self.backend, Backend::Cpu(_)) { node.kernel.name } else { node.shader().name };
            NodeTime { label: node.label.clone(), shader, seconds, cost: self.graph.node_cost(node) }
        };
        Ok(self.graph.nodes.iter().zip(times).map(named).collect())
    }

    /// An output's values.
    #[track_caller]
    pub fn read(&mut self, name: &str) -> Result<Vec<f32>> {
        let id = self.id(name);
        self.read_tensor(id)
    }

    /// A kept tensor's values.
    pub fn read_tensor(&mut self, id: TensorId) -> Result<Vec<f32>> {
        match &self.backend {
            Backend::Cpu(p) => p.read(id),
            Backend::Gpu(p) => p.value(id).map_or_else(|| p.read(&self.graph, id), DeviceTensor::read),
        }
    }
}

/// What a node took.
#[derive(Clone, Debug)]
pub struct NodeTime {
    /// The node's label.
    pub label: String,
    /// The shader, or on the CPU the kernel, that computed it.
    pub shader: &'static str,
    /// Seconds.
    pub seconds: f64,
    /// Its arithmetic and least traffic.
    pub cost: Cost,
}
