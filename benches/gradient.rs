//! What a gradient costs: the noisy classifier of guided-diffusion at 64x64 pixels, its real size with random weights,
//! forward alone against forward and gradient, in time and memory, for several budgets; and a guided step by GLIDE's noised
//! CLIP, its real size too, by one term and by four, against the classifier's.
//!
//! `cargo bench --bench gradient` measures on the CPU device, or on the adapter that `ANCESTRAL_TEST_DEVICE` names;
//! `-- profile` tells where the classifier's time goes, `-- clip` leaves the classifier's table out. The
//! weights, 262 MB, go to a temporary file and away again.

use ancestral::guidance::{Guidance, State};
use ancestral::internals::device::{Device, DeviceChoice, Program, ProgramOptions, Weights};
use ancestral::internals::diffusion::NoiseStream;
use ancestral::internals::graph::recompute::peak;
use ancestral::internals::graph::{Graph, Storage};
use ancestral::internals::kernels::epilogue::Activation;
use ancestral::internals::models::adm::classifier::Config;
use ancestral::internals::models::adm::presets;
use ancestral::internals::models::clip::{self, ImageEncoder};
use ancestral::internals::pipeline::adm::log_probability;
use ancestral::internals::pipeline::guidance::{GraphGuidance, Scalar, score_graph};
use ancestral::internals::weights::Checkpoint;
use ancestral::{ByteRounding, Clip, Picture};
use safetensors::tensor::{Dtype, View, serialize_to_file};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

#[path = "common/profile.rs"]
mod common;

/// Rounds of which the median counts.
const RUNS: usize = 5;

/// A tensor of random numbers small enough for a deep network.
struct Random {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for &Random {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// A checkpoint of a network with random weights; the file goes when this does.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, graph: &Graph) -> Self {
        let file = format!("ancestral-{name}-{}.safetensors", std::process::id());
        let path = std::env::temp_dir().join(file);
        let mut noise = NoiseStream::new(0);
        let mut tensors: BTreeMap<String, Random> = BTreeMap::new();
        for (name, shape) in graph.weights() {
            let inputs = shape[1..].iter().product::<usize>().max(1);
            let one = if shape.len() == 1 && name.ends_with("weight") { 1.0 } else { 0.0 };
            let size = 0.7 / (inputs as f32).sqrt();
            let values = noise.normal(shape.iter().product()).into_iter().map(|v| one + v * size);
            let bytes = values.flat_map(f32::to_le_bytes).collect();
            tensors.insert(name.to_string(), Random { shape: shape.to_vec(), bytes });
        }
        serialize_to_file(&tensors, None, &path).expect("the folder for temporary files has room");
        Temporary(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It is in the folder for temporary files anyway.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn run(program: &mut Program) -> f64 {
    let started = Instant::now();
    program.run(&mut |_| true).expect("it runs");
    let name = program.graph().outputs[0].0.clone();
    program.read(&name).expect("it reads");
    started.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let choice = std::env::var("ANCESTRAL_TEST_DEVICE").map_or(DeviceChoice::Cpu, DeviceChoice::Named);
    let device = Device::open(&choice).expect("the device opens");
    let config: Config = presets::by_name("64x64_classifier").expect("a preset").flags();
    let file = Temporary::new("classifier", &config.graph());
    let weights = Weights::new(Checkpoint::open_file(&file.0).expect("it opens"));
    let (side, scalar) = (config.image_size, log_probability(&config));
    if std::env::args().any(|arg| arg == "profile") {
        return profile(&device, &weights, &*scalar, [1, side, side, 3]);
    }
    // `-- clip` leaves the classifier's own table out.
    let clip_alone = std::env::args().any(|arg| arg == "clip");
    println!("{}; classifier of 64x64 pixels, f32; medians of {RUNS}\n", device.name());
    if clip_alone {
        return measure_clip(&device, Arc::new(weights), scalar);
    }
    println!("| pictures | what | budget MB | nodes | ms | of the forward | activations MB | at least MB |");
    println!("|---|---|---|---|---|---|---|---|");
    for pictures in [1, 4] {
        measure(&device, &weights, &*scalar, [pictures, side, side, 3]);
    }
    measure_clip(&device, Arc::new(weights), scalar);
}

/// Where the time of the classifier and its gradient goes, by shader.
fn profile(device: &Device, weights: &Weights, scalar: &Scalar, shape: [usize; 4]) {
    let graph = score_graph(shape, scalar, u64::MAX).expect("a gradient");
    let options = ProgramOptions::default();
    let mut program = device.program(graph, weights, &options).expect("it fits");
    common::profile("classifier and its gradient", &mut program);
}

/// The published sizes of GLIDE's picture encoder.
fn glide_clip() -> ImageEncoder {
    let (layout, act) = (clip::Layout::Glide, Activation::Gelu);
    let transformer =
        clip::Transformer { layout, width: 768, layers: 12, heads: 12, feed_forward: 3072, act, eps: 1e-5 };
    let (image_size, patch_size, embed, timesteps) = (64, 4, 512, Some(1000));
    ImageEncoder::Transformer(clip::vision::Config { transformer, image_size, patch_size, embed, timesteps })
}

/// Guided steps of one picture: the classifier's, and CLIP's by a text, by a text and an example in every way.
fn measure_clip(device: &Device, weights: Arc<Weights>, scalar: Arc<Scalar>) {
    const SHAPE: [usize; 4] = [1, 64, 64, 3];
    let file = Temporary::new("clip", &glide_clip().graph());
    let clip = Clip::load(&file.0).expect("it loads");
    let mut noise = NoiseStream::new(2);
    let mut normals = |len: usize| noise.normal(len);
    let x = normals(SHAPE.iter().product());
    let values = normals(x.len()).iter().map(|v| v.clamp(-1.0, 1.0)).collect();
    let example = Picture { width: 64, height: 64, channels: 3, values, rounding: ByteRounding::Nearest };
    let text = normals(512);
    let of_text = clip.guidance(device).vectors(text, 1.0);
    let of_all =
        clip.guidance(device).vectors(normals(512), 1.0).content(&example, 1.0).structure(&example, 1.0);
    let mut classifier = GraphGuidance::new(device, weights, scalar);
    classifier.set("class", vec![7.0]);
    let mut guides: [(&str, Box<dyn Guidance>); 3] = [
        ("classifier", Box::new(classifier)),
        ("CLIP: text", Box::new(of_text.build().expect("a guidance"))),
        (
            "CLIP: text, content, structure, style",
            Box::new(of_all.style(&example, 1.0).build().expect("a guidance")),
        ),
    ];
    let at = State { x: &x, x0: &x, shape: SHAPE, timestep: 500.0, alpha_bar: 0.5 };
    let mut step = |i: usize| {
        let started = Instant::now();
        guides[i].1.direction(&at, &mut |_| true).expect("it runs");
        started.elapsed().as_secs_f64()
    };
    // The first round makes the programs.
    (0..3).map(&mut step).for_each(|_| {});
    let rounds: Vec<Vec<f64>> = (0..RUNS).map(|_| (0..3).map(&mut step).collect()).collect();
    println!("\n| guided step of one picture | ms | of the classifier's |\n|---|---|---|");
    for (i, (what, _)) in guides.iter().enumerate() {
        let ms = 1e3 * median(rounds.iter().map(|round| round[i]).collect());
        let ratio = median(rounds.iter().map(|round| round[i] / round[0]).collect());
        println!("| {what} | {ms:.1} | {ratio:.2} |");
    }
}

fn measure(device: &Device, weights: &Weights, scalar: &Scalar, shape: [usize; 4]) {
    let mut forward = Graph::new();
    let x = forward.input("x", &shape, Storage::F32);
    let t = forward.input("t", &shape[..1], Storage::F32);
    let value = scalar(&mut forward, &x, &t);
    forward.output("scalar", &value);
    let all = peak(&score_graph(shape, scalar, u64::MAX).expect("a gradient"));
    let mut graphs = vec![("forward", None, forward)];
    for budget in [all, all * 3 / 4, all / 2] {
        let graph = score_graph(shape, scalar, budget).expect("a gradient");
        graphs.push(("forward and gradient", Some(budget), graph));
    }
    let options = ProgramOptions::default();
    let mut noise = NoiseStream::new(1);
    let x = noise.normal(shape.iter().product());
    let mut programs: Vec<Program> = Vec::new();
    for (_, _, graph) in &graphs {
        let mut program = device.program(graph.clone(), weights, &options).expect("it fits");
        program.write("x", &x);
        program.write("t", &vec![500.0; shape[0]]);
        program.write("class", &vec![7.0; shape[0]]);
        run(&mut program);
        programs.push(program);
    }
    // In turn, so that what else the machine does falls on all of them.
    let rounds: Vec<Vec<f64>> = (0..RUNS).map(|_| programs.iter_mut().map(run).collect()).collect();
    for (i, (what, budget, _)) in graphs.iter().enumerate() {
        let ms = 1e3 * median(rounds.iter().map(|round| round[i]).collect());
        let ratio = median(rounds.iter().map(|round| round[i] / round[0]).collect());
        let (used, least) = programs[i].memory();
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let budget = budget.map_or(String::new(), |budget| format!("{:.1}", mb(budget)));
        let nodes = programs[i].graph().nodes.len();
        let pictures = shape[0];
        println!(
            "| {pictures} | {what} | {budget} | {nodes} | {ms:.1} | {ratio:.2} | {:.1} | {:.1} |",
            mb(used),
            mb(least)
        );
    }
}
