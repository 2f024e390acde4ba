//! One forward of a network: its output and the states after every block.

use crate::golden::case::{Checked, Tensors, need, text};
use crate::golden::report::{Limit, Report};
use ancestral::internals::device::{Device, Keep, ProgramOptions, Variants, Weights};
use ancestral::internals::graph::{Graph, Storage};
use ancestral::internals::kernels::Precision;
use ancestral::internals::kernels::elementwise::activate;
use ancestral::internals::kernels::epilogue::Activation;

/// Golden names of what goes in.
const INPUTS: [&str; 4] = ["sample", "timestep", "encoder_hidden_states", "class_labels"];

/// The output and the taps of `graph`, by name.
pub fn run(device: &Device, weights: &Weights, graph: Graph, inputs: &[(&str, &[f32])]) -> Checked<Outputs> {
    let options =
        ProgramOptions { precision: Precision::F32, keep: Keep::Taps, variants: Variants::Measured };
    let mut program = device.program(graph, weights, &options).map_err(text)?;
    inputs.iter().for_each(|(name, values)| program.write(name, values));
    program.run(&mut |_| true).map_err(text)?;
    let named = program.graph().outputs.iter().chain(&program.graph().taps).cloned().collect::<Vec<_>>();
    named
        .into_iter()
        .map(|(name, id)| Ok((name, program.read_tensor(id).map_err(text)?)))
        .collect::<Checked<Vec<_>>>()
        .map(Outputs)
}

/// What a forward computed, by name.
pub struct Outputs(Vec<(String, Vec<f32>)>);

impl Outputs {
    /// The last of a name: an embedding that is called twice is stored as of the later call.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, values)| values.as_slice())
    }
}

/// Compares a stored forward; every stored tensor that does not go in must be among the outputs.
pub fn check(
    what: &str,
    found: &Outputs,
    golden: &Tensors,
    (spread, act): (f64, Activation),
    report: &mut Report,
) -> Checked {
    let out = need(golden, "out")?;
    for (name, tensor) in golden.iter().filter(|(name, _)| !INPUTS.contains(&name.as_str())) {
        let tap = name.strip_prefix("block.").unwrap_or(name);
        let what = format!("{what} {tap}");
        let Some(values) = found.get(tap) else {
            report.fail(&what, "this network has no block of that name".into());
            continue;
        };
        let mut expected = tensor.channels_last();
        if tap == "conv_norm_out" {
            // The reference's norm stands alone; here its kernel activates too.
            expected = activated(&expected, act)?;
        }
        // Stated is the output's spread; the states before it are larger and have no figure of their own.
        let limit = Limit::once(spread).sized_like(&expected, &out.values);
        report.compare(&what, values, &expected, limit);
    }
    Ok(())
}

fn activated(values: &[f32], act: Activation) -> Checked<Vec<f32>> {
    let mut g = Graph::new();
    let x = g.input("x", &[values.len()], Storage::F32);
    let y = activate(&mut g, &x, act);
    g.output("out", &y);
    let found = run(&Device::Cpu, &Weights::none(), g, &[("x", values)])?;
    Ok(found.get("out").unwrap_or_default().to_vec())
}
