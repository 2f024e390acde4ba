//! Graphs made runnable.

use super::cpu::CpuProgram;
use super::gpu::GpuProgram;
use super::ledger;
use super::options::{Monitor, Transfer};
use super::weight_cache::Lease;
use crate::error::Result;
use crate::graph::{Graph, Node, TensorId};
use crate::kernels::Cost;

pub(super) enum Backend {
    Cpu(CpuProgram),
    Gpu(Box<GpuProgram>),
}

/// A graph on a device: write inputs, run, read outputs, as often as you like.
pub struct Program {
    pub(super) graph: Graph,
    pub(super) backend: Backend,
    /// Its number in a [ledger].
    pub(super) number: u64,
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

    #[track_caller]
    fn input(&self, name: &str) -> TensorId {
        match self.graph.find_input(name) {
            Some(id) => id,
            None => panic!("the graph has no input `{name}`"),
        }
    }

    #[track_caller]
    fn output(&self, name: &str) -> TensorId {
        match self.graph.find_output(name) {
            Some(id) => id,
            None => panic!("the graph has no output `{name}`"),
        }
    }

    /// Sets an input.
    #[track_caller]
    pub fn write(&mut self, name: &str, values: &[f32]) {
        let id = self.input(name);
        let expected = self.graph.info(id).len();
        assert_eq!(values.len(), expected, "input `{name}` has {expected} elements, {} given", values.len());
        match &mut self.backend {
            Backend::Cpu(p) => p.write(id, values),
            Backend::Gpu(p) => p.write(&self.graph, id, values),
        }
    }

    /// Computes every node.
    pub fn run(&mut self, monitor: &mut Monitor<'_>) -> Result<()> {
        ledger::note(self.number, self.graph.nodes.len());
        self.lease().touch();
        match &mut self.backend {
            Backend::Cpu(p) => p.run(&self.graph, monitor),
            Backend::Gpu(p) => p.run(&self.graph, monitor),
        }
    }

    /// Runs every node by itself and times it: on a GPU as a submission of its own, waited for, which adds some tenths
    /// of a millisecond to each.
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
        let id = self.output(name);
        self.read_tensor(id)
    }

    /// A kept tensor's values.
    pub fn read_tensor(&mut self, id: TensorId) -> Result<Vec<f32>> {
        match &mut self.backend {
            Backend::Cpu(p) => Ok(p.read(id)),
            Backend::Gpu(p) => p.read(&self.graph, id),
        }
    }

    /// Copies pieces of another program's outputs into this one's inputs, on the device. Both programs were made for
    /// one device and precision.
    ///
    /// Pieces begin and end at even elements, unless they are whole tensors: copies are in whole words.
    #[track_caller]
    pub fn copy_from(&mut self, source: &Program, copies: &[Transfer]) {
        for c in copies {
            let within = |p: &Program, id: TensorId, first: usize| first + c.len <= p.graph.info(id).len();
            assert!(within(source, c.from, c.first) && within(self, c.to, c.at), "{c:?} leaves its tensors");
        }
        match (&mut self.backend, &source.backend) {
            (Backend::Cpu(to), Backend::Cpu(from)) => to.copy_from(from, copies),
            (Backend::Gpu(to), Backend::Gpu(from)) => to.copy_from(&self.graph, from, &source.graph, copies),
            _ => panic!("the programs are on different devices"),
        }
    }

    /// Copies the first elements of an output to an input, as many as it holds, for the next run.
    #[track_caller]
    pub fn feed_back(&mut self, output: &str, input: &str) {
        let (from, to) = (self.output(output), self.input(input));
        let len = self.graph.info(to).len();
        self.keep(&[Transfer { from, first: 0, to, at: 0, len }]);
    }

    /// Copies pieces of its own outputs to its own inputs, for the runs to come: a cache grows so. Pieces as
    /// [`Program::copy_from`] takes them.
    #[track_caller]
    pub fn keep(&mut self, copies: &[Transfer]) {
        for c in copies {
            let within = |id: TensorId, first: usize| first + c.len <= self.graph.info(id).len();
            assert!(within(c.from, c.first) && within(c.to, c.at), "{c:?} leaves its tensors");
        }
        match &mut self.backend {
            Backend::Cpu(p) => p.keep(copies),
            Backend::Gpu(p) => p.keep(&self.graph, copies),
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
