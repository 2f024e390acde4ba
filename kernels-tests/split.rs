//! Tensors above a device's limits are split, with the same numbers: small networks of every family under limits that cut
//! all of them, on the CPU device and on a GPU that is opened with such limits; the widths of the largest published networks
//! under WebGPU's own.

mod pieces;
mod wide;

use crate::cases::Rng;
use crate::device::{on_gpu, skip};
use crate::harness::{F32, Tolerance, compare};
use ancestral::internals::device::{Device, Gpu, ProgramOptions, Variants, Weights};
use ancestral::internals::graph::split::split;
use ancestral::internals::graph::{Graph, Source, Storage, fuse::fuse};
use ancestral::internals::kernels::cut::columns;
use ancestral::internals::kernels::{Precision, conv2d};
use ancestral::internals::models::network::{DenoisingNetwork, Shape};
use ancestral::internals::models::text_unet::TextUNet;
use ancestral::internals::models::{adm, glide, prior, t5, unet, unet2d};
use ancestral::internals::weights::Checkpoint;
use ancestral::wgpu;
use half::f16;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

fn config<T: DeserializeOwned>(path: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens").join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A network for three pictures, by the name of its family.
fn network(network: &dyn DenoisingNetwork, tokens: usize) -> Graph {
    let unit = network.sides().multiple.max(8);
    let [height, width] = if network.sides().side == 1 { [1, 1] } else { [4 * unit, 3 * unit] };
    let shape = Shape {
        pictures: 3,
        height,
        width,
        channels: network.sample_channels(),
        enlarges: network.enlarges().then_some((unit, unit)),
        tokens,
        guided: tokens > 0,
        dynamic: false,
    };
    let mut g = Graph::new();
    let x = g.input("x", &shape.sample(), Storage::F32);
    let t = g.input("t", &[shape.batch()], Storage::F32);
    let out = network.record(&mut g, shape, &x, &t);
    g.output("out", &out);
    g
}

/// Networks of every family.
fn networks() -> Vec<(&'static str, Graph)> {
    let unet = |path: &str| TextUNet::new(config::<unet::Config>(path));
    let plain = |path: &str| config::<unet2d::Config>(path);
    let adm = adm::Config {
        image_size: 32,
        num_channels: 32,
        channel_mult: vec![1.0, 2.0],
        num_res_blocks: 1,
        attention_resolutions: vec![2],
        num_head_channels: Some(16),
        use_scale_shift_norm: true,
        resblock_updown: true,
        class_cond: true,
        num_classes: 10,
        ..adm::Config::default()
    };
    let text =
        glide::TextConfig { text_ctx: 24, xf_width: 48, xf_layers: 1, xf_heads: 4, ..Default::default() };
    let glide =
        glide::Config { unet: adm::Config { class_cond: false, ..adm.clone() }, text, inpaint: false };
    let t5: t5::Config = config("if_stage1/pipeline/text_encoder/config.json");
    let all = vec![
        ("IF-I", network(&unet("if_stage1/pipeline/unet/config.json"), 7)),
        ("IF-II", network(&unet("if_stage2/pipeline/unet/config.json"), 7)),
        ("unCLIP's decoder", network(&unet("unclip/pipeline/decoder/config.json"), 9)),
        ("unCLIP's super-resolution", network(&plain("unclip/pipeline/super_res_first/config.json"), 0)),
        ("DDPM", network(&plain("ddpm/pipeline/unet/config.json"), 0)),
        ("DDPM of residual blocks", network(&plain("ddpm_resnet/pipeline/unet/config.json"), 0)),
        ("the upsampler", network(&plain("upsampler/pipeline/config.json"), 0)),
        ("guided-diffusion", network(&adm, 0)),
        ("GLIDE", network(&glide, 24)),
        ("the prior", config::<prior::Config>("unclip/pipeline/prior/config.json").smallest()),
        ("T5", t5::graph(&t5, 3, 21)),
    ];
    all.into_iter().map(|(name, graph)| (name, a_channel_of(graph))).collect()
}

/// The network with the first channel of its output in the output's place: a graph's own outputs are never cut.
fn a_channel_of(mut g: Graph) -> Graph {
    let (name, id) = g.outputs.remove(0);
    let whole = g.tensor(id);
    let first = columns(&mut g, "first", &whole, 0, 1);
    g.output(&name, &first);
    g
}

/// A file that goes when it is done with.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: a file left behind in the temporary files harms nobody.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A checkpoint of random numbers, in f16, for what graphs read.
fn random_weights(name: &str, graph: &Graph) -> (Weights, Scratch) {
    let mut rng = Rng::named(name);
    let shapes: BTreeMap<&str, &[usize]> = graph.weights().collect();
    let mut bytes = BTreeMap::new();
    // Drawn once: a large file repeats them, each row from another place.
    let drawn: Vec<f32> = (0..65_521).map(|_| (rng.uniform() - 0.5) as f32).collect();
    for (i, (name, shape)) in shapes.iter().enumerate() {
        let inputs = shape[1..].iter().product::<usize>();
        // A variance that keeps what flows through; about 1 for norms' factors.
        let (std, mean) = if shape.len() > 1 { ((12.0 / inputs as f32).sqrt(), 0.0) } else { (0.2, 1.0) };
        let mean = if name.ends_with("bias") { 0.0 } else { mean };
        let pattern: Vec<u8> =
            drawn.iter().flat_map(|v| f16::from_f32(mean + std * v).to_le_bytes()).collect();
        let len = 2 * shape.iter().product::<usize>();
        let mut values = Vec::with_capacity(len);
        while values.len() < len {
            let from = 2 * ((97 * i + 31 * values.len()) % drawn.len());
            let end = pattern.len().min(from + len - values.len());
            values.extend_from_slice(&pattern[from..end]);
        }
        bytes.insert(*name, values);
    }
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let file = format!("ancestral-split-{}-{number}.safetensors", std::process::id());
    let scratch = Scratch(std::env::temp_dir().join(file));
    let views = bytes.iter().map(|(name, values)| {
        (*name, TensorView::new(Dtype::F16, shapes[name].to_vec(), values).expect("as long as its shape"))
    });
    serialize_to_file(views, None, &scratch.0).expect("it can be written");
    (Weights::new(Checkpoint::open_file(&scratch.0).expect("it opens")), scratch)
}

/// Every output of a graph, from random inputs.
fn outputs(
    device: &Device,
    graph: Graph,
    weights: &Weights,
    options: &ProgramOptions,
) -> Result<Vec<(String, Vec<f32>)>, String> {
    let mut rng = Rng::named("inputs");
    let inputs: Vec<(String, usize)> = graph
        .tensors
        .iter()
        .filter_map(|t| match &t.source {
            Source::Input(name) => Some((name.clone(), t.len())),
            _ => None,
        })
        .collect();
    let names: Vec<String> = graph.outputs.iter().map(|(name, _)| name.clone()).collect();
    let mut program = device.program(graph, weights, options).map_err(|error| error.to_string())?;
    for (name, len) in inputs {
        let values = match name.as_str() {
            // Tokens and classes.
            "ids" | "tokens" | "y" => {
                (0..len).map(|_| (rng.uniform() * 9.0) as f32).map(f32::floor).collect()
            }
            "t" => (0..len).map(|i| 400.0 + i as f32).collect(),
            _ => rng.normals(len, 0.0, 1.0),
        };
        program.write(&name, &values);
    }
    program.run(&mut |_| true).map_err(|error| error.to_string())?;
    let read = |name: String| program.read(&name).map(|values| (name, values));
    names.into_iter().map(read).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// The lowest limit that a graph can be split for, with the graph.
fn split_small(graph: &Graph, precision: Precision) -> (u64, Graph) {
    let mut fused = graph.clone();
    fuse(&mut fused);
    let mut largest = fused.tensors.iter().map(|t| t.bytes(precision)).max().expect("tensors");
    let mut found = None;
    while largest > 64 {
        largest = largest * 3 / 4 / 4 * 4;
        let mut graph = fused.clone();
        match split(&mut graph, largest, precision) {
            Ok(()) => found = Some((largest, graph)),
            Err(unsplit) => {
                println!("no less than {largest} bytes: {unsplit}");
                break;
            }
        }
    }
    found.expect("it can be split")
}

/// How a kernel's nodes were cut, told by what is between them.
fn kinds(graph: &Graph, before: &Graph) -> BTreeSet<String> {
    let mut kinds = BTreeSet::new();
    let count = |graph: &Graph, name: &str| graph.nodes.iter().filter(|n| n.kernel.name == name).count();
    for node in &graph.nodes {
        let name = node.kernel.name;
        if count(graph, name) > count(before, name) {
            kinds.insert(name.to_string());
        }
        if node.label.ends_with("(columns)") {
            kinds.insert("columns".into());
        }
        if *node.kernel == conv2d::KERNEL {
            let p: conv2d::Params = bytemuck::pod_read_unaligned(&node.params);
            if p.pad_top > 1 << 31 {
                kinds.insert("a strip that begins inside an enlarged picture".into());
            }
            if p.stride > 1 && p.pictures == 1 && p.out_height * p.stride < p.height * p.up {
                kinds.insert("a strip of a halving convolution".into());
            }
        }
    }
    kinds
}

/// What the networks here are made of, all of which is cut somewhere.
const KINDS: [&str; 13] = [
    "a strip that begins inside an enlarged picture",
    "attention",
    "columns",
    "conv2d",
    "elementwise",
    "embedding",
    "group_affine",
    "group_apply",
    "group_moments",
    "group_norm",
    "layer_norm",
    "matmul",
    "resample",
];

fn check_split(graph: &Graph, most: u64, precision: Precision) {
    for tensor in &graph.tensors {
        assert!(tensor.bytes(precision) <= most, "{:?} takes more than {most} bytes", tensor.shape);
    }
    crate::shaders::check_storage(graph).unwrap_or_else(|error| panic!("{error}"));
}

fn compare_all(
    what: &str,
    expected: &[(String, Vec<f32>)],
    found: &[(String, Vec<f32>)],
    tolerance: Tolerance,
) -> Result<f64, String> {
    let mut worst = 0.0f64;
    for ((name, expected), (_, found)) in expected.iter().zip(found) {
        let found =
            compare(expected, found, tolerance).map_err(|error| format!("{what}, {name}: {error}"))?;
        worst = worst.max(found.nmse);
    }
    Ok(worst)
}

#[test]
fn split_networks_give_the_same_numbers_on_the_cpu_device() {
    let mut seen = BTreeSet::new();
    for (name, graph) in networks() {
        let (weights, _scratch) = random_weights(name, &graph);
        let (most, pieces) = split_small(&graph, Precision::F32);
        check_split(&pieces, most, Precision::F32);
        let mut whole = graph.clone();
        fuse(&mut whole);
        seen.extend(kinds(&pieces, &whole));
        let options = ProgramOptions::default();
        let nodes = (whole.nodes.len(), pieces.nodes.len());
        let expected = outputs(&Device::Cpu, whole, &weights, &options).expect("it runs");
        let found = outputs(&Device::Cpu, pieces, &weights, &options).expect("it runs");
        let worst = compare_all(name, &expected, &found, F32).unwrap_or_else(|error| panic!("{error}"));
        let same = expected == found;
        println!(
            "{name}: {most} bytes, {} nodes as {}, NMSE {worst:.1e}, same bits: {same}",
            nodes.0, nodes.1
        );
    }
    let missing: Vec<_> = KINDS.iter().filter(|kind| !seen.contains(**kind)).collect();
    assert!(missing.is_empty(), "never cut: {missing:?}; cut: {seen:?}");
}

/// A second device on the adapter of the tests', which allows only tensors of so many bytes.
fn lowered(device: &Device, binding: u64, buffer: u64) -> Option<Device> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let instance = wgpu::Instance::new(descriptor);
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let adapter = adapters.into_iter().find(|a| device.name().starts_with(&a.get_info().name))?;
    let features = wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP;
    let required_limits = wgpu::Limits {
        max_storage_buffer_binding_size: binding,
        max_buffer_size: buffer,
        ..adapter.limits()
    };
    let descriptor = wgpu::DeviceDescriptor {
        required_features: adapter.features() & features,
        required_limits,
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("it opens");
    Some(Device::Gpu(Gpu::from_wgpu(adapter.get_info(), device, queue)))
}

/// On a GPU whose driver refuses what is larger. By rule, so that both take the same shaders where they can.
#[test]
fn split_networks_give_the_same_numbers_on_the_gpu() {
    on_gpu(|device| {
        let options = ProgramOptions { variants: Variants::Rule, ..Default::default() };
        for (name, graph) in networks() {
            let (weights, _scratch) = random_weights(name, &graph);
            let (most, _) = split_small(&graph, Precision::F32);
            let Some(small) = lowered(device, most, 4 << 20) else {
                return skip("the adapter is not found again");
            };
            let expected = outputs(device, graph.clone(), &weights, &options).expect("it runs");
            let found = outputs(&small, graph, &weights, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
            let worst = compare_all(name, &expected, &found, F32).unwrap_or_else(|error| panic!("{error}"));
            println!("{name}: {most} bytes, NMSE {worst:.1e}, same bits: {}", expected == found);
        }
    });
}

/// A strip that is read one line too low is seen.
#[test]
fn a_strip_that_is_off_by_a_line_is_seen() {
    let (name, graph) = networks().swap_remove(3);
    let (weights, _scratch) = random_weights(name, &graph);
    let (_, mut pieces) = split_small(&graph, Precision::F32);
    let options = ProgramOptions::default();
    let expected = outputs(&Device::Cpu, graph, &weights, &options).expect("it runs");
    let strip = pieces.nodes.iter_mut().filter(|node| *node.kernel == conv2d::KERNEL).find_map(|node| {
        let p: conv2d::Params = bytemuck::pod_read_unaligned(&node.params);
        let inside = p.pad_top == 0 && p.kernel_height == 3 && p.stride == 1 && p.height > p.out_height;
        inside.then_some((node, p))
    });
    let (node, mut p) = strip.expect("a strip");
    p.pad_top = 1;
    node.params = bytemuck::bytes_of(&p).to_vec();
    let found = outputs(&Device::Cpu, pieces, &weights, &options).expect("it runs");
    assert!(compare_all(name, &expected, &found, F32).is_err(), "it passes");
}

/// What cannot be split is said by name.
#[test]
fn what_cannot_be_split_is_named() {
    let (_, graph) = networks().swap_remove(0);
    let mut refused = graph.clone();
    let x = graph.find_input("x").expect("an input");
    let most = graph.info(x).bytes(Precision::F32) - 4;
    let unsplit = split(&mut refused, most, Precision::F32).expect_err("the sample is too large");
    assert!(unsplit.to_string().starts_with("`x` of shape [3, "), "{unsplit}");
    assert_eq!(refused.nodes.len(), graph.nodes.len());
    assert!(split(&mut refused, u64::MAX, Precision::F32).is_ok());
    assert_eq!(refused.tensors.len(), graph.tensors.len(), "nothing is done where all fits");
}
