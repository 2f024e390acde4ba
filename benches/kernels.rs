//! Each kernel at the sizes of `kernels-tests/cases`, on the CPU device and on a
//! GPU; and a denoising step of each of the bundled model's stages.
//!
//! `cargo bench` runs all; `ANCESTRAL_TEST_DEVICE=llvmpipe` names the adapter (default: hardware, else llvmpipe).
//! Shapes above 4 GFLOP are left to hardware GPUs, unless `ANCESTRAL_BENCH_ALL=1`. At the end a table with GFLOP/s
//! and GB/s is printed, from each kernel's own cost: keep it in `benches/results/` with its context.

use ancestral::internals::device::{ProgramOptions, Weights};
use ancestral::{Device, DeviceChoice, Engine, LoadOptions, Settings};
use criterion::Criterion;
use std::time::{Duration, Instant};

/// What the tests run too: adding a kernel adds its cases there.
#[allow(dead_code)]
#[path = "../kernels-tests/cases/mod.rs"]
mod cases;

const MOST_FLOPS_IN_SOFTWARE: f64 = 4e9;

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
        for case in cases::benched() {
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
        let engine = match Engine::bundled(&options) {
            Ok(engine) => engine,
            Err(error) => return println!("no bundled model: {error}"),
        };
        for stage in 1..=engine.stage_names().len() {
            let run = |steps: usize| {
                // Earlier stages take a single step; the measured one takes `steps`.
                let mut list = vec![1; stage - 1];
                list.push(steps);
                let cfg = Settings::new().stages(stage).steps(list);
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
