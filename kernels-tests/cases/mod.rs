//! The cases: every kernel at the sizes that break kernels. Plain data without a test in it, so that the benches
//! read the same list.
//!
//! A [`Case`] is a graph of one kernel (plus element-wise nodes that must fuse into it), recorded through the
//! kernel's public functions, with the values of its inputs. To add one, add a row to the kernel's function.

mod attention;
pub mod norms;
mod pictures;
mod products;
mod rows;
mod sizes;
pub mod steps;
mod strips;
mod training;

use ancestral::internals::graph::{Graph, Repack, Source, Storage, Tensor, TensorId, WeightPart};
use ancestral::internals::kernels::{ALL, Kernel};

/// One kernel at one size.
pub struct Case {
    /// The kernel's name; the graph is one dispatch of it once fused.
    pub kernel: &'static str,
    /// `kernel/what is special`.
    pub name: String,
    /// One output, named [`OUTPUT`], and of kernels that have more the others.
    pub graph: Graph,
    /// Values of every input.
    pub inputs: Vec<(String, Vec<f32>)>,
}

impl Case {
    /// The kernel it is of.
    pub fn kernel(&self) -> &'static Kernel {
        ALL.iter().find(|kernel| kernel.name == self.kernel).expect("a case is of a kernel")
    }
}

/// Name of a case's output.
pub const OUTPUT: &str = "y";

/// Every case of every kernel.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(attention::cases());
    cases.extend(norms::cases());
    cases.extend(pictures::cases());
    cases.extend(products::cases());
    cases.extend(rows::cases());
    cases.extend(steps::cases());
    cases.extend(strips::cases());
    cases.extend(training::cases());
    cases
}

/// What is measured: the kernels at sizes of the models, without values; of one that has none there, the most costly case.
pub fn benched() -> Vec<Case> {
    let mut benched = sizes::cases();
    let mut rest = all();
    rest.sort_by(|a, b| b.graph.cost().flops.total_cmp(&a.graph.cost().flops));
    for kernel in ALL.iter() {
        if !benched.iter().any(|case| case.kernel == kernel.name) {
            benched.extend(rest.iter().position(|case| case.kernel == kernel.name).map(|at| rest.remove(at)));
        }
    }
    benched
}

/// Numbers that are the same on every machine (splitmix64, Steele et al. 2014; normals by Box & Muller).
pub struct Rng(u64);

impl Rng {
    /// A stream of its own for every name.
    pub fn named(name: &str) -> Self {
        // FNV-1a
        Rng(name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// `len` normals of standard deviation `std` about `mean`.
    pub fn normals(&mut self, len: usize, mean: f64, std: f64) -> Vec<f32> {
        (0..len).map(|_| (mean + std * self.normal()) as f32).collect()
    }
}

/// Records a case's graph and draws its inputs.
pub struct Maker {
    /// The graph.
    pub g: Graph,
    /// The case's numbers.
    pub rng: Rng,
    inputs: Vec<(String, Vec<f32>)>,
    /// Whether the inputs get values.
    draws: bool,
}

impl Maker {
    /// An input of given values.
    pub fn given(&mut self, shape: &[usize], storage: Storage, values: Vec<f32>) -> Tensor {
        let name = format!("in{}", self.inputs.len());
        let tensor = self.g.input(&name, shape, storage);
        assert_eq!(values.len(), tensor.len(), "{name}: values for {shape:?}");
        self.inputs.push((name, values));
        tensor
    }

    /// The values of an input.
    pub fn values(&self, id: TensorId) -> Vec<f32> {
        let name = input_name(&self.g, id);
        self.inputs.iter().find(|(n, _)| n == name).expect("an input has values").1.clone()
    }

    /// Activations: standard normals.
    pub fn elem(&mut self, shape: &[usize]) -> Tensor {
        self.normal(shape, Storage::Elem, 0.0, 1.0)
    }

    /// A weight matrix, filter or table: normals of standard deviation 0.2.
    pub fn weight(&mut self, shape: &[usize]) -> Tensor {
        self.normal(shape, Storage::Weight, 0.0, 0.2)
    }

    /// Biases and the like: standard normals that stay f32.
    pub fn f32(&mut self, shape: &[usize]) -> Tensor {
        self.normal(shape, Storage::F32, 0.0, 1.0)
    }

    /// Normals.
    pub fn normal(&mut self, shape: &[usize], storage: Storage, mean: f64, std: f64) -> Tensor {
        if !self.draws {
            let name = format!("in{}", self.inputs.len());
            self.inputs.push((name.clone(), Vec::new()));
            return self.g.input(&name, shape, storage);
        }
        let values = self.rng.normals(shape.iter().product(), mean, std);
        self.given(shape, storage, values)
    }
}

/// Makes the case `kernel/name` from what `record` records; weights it names are drawn as the inputs are.
fn case(kernel: &'static str, name: impl AsRef<str>, record: impl FnOnce(&mut Maker) -> Tensor) -> Case {
    make(kernel, name.as_ref(), true, record)
}

/// The same without values.
fn sized(kernel: &'static str, name: &str, record: impl FnOnce(&mut Maker) -> Tensor) -> Case {
    make(kernel, name, false, record)
}

fn make(kernel: &'static str, name: &str, draws: bool, record: impl FnOnce(&mut Maker) -> Tensor) -> Case {
    let name = format!("{kernel}/{name}");
    let mut maker = Maker { g: Graph::new(), rng: Rng::named(&name), inputs: Vec::new(), draws };
    let y = record(&mut maker);
    maker.g.output(OUTPUT, &y);
    let Maker { mut g, mut rng, mut inputs, .. } = maker;
    for weight in weights_to_inputs(&mut g) {
        let len = if draws { g.info(weight.id).len() } else { 0 };
        inputs.push((input_name(&g, weight.id).to_string(), rng.normals(len, 0.5, 0.5)));
    }
    Case { kernel, name, graph: g, inputs }
}

/// A weight that became an input.
pub struct Weight {
    /// The input.
    pub id: TensorId,
    /// The tensors of the checkpoint that it is made of.
    pub parts: Vec<WeightPart>,
    /// Shape in the checkpoint, of each.
    pub shape: Vec<usize>,
    /// Layout change from there to the input.
    pub repack: Repack,
}

/// Makes inputs of the tensors a graph would read from a checkpoint, so that it runs without one. The inputs' names
/// are told apart by number, because a graph may read a weight twice.
pub fn weights_to_inputs(g: &mut Graph) -> Vec<Weight> {
    let mut weights = Vec::new();
    for i in 0..g.tensors.len() {
        let Source::Weight { parts, shape, repack } = g.tensors[i].source.clone() else { continue };
        let unique = format!("{} #{i}", WeightPart::list(&parts));
        g.tensors[i].source = Source::Input(unique.clone());
        let id = g.find_input(&unique).expect("just made");
        weights.push(Weight { id, parts, shape, repack });
    }
    weights
}

/// The name of an input.
pub fn input_name(g: &Graph, id: TensorId) -> &str {
    match &g.info(id).source {
        Source::Input(name) => name,
        other => panic!("not an input: {other:?}"),
    }
}
