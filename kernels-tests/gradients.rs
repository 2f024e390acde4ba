//! Reverse mode: every recorded gradient against finite differences of the kernels' f64 definitions, and on devices.

use crate::cases::{Case, OUTPUT, Rng, all};
use crate::device::on_gpu;
use crate::harness::{F32, Tolerance, compare, evaluate, know_weights, run};
use crate::shaders::check_storage;
use ancestral::internals::device::{Device, ProgramOptions};
use ancestral::internals::graph::gradient::gradient;
use ancestral::internals::graph::{Graph, Source, Storage, TensorId};
use ancestral::internals::kernels::ALL;
use ancestral::internals::kernels::elementwise::mul;
use ancestral::internals::kernels::variational_bound_gradient::variational_bound_gradient;
use std::collections::{BTreeMap, HashMap};

/// Elements of each input that are moved.
const PROBES: usize = 6;
/// How far they are moved. Central differences in f64: the error of the quotient is about its square, 1e-8, times the
/// third derivative, plus 1e-16 of the sum over it.
const STEP: f64 = 1e-4;
/// Largest difference from the finite difference over the largest gradient; measured: 2e-6.
const TOLERANCE: f64 = 2e-5;
/// Largest output of a case whose differences are taken: each costs two runs of plain loops.
const LARGEST: usize = 60_000;

/// Gradients of sums of order 1 that are 0 but for rounding.
const NOTHING: f64 = 1e-5;

/// Inputs that have no gradient, by kernel and what the refusal says; no others may be refused.
const REFUSED: &[(&str, &str)] = &[
    ("attention", "the mask"),
    ("attention", "the bias of two sets of keys"),
    ("batch_norm", "the mean"),
    ("batch_norm", "the variance"),
    ("batch_norm", "the norm's weight"),
    ("batch_norm", "the norm's bias"),
    ("embedding", "the ids"),
    ("embedding", "a part of its table"),
    ("matmul", "its left side while the right ones are computed"),
    ("matmul", "the right sides of several products"),
    ("pick", "the indices"),
    ("squared_error", "the goal"),
    ("squared_error", "the weight of the loss"),
    ("variational_bound", "x₀"),
    ("variational_bound", "x_t"),
    ("variational_bound", "the numbers of the timesteps"),
];

/// Cases whose gradient no difference shows: every score is -3e38, which moving a query or a key does not change.
const UNMOVED: &[&str] = &["attention/all_masked"];

/// A loss that holds a part of its gradient back: [`the_bound_moves_the_variance_alone`].
const HELD: &str = "variational_bound/learned";

/// Of a case with logits of hundreds, whose own rounding shows in the probabilities; measured on llvmpipe: 1.6e-10, 1.7e-5.
const BIG_LOGITS: (&str, Tolerance) = ("attention/big_logits", Tolerance { nmse: 1e-9, peak: 5e-5 });

/// A case's graph with a gradient behind it: of the sum of its output times constants, with respect to one input.
struct Differentiated {
    graph: Graph,
    /// The moved input.
    input: TensorId,
    /// The output times constants.
    scalar: TensorId,
    /// The recorded gradient.
    gradient: TensorId,
    inputs: Vec<(String, Vec<f32>)>,
}

/// Differentiates a case with respect to each of its activations; the refusals, too.
fn differentiate(case: &Case) -> Vec<Result<Differentiated, String>> {
    let known = know_weights(case);
    let trained = (case.graph.clone(), case.inputs.clone());
    // With respect to activations where weights are known; then to all, with weights that change.
    let known = known.1.clone().into_iter().map(|(name, _)| (name, &known));
    let trained = case.inputs.iter().map(|(name, _)| (name.clone(), &trained));
    let mut made = Vec::new();
    for (name, (graph, inputs)) in known.chain(trained) {
        let mut g = graph.clone();
        let id = g.find_input(&name).expect("an input");
        let y = g.tensor(g.find_output(OUTPUT).expect("a case has an output"));
        // Not the numbers the inputs are drawn from: a norm's gradient in its input's own direction is 0.
        let factors = Rng::named(&format!("{} (factors)", case.name)).normals(y.len(), 0.0, 1.0);
        let factors = g.constant(&y.shape, factors);
        let scalar = mul(&mut g, &y, &factors);
        let input = g.tensor(id);
        made.push(match gradient(&mut g, &scalar, &[&input]) {
            Ok(gradients) => {
                g.outputs.clear();
                g.output(OUTPUT, &gradients[0]);
                let gradient = gradients[0].id;
                Ok(Differentiated {
                    graph: g,
                    input: id,
                    scalar: scalar.id,
                    gradient,
                    inputs: inputs.clone(),
                })
            }
            Err(error) => Err(error.to_string()),
        });
    }
    made
}

impl Differentiated {
    fn values(&self) -> HashMap<TensorId, Vec<f64>> {
        let value = |(name, values): &(String, Vec<f32>)| {
            let id = self.graph.find_input(name).expect("an input");
            (id, values.iter().map(|v| f64::from(*v)).collect())
        };
        self.inputs.iter().map(value).collect()
    }

    /// The largest difference between gradient and finite differences at some elements, over the largest gradient.
    fn error(&self, name: &str) -> f64 {
        let given = self.values();
        let gradient = &evaluate(&self.graph, given.clone())[&self.gradient];
        let top = gradient.iter().fold(0.0f64, |top, v| top.max(v.abs())).max(1e-6);
        let mut rng = Rng::named(name);
        let moved = |at: usize, by: f64| {
            let mut given = given.clone();
            given.get_mut(&self.input).expect("given")[at] += by;
            // Only what leads to the scalar: its own node and those before it.
            let mut forward = self.graph.clone();
            let last = forward.nodes.iter().position(|n| n.output() == self.scalar).expect("a node makes it");
            forward.nodes.truncate(last + 1);
            evaluate(&forward, given)[&self.scalar].iter().sum::<f64>()
        };
        let probe = |_| {
            let at = (rng.uniform() * given[&self.input].len() as f64) as usize;
            let difference = (moved(at, STEP) - moved(at, -STEP)) / (2.0 * STEP);
            (difference - gradient[at]).abs() / top
        };
        (0..PROBES).map(probe).fold(0.0, f64::max)
    }
}

#[test]
fn gradients_are_finite_differences() {
    let (mut worst, mut failures) = (BTreeMap::<&str, (f64, String)>::new(), Vec::new());
    for case in all() {
        let kernel = ALL.iter().find(|k| k.name == case.kernel).expect("a case is of a kernel");
        let y = case.graph.find_output(OUTPUT).expect("an output");
        let small =
            case.graph.tensors.iter().all(|t| t.len() <= LARGEST) && case.graph.info(y).len() <= LARGEST;
        if kernel.gradient.is_none() || !small || UNMOVED.contains(&case.name.as_str()) || case.name == HELD {
            continue;
        }
        for made in differentiate(&case) {
            match made {
                Ok(made) => {
                    let error = made.error(&case.name);
                    let entry = worst.entry(case.kernel).or_insert((0.0, String::new()));
                    if error >= entry.0 {
                        *entry = (error, case.name.clone());
                    }
                    if error.is_nan() || error > TOLERANCE {
                        failures.push(format!("{}: {error:.2e} of the largest gradient", case.name));
                    }
                }
                Err(what) if REFUSED.iter().any(|(k, words)| *k == case.kernel && what.contains(words)) => {}
                Err(what) => failures.push(format!("{}: {what}", case.name)),
            }
        }
    }
    for (kernel, (error, name)) in &worst {
        println!("{kernel:24} {error:.1e}  {name}");
    }
    for kernel in ALL.iter().filter(|k| k.gradient.is_some()) {
        if !worst.contains_key(kernel.name) {
            failures.push(format!("{}: no case was small enough", kernel.name));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

fn on(device: &Device) {
    let mut failures = Vec::new();
    for case in all() {
        let tolerance = if case.name == BIG_LOGITS.0 { BIG_LOGITS.1 } else { F32 };
        let kernel = ALL.iter().find(|k| k.name == case.kernel).expect("a case is of a kernel");
        if kernel.gradient.is_none() || case.graph.tensors.iter().any(|t| t.len() > LARGEST) {
            continue;
        }
        for made in differentiate(&case).into_iter().flatten() {
            let expected = &evaluate(&made.graph, made.values())[&made.gradient];
            // A norm of one element has a gradient through eps alone: in f32 it is what rounding leaves.
            if expected.iter().all(|v| v.abs() < NOTHING) {
                continue;
            }
            let found = check_storage(&made.graph)
                .and_then(|()| run(device, &made.graph, &made.inputs, ProgramOptions::default()))
                .and_then(|(y, _)| compare(expected, &y, tolerance));
            if let Err(what) = found {
                failures.push(format!("{}: {what}", case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn gradients_on_the_cpu_device() {
    on(&Device::Cpu);
}

#[test]
fn gradients_on_the_gpu() {
    on_gpu(on);
}

/// The bound's gradient by finite differences; held, the same for the variance and nothing for the prediction.
#[test]
fn the_bound_moves_the_variance_alone() {
    let case = all().into_iter().find(|case| case.name == HELD).expect("the case");
    let node = case.graph.nodes[0].clone();
    let inputs = [0, 1, 2, 3].map(|i| case.graph.tensor(node.inputs[i]));
    let of = bytemuck::pod_read_unaligned(&node.params);
    let values: HashMap<TensorId, Vec<f64>> = case
        .inputs
        .iter()
        .map(|(name, v)| {
            (case.graph.find_input(name).expect("an input"), v.iter().map(|v| f64::from(*v)).collect())
        })
        .collect();
    let gradient = |held: bool| {
        let mut g = case.graph.clone();
        let dy = g.constant(&[inputs[0].dim(0)], vec![1.0; inputs[0].dim(0)]);
        let of = variational_bound_gradient(&mut g, "gradient", &inputs, &dy, &of, held);
        evaluate(&g, values.clone())[&of.id].clone()
    };
    let (free, held) = (gradient(false), gradient(true));
    let bound = |at: usize, by: f64| {
        let mut values = values.clone();
        values.get_mut(&inputs[0].id).expect("given")[at] += by;
        evaluate(&case.graph, values)[&node.output()].iter().sum::<f64>()
    };
    let (channels, top) = (inputs[0].channels(), free.iter().fold(0.0f64, |top, v| top.max(v.abs())));
    for at in (0..free.len()).step_by(7) {
        let difference = (bound(at, STEP) - bound(at, -STEP)) / (2.0 * STEP);
        assert!(
            (difference - free[at]).abs() <= TOLERANCE * top,
            "[{at}]: {} by differences {difference}",
            free[at]
        );
    }
    for (at, (free, held)) in free.iter().zip(held).enumerate() {
        assert_eq!(held, if at % channels < channels / 2 { 0.0 } else { *free }, "[{at}]");
    }
}

/// x read three times, once through a sum with itself: gradients add up. d Σ 3·(2x)·x... = 12 x.
#[test]
fn gradients_of_tensors_read_often_add_up() {
    let mut g = Graph::new();
    let x = g.input("x", &[2, 3], Storage::Elem);
    let twice = ancestral::internals::kernels::elementwise::add(&mut g, &x, &x);
    let product = mul(&mut g, &twice, &x);
    let y = ancestral::internals::kernels::elementwise::scale(&mut g, &product, 3.0);
    let of = gradient(&mut g, &y, &[&x, &twice]).expect("defined");
    let given = vec![1.0, -2.0, 0.5, 4.0, 0.0, 3.0];
    let values = evaluate(&g, HashMap::from([(x.id, given.clone())]));
    assert_eq!(values[&of[0].id], given.iter().map(|v| 12.0 * v).collect::<Vec<f64>>());
    assert_eq!(values[&of[1].id], given.iter().map(|v| 3.0 * v).collect::<Vec<f64>>());
}

#[test]
fn gradients_that_are_not_defined_are_refused_by_name() {
    let mut g = Graph::new();
    let x = g.input("x", &[2, 3], Storage::Elem);
    let other = g.input("other", &[2, 3], Storage::Elem);
    let t = g.input("t", &[2], Storage::F32);
    let embedded =
        ancestral::internals::kernels::timestep_embedding::timestep_embedding(&mut g, &t, 3, true, 0.0);
    let y = mul(&mut g, &x, &embedded);
    let error = gradient(&mut g, &y, &[&t]).expect_err("no gradient with respect to time").to_string();
    assert!(error.contains("timestep_embedding"), "{error}");
    let error = gradient(&mut g, &y, &[&other]).expect_err("nothing reads it").to_string();
    assert!(error.contains("does not depend"), "{error}");
    assert!(g.tensors.iter().any(|t| matches!(t.source, Source::Input(_))));
}
