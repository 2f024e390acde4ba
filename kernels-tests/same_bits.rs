//! A picture's bits depend neither on its batch, nor on the number of threads, nor on what ran before.

use crate::cases::{OUTPUT, Rng, all};
use crate::device::on_gpu;
use crate::harness::run;
use ancestral::internals::device::{Device, ProgramOptions, Variants};
use ancestral::internals::graph::fuse::fuse;
use ancestral::internals::graph::gradient::gradient;
use ancestral::internals::graph::rewrites::WINOGRAD;
use ancestral::internals::graph::{Graph, Source, Storage, Tensor};
use ancestral::internals::kernels::attention::{KeyValue, Options, attention};
use ancestral::internals::kernels::conv2d::{Window, conv2d};
use ancestral::internals::kernels::elementwise::{activate, add, mul};
use ancestral::internals::kernels::embedding::embedding;
use ancestral::internals::kernels::epilogue::Activation;
use ancestral::internals::kernels::group_apply::group_apply;
use ancestral::internals::kernels::group_moments::group_moments;
use ancestral::internals::kernels::group_norm::{GroupNorm, group_norm};
use ancestral::internals::kernels::layer_norm::layer_norm_of;
use ancestral::internals::kernels::matmul::matmul;
use ancestral::internals::kernels::product::gram;
use ancestral::internals::kernels::resample::{Resample, resample};
use ancestral::internals::kernels::softmax::softmax;
use ancestral::internals::kernels::sum_axis::mean_rows;
use ancestral::internals::kernels::timestep_embedding::timestep_embedding;
use ancestral::{DeviceChoice, Engine, LoadOptions, Precision, Settings};
use std::ops::Range;

/// Items that are drawn; a run takes some of them.
const ITEMS: usize = 8;

/// Records a work of some items; what belongs to an item is drawn for all of them.
struct Items {
    g: Graph,
    range: Range<usize>,
    inputs: Vec<(String, Vec<f32>)>,
    rng: Rng,
}

impl Items {
    fn input(&mut self, shape: &[usize], storage: Storage, values: Vec<f32>) -> Tensor {
        let name = format!("in{}", self.inputs.len());
        let tensor = self.g.input(&name, shape, storage);
        self.inputs.push((name, values));
        tensor
    }

    /// Of each item so many numbers, as `shape` without the batch.
    fn of_items(&mut self, shape: &[usize], storage: Storage, draw: impl Fn(&mut Rng) -> f32) -> Tensor {
        let len: usize = shape.iter().product();
        let values: Vec<f32> = (0..ITEMS * len).map(|_| draw(&mut self.rng)).collect();
        let shape = [&[self.range.len()], shape].concat();
        self.input(&shape, storage, values[self.range.start * len..self.range.end * len].to_vec())
    }

    fn elem(&mut self, shape: &[usize]) -> Tensor {
        self.of_items(shape, Storage::Elem, |rng| rng.normal() as f32)
    }

    /// One for all items, known before the run.
    fn weight(&mut self, shape: &[usize], storage: Storage) -> Tensor {
        let values = self.rng.normals(shape.iter().product(), 0.0, 0.2);
        let weight = self.g.input("weight", shape, storage);
        self.g.tensors[weight.id.index()].source = Source::Constant(values);
        weight
    }
}

type Work = (&'static str, fn(&mut Items) -> Tensor);

fn conv(m: &mut Items, x: &[usize], out: usize, kernel: usize, window: Window) -> Tensor {
    let x = m.elem(x);
    let w = m.weight(&[kernel, kernel, x.channels(), out], Storage::Weight);
    let bias = m.weight(&[out], Storage::F32);
    let y = conv2d(&mut m.g, "conv", (&x, None), &w, Some(&bias), window);
    activate(&mut m.g, &y, Activation::Silu)
}

fn linear(m: &mut Items, x: &[usize], out: usize) -> Tensor {
    let x = m.elem(x);
    let w = m.weight(&[x.channels(), out], Storage::Weight);
    let bias = m.weight(&[out], Storage::F32);
    let y = matmul(&mut m.g, "linear", &x, &w, Some(&bias));
    let other = m.elem(&y.shape[1..]);
    add(&mut m.g, &y, &other)
}

fn attend(m: &mut Items, queries: usize, keys: [usize; 2], heads: usize, head_dim: usize) -> Tensor {
    let width = heads * head_dim;
    let q = m.elem(&[queries, width]);
    let mut set = |keys: usize| {
        (keys > 0).then(|| {
            let (key, value) = (m.elem(&[keys, width]), m.elem(&[keys, width]));
            KeyValue { key: (&key).into(), value: (&value).into() }
        })
    };
    let (first, second) = (set(keys[0]), set(keys[1]));
    let mask = first
        .as_ref()
        .map(|_| m.of_items(&[keys[0]], Storage::F32, |rng| if rng.uniform() < 0.3 { -1e4 } else { 0.0 }));
    let scale = 1.0 / (head_dim as f32).sqrt();
    let options = Options { heads, head_dim, scale, bias: None, mask: mask.as_ref(), causal: false };
    attention(&mut m.g, "attention", &(&q).into(), first.as_ref(), second.as_ref(), &options)
}

fn norm_of_groups(m: &mut Items, x: &[usize], groups: usize) -> Tensor {
    let (x, skip) = (m.elem(x), m.elem(&[x[0], x[1], groups]));
    let channels = x.channels() + groups;
    let emb = m.elem(&[2 * channels]);
    let (weight, bias) = (m.weight(&[channels], Storage::F32), m.weight(&[channels], Storage::F32));
    let norm = GroupNorm { weight, bias, groups, eps: 1e-5 };
    group_norm(&mut m.g, "norm", (&x, Some(&skip)), &norm, Some(&emb), Activation::Silu)
}

/// Works at sizes whose batches fall on both sides of what kernels and rules divide by.
const WORKS: &[Work] = &[
    // Three tiles across and down, nine of Winograd's windows: too few for one picture, not for eight.
    ("conv 3x3", |m| conv(m, &[12, 12, 64], 64, 3, Window::same(3))),
    ("conv 3x3, windows enough", |m| conv(m, &[17, 15, 64], 64, 3, Window::same(3))),
    ("conv 3x3, deep and small", |m| conv(m, &[4, 4, 320], 96, 3, Window::same(3))),
    ("conv 3x3, stride 2", |m| conv(m, &[9, 7, 10], 7, 3, Window::strided(2, 1))),
    ("conv 3x3, enlarged", |m| conv(m, &[5, 5, 12], 20, 3, Window { up: 2, ..Window::same(3) })),
    ("conv 1x1", |m| conv(m, &[5, 7, 24], 33, 1, Window::same(1))),
    ("linear, a row", |m| linear(m, &[130], 200)),
    ("linear, tokens", |m| linear(m, &[77, 96], 100)),
    ("linear, deep", |m| linear(m, &[3, 1500], 64)),
    ("attention to itself", |m| attend(m, 70, [0, 70], 2, 64)),
    ("attention, one query", |m| attend(m, 1, [0, 33], 3, 32)),
    ("attention to text and itself", |m| attend(m, 33, [13, 33], 2, 40)),
    ("attention, wide heads", |m| attend(m, 20, [21, 0], 1, 200)),
    ("group norm", |m| norm_of_groups(m, &[13, 9, 24], 8)),
    ("group norm, several strips", |m| norm_of_groups(m, &[20, 15, 24], 8)),
    ("group norm, few pixels", |m| norm_of_groups(m, &[1, 3, 8], 4)),
    ("layer norm", |m| {
        let x = m.elem(&[7, 200]);
        let (weight, bias) = (m.weight(&[200], Storage::F32), m.weight(&[200], Storage::F32));
        layer_norm_of(&mut m.g, "norm", &x, &weight, &bias, 1e-5)
    }),
    ("softmax", |m| {
        let x = m.elem(&[5, 99]);
        softmax(&mut m.g, "softmax", &x)
    }),
    ("gram", |m| {
        let x = m.elem(&[37, 21]);
        gram(&mut m.g, "gram", &x)
    }),
    ("resample", |m| {
        let x = m.elem(&[9, 8, 5]);
        resample(&mut m.g, "resample", &x, 17, 6, Resample::Bicubic { antialias: true })
    }),
    ("means", |m| {
        let x = m.elem(&[11, 45]);
        mean_rows(&mut m.g, "means", &x, 11)
    }),
];

/// Works that have no gradient.
const FORWARD: &[Work] = &[
    ("timesteps", |m| {
        let t = m.of_items(&[], Storage::F32, |rng| (1000.0 * rng.uniform()) as f32);
        timestep_embedding(&mut m.g, &t, 66, true, 0.0)
    }),
    ("moments of groups", |m| {
        let (a, b) = (m.elem(&[300, 24]), m.elem(&[300, 12]));
        group_moments(&mut m.g, "moments", (&a, Some(&b)), 6)
    }),
    ("maps of groups", |m| {
        let (a, affine) = (m.elem(&[300, 24]), m.of_items(&[3, 24], Storage::F32, |rng| rng.normal() as f32));
        group_apply(&mut m.g, "apply", (&a, None), &affine, Activation::Silu)
    }),
    ("tokens", |m| {
        let ids = m.of_items(&[6], Storage::F32, |rng| (20.0 * rng.uniform()).floor() as f32);
        let table = m.weight(&[20, 12], Storage::Weight);
        embedding(&mut m.g, "tokens", &ids, &table)
    }),
];

/// A work of some items, or its gradient with respect to its first input, times factors.
fn record(work: Work, range: Range<usize>, differentiated: bool) -> (Graph, Vec<(String, Vec<f32>)>) {
    let mut m = Items { g: Graph::new(), range, inputs: Vec::new(), rng: Rng::named(work.0) };
    let mut y = work.1(&mut m);
    if differentiated {
        let factors = m.elem(&y.shape[1..]);
        let x = m.g.tensor(m.g.find_input("in0").expect("an input"));
        let scalar = mul(&mut m.g, &y, &factors);
        y = gradient(&mut m.g, &scalar, &[&x]).expect("a gradient").remove(0);
    }
    m.g.output(OUTPUT, &y);
    (m.g, m.inputs)
}

/// Whether each item of several batches has the bits it has in a batch of all; the kernels and shaders that ran.
fn check(device: &Device, work: Work, differentiated: bool, options: ProgramOptions) -> Vec<&'static str> {
    let compute = |range: Range<usize>| {
        let (graph, inputs) = record(work, range, differentiated);
        run(device, &graph, &inputs, options).unwrap_or_else(|error| panic!("{}: {error}", work.0))
    };
    let (all, ran) = compute(0..ITEMS);
    let len = all.len() / ITEMS;
    let shaders = ran.nodes.iter().map(|node| node.shader().name).collect();
    for range in [0..1, 5..6, 2..5] {
        let (some, _) = compute(range.clone());
        let expected = &all[range.start * len..range.end * len];
        let differ = some.iter().zip(expected).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        assert_eq!(some.len(), expected.len());
        assert_eq!(
            differ,
            0,
            "{} of {} in items {range:?} of `{}`{} by {options:?} ({shaders:?})",
            differ,
            some.len(),
            work.0,
            if differentiated { ", differentiated" } else { "" }
        );
    }
    shaders
}

fn check_works(device: &Device) {
    let forward = WORKS.iter().chain(FORWARD).map(|work| (*work, false));
    for (work, differentiated) in forward.chain(WORKS.iter().map(|work| (*work, true))) {
        let rule = ProgramOptions { variants: Variants::Rule, ..Default::default() };
        let shaders = check(device, work, differentiated, rule);
        let Device::Gpu(gpu) = device else { continue };
        // Each other way to compute its kernels.
        let (graph, _) = record(work, 0..1, differentiated);
        let mut kernels: Vec<_> = graph.nodes.iter().map(|node| node.kernel).collect();
        kernels.sort_by_key(|kernel| kernel.name);
        kernels.dedup_by_key(|kernel| kernel.name);
        // Those that a work and its gradient share are checked with the work.
        let shared = WORKS.iter().map(|work| record(*work, 0..1, false).0.nodes).collect::<Vec<_>>();
        let shared = |name: &str| shared.iter().flatten().any(|node| node.kernel.name == name);
        kernels.retain(|kernel| kernel.shaders.len() > 1 && !(differentiated && shared(kernel.name)));
        for kernel in kernels {
            let others = kernel.rewrites.others.iter();
            let sliced = others.clone().filter_map(|r| r.work).flat_map(|work| work.shaders);
            let able = kernel.shaders.iter().chain(sliced).filter(|s| gpu.meets(s.needs, Precision::F32));
            let parted = others.filter(|r| r.work.is_none()).map(|r| r.name);
            for name in able.map(|s| s.name).chain(parted).filter(|name| !shaders.contains(name)) {
                let options = ProgramOptions { variants: Variants::Only(name), ..rule };
                check(device, work, differentiated, options);
            }
        }
    }
}

#[test]
fn works_on_the_cpu_device() {
    check_works(&Device::Cpu);
}

#[test]
fn works_on_the_gpu() {
    on_gpu(check_works);
}

/// Winograd's convolution of five pictures, as many at a time as there is room for, is that of each.
#[test]
fn winograd_in_groups() {
    for (name, of_operand) in [("operand", [9, 7, 12].as_slice()), ("row per picture", &[12])] {
        let compute = |at_once: u64| {
            let mut m = Items {
                g: Graph::new(),
                range: 0..5,
                inputs: Vec::new(),
                rng: Rng::named("winograd_in_groups"),
            };
            let (a, b) = (m.elem(&[9, 7, 8]), m.elem(&[9, 7, 5]));
            let w = m.weight(&[3, 3, 13, 12], Storage::Weight);
            let y = conv2d(&mut m.g, "conv", (&a, Some(&b)), &w, None, Window::same(3));
            let operand = m.elem(of_operand);
            let y = add(&mut m.g, &y, &operand);
            m.g.output(OUTPUT, &y);
            fuse(&mut m.g);
            let node = m.g.nodes.remove(0);
            assert!(m.g.nodes.is_empty(), "one node once fused");
            (WINOGRAD.apply)(&mut m.g, &node, 0, at_once * (WINOGRAD.largest)(&node));
            let windows = m.g.nodes.iter().filter(|node| node.kernel.name == "winograd_input").count();
            (run(&Device::Cpu, &m.g, &m.inputs, ProgramOptions::default()).expect("it runs").0, windows)
        };
        let (together, groups) = compute(5);
        assert_eq!(groups, 1);
        for (at_once, expected) in [(1, 5), (2, 3), (4, 2)] {
            let (y, groups) = compute(at_once);
            assert_eq!(groups, expected, "groups of {at_once}");
            assert!(y == together, "{name}: groups of {at_once}");
        }
    }
}

/// A quantile is an element, or between two: many workgroups find the one that a single one finds.
#[test]
fn quantiles_by_parts() {
    on_gpu(|device| {
        for case in all().iter().filter(|case| case.kernel == "quantile") {
            let by = |name| {
                let options = ProgramOptions { variants: Variants::Only(name), ..Default::default() };
                let (y, ran) = run(device, &case.graph, &case.inputs, options).expect("it runs");
                (y.into_iter().map(f32::to_bits).collect::<Vec<_>>(), ran.nodes.len())
            };
            let ((one, nodes), (parts, more)) = (by("quantile"), by("parts"));
            assert_eq!((nodes, more), (1, 4), "{}", case.name);
            assert!(one == parts, "{}", case.name);
        }
    });
}

/// What `f` gives on a pool of so many threads.
fn on_threads<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(f)
}

#[test]
fn threads_change_no_bit_of_any_case() {
    let cases = all();
    let compute = |threads| {
        let cases = &cases;
        on_threads(threads, move || {
            let y =
                |case: &crate::cases::Case| run(&Device::Cpu, &case.graph, &case.inputs, Default::default());
            cases.iter().map(|case| y(case).expect("it runs").0).collect::<Vec<Vec<f32>>>()
        })
    };
    let expected = compute(1);
    for threads in [2, 5] {
        for ((case, one), some) in cases.iter().zip(&expected).zip(compute(threads)) {
            let same = one.iter().zip(&some).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same && one.len() == some.len(), "{} on {threads} threads", case.name);
        }
    }
}

const PROMPT: &str = "a red circle to the left of a blue square";
/// Of the first picture; picture i of a run has the one i further.
const SEED: u64 = 40;

fn engine(device: DeviceChoice) -> Engine {
    let options = LoadOptions { device, precision: Some(Precision::F32), ..Default::default() };
    Engine::bundled(&options).expect("the bundled model loads")
}

/// Pictures of seeds from `SEED + first` on, by so many stages.
fn draw(engine: &Engine, stages: usize, first: u64, count: usize) -> Vec<Vec<u8>> {
    let steps = [3, 2][..stages].to_vec();
    let settings = Settings::new().seed(SEED + first).count(count).stages(stages).steps(steps);
    let pictures = engine.generate(PROMPT, settings).expect("pictures");
    pictures.iter().map(|picture| picture.to_bytes()).collect()
}

/// Batches of 8, 3 and 1, one after another and after runs of another kind.
fn check_batches(device: DeviceChoice, stages: usize) {
    let engine = engine(device);
    let draw = |first, count| draw(&engine, stages, first, count);
    let all = draw(0, ITEMS);
    assert!(draw(2, 3) == all[2..5], "a batch of 3");
    for alone in [0, 7] {
        assert!(draw(alone, 1) == all[alone as usize..][..1], "picture {alone} alone");
    }
    // Another guidance, another size, a run that was given up.
    let other = Settings::new().stages(stages).steps(vec![1; stages]);
    engine.generate(PROMPT, other.clone().guidance_scale(1.0)).expect("unguided");
    let (width, height) = engine.picture_size(PROMPT, &other).expect("a size");
    engine.generate(PROMPT, other.clone().size(width / 2, height).count(2)).expect("another size");
    engine.generate(PROMPT, other.on_progress(|_| false)).expect_err("cancelled");
    assert!(draw(4, 1) == all[4..5], "after other runs");
    // Pictures that could be told from each other.
    assert!(all[0] != all[1]);
}

#[test]
fn batches_on_the_cpu_device() {
    check_batches(DeviceChoice::Cpu, 2);
}

#[test]
fn batches_on_the_gpu() {
    on_gpu(|device| match device {
        // The second stage is kernels of the same kinds, at sizes that take long there.
        Device::Gpu(gpu) => check_batches(DeviceChoice::Existing(gpu.clone()), 1),
        Device::Cpu => (),
    });
}

#[test]
fn threads_change_no_bit_of_a_picture() {
    let drawn = [1, 2, 5].map(|threads| on_threads(threads, || draw(&engine(DeviceChoice::Cpu), 2, 0, 2)));
    assert!(drawn[0] == drawn[1], "2 threads");
    assert!(drawn[0] == drawn[2], "5 threads");
}
