//! Each kernel at the shapes that occur in IF-I-XL, ADM-64, IF-II and the bundled model, on the CPU device and on a
//! GPU; and a denoising step of each of the bundled model's stages.
//!
//! `cargo bench` runs all; `ANCESTRAL_TEST_DEVICE=llvmpipe` names the adapter (default: hardware, else llvmpipe).
//! Shapes above 4 GFLOP are left to hardware GPUs, unless `ANCESTRAL_BENCH_ALL=1`. At the end a table with GFLOP/s
//! and GB/s is printed, from each kernel's own cost: keep it in `benches/results/` with its context.

use ancestral::device::{ProgramOptions, Weights};
use ancestral::graph::{Graph, Storage, Tensor};
use ancestral::kernels::activation_gradient::activation_gradient;
use ancestral::kernels::attention::{KeyValue, Options, attention};
use ancestral::kernels::concat::concat;
use ancestral::kernels::conv2d::{Window, conv2d};
use ancestral::kernels::elementwise::activate;
use ancestral::kernels::embedding::embedding;
use ancestral::kernels::epilogue::Activation;
use ancestral::kernels::group_norm::{GroupNorm, group_norm};
use ancestral::kernels::group_norm_gradient::group_norm_gradient;
use ancestral::kernels::layer_norm::layer_norm;
use ancestral::kernels::layer_norm_gradient::layer_norm_gradient;
use ancestral::kernels::matmul::matmul;
use ancestral::kernels::quantile::quantile;
use ancestral::kernels::resample::{Resample, resample};
use ancestral::kernels::softmax::log_softmax;
use ancestral::kernels::step::{StepInputs, step};
use ancestral::kernels::timestep_embedding::timestep_embedding;
use ancestral::{Device, DeviceChoice, Engine, GenerateConfig, LoadOptions};
use criterion::Criterion;
use std::time::{Duration, Instant};

const MOST_FLOPS_IN_SOFTWARE: f64 = 4e9;

/// One measured thing: where it occurs, and the graph.
struct Case {
    name: String,
    graph: Graph,
}

fn case(kernel: &str, place: &str, record: impl FnOnce(&mut Graph) -> Tensor) -> Case {
    let mut graph = Graph::new();
    let y = record(&mut graph);
    graph.output("y", &y);
    Case { name: format!("{kernel}/{place}"), graph }
}

fn input(g: &mut Graph, name: &str, shape: &[usize]) -> Tensor {
    g.input(name, shape, Storage::Elem)
}

fn conv_case(place: &str, side: usize, c_in: usize, c_out: usize, kernel: usize) -> Case {
    case("conv2d", place, |g| {
        let x = input(g, "x", &[1, side, side, c_in]);
        let w = g.input("w", &[kernel, kernel, c_in, c_out], Storage::Weight);
        conv2d(g, "conv", (&x, None), &w, None, Window::same(kernel))
    })
}

fn matmul_case(place: &str, rows: usize, inner: usize, cols: usize) -> Case {
    case("matmul", place, |g| {
        let x = input(g, "x", &[rows, inner]);
        let w = g.input("w", &[inner, cols], Storage::Weight);
        matmul(g, "matmul", &x, &w, None)
    })
}

fn attention_case(place: &str, pixels: usize, text: usize, heads: usize, head_dim: usize) -> Case {
    case("attention", place, |g| {
        let channels = heads * head_dim;
        let q = input(g, "q", &[1, pixels, channels]);
        let rows = |g: &mut Graph, n: &str, len: usize| KeyValue {
            key: (&input(g, &format!("k{n}"), &[1, len, channels])).into(),
            value: (&input(g, &format!("v{n}"), &[1, len, channels])).into(),
        };
        let (text, pixels) = (rows(g, "1", text), rows(g, "2", pixels));
        let scale = 1.0 / (head_dim as f32).sqrt();
        let options = Options { heads, head_dim, scale, bias: None, mask: None, causal: false };
        attention(g, "attention", &(&q).into(), Some(&text), Some(&pixels), &options)
    })
}

fn norm_case(place: &str, side: usize, channels: usize) -> Case {
    case("group_norm", place, |g| {
        let x = input(g, "x", &[1, side, side, channels]);
        let vector = |g: &mut Graph, name: &str| g.input(name, &[channels], Storage::F32);
        let norm = GroupNorm { weight: vector(g, "weight"), bias: vector(g, "bias"), groups: 32, eps: 1e-5 };
        group_norm(g, "norm", (&x, None), &norm, None, Activation::Silu)
    })
}

fn norm_gradient_case(place: &str, side: usize, channels: usize) -> Case {
    case("group_norm_gradient", place, |g| {
        let (x, dy) = (input(g, "x", &[1, side, side, channels]), input(g, "dy", &[1, side, side, channels]));
        let vector = |g: &mut Graph, name: &str| g.input(name, &[channels], Storage::F32);
        let norm = GroupNorm { weight: vector(g, "weight"), bias: vector(g, "bias"), groups: 32, eps: 1e-5 };
        group_norm_gradient(g, "norm", (&x, None), &norm, None, Activation::Silu, &dy)
    })
}

/// The conv, product, norm and attention shapes of the models.
fn heavy_cases() -> Vec<Case> {
    vec![
        conv_case("if_i_xl_64x64_704", 64, 704, 704, 3),
        conv_case("if_i_xl_32x32_1408", 32, 1408, 1408, 3),
        conv_case("if_i_xl_8x8_2816", 8, 2816, 2816, 3),
        conv_case("if_ii_256x256_128", 256, 128, 128, 3),
        conv_case("adm64_64x64_192", 64, 192, 192, 3),
        conv_case("adm64_16x16_576", 16, 576, 576, 3),
        conv_case("bundled_32x32_64", 32, 64, 64, 3),
        conv_case("bundled_256x256_16", 256, 16, 16, 3),
        conv_case("square_128_64x64", 64, 128, 128, 3),
        matmul_case("if_i_xl_to_q_1024x1408", 1024, 1408, 1408),
        matmul_case("t5_xxl_wi_77x4096x10240", 77, 4096, 10_240),
        matmul_case("time_emb_1x2816x5632", 1, 2816, 5632),
        matmul_case("square_1024", 1024, 1024, 1024),
        norm_case("if_i_xl_64x64_704", 64, 704),
        norm_case("adm64_64x64_192", 64, 192),
        norm_case("adm_classifier64_32x32_256", 32, 256),
        norm_case("bundled_256x256_32", 256, 32),
        norm_gradient_case("adm64_64x64_192", 64, 192),
        norm_gradient_case("adm_classifier64_32x32_256", 32, 256),
        attention_case("if_i_xl_32x32_22x64", 1024, 77, 22, 64),
        attention_case("if_i_xl_8x8_44x64", 64, 77, 44, 64),
        attention_case("adm64_32x32_6x64", 1024, 1, 6, 64),
        attention_case("bundled_16x16_4x32", 256, 77, 4, 32),
    ]
}

/// The memory-bound kernels.
fn light_cases() -> Vec<Case> {
    vec![
        case("layer_norm", "t5_xxl_77x4096", |g| {
            let x = input(g, "x", &[77, 4096]);
            layer_norm_inputs(g, &x)
        }),
        case("elementwise", "gelu_1x5632", |g| {
            let x = input(g, "x", &[1, 5632]);
            activate(g, &x, Activation::Gelu)
        }),
        case("activation_gradient", "silu_4096x192", |g| {
            let (x, dy) = (input(g, "x", &[4096, 192]), input(g, "dy", &[4096, 192]));
            activation_gradient(g, "act", &x, &dy, Activation::Silu)
        }),
        case("layer_norm_gradient", "clip_l14_257x1024", |g| {
            let (x, dy) = (input(g, "x", &[257, 1024]), input(g, "dy", &[257, 1024]));
            let weight = g.input("weight", &[1024], Storage::F32);
            layer_norm_gradient(g, "norm", &x, &weight, &dy, false, 1e-5)
        }),
        case("softmax", "imagenet_4x1000", |g| {
            let x = input(g, "x", &[4, 1000]);
            log_softmax(g, "log_softmax", &x)
        }),
        case("resample", "bilinear_64_to_256", |g| {
            let x = input(g, "x", &[1, 64, 64, 3]);
            resample(g, "up", &x, 256, 256, Resample::Bilinear { align_corners: true })
        }),
        case("embedding", "t5_xxl_77x4096", |g| {
            let ids = g.input("ids", &[77], Storage::F32);
            let table = g.input("table", &[512, 4096], Storage::Weight);
            embedding(g, "shared", &ids, &table)
        }),
        case("timestep_embedding", "if_i_xl_704", |g| {
            let t = g.input("t", &[2], Storage::F32);
            timestep_embedding(g, &t, 704, true, 0.0)
        }),
        case("concat", "if_ii_256x256", |g| {
            let a = g.input("a", &[1, 256, 256, 3], Storage::F32);
            let b = g.input("b", &[1, 256, 256, 3], Storage::F32);
            concat(g, "input", &a, Some(&b), 2)
        }),
        case("quantile", "256x256", |g| {
            let (x, out, numbers) = step_inputs(g);
            quantile(g, &x, &out, &numbers, None)
        }),
        case("step", "256x256", |g| {
            let (x, out, coefficients) = step_inputs(g);
            let noise = g.input("noise", &[1, 256, 256, 3], Storage::F32);
            step(
                g,
                &x,
                &StepInputs {
                    out: &out,
                    noise: &noise,
                    coefficients: &coefficients,
                    quantile: None,
                    steer: None,
                    known: None,
                },
            )
        }),
    ]
}

fn layer_norm_inputs(g: &mut Graph, x: &Tensor) -> Tensor {
    // The layer's own weights would need a checkpoint; the same node with inputs in their place.
    let y = layer_norm(g, "norm", x, 1e-5);
    for t in &mut g.tensors {
        if let ancestral::graph::Source::Weight { parts, .. } = &t.source {
            t.source = ancestral::graph::Source::Input(parts[0].name.clone());
        }
    }
    y
}

fn step_inputs(g: &mut Graph) -> (Tensor, Tensor, Tensor) {
    (
        g.input("x", &[1, 256, 256, 3], Storage::F32),
        g.input("out", &[2, 256, 256, 6], Storage::Elem),
        g.input("coefficients", &[16], Storage::F32),
    )
}

/// A row of the table at the end.
struct Row {
    device: &'static str,
    name: String,
    seconds: f64,
    flops: f64,
    bytes: f64,
}

/// Measures through criterion and keeps the median of its own repetitions for the table.
fn measure(c: &mut Criterion, id: &str, mut work: impl FnMut()) -> f64 {
    let mut times = Vec::new();
    c.bench_function(id, |b| {
        b.iter_custom(|iterations| {
            let started = Instant::now();
            for _ in 0..iterations {
                work();
            }
            let elapsed = started.elapsed();
            times.push(elapsed.as_secs_f64() / iterations as f64);
            elapsed
        });
    });
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

fn devices() -> Vec<(&'static str, Device, bool)> {
    let mut devices = vec![("cpu", Device::Cpu, true)];
    let named = std::env::var("ANCESTRAL_TEST_DEVICE").ok().map(DeviceChoice::Named);
    let choices =
        named.map_or_else(|| vec![DeviceChoice::Gpu, DeviceChoice::Named("llvmpipe".into())], |n| vec![n]);
    if let Some(gpu) = choices.iter().find_map(|choice| Device::open(choice).ok()) {
        let software = gpu.name().contains("llvmpipe");
        devices.push(("gpu", gpu, software));
    }
    devices
}

fn bench_kernels(c: &mut Criterion, rows: &mut Vec<Row>) {
    let all = std::env::var_os("ANCESTRAL_BENCH_ALL").is_some();
    let weights = Weights::none();
    for (device_name, device, software) in devices() {
        let options = ProgramOptions { precision: device.precision(), ..Default::default() };
        for case in heavy_cases().into_iter().chain(light_cases()) {
            let cost = case.graph.cost();
            if software && !all && cost.flops > MOST_FLOPS_IN_SOFTWARE {
                continue;
            }
            let mut program = match device.program(case.graph, &weights, &options) {
                Ok(program) => program,
                Err(error) => {
                    println!("{device_name} {}: {error}", case.name);
                    continue;
                }
            };
            let id = format!("{device_name}/{}", case.name);
            let seconds = measure(c, &id, || program.run(&mut |_| true).expect("the device runs"));
            let size = if options.precision.elem_f16 { 2.0 } else { 4.0 };
            let bytes = size * (cost.reads + cost.writes);
            rows.push(Row { device: device_name, name: case.name, seconds, flops: cost.flops, bytes });
        }
    }
}

/// One step of each stage, as the difference of two runs' lengths: text and set-up are in both.
fn bench_bundled(c: &mut Criterion, rows: &mut Vec<Row>) {
    for (device_name, device, _) in devices() {
        let choice = match &device {
            Device::Cpu => DeviceChoice::Cpu,
            Device::Gpu(gpu) => DeviceChoice::Existing(gpu.clone()),
        };
        let options = LoadOptions { device: choice, ..Default::default() };
        let mut engine = match Engine::bundled(&options) {
            Ok(engine) => engine,
            Err(error) => return println!("no bundled model: {error}"),
        };
        for stage in 1..=engine.stages() {
            let mut run = |steps: usize| {
                // Earlier stages take a single step; the measured one takes `steps`.
                let mut list = vec![1; stage - 1];
                list.push(steps);
                let cfg = GenerateConfig::new().stages(stage).steps(list);
                engine
                    .generate("a red circle to the left of a blue square", cfg)
                    .expect("the bundled model runs");
            };
            run(1);
            let id = |n: usize| format!("{device_name}/bundled_stage_{stage}/{n}_steps");
            let (short, long) = (measure(c, &id(1), || run(1)), measure(c, &id(4), || run(4)));
            let name = format!("bundled_stage_{stage}/step");
            rows.push(Row {
                device: device_name,
                name,
                seconds: (long - short) / 3.0,
                flops: 0.0,
                bytes: 0.0,
            });
        }
    }
}

fn main() {
    for (name, device, _) in devices() {
        println!("{name}: {} ({:?})", device.name(), device.precision());
    }
    let mut criterion = Criterion::default()
        .configure_from_args()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    let mut rows = Vec::new();
    bench_kernels(&mut criterion, &mut rows);
    bench_bundled(&mut criterion, &mut rows);
    criterion.final_summary();
    println!("\n| device | case | ms | GFLOP/s | GB/s |\n|---|---|---|---|---|");
    for r in rows.iter().filter(|r| r.seconds.is_finite()) {
        let (gflops, gbytes) = (r.flops / r.seconds / 1e9, r.bytes / r.seconds / 1e9);
        println!("| {} | {} | {:.3} | {gflops:.1} | {gbytes:.2} |", r.device, r.name, r.seconds * 1e3);
    }
}
