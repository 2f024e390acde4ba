//! The largest published networks at full size with random weights, on an adapter that allows what WebGPU does by default
//! (128 MiB bindings, 256 MiB buffers) and on the CPU device: by how much they differ, how long they take, in what memory.
//!
//! `cargo bench --bench full_size -- FOLDER IF-I-XL dalle2.upsampler` runs each once, unguided, one picture, on the adapter
//! that `ANCESTRAL_TEST_DEVICE` names (llvmpipe). The weights, in f16, go to a file in the folder that is removed again: up to
//! 9 GB, read into as much memory of the adapter. The CPU device holds all weights in f32, so that it gets the network in
//! parts, one after another.

use ancestral::internals::device::{ProgramOptions, Variants, Weights, nmse};
use ancestral::internals::graph::fuse::fuse;
use ancestral::internals::graph::{Graph, Source, Storage, TensorId};
use ancestral::internals::models::network::{DenoisingNetwork, Shape};
use ancestral::internals::models::text_unet::TextUNet;
use ancestral::internals::models::{unet, unet2d};
use ancestral::internals::weights::Checkpoint;
use ancestral::{Device, DeviceChoice, DeviceLimits, Gpu, Precision, wgpu};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[path = "common/random_weights.rs"]
mod random;

use random::{numbers, random_weights};

/// Tokens of a caption.
const TOKENS: usize = 77;
/// Most bytes of weights, in f32, that the CPU device gets at once.
const PART: usize = 2 << 30;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let [folder, names @ ..] = &args[..] else {
        println!("give a folder for the weights, and IF-I-XL or dalle2.upsampler");
        return;
    };
    for name in names {
        run(Path::new(folder), name);
    }
}

/// A published network of that name for one picture.
fn record(name: &str) -> Graph {
    let layouts = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/layouts");
    let config = std::fs::read_to_string(layouts.join(format!("{name}.config.json"))).expect("a config");
    let text = || serde_json::from_str::<unet::Config>(&config).expect("a U-Net with text");
    let plain = || serde_json::from_str::<unet2d::Config>(&config).expect("a U-Net");
    let (network, tokens): (Box<dyn DenoisingNetwork>, usize) = match name {
        "dalle2.upsampler" => (Box::new(plain()), 0),
        _ => (Box::new(TextUNet::new(text())), TOKENS),
    };
    let side = network.sides().side;
    let shape = Shape {
        pictures: 1,
        height: side,
        width: side,
        channels: network.sample_channels(),
        enlarges: network.enlarges().then_some((side / 4, side / 4)),
        tokens,
        ..Shape::default()
    };
    let mut g = Graph::new();
    let x = g.input("x", &shape.sample(), Storage::F32);
    let t = g.input("t", &[shape.batch()], Storage::F32);
    let out = network.record(&mut g, shape, &x, &t);
    g.output("out", &out);
    g
}

fn run(folder: &Path, name: &str) {
    let graph = record(name);
    let file = RandomWeights::write(folder, &graph);
    let adapter = lowered();
    let has_f16 = matches!(&adapter, Device::Gpu(gpu) if gpu.has_f16());
    let precision = Precision { elem_f16: false, weight_f16: has_f16 };
    let options = ProgramOptions { variants: Variants::Rule, precision, ..ProgramOptions::default() };
    println!(
        "{name}: {:.2} TFLOP, {:.2} GB of weights in f16",
        graph.cost().flops * 1e-12,
        file.bytes as f64 * 1e-9
    );
    println!("{}; weights in {}", adapter.limits(), if has_f16 { "f16" } else { "f32" });
    let inputs: HashMap<TensorId, Vec<f32>> = inputs(&graph);
    let out = graph.find_output("out").expect("an output");
    let watch = Watch::start();
    let found = whole(&adapter, &graph, &file, &options, &inputs);
    let (seconds, found) = (found.0, &found.1[&out]);
    println!(
        "  on it: read in {:.0} s, computed in {:.0} s, {:.2} GB at most",
        seconds[0],
        seconds[1],
        watch.stop()
    );
    adapter.memory().clear();
    drop(adapter);
    let watch = Watch::start();
    let (seconds, expected) = in_parts(&graph, &file, inputs);
    println!(
        "  CPU, {} threads: read in {:.0} s, computed in {:.0} s, {:.2} GB at most",
        rayon::current_num_threads(),
        seconds[0],
        seconds[1],
        watch.stop()
    );
    let expected = &expected[&out];
    let size = expected.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / expected.len() as f64;
    println!("  NMSE {:.1e}, root mean square of the output {:.2}", nmse(expected, found), size.sqrt());
}

/// An adapter with WebGPU's default limits and no more.
fn lowered() -> Device {
    let wanted = std::env::var("ANCESTRAL_TEST_DEVICE").unwrap_or_else(|_| "llvmpipe".into());
    let name = Device::open(&DeviceChoice::Named(wanted)).expect("the adapter opens").name();
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let instance = wgpu::Instance::new(descriptor);
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let adapter = adapters.into_iter().find(|a| name.starts_with(&a.get_info().name)).expect("the adapter");
    let features = wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP;
    let descriptor = wgpu::DeviceDescriptor {
        required_features: adapter.features() & features,
        required_limits: wgpu::Limits::default(),
        ..wgpu::DeviceDescriptor::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("it opens");
    let device = Device::Gpu(Gpu::from_wgpu(adapter.get_info(), device, queue));
    let [limits, webgpu] = [device.limits(), DeviceLimits::webgpu()].map(|of| (of.binding, of.buffer));
    assert_eq!(limits, webgpu);
    device
}

/// Values of every input: the sample, a timestep, a caption's states.
fn inputs(graph: &Graph) -> HashMap<TensorId, Vec<f32>> {
    let values = graph.input_names().enumerate().map(|(i, name)| {
        let id = graph.find_input(name).expect("it is one");
        let len = graph.info(id).len();
        let drawn = || numbers(i as u64 + 1).take(len).map(|v| 1.7 * v).collect();
        (id, if name == "t" { vec![400.0; len] } else { drawn() })
    });
    values.collect()
}

/// A checkpoint of random numbers in f16, removed when it is done with.
struct RandomWeights {
    path: PathBuf,
    bytes: u64,
}

impl Drop for RandomWeights {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            println!("{}: {error}", self.path.display());
        }
    }
}

impl RandomWeights {
    /// For what a graph reads.
    fn write(folder: &Path, graph: &Graph) -> RandomWeights {
        let path = folder.join(format!("ancestral-full-size-{}.safetensors", std::process::id()));
        let bytes = random_weights(&path, graph).expect("it can be written");
        RandomWeights { path, bytes }
    }

    fn open(&self) -> Weights {
        Weights::new(Checkpoint::open_file(&self.path).expect("it opens"))
    }
}

/// Seconds to read weights and to compute, and values.
type Ran = ([f64; 2], HashMap<TensorId, Vec<f32>>);

/// A graph on a device, with the values of its outputs.
fn whole(
    device: &Device,
    graph: &Graph,
    file: &RandomWeights,
    options: &ProgramOptions,
    inputs: &HashMap<TensorId, Vec<f32>>,
) -> Ran {
    let started = Instant::now();
    let weights = file.open();
    let mut program = device.program(graph.clone(), &weights, options).expect("it fits");
    let read = started.elapsed().as_secs_f64();
    let names: Vec<String> = graph.input_names().map(str::to_string).collect();
    for name in names {
        program.write(&name, &inputs[&graph.find_input(&name).expect("it is one")]);
    }
    let started = Instant::now();
    program.run(&mut |_| true).expect("it runs");
    let seconds = [read, started.elapsed().as_secs_f64()];
    let values = graph.outputs.iter().map(|(name, id)| (*id, program.read(name).expect("it is there")));
    (seconds, values.collect())
}

/// A graph on the CPU device, so many nodes at a time as there is room for their weights.
fn in_parts(graph: &Graph, file: &RandomWeights, mut values: HashMap<TensorId, Vec<f32>>) -> Ran {
    let mut fused = graph.clone();
    fuse(&mut fused);
    let weight = |id: &TensorId| match fused.info(*id).source {
        Source::Weight { .. } => 4 * fused.info(*id).len(),
        _ => 0,
    };
    let (mut seconds, mut first) = ([0.0; 2], 0);
    while first < fused.nodes.len() {
        let (mut end, mut bytes) = (first, 0);
        while end < fused.nodes.len() {
            bytes += fused.nodes[end].inputs.iter().map(weight).sum::<usize>();
            if end > first && bytes > PART {
                break;
            }
            end += 1;
        }
        let part = part(&fused, first..end);
        let (taken, made) = whole(&Device::Cpu, &part, file, &ProgramOptions::default(), &values);
        values.extend(made);
        let still_read: BTreeSet<TensorId> =
            fused.nodes[end..].iter().flat_map(|node| node.inputs.clone()).collect();
        values.retain(|id, _| still_read.contains(id) || fused.outputs.iter().any(|(_, out)| out == id));
        seconds.iter_mut().zip(taken).for_each(|(sum, seconds)| *sum += seconds);
        Device::Cpu.memory().clear();
        first = end;
    }
    (seconds, values)
}

/// Some nodes of a graph: what others make is an input, what others read an output.
fn part(graph: &Graph, nodes: Range<usize>) -> Graph {
    let mut part = graph.clone();
    part.nodes = graph.nodes[nodes.clone()].to_vec();
    let read: BTreeSet<usize> =
        part.nodes.iter().flat_map(|node| &node.inputs).map(|id| id.index()).collect();
    let made: BTreeSet<TensorId> = part.nodes.iter().flat_map(|node| node.outputs.clone()).collect();
    let made_at: BTreeSet<usize> = made.iter().map(|id| id.index()).collect();
    for (at, info) in part.tensors.iter_mut().enumerate() {
        match info.source {
            Source::Node if read.contains(&at) && !made_at.contains(&at) => {
                info.source = Source::Input(format!("value {at}"));
            }
            // Only other parts read them.
            Source::Weight { .. } | Source::Input(_) if !read.contains(&at) => info.source = Source::Node,
            _ => {}
        }
    }
    let later: BTreeSet<TensorId> =
        graph.nodes[nodes.end..].iter().flat_map(|node| node.inputs.clone()).collect();
    let outputs =
        made.iter().filter(|id| later.contains(id) || graph.outputs.iter().any(|(_, out)| out == *id));
    part.outputs = outputs.map(|id| (format!("made {}", id.index()), *id)).collect();
    part
}

/// The most memory that this process takes, files that are only mapped aside.
struct Watch {
    most: std::sync::Arc<(AtomicU64, AtomicBool)>,
    thread: std::thread::JoinHandle<()>,
}

impl Watch {
    fn start() -> Watch {
        let most = std::sync::Arc::new((AtomicU64::new(0), AtomicBool::new(false)));
        let seen = most.clone();
        let thread = std::thread::spawn(move || {
            while !seen.1.load(Ordering::Relaxed) {
                seen.0.fetch_max(resident(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Watch { most, thread }
    }

    /// GB.
    fn stop(self) -> f64 {
        self.most.1.store(true, Ordering::Relaxed);
        self.thread.join().expect("it only looks");
        self.most.0.load(Ordering::Relaxed) as f64 * 1e-9
    }
}

/// Bytes of memory that this process has taken, where Linux says so.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0)
    };
    1024 * (of("RssAnon:") + of("RssShmem:"))
}
