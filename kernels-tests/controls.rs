//! Planted errors that the harness must see, and checks of the references against a second definition.

use crate::cases::norms::FAR_MEAN;
use crate::cases::steps::{CLIPS, VARIANCES, a_step};
use crate::cases::{Case, OUTPUT, Rng, all};
use crate::device::on_gpu;
use crate::harness::{F16, F32, Tolerance, compare, reference, run};
use ancestral::internals::device::{Device, ProgramOptions};
use ancestral::internals::diffusion::reference::apply;
use ancestral::internals::diffusion::{Thresholding, Variance, coefficients, numbers};
use ancestral::internals::graph::{Graph, Storage};
use ancestral::internals::kernels::Precision;
use ancestral::internals::kernels::elementwise::add;
use ancestral::internals::kernels::matmul::matmul;
use ancestral::internals::kernels::quantile::quantile;
use ancestral::internals::kernels::step::{StepInputs, step};

fn find(name: &str) -> Case {
    all().into_iter().find(|c| c.name == name).unwrap_or_else(|| panic!("no case {name}"))
}

fn output(device: &Device, case: &Case) -> Vec<f32> {
    run(device, &case.graph, &case.inputs, ProgramOptions::default()).expect("a case runs").0
}

fn expected(case: &Case) -> Vec<f64> {
    reference(&case.graph, &case.inputs, Precision::F32)
}

/// Adds 0.1 % to a member of the first node's uniform.
fn perturb(case: &mut Case, member: &str) {
    let node = &mut case.graph.nodes[0];
    let field = node.kernel.fields.iter().find(|f| f.name == member).expect("the kernel has that member");
    let bytes = &mut node.params[field.offset..][..4];
    let value = f32::from_ne_bytes(bytes.try_into().expect("four bytes"));
    bytes.copy_from_slice(&(value * 1.001).to_ne_bytes());
}

fn planted_errors_are_seen(device: &Device) {
    for name in ["group_norm/large_eps", "layer_norm/large_eps", "attention/length_17"] {
        let mut case = find(name);
        let y = output(device, &case);
        compare(&expected(&case), &y, F32).expect("right as it is");
        perturb(&mut case, if name.starts_with("attention") { "scale" } else { "eps" });
        assert!(compare(&expected(&case), &y, F32).is_err(), "{name}: a wrong number passes");
    }
    let case = find("conv2d/ragged_tiles");
    let (wanted, mut y) = (expected(&case), output(device, &case));
    y.swap(5, 6);
    assert!(
        compare(&wanted, &y, F32).is_err() && compare(&wanted, &y, F16).is_err(),
        "swapped channels pass"
    );
    y.swap(5, 6);
    let last = y.len() - 1;
    y[last] = f32::NAN;
    assert!(compare(&wanted, &y, F32).is_err(), "NaN passes");
    y.pop();
    assert!(compare(&wanted, &y, F32).is_err(), "a missing element passes");
    assert!(compare::<f64, f64>(&[], &[], F32).is_err(), "nothing passes");
}

#[test]
fn planted_errors_are_seen_on_the_cpu_device() {
    planted_errors_are_seen(&Device::Cpu);
}

#[test]
fn planted_errors_are_seen_on_the_gpu() {
    on_gpu(planted_errors_are_seen);
}

/// The case with a mean far from zero is hard enough: E[x²] − E[x]² in f32 does not pass it.
#[test]
fn one_pass_variance_is_refused() {
    let mut rng = Rng::named("one pass");
    let x = rng.normals(3 * 256, FAR_MEAN, 1.0);
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    let one_pass = x.iter().map(|v| v * v).sum::<f32>() / n - mean * mean;
    let (mean64, len) = (x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64, x.len() as f64);
    let two_pass = x.iter().map(|&v| (f64::from(v) - mean64).powi(2)).sum::<f64>() / len;
    let right: Vec<f32> = x.iter().map(|&v| ((f64::from(v) - mean64) / two_pass.sqrt()) as f32).collect();
    let wrong: Vec<f32> = x.iter().map(|v| (v - mean) / one_pass.sqrt()).collect();
    assert!(compare(&right, &wrong, F32).is_err(), "variances {one_pass} and {two_pass} pass as equal");
}

/// The step kernel's reference (with the quantile kernel's) is what `diffusion::reference` says a step is.
#[test]
fn steps_are_those_of_the_schedulers() {
    for (clip_name, clip) in CLIPS {
        for (variance_name, variance) in VARIANCES {
            for guidance in [None, Some(5.0)] {
                let found = compare_step(clip, variance, guidance);
                assert!(found.is_ok(), "{clip_name}, {variance_name}, {guidance:?}: {found:?}");
            }
        }
    }
}

fn compare_step(clip: Thresholding, variance: Variance, guidance: Option<f64>) -> Result<(), String> {
    let (pictures, pixels, channels) = (3, 20, 3);
    let mut rng = Rng::named("step");
    let len = pictures * pixels * channels;
    let (x, noise) = (rng.normals(len, 0.0, 1.0), rng.normals(len, 0.0, 1.0));
    let halves = if guidance.is_some() { 2 } else { 1 };
    let out: Vec<f32> = (0..2 * halves * len).map(|_| rng.uniform() as f32).collect();
    // The output's channels: prediction, then variance; with guidance the unconditional pictures come first.
    let at = |half: usize, i: usize| (half * len + i) / channels * 2 * channels + i % channels;
    let conditional = halves - 1;
    let guided: Vec<f32> = (0..len)
        .map(|i| {
            let (u, c) = (f64::from(out[at(0, i)]), f64::from(out[at(conditional, i)]));
            guidance.map_or(c, |guidance| u + guidance * (c - u)) as f32
        })
        .collect();
    let learned: Vec<f32> = (0..len).map(|i| out[at(conditional, i) + channels]).collect();
    let wanted = apply(&a_step(clip, variance), &x, &guided, &learned, &noise, pictures);
    let [next, x0] = [&wanted.x, &wanted.x0].map(|of| of.iter().map(|v| *v as f32).collect::<Vec<f32>>());

    let mut g = Graph::new();
    let shape = [pictures, 4, 5, channels];
    let x_in = g.input("x", &shape, Storage::F32);
    let z_in = g.input("noise", &shape, Storage::F32);
    let out_in = g.input("out", &[halves * pictures, 4, 5, 2 * channels], Storage::Elem);
    let numbers = g.input("numbers", &[numbers::COUNT + pictures], Storage::F32);
    let fault = g.input("fault", &[1], Storage::F32);
    if matches!(clip, Thresholding::Dynamic { .. }) {
        quantile(&mut g, &x_in, &out_in, &numbers, None);
    }
    let inputs = StepInputs::plain(&out_in, &z_in, &numbers, &fault);
    let x0_out = step(&mut g, &x_in, &inputs);
    let mut numbers = coefficients(&a_step(clip, variance), guidance.unwrap_or(1.0)).to_vec();
    numbers.extend([0.0; 3]);
    let given = [("x", x), ("noise", noise), ("out", out), ("numbers", numbers), ("fault", vec![0.0])];
    let given: Vec<(String, Vec<f32>)> = given.map(|(name, values)| (name.to_string(), values)).into();
    for (tensor, wanted) in [(&x_in, &next), (&x0_out, &x0)] {
        g.outputs.clear();
        g.output(OUTPUT, tensor);
        let found = reference(&g, &given, Precision::F32);
        compare(wanted, &found, Tolerance { nmse: 1e-12, peak: 1e-6 })?;
    }
    Ok(())
}

/// An operand with a row for several joins a product only where both count rows alike: here the product's rows are
/// 4 wide and the sum's 8.
#[test]
fn fusion_minds_a_reshape_between() {
    let mut g = Graph::new();
    let x = g.input("x", &[6, 10], Storage::Elem);
    let w = g.input("w", &[10, 4], Storage::Weight);
    let row = g.input("row", &[1, 8], Storage::Elem);
    let y = matmul(&mut g, "product", &x, &w, None);
    let y = g.reshape(&y, &[3, 8]);
    let y = add(&mut g, &y, &row);
    g.output(OUTPUT, &y);
    let mut rng = Rng::named("reshape");
    let given =
        [("x", 60), ("w", 40), ("row", 8)].map(|(name, len)| (name.to_string(), rng.normals(len, 0.0, 1.0)));
    let (found, _) = run(&Device::Cpu, &g, &given, ProgramOptions::default()).expect("the graph runs");
    compare(&reference(&g, &given, Precision::F32), &found, F32).expect("fused and unfused agree");
}
