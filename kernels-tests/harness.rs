//! Cases on devices, compared with the kernels' references.

use crate::cases::{Case, OUTPUT, all, benched};
use crate::device::{has_f16, on_gpu, skip};
use crate::shaders::check_storage;
use crate::table;
use ancestral::internals::device::{Device, ProgramOptions, Variants, Weights};
use ancestral::internals::graph::rewrites::Rewrite;
use ancestral::internals::graph::{Graph, Source, Storage, TensorId};
use ancestral::internals::kernels::{ALL, Precision, Shader};
use half::f16;
use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What may differ from the reference: Σ(y−r)²/Σr², and the largest |y−r| as a share of the largest |r|.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Normalised mean squared error.
    pub nmse: f64,
    /// Largest absolute difference over the largest magnitude.
    pub peak: f64,
}

/// f32 storage; measured on llvmpipe: NMSE up to 4e-12, 2.8e-6 of the peak (attention with logits of 100).
pub const F32: Tolerance = Tolerance { nmse: 1e-10, peak: 1e-5 };
/// An output stored in f16, half a unit in whose last place is up to 4.9e-4 of a value; measured: 2.2e-7, 4.8e-4.
pub const F16: Tolerance = Tolerance { nmse: 1e-6, peak: 1e-3 };

/// How far an output is from its reference.
#[derive(Clone, Copy, Debug, Default)]
pub struct Difference {
    /// See [`Tolerance::nmse`].
    pub nmse: f64,
    /// See [`Tolerance::peak`].
    pub peak: f64,
}

/// The difference, or what is wrong: lengths, values that are no numbers, more than `tolerance`.
pub fn compare<E: Into<f64> + Copy, A: Into<f64> + Copy>(
    expected: &[E],
    actual: &[A],
    tolerance: Tolerance,
) -> Result<Difference, String> {
    if expected.len() != actual.len() || expected.is_empty() {
        return Err(format!("{} values, {} expected", actual.len(), expected.len()));
    }
    let (mut squares, mut errors, mut top, mut worst) = (0.0f64, 0.0f64, 0.0f64, (0.0f64, 0));
    for (i, (e, a)) in expected.iter().zip(actual).enumerate() {
        let (e, a): (f64, f64) = ((*e).into(), (*a).into());
        if !e.is_finite() || !a.is_finite() {
            return Err(format!("[{i}] is {a}, expected {e}"));
        }
        let difference = (e - a).abs();
        squares += e * e;
        errors += difference * difference;
        top = top.max(e.abs());
        if difference > worst.0 {
            worst = (difference, i);
        }
    }
    // All zeros expected: differences count as they are.
    let or_one = |x: f64| if x == 0.0 { 1.0 } else { x };
    let found = Difference { nmse: errors / or_one(squares), peak: worst.0 / or_one(top) };
    if found.nmse <= tolerance.nmse && found.peak <= tolerance.peak {
        return Ok(found);
    }
    let (size, at) = worst;
    Err(format!(
        "NMSE {:.2e} (at most {:.0e}), largest difference {:.2e} of the peak (at most {:.0e}): {size:.3e} at [{at}], \
         {} instead of {}",
        found.nmse,
        tolerance.nmse,
        found.peak,
        tolerance.peak,
        actual[at].into(),
        expected[at].into()
    ))
}

/// The graph's output by the kernels' references, from inputs as `precision` stores them.
pub fn reference(graph: &Graph, inputs: &[(String, Vec<f32>)], precision: Precision) -> Vec<f64> {
    let at = graph.outputs.iter().position(|(name, _)| name == OUTPUT).expect("a case has an output");
    references(graph, inputs, precision).swap_remove(at)
}

/// The same of every output of the graph.
fn references(graph: &Graph, inputs: &[(String, Vec<f32>)], precision: Precision) -> Vec<Vec<f64>> {
    let given = graph.tensors.iter().filter_map(|t| match &t.source {
        Source::Input(name) => {
            let (_, values) = inputs.iter().find(|(n, _)| n == name)?;
            let values = stored(values.clone(), t.storage, precision);
            Some((graph.find_input(name).expect("it is one"), values.into_iter().map(f64::from).collect()))
        }
        _ => None,
    });
    let values = evaluate(graph, given.collect());
    graph.outputs.iter().map(|(_, id)| values[id].clone()).collect()
}

/// Every tensor of the graph by the kernels' references, in f64, from the inputs' values.
pub fn evaluate(graph: &Graph, inputs: HashMap<TensorId, Vec<f64>>) -> HashMap<TensorId, Vec<f64>> {
    let mut values = inputs;
    for node in &graph.nodes {
        for id in &node.inputs {
            values.entry(*id).or_insert_with(|| match &graph.info(*id).source {
                Source::Constant(values) => values.iter().map(|v| f64::from(*v)).collect(),
                Source::Input(name) => panic!("input `{name}` has no values"),
                other => panic!("read before it is made: {other:?}"),
            });
        }
        // What is updated in place holds its values.
        let before = |id: &TensorId| values.get(id).cloned().unwrap_or(vec![0.0; graph.info(*id).len()]);
        let mut made: Vec<Vec<f64>> = node.outputs.iter().map(before).collect();
        let read: Vec<&[f64]> = node.inputs.iter().map(|id| values[id].as_slice()).collect();
        let mut outputs: Vec<&mut [f64]> = made.iter_mut().map(Vec::as_mut_slice).collect();
        (node.kernel.reference)(&node.params, &read, &mut outputs);
        values.extend(node.outputs.iter().copied().zip(made));
    }
    values
}

fn stored(values: Vec<f32>, storage: Storage, precision: Precision) -> Vec<f32> {
    if storage.is_half(precision) {
        values.into_iter().map(|v| f16::from_f32(v).to_f32()).collect()
    } else {
        values
    }
}

/// Runs a graph on a device; its output, and the graph as it ran.
pub fn run(
    device: &Device,
    graph: &Graph,
    inputs: &[(String, Vec<f32>)],
    options: ProgramOptions,
) -> Result<(Vec<f32>, Graph), String> {
    let at = graph.outputs.iter().position(|(name, _)| name == OUTPUT).expect("a case has an output");
    run_all(device, graph, inputs, options).map(|(mut all, ran)| (all.swap_remove(at), ran))
}

/// Every output of a graph, and the graph as it ran.
pub type Ran = Result<(Vec<Vec<f32>>, Graph), String>;

/// What runs a graph as a device plans it, from its inputs.
pub type Run<'a> = &'a mut dyn FnMut(&Device, &Graph, &[(String, Vec<f32>)], ProgramOptions) -> Ran;

/// The same of every output of the graph.
fn run_all(device: &Device, graph: &Graph, inputs: &[(String, Vec<f32>)], options: ProgramOptions) -> Ran {
    let mut program =
        device.program(graph.clone(), &Weights::none(), &options).map_err(|error| error.to_string())?;
    for (name, values) in inputs {
        program.write(name, values);
    }
    program.run(&mut |_| true).map_err(|error| error.to_string())?;
    let read =
        |(name, _): &(String, TensorId)| program.output(name).read().map_err(|error| error.to_string());
    let all = graph.outputs.iter().map(read).collect::<Result<_, _>>()?;
    Ok((all, program.graph().clone()))
}

/// How a case is run.
struct Path {
    name: &'static str,
    precision: Precision,
}

const WEIGHT_F16: Precision = Precision { elem_f16: false, weight_f16: true };

fn paths(device: &Device) -> Vec<Path> {
    let mut paths = vec![Path { name: "f32", precision: Precision::F32 }];
    let Device::Gpu(_) = device else { return paths };
    if has_f16(device) {
        paths.push(Path { name: "weight f16", precision: WEIGHT_F16 });
        paths.push(Path { name: "f16", precision: Precision::F16 });
    } else {
        skip(&format!("f16: {} has no f16 shaders", device.name()));
    }
    paths
}

fn tolerance(graph: &Graph, output: TensorId, precision: Precision) -> Tolerance {
    if graph.info(output).storage == Storage::Elem && precision.elem_f16 { F16 } else { F32 }
}

/// The rewrite of a case's kernel that a variant is.
fn rewrite(case: &Case, variant: &str) -> Option<&'static Rewrite> {
    let by = |r: &&Rewrite| match r.work {
        None => r.name == variant,
        Some(kernel) => kernel.shaders.iter().any(|s| s.name == variant),
    };
    case.kernel().rewrites.others.iter().find(by)
}

/// The variants of a case's kernel that run on a device.
fn variants(device: &Device, case: &Case, precision: Precision) -> Vec<&'static str> {
    let kernel = case.kernel();
    let able = |s: &&Shader| match device {
        Device::Cpu => s.name == kernel.name,
        Device::Gpu(gpu) => gpu.meets(s.needs, precision),
    };
    let mut names: Vec<&str> = kernel.shaders.iter().filter(able).map(|s| s.name).collect();
    let Device::Gpu(_) = device else { return names };
    for rewrite in kernel.rewrites.others {
        match rewrite.work {
            Some(work) => names.extend(work.shaders.iter().filter(able).map(|s| s.name)),
            None => names.push(rewrite.name),
        }
    }
    names
}

/// Makes constants of weights and biases: some variants need to know them before the run.
pub fn know_weights(case: &Case) -> (Graph, Vec<(String, Vec<f32>)>) {
    let (mut graph, mut rest) = (case.graph.clone(), Vec::new());
    for (name, values) in &case.inputs {
        let id = graph.find_input(name).expect("an input of the graph");
        match graph.tensors[id.index()].storage {
            Storage::Weight | Storage::F32 => {
                graph.tensors[id.index()].source = Source::Constant(values.clone())
            }
            _ => rest.push((name.clone(), values.clone())),
        }
    }
    (graph, rest)
}

/// Runs a case by a variant and compares with what is expected; none where the variant does not compute these sizes.
fn check(
    device: &Device,
    run: Run<'_>,
    case: &Case,
    (precision, variant): (Precision, &'static str),
    expected: &LazyCell<Vec<Vec<f64>>, impl FnOnce() -> Vec<Vec<f64>>>,
) -> Result<Option<Difference>, String> {
    check_storage(&case.graph)?;
    let options = ProgramOptions { precision, variants: Variants::Only(variant), ..Default::default() };
    let rewrite = rewrite(case, variant);
    let (y, ran) = if rewrite.is_some_and(|rewrite| !rewrite.known.is_empty()) {
        let (graph, inputs) = know_weights(case);
        run(device, &graph, &inputs, options)?
    } else {
        run(device, &case.graph, &case.inputs, options)?
    };
    let kernels: Vec<&str> = ran.nodes.iter().map(|n| n.kernel.name).collect();
    match rewrite {
        Some(rewrite) if kernels == rewrite.parts => {}
        _ if kernels != [case.kernel] => {
            return Err(format!("ran as {kernels:?}, not as one {}", case.kernel));
        }
        None if ran.nodes[0].shader().name == variant => {}
        _ => return Ok(None),
    }
    let mut worst = Difference::default();
    for (((name, id), expected), y) in case.graph.outputs.iter().zip(expected.iter()).zip(&y) {
        let found = compare(expected, y, tolerance(&case.graph, *id, precision));
        let found = found.map_err(|what| format!("`{name}`: {what}"))?;
        worst = Difference { nmse: worst.nmse.max(found.nmse), peak: worst.peak.max(found.peak) };
    }
    Ok(Some(worst))
}

/// The cases that `ANCESTRAL_CASE` names, or all.
fn chosen() -> Vec<Case> {
    let wanted = std::env::var("ANCESTRAL_CASE").unwrap_or_default();
    all().into_iter().filter(|case| case.name.contains(&wanted)).collect()
}

/// Shaders, and rewrites without one, that no case ran although the device has what they need; those that it has not are
/// counted as skipped.
fn untested(device: &Device, ran: &BTreeSet<&str>) -> Vec<String> {
    let precisions = paths(device).into_iter().map(|path| path.precision).collect::<Vec<_>>();
    let (mut missed, mut skipped) = (Vec::new(), Vec::new());
    for kernel in ALL.iter() {
        let able = |s: &Shader| match device {
            Device::Cpu => s.name == kernel.name,
            Device::Gpu(gpu) => precisions.iter().any(|precision| gpu.meets(s.needs, *precision)),
        };
        for shader in kernel.shaders.iter().filter(|shader| !ran.contains(shader.name)) {
            match able(shader) {
                true => missed.push(format!("`{}` was run by no case", shader.name)),
                false => skipped.push(shader.name),
            }
        }
        let alone = kernel.rewrites.others.iter().filter(|rewrite| rewrite.work.is_none());
        let alone = alone.filter(|rewrite| matches!(device, Device::Gpu(_)) && !ran.contains(rewrite.name));
        missed.extend(alone.map(|rewrite| format!("`{}` was run by no case", rewrite.name)));
    }
    if matches!(device, Device::Gpu(_)) && !skipped.is_empty() {
        skip(&format!("{} shaders that {} cannot run: {}", skipped.len(), device.name(), skipped.join(", ")));
    }
    missed
}

/// Runs every case by every variant in every format that the device has, and compares.
pub fn check_all(device: &Device, run: Run<'_>) {
    let cases = chosen();
    let (mut worst, mut failures) = (BTreeMap::<_, (Difference, &str)>::new(), Vec::new());
    let mut ran = BTreeSet::new();
    for path in paths(device) {
        for case in &cases {
            let expected = LazyCell::new(|| references(&case.graph, &case.inputs, path.precision));
            for variant in variants(device, case, path.precision) {
                match check(device, run, case, (path.precision, variant), &expected) {
                    Ok(None) => {}
                    Ok(Some(found)) => {
                        ran.insert(variant);
                        let entry = worst.entry((variant, path.name)).or_default();
                        entry.0.peak = entry.0.peak.max(found.peak);
                        if found.nmse >= entry.0.nmse {
                            (entry.0.nmse, entry.1) = (found.nmse, &case.name);
                        }
                    }
                    Err(what) => {
                        table::fails(variant, path.name);
                        failures.push(format!("{} by {variant} in {}: {what}", case.name, path.name));
                    }
                }
            }
        }
    }
    if std::env::var_os("ANCESTRAL_CASE").is_none() {
        failures.extend(untested(device, &ran));
    }
    println!("{} cases on {}", cases.len(), device.name());
    for ((variant, format), (found, name)) in &worst {
        println!("{variant:20} {format:15} NMSE {:.1e}  peak {:.1e}  {name}", found.nmse, found.peak);
        table::holds(variant, format, found.nmse);
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn cases_on_the_cpu_device() {
    check_all(&Device::Cpu, &mut run_all);
}

#[test]
fn cases_on_the_gpu() {
    on_gpu(|device| check_all(device, &mut run_all));
}

/// What measured shaders are checked by.
#[test]
fn elements_are_the_definitions() {
    let mut kernels = BTreeSet::new();
    for case in all() {
        let Some(element) = case.kernel().element else { continue };
        let graph = &case.graph;
        // Of cases that are one node as they are recorded, so that its inputs are the case's.
        let [node] = &graph.nodes[..] else { continue };
        let given = |id: &TensorId| match &graph.info(*id).source {
            Source::Constant(values) => values.clone(),
            Source::Input(name) => {
                case.inputs.iter().find(|(n, _)| n == name).expect("an input has values").1.clone()
            }
            other => panic!("{}: {other:?}", case.name),
        };
        let inputs: Vec<Vec<f32>> = node.inputs.iter().map(given).collect();
        let slices: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let expected = reference(graph, &case.inputs, Precision::F32);
        let peak = expected.iter().fold(0.0f64, |peak, y| peak.max(y.abs()));
        for (i, y) in expected.iter().enumerate().step_by(expected.len() / 50 + 1) {
            let found = element(&node.params, &slices, i);
            // What is added to a score is added up in f32.
            assert!((found - y).abs() <= 1e-6 * peak, "{} [{i}]: {found}, {y}", case.name);
        }
        kernels.insert(case.kernel);
    }
    let expected: BTreeSet<&str> = ALL.iter().filter(|k| k.element.is_some()).map(|k| k.name).collect();
    assert_eq!(kernels, expected, "kernels that define an element");
}

#[test]
fn every_kernel_has_cases() {
    let cases = all();
    for kernel in ALL.iter() {
        assert!(
            cases.iter().any(|c| c.kernel == kernel.name),
            "`{}` has no cases in kernels-tests/cases",
            kernel.name
        );
    }
    let mut names: Vec<&str> = cases.iter().map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    let measured = benched();
    for kernel in ALL.iter() {
        assert!(measured.iter().any(|c| c.kernel == kernel.name), "`{}` is measured nowhere", kernel.name);
    }
    let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
    assert!(twice.is_none(), "two cases of one name: {twice:?}");
}
