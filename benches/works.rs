//! Our side of `tools/peers/run.py`: single works of a diffusion step, timed on request.
//!
//! The driver writes a line, this program answers with a line that begins with `ok` or `error`; the other peers speak
//! the same language (`tools/peers/README.md`). Without the argument `serve` it prints the commands and ends.

use ancestral::internals::device::{Program, ProgramOptions, Weights};
use ancestral::internals::diffusion::channels_last;
use ancestral::internals::graph::{Graph, Repack, Storage, Tensor};
use ancestral::internals::kernels::Precision;
use ancestral::internals::kernels::attention::{KeyValue, Options, attention};
use ancestral::internals::kernels::conv2d::Window;
use ancestral::internals::kernels::elementwise::add;
use ancestral::internals::kernels::epilogue::Activation;
use ancestral::internals::kernels::group_norm::{GroupNorm, group_norm};
use ancestral::internals::models::blocks::{conv, linear_no_bias};
use ancestral::internals::models::unet;
use ancestral::internals::weights::{Checkpoint, read_json};
use ancestral::{Device, DeviceChoice};
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

#[path = "common/random_weights.rs"]
mod random;

const USAGE: &str = "\
works serve: reads commands, one a line with a tab between words; every answer begins with `ok` or `error`:
  devices                             the adapters there are
  open DEVICE f32|f16                 `cpu`, `gpu`, or part of an adapter's name; answers its full name
  prepare NAME KIND INPUTS [FOLDER]   builds a work and runs it once; answers the milliseconds of that first run.
                                      KIND: matmul, conv3x3, group_norm_silu, attention, resblock, unet.
                                      INPUTS: safetensors with PyTorch's names and layouts; FOLDER: a U-Net's
  run NAME N                          milliseconds of one run, from N runs
  read NAME FILE                      writes the result: f32, little endian, in PyTorch's layout
  make CONFIG INPUTS FOLDER           a U-Net's folder, with random weights
  profile NAME                        by shader: how often, seconds, operations, bytes; JSON
  drop NAME
  quit
tools/peers/run.py drives this program and the peers.";

/// Head size of the attention work, groups and epsilon of the norms: the same in every peer.
const HEAD_DIM: usize = 64;
const GROUPS: usize = 32;
const EPS: f32 = 1e-5;
/// Links of the longer chain a work is timed with on a GPU; see [`Work::milliseconds`].
const CHAIN: usize = 5;
/// Milliseconds from which a run is timed alone: the submission and the wait are nothing beside it.
const LONG_RUN: f64 = 300.0;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A work that is ready to run, alone and as a chain in which every link reads the one before.
struct Work {
    single: Program,
    chain: Option<Program>,
    /// Shape of the result here.
    shape: Vec<usize>,
}

/// An open device with the works prepared on it.
struct Session {
    device: Device,
    options: ProgramOptions,
    works: HashMap<String, Work>,
}

/// A work's inputs as the graph has them: name and values.
type Values = Vec<(String, Vec<f32>)>;

/// Reads an input; pictures are `[N, C, H, W]` in the file and channels last here.
fn read_input(inputs: &Checkpoint, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
    let shape = inputs.shape(name).ok_or_else(|| format!("the inputs have no `{name}`"))?.to_vec();
    let values = inputs.read(name, Repack::None)?;
    Ok(match shape[..] {
        [n, c, h, w] => (vec![n, h, w, c], channels_last(&values, c, h, w)),
        _ => (shape, values),
    })
}

/// Records an input of the shape it has in the file and keeps its values.
fn input(
    g: &mut Graph,
    inputs: &Checkpoint,
    name: &str,
    storage: Storage,
    values: &mut Values,
) -> Result<Tensor> {
    let (shape, read) = read_input(inputs, name)?;
    values.push((name.to_string(), read));
    Ok(g.input(name, &shape, storage))
}

/// Records `links` times the work, each on the result of the one before, all with the same weights.
fn record(kind: &str, inputs: &Checkpoint, links: usize) -> Result<(Graph, Values, Vec<usize>)> {
    let (mut graph, mut values) = (Graph::new(), Values::new());
    let g = &mut graph;
    let first = if kind == "attention" { "q" } else { "x" };
    let mut x = input(g, inputs, first, Storage::Elem, &mut values)?;
    let norm = |g: &mut Graph, name: &str, x: &Tensor| {
        let norm = GroupNorm::new(g, name, x.channels(), GROUPS, EPS);
        group_norm(g, name, (x, None), &norm, None, Activation::Silu)
    };
    let conv3x3 =
        |g: &mut Graph, name: &str, x: &Tensor| conv(g, name, (x, None), x.channels(), 3, Window::same(3));
    match kind {
        "matmul" => {
            let cols = inputs.shape("weight").ok_or("the inputs have no `weight`")?[0];
            for _ in 0..links {
                x = linear_no_bias(g, "", &x, cols);
            }
        }
        "conv3x3" => {
            for _ in 0..links {
                x = conv3x3(g, "", &x);
            }
        }
        "group_norm_silu" => {
            for _ in 0..links {
                x = norm(g, "", &x);
            }
        }
        "attention" => {
            let k = input(g, inputs, "k", Storage::Elem, &mut values)?;
            let v = input(g, inputs, "v", Storage::Elem, &mut values)?;
            let rows = KeyValue { key: (&k).into(), value: (&v).into() };
            let scale = 1.0 / (HEAD_DIM as f32).sqrt();
            let heads = x.channels() / HEAD_DIM;
            let options = Options { heads, head_dim: HEAD_DIM, scale, bias: None, mask: None, causal: false };
            for _ in 0..links {
                x = attention(g, "attention", &(&x).into(), None, Some(&rows), &options);
            }
        }
        "resblock" => {
            for _ in 0..links {
                let h = norm(g, "norm1", &x);
                let h = conv3x3(g, "conv1", &h);
                let h = norm(g, "norm2", &h);
                let h = conv3x3(g, "conv2", &h);
                x = add(g, &h, &x);
            }
        }
        _ => return Err(format!("unknown kind `{kind}`").into()),
    }
    let shape = x.shape.clone();
    g.output("y", &x);
    Ok((graph, values, shape))
}

/// Records one evaluation of a U-Net of diffusers' layout.
fn record_unet(config: &unet::Config, inputs: &Checkpoint) -> Result<(Graph, Values, Vec<usize>)> {
    let (mut g, mut values) = (Graph::new(), Values::new());
    let x = input(&mut g, inputs, "x", Storage::Elem, &mut values)?;
    let t = input(&mut g, inputs, "t", Storage::F32, &mut values)?;
    let context = input(&mut g, inputs, "context", Storage::Elem, &mut values)?;
    let noise_level = match inputs.shape("noise_level") {
        Some(_) => Some(input(&mut g, inputs, "noise_level", Storage::F32, &mut values)?),
        None => None,
    };
    let inputs = unet::Inputs {
        x: &x,
        low_res: None,
        t: &t,
        context: &context,
        mask: None,
        noise_level: noise_level.as_ref(),
        class_labels: None,
    };
    let y = config.forward(&mut g, &inputs);
    let shape = y.shape.clone();
    g.output("y", &y);
    Ok((g, values, shape))
}

fn run_once(program: &mut Program) -> Result<f64> {
    let started = Instant::now();
    program.run(&mut |_| true)?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

impl Work {
    /// Milliseconds of one run. On a GPU the slope between the chain and the single work, so that the submission and
    /// the wait for it do not count: other GPU peers are timed so, or with many runs in flight. Without a chain, a run
    /// as it is: on the CPU, of a U-Net, or above [`LONG_RUN`].
    fn milliseconds(&mut self, runs: usize) -> Result<f64> {
        let (mut short, mut long) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            short.push(run_once(&mut self.single)?);
            if let Some(chain) = &mut self.chain {
                long.push(run_once(chain)?);
            }
        }
        let short = median(short);
        Ok(if long.is_empty() { short } else { (median(long) - short) / (CHAIN - 1) as f64 })
    }
}

impl Session {
    fn open(name: &str, precision: &str) -> Result<Session> {
        let device = Device::open(&DeviceChoice::parse(name))?;
        let precision = match (precision, &device) {
            ("f32", _) => Precision::F32,
            ("f16", Device::Cpu) => return Err("the CPU device computes in f32".into()),
            ("f16", Device::Gpu(gpu)) if !gpu.has_f16() => return Err("this adapter has no f16".into()),
            ("f16", _) => Precision::F16,
            _ => return Err(format!("precision `{precision}` is unknown: f32 or f16").into()),
        };
        let options = ProgramOptions { precision, ..Default::default() };
        Ok(Session { device, options, works: HashMap::new() })
    }

    fn program(&self, graph: Graph, values: &Values, weights: &Weights) -> Result<Program> {
        let mut program = self.device.program(graph, weights, &self.options)?;
        for (name, values) in values {
            program.write(name, values);
        }
        Ok(program)
    }

    fn prepare(&mut self, name: &str, kind: &str, inputs: &Path, folder: Option<&Path>) -> Result<f64> {
        let inputs = Checkpoint::open_file(inputs)?;
        if let ("unet", Some(folder)) = (kind, folder) {
            let config: unet::Config = read_json(&folder.join("config.json"))?;
            let weights = Weights::new(Checkpoint::open(folder, "diffusion_pytorch_model", None)?);
            let (graph, values, shape) = record_unet(&config, &inputs)?;
            let mut single = self.program(graph, &values, &weights)?;
            let first = run_once(&mut single)?;
            self.works.insert(name.to_string(), Work { single, chain: None, shape });
            return Ok(first);
        }
        let (graph, values, shape) = record(kind, &inputs, 1)?;
        let long = record(kind, &inputs, CHAIN)?;
        let weights = Weights::new(inputs);
        let mut single = self.program(graph, &values, &weights)?;
        let first = run_once(&mut single)?;
        let chained = matches!(self.device, Device::Gpu(_)) && run_once(&mut single)? < LONG_RUN;
        let mut chain = match chained {
            true => Some(self.program(long.0, &long.1, &weights)?),
            false => None,
        };
        if let Some(chain) = &mut chain {
            run_once(chain)?;
        }
        let work = Work { single, chain, shape };
        self.works.insert(name.to_string(), work);
        Ok(first)
    }

    fn work(&mut self, name: &str) -> Result<&mut Work> {
        self.works.get_mut(name).ok_or_else(|| format!("`{name}` is not prepared").into())
    }

    /// Writes the result of the last run.
    fn read(&mut self, name: &str, file: &Path) -> Result<()> {
        let work = self.work(name)?;
        let mut values = work.single.read("y")?;
        if let [_, h, w, c] = work.shape[..] {
            // Back to `[N, C, H, W]`: what puts channels last, with the axes' roles exchanged.
            values = channels_last(&values, h * w, 1, c);
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Ok(std::fs::write(file, bytes)?)
    }
}

/// A U-Net of a config with random weights, as diffusers lays it out.
fn make(config: &Path, inputs: &Path, folder: &Path) -> Result<String> {
    let (graph, ..) = record_unet(&read_json(config)?, &Checkpoint::open_file(inputs)?)?;
    std::fs::create_dir_all(folder)?;
    let bytes = random::random_weights(&folder.join("diffusion_pytorch_model.safetensors"), &graph)?;
    std::fs::copy(config, folder.join("config.json"))?;
    Ok(bytes.to_string())
}

/// What a program's shaders take, by the device's clock where it has one.
fn profile(program: &mut Program, element: f64) -> Result<String> {
    let mut by_shader: BTreeMap<&str, [f64; 4]> = BTreeMap::new();
    for node in program.profile()? {
        let bytes = element * (node.cost.reads + node.cost.writes);
        let sums = by_shader.entry(node.shader).or_default();
        let more = [1.0, node.seconds, node.cost.flops, bytes];
        sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
    Ok(serde_json::json!(by_shader).to_string())
}

/// One command's answer, without the `ok`.
fn answer(session: &mut Option<Session>, words: &[&str]) -> Result<String> {
    if let ["devices"] = words {
        return Ok(ancestral::internals::device::list_adapters().join("; "));
    }
    if let ["open", device, precision] = words {
        let opened = session.insert(Session::open(device, precision)?);
        return Ok(opened.device.name());
    }
    if let ["make", config, inputs, folder] = words {
        return make(Path::new(config), Path::new(inputs), Path::new(folder));
    }
    let session = session.as_mut().ok_or("no device is open")?;
    match words {
        ["prepare", name, kind, inputs] => {
            Ok(session.prepare(name, kind, Path::new(inputs), None)?.to_string())
        }
        ["prepare", name, kind, inputs, folder] => {
            Ok(session.prepare(name, kind, Path::new(inputs), Some(Path::new(folder)))?.to_string())
        }
        ["run", name, runs] => {
            let runs: usize = runs.parse()?;
            Ok(session.work(name)?.milliseconds(runs.max(1))?.to_string())
        }
        ["read", name, file] => session.read(name, Path::new(file)).map(|()| String::new()),
        ["profile", name] => {
            let element = if session.options.precision.elem_f16 { 2.0 } else { 4.0 };
            profile(&mut session.work(name)?.single, element)
        }
        ["drop", name] => {
            session.works.remove(*name);
            Ok(String::new())
        }
        _ => Err(format!("unknown command `{}`", words.join(" ")).into()),
    }
}

fn main() -> std::io::Result<()> {
    // `cargo bench` starts this beside the other benchmarks, with nobody to talk to.
    if !std::env::args().any(|a| a == "serve") {
        println!("{USAGE}");
        return Ok(());
    }
    env_logger::init();
    let mut session = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split('\t').collect();
        if words == ["quit"] {
            break;
        }
        let reply = match answer(&mut session, &words) {
            Ok(text) => format!("ok {text}"),
            Err(error) => format!("error {}", error.to_string().replace('\n', " ")),
        };
        println!("{}", reply.trim_end());
        std::io::stdout().flush()?;
    }
    Ok(())
}
