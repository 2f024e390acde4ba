//! The cases by Dawn, the WebGPU of Chromium: other than naga's compiler of WGSL, and another runtime than wgpu. Graphs are
//! planned for the GPU of the other tests; node runs what comes of it (`tools/drivers/dawn.mjs`).

use crate::device::on_gpu;
use crate::harness::{Ran, check_all};
use ancestral::internals::device::{Device, ProgramOptions, Weights};
use ancestral::internals::graph::{Graph, Node, Source, TensorId};
use half::f16;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Node with Dawn in it.
struct Dawn {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Dawn {
    fn start() -> Dawn {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/drivers/dawn.mjs");
        let mut command = Command::new("node");
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("node starts");
        let (to, from) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Dawn { child, to, from: BufReader::new(from) }
    }

    /// Sends a request with its tensors, and reads what it answers.
    fn ask(&mut self, request: &Value, tensors: &[u8], reply: &mut [u8]) -> std::io::Result<Option<String>> {
        writeln!(self.to, "{request}")?;
        self.to.write_all(tensors)?;
        self.to.flush()?;
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        let error: Option<String> = serde_json::from_str(&line)?;
        if error.is_none() {
            self.from.read_exact(reply)?;
        }
        Ok(error)
    }

    fn run(
        &mut self,
        device: &Device,
        graph: &Graph,
        inputs: &[(String, Vec<f32>)],
        options: ProgramOptions,
    ) -> Ran {
        let precision = options.precision;
        let program = device.program(graph.clone(), &Weights::none(), &options);
        let graph = program.map_err(|error| error.to_string())?.graph().clone();
        let touched = graph.nodes.iter().flat_map(|node| node.inputs.iter().chain(&node.outputs));
        let touched: Vec<TensorId> = touched.copied().collect::<BTreeSet<_>>().into_iter().collect();
        let (mut tensors, mut values) = (Vec::new(), Vec::new());
        for id in &touched {
            let given: &[f32] = match &graph.info(*id).source {
                Source::Constant(values) => values,
                Source::Input(name) => inputs.iter().find(|(n, _)| n == name).map_or(&[], |(_, v)| v),
                _ => &[],
            };
            let before = values.len();
            match graph.info(*id).storage.is_half(precision) {
                true => values.extend(given.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
                false => values.extend(given.iter().flat_map(|v| v.to_le_bytes())),
            }
            tensors
                .push(json!({ "bytes": graph.info(*id).bytes(precision), "given": values.len() - before }));
        }
        let at = |id: &TensorId| touched.binary_search(id).expect("it is touched");
        let node = |node: &Node| {
            let shader = node.shader();
            let bound: Vec<usize> = node.inputs.iter().chain(&node.outputs).map(at).collect();
            json!({
                // naga takes subgroups for granted.
                "wgsl": format!("enable subgroups;\n{}", shader.source(precision)),
                "constants": shader.constants.iter().copied().collect::<BTreeMap<_, _>>(),
                "params": node.params,
                "grid": (shader.grid)(&node.params, &graph.info(node.output()).shape),
                "bound": bound,
            })
        };
        let nodes: Vec<Value> = graph.nodes.iter().map(node).collect();
        let outputs: Vec<usize> = graph.outputs.iter().map(|(_, id)| at(id)).collect();
        let sizes = graph.outputs.iter().map(|(_, id)| graph.info(*id).bytes(precision) as usize);
        let mut reply = vec![0; sizes.sum()];
        let request = json!({ "tensors": tensors, "nodes": nodes, "outputs": outputs });
        if let Some(error) = self.ask(&request, &values, &mut reply).map_err(|error| error.to_string())? {
            return Err(error);
        }
        let mut rest = reply.as_slice();
        let outputs = graph.outputs.iter().map(|(_, id)| {
            let info = graph.info(*id);
            let bytes;
            (bytes, rest) = rest.split_at(info.bytes(precision) as usize);
            match info.storage.is_half(precision) {
                true => bytes.chunks_exact(2).take(info.len()).map(half_of).collect(),
                false => bytes.chunks_exact(4).map(single_of).collect(),
            }
        });
        Ok((outputs.collect(), graph.clone()))
    }
}

fn half_of(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

fn single_of(bytes: &[u8]) -> f32 {
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

impl Drop for Dawn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "`./check --drivers` has Dawn"]
fn cases_on_dawn() {
    on_gpu(|device| {
        let mut dawn = Dawn::start();
        check_all(device, &mut |device, graph, inputs, options| dawn.run(device, graph, inputs, options));
    });
}
