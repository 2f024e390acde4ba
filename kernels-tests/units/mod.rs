//! Layers and blocks against what PyTorch, diffusers and transformers computed from the same numbers
//! (`goldens/units`, and any other folder of that kind). Pictures are NCHW there and NHWC here.

mod blocks;
mod layers;

use crate::cases::{input_name, weights_to_inputs};
use crate::device::{has_f16, on_gpu};
use crate::shaders::check_storage;
use ancestral::internals::device::{Device, ProgramOptions, Weights};
use ancestral::internals::graph::{Graph, Pass, Repack, Storage, Tensor};
use ancestral::internals::kernels::Precision;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How a case is run and compared.
#[derive(Clone, Copy)]
struct Run {
    precision: Precision,
    /// Largest difference from a golden, as a share of its largest magnitude or of 1.
    tolerance: f64,
    /// Negative control: goldens are falsified as they are read.
    planted: bool,
}

/// Both sides sum in f32; measured: up to 1.3e-6 (attention with large logits).
const F32: Run = Run { precision: Precision::F32, tolerance: 1e-5, planted: false };
/// Activations and weights stored in f16; measured: up to 3.0e-3 (group norm of an input 20 deviations from zero).
const F16: Run = Run { precision: Precision::F16, tolerance: 1e-2, planted: false };

/// Families that `common/diffusion.rs` checks: numbers of samplers, not layers.
const ELSEWHERE: [&str; 6] = ["betas", "timesteps", "q_sample", "ddpm_step", "ddim_step", "unclip_step"];

type Checked<T = ()> = Result<T, String>;

/// Shape and values.
type Golden = (Vec<usize>, Vec<f32>);

/// One `family/number` of a case: its parameters and tensors.
struct Entry<'a> {
    name: &'a str,
    parameters: &'a Value,
    file: &'a SafeTensors<'a>,
}

impl Entry<'_> {
    fn get(&self, tensor: &str) -> Checked<Golden> {
        let name = format!("{}/{tensor}", self.name);
        let view = self.file.tensor(&name).map_err(|error| format!("{name}: {error}"))?;
        let bytes = view.data();
        let values = match view.dtype() {
            Dtype::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Dtype::I64 => bytes
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes(std::array::from_fn(|i| b[i])) as f32)
                .collect(),
            other => return Err(format!("{name} is {other:?}")),
        };
        Ok((view.shape().to_vec(), values))
    }

    fn has(&self, tensor: &str) -> bool {
        self.file.tensor(&format!("{}/{tensor}", self.name)).is_ok()
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.parameters[key].as_f64()
    }

    /// A count that must be there.
    fn count(&self, key: &str) -> Checked<usize> {
        let found = self.parameters[key].as_u64().ok_or_else(|| format!("no whole number `{key}`"))?;
        Ok(found as usize)
    }

    fn eps(&self) -> f32 {
        self.number("eps").unwrap_or(1e-5) as f32
    }

    fn flag(&self, key: &str) -> bool {
        self.parameters[key].as_bool().unwrap_or(false)
    }

    fn text(&self, key: &str) -> &str {
        self.parameters[key].as_str().unwrap_or_default()
    }
}

/// Values with their axes in another order: axis i of the result is axis `axes[i]` of `x`.
fn permute((shape, x): &Golden, axes: &[usize]) -> Vec<f32> {
    let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
    (0..x.len())
        .map(|mut i| {
            let mut at = 0;
            for &axis in axes.iter().rev() {
                at += i % shape[axis] * stride(axis);
                i /= shape[axis];
            }
            x[at]
        })
        .collect()
}

const TO_NHWC: [usize; 4] = [0, 2, 3, 1];

/// An entry's graph with its inputs and what should come out.
struct Layer<'a> {
    entry: &'a Entry<'a>,
    g: Graph,
    inputs: Vec<(String, Vec<f32>)>,
    /// Name in the case and expected values of every output.
    expected: Vec<(String, Vec<f32>)>,
}

impl Layer<'_> {
    fn given(&mut self, shape: &[usize], storage: Storage, values: Vec<f32>) -> Tensor {
        let name = format!("in{}", self.inputs.len());
        self.inputs.push((name.clone(), values));
        self.g.input(&name, shape, storage)
    }

    /// A stored tensor as it is.
    fn input(&mut self, tensor: &str) -> Checked<Tensor> {
        let (shape, values) = self.entry.get(tensor)?;
        Ok(self.given(&shape, Storage::Elem, values))
    }

    /// A stored NCHW tensor.
    fn picture_in(&mut self, tensor: &str, storage: Storage) -> Checked<Tensor> {
        let golden = self.entry.get(tensor)?;
        let &[n, c, h, w] = &golden.0[..] else {
            return Err(format!("`{tensor}` is no picture: {:?}", golden.0));
        };
        Ok(self.given(&[n, h, w, c], storage, permute(&golden, &TO_NHWC)))
    }

    fn picture(&mut self, tensor: &str) -> Checked<Tensor> {
        self.picture_in(tensor, Storage::Elem)
    }

    /// `y` should be the stored tensor; pictures are NCHW there.
    fn expect(&mut self, tensor: &str, y: &Tensor) -> Checked {
        let golden = self.entry.get(tensor)?;
        let picture = golden.0.len() == 4 && y.shape.len() == 4;
        let values = if picture { permute(&golden, &TO_NHWC) } else { golden.1 };
        self.expect_values(tensor, y, values)
    }

    fn expect_values(&mut self, name: &str, y: &Tensor, values: Vec<f32>) -> Checked {
        if y.len() != values.len() {
            return Err(format!("`{name}` has {} values, the graph makes {:?}", values.len(), y.shape));
        }
        let name = format!("{name} #{}", self.expected.len());
        self.g.output(&name, y);
        self.expected.push((name, values));
        Ok(())
    }

    /// Gives the graph's weights the stored values.
    fn load(&mut self) -> Checked {
        for weight in weights_to_inputs(&mut self.g) {
            // Several tensors are one, stacked along their first dimension.
            let mut golden = (vec![0], Vec::new());
            for part in &weight.parts {
                let name = &part.name;
                let (shape, values) = self.entry.get(name)?;
                if shape != weight.shape {
                    return Err(format!("weight `{name}` is {shape:?}, {:?} is read", weight.shape));
                }
                golden = ([&[golden.0[0] + shape[0]], &shape[1..]].concat(), [golden.1, values].concat());
            }
            let values = match weight.repack {
                Repack::Transpose => permute(&golden, &[1, 0]),
                Repack::Conv(Pass::Forward) => permute(&golden, &[2, 3, 1, 0]),
                _ => golden.1,
            };
            self.inputs.push((input_name(&self.g, weight.id).to_string(), values));
        }
        Ok(())
    }

    /// Runs the graph; the largest difference of its outputs.
    fn run(mut self, device: &Device, run: Run) -> Checked<f64> {
        self.load()?;
        check_storage(&self.g)?;
        let options = ProgramOptions { precision: run.precision, ..ProgramOptions::default() };
        let mut program =
            device.program(self.g, &Weights::none(), &options).map_err(|error| error.to_string())?;
        for (name, values) in &self.inputs {
            program.write(name, values);
        }
        program.run(&mut |_| true).map_err(|error| error.to_string())?;
        let mut worst = 0.0f64;
        for (name, mut expected) in self.expected {
            let y = program.read(&name).map_err(|error| error.to_string())?;
            if run.planted {
                let top = expected.iter().fold(1.0f32, |top, v| top.max(v.abs()));
                expected.last_mut().into_iter().for_each(|last| *last += 1e-3 * top);
            }
            let found = difference(&expected, &y, run.tolerance).map_err(|what| format!("{name}: {what}"))?;
            worst = worst.max(found);
        }
        Ok(worst)
    }
}

fn difference(expected: &[f32], y: &[f32], tolerance: f64) -> Checked<f64> {
    let top = expected.iter().fold(1.0f64, |top, v| top.max(f64::from(v.abs())));
    let mut worst = 0.0f64;
    for (i, (e, y)) in expected.iter().zip(y).enumerate() {
        let found = (f64::from(*e) - f64::from(*y)).abs() / top;
        if found.is_nan() || found > tolerance {
            return Err(format!(
                "[{i}] is {y}, PyTorch has {e}: {found:.1e} of {top:.3}, at most {tolerance:.0e}"
            ));
        }
        worst = worst.max(found);
    }
    Ok(worst)
}

/// Records an entry's layer; none if its family is checked elsewhere.
fn record<'a>(entry: &'a Entry<'a>) -> Checked<Option<Layer<'a>>> {
    let family = entry.name.split('/').next().unwrap_or_default();
    if ELSEWHERE.contains(&family) {
        return Ok(None);
    }
    let mut layer = Layer { entry, g: Graph::new(), inputs: Vec::new(), expected: Vec::new() };
    let known = layers::record(&mut layer, family)? || blocks::record(&mut layer, family)?;
    match (known, layer.expected.is_empty()) {
        (false, _) => Err(format!("`{family}` is a family nobody checks")),
        (true, true) => Err("nothing is compared".into()),
        (true, false) => Ok(Some(layer)),
    }
}

/// What became of each entry: `family/number` and its largest difference, or what is wrong.
fn results(case: &Path, device: &Device, run: Run) -> Checked<Vec<(String, Checked<f64>)>> {
    let read =
        |file: &str| std::fs::read(case.join(file)).map_err(|e| format!("{}: {file}: {e}", case.display()));
    let units: Value = serde_json::from_slice(&read("units.json")?).map_err(|error| error.to_string())?;
    let bytes = read("units.safetensors")?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| error.to_string())?;
    let mut results = Vec::new();
    for (name, parameters) in units.as_object().ok_or("units.json is no object")? {
        let entry = Entry { name, parameters, file: &file };
        let result = match record(&entry) {
            Ok(None) => continue,
            Ok(Some(layer)) => layer.run(device, run),
            Err(what) => Err(what),
        };
        results.push((name.clone(), result));
    }
    Ok(results)
}

/// Every layer of a units case (`units.json`, `units.safetensors`) on `device`; the largest difference of each family,
/// or what failed.
pub fn check_units(case: &Path, device: &Device) -> Result<String, String> {
    summary(&results(case, device, F32)?)
}

fn summary(results: &[(String, Checked<f64>)]) -> Result<String, String> {
    let mut worst: BTreeMap<&str, f64> = BTreeMap::new();
    let mut failures = Vec::new();
    for (name, result) in results {
        match result {
            Ok(found) => {
                let entry = worst.entry(name.split('/').next().unwrap_or_default()).or_default();
                *entry = entry.max(*found);
            }
            Err(what) => failures.push(format!("{name}: {what}")),
        }
    }
    if results.is_empty() {
        failures.push("no layer in this case".into());
    }
    let lines: Vec<String> = worst.iter().map(|(family, found)| format!("{family:22} {found:.1e}")).collect();
    if failures.is_empty() { Ok(lines.join("\n")) } else { Err(failures.join("\n")) }
}

/// The stored case, or another folder of that kind.
fn stored_case() -> PathBuf {
    let stored = || Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/units");
    std::env::var_os("ANCESTRAL_UNITS").map_or_else(stored, PathBuf::from)
}

fn check_stored(device: &Device) {
    match check_units(&stored_case(), device) {
        Ok(table) => println!("units on {}\n{table}", device.name()),
        Err(failures) => panic!("units on {}:\n{failures}", device.name()),
    }
}

#[test]
fn layers_on_the_cpu_device() {
    check_stored(&Device::Cpu);
}

#[test]
fn layers_on_the_gpu() {
    on_gpu(check_stored);
}

/// Far from the tolerances of kernels, since errors grow from layer to layer, but a tensor read in the wrong type is
/// farther.
#[test]
fn layers_on_the_gpu_in_f16() {
    on_gpu(|device| {
        if has_f16(device) {
            match results(&stored_case(), device, F16).and_then(|results| summary(&results)) {
                Ok(table) => println!("units in f16 on {}\n{table}", device.name()),
                Err(failures) => panic!("units in f16 on {}:\n{failures}", device.name()),
            }
        }
    });
}

/// Goldens falsified by a thousandth in one place fail, each of them.
#[test]
fn falsified_goldens_fail() {
    for (name, result) in
        results(&stored_case(), &Device::Cpu, Run { planted: true, ..F32 }).expect("the case is there")
    {
        assert!(result.is_err(), "{name}: a falsified golden passes");
    }
}
