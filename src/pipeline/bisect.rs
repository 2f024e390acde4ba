//! Where two devices part: the same graph on both, compared node by node.

use crate::device::{Device, Keep, Program, ProgramOptions, Weights, nmse};
use crate::error::Result;
use crate::graph::{Graph, fuse::fuse};
use crate::kernels::Precision;

/// The first node whose outputs differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Parting {
    /// The node's label: the path of its weights and its operation.
    pub label: String,
    /// Its kernel.
    pub kernel: &'static str,
    /// Normalised mean square error, Σ(a-b)² / Σa².
    pub nmse: f64,
    /// How many nodes agreed before it.
    pub agreed: usize,
}

/// Runs `graph` on two devices, each with its own weights, on the same inputs (by name) and names the first node at which
/// they part by more than `tolerance` (NMSE), or none. Every node's output is kept on both: give it room.
pub fn bisect(
    graph: &Graph,
    inputs: &[(&str, &[f32])],
    (a, b): ((&Device, &Weights), (&Device, &Weights)),
    precision: Precision,
    tolerance: f64,
) -> Result<Option<Parting>> {
    let run = |(device, weights): (&Device, &Weights)| -> Result<Program> {
        let options = ProgramOptions { precision, keep: Keep::All, ..Default::default() };
        let mut program = device.program(graph.clone(), weights, &options)?;
        inputs.iter().for_each(|(name, values)| program.write(name, values));
        program.run(&mut |_| true)?;
        Ok(program)
    };
    let (mut a, mut b) = (run(a)?, run(b)?);
    // The nodes both have, whatever either device puts in the place of one.
    let mut common = graph.clone();
    fuse(&mut common);
    for (agreed, node) in common.nodes.iter().enumerate() {
        let nmse = nmse(&a.read_tensor(node.output())?, &b.read_tensor(node.output())?);
        // NaN is a parting too.
        if nmse.is_nan() || nmse > tolerance {
            return Ok(Some(Parting { label: node.label.clone(), kernel: node.kernel.name, nmse, agreed }));
        }
    }
    Ok(None)
}
