//! Texts and example pictures as one score.

use super::{Clip, FLOOR, Image, colours};
use crate::device::{Device, Monitor, Program, Transfer};
use crate::diffusion::NoiseStream;
use crate::error::{Error, Result};
use crate::graph::{Graph, Storage, Tensor};
use crate::guidance::{Direction, Guidance, MEMORY_BUDGET, OPTIONS, State, score_graph};
use crate::kernels::elementwise::{add, as_elem, mul, scale};
use crate::kernels::layer_norm::l2_normalise;
use crate::kernels::product::gram;
use crate::kernels::sum_axis::{sum_axis, sum_rows};
use crate::picture::Picture;
use crate::systems::denoise::{Noise, channels_last};

/// The largest 1/√ᾱ by which a score with respect to x̂₀ becomes one with respect to x_t.
const MAX_GAIN: f64 = 100.0;
/// Of two features or Gram matrices, what is compared with less than this is compared with this.
const LEAST: f32 = 1e-20;

/// Which of a picture's features are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Features {
    /// Themselves, place by place.
    Maps,
    /// Their Gram matrices.
    Grams,
}

impl Features {
    fn name(self) -> &'static str {
        match self {
            Features::Maps => "map",
            Features::Grams => "gram",
        }
    }
}

/// A comparison with an example's features.
#[derive(Clone, Copy, Debug)]
struct Comparison {
    features: Features,
    /// Which example.
    example: usize,
    weight: f64,
}

impl Comparison {
    /// What its inputs are called, for a map.
    fn inputs(self, term: usize, map: usize) -> [String; 2] {
        ["", " weight"].map(|what| format!("{} {term}.{map}{what}", self.features.name()))
    }
}

enum Text {
    /// Still to be encoded.
    Texts(Vec<String>),
    /// Unit vectors, one or one for each picture.
    Vectors(Vec<f32>),
}

/// What a guidance is to follow; see [`Clip::guidance`].
///
/// Each term is at most about 1 apart from its weight, and is multiplied by the CLIP's [logit scale](Clip::logit_scale),
/// 100 for those published, so that weights of different terms, and GLIDE's, compare: its notebook guides by a text at
/// weight 3. The score is the gradient of their sum with respect to x_t.
///
/// - Text and content: the cosine of the picture's vector and that of the text, or of the example.
/// - Structure: −Σ (F − F′)² / Σ F′², of the features F of the picture and F′ of the example at the same places, in the mean
///   over the encoder's maps. The paper's term has the number of features in place of Σ F′².
/// - Style: −Σ (G − G′)² / Σ G′², of the Gram matrices over places, G = Fᵀ F / (places · channels), in the mean over the
///   maps. The paper's code has the number of elements in place of Σ G′², times 10¹⁰.
///
/// An encoder that was trained on noisy pictures sees x_t and, as timestep, that of its own schedule whose ᾱ is nearest;
/// examples get noise of the same ᾱ, anew at each step. Any other sees x̂₀, and the score is the gradient there times
/// 1/√ᾱ, which holds while ε does not change with x_t; at most times 100.
///
/// Examples of another size or shape than the sample are cut to its shape about their centre and resized. Samples of
/// another size than the encoder's are resized to it, noise and all: an encoder that was trained on noisy pictures serves
/// best at its own size.
pub struct GuidanceBuilder {
    clip: Clip,
    device: Device,
    texts: Vec<(Text, f64)>,
    examples: Vec<Picture>,
    contents: Vec<(usize, f64)>,
    comparisons: Vec<Comparison>,
    seed: u64,
    noise: Option<Box<dyn Noise>>,
    budget: u64,
}

impl GuidanceBuilder {
    pub(super) fn new(clip: &Clip, device: &Device) -> Self {
        GuidanceBuilder {
            clip: clip.clone(),
            device: device.clone(),
            texts: Vec::new(),
            examples: Vec::new(),
            contents: Vec::new(),
            comparisons: Vec::new(),
            seed: 0,
            noise: None,
            budget: MEMORY_BUDGET,
        }
    }

    /// Towards what a text says.
    pub fn text(self, text: impl Into<String>, weight: f64) -> Self {
        self.texts(&[text.into()], weight)
    }

    /// Towards what texts say, one for all pictures or one for each.
    pub fn texts(mut self, texts: &[impl AsRef<str>], weight: f64) -> Self {
        let texts = texts.iter().map(|text| text.as_ref().to_string()).collect();
        self.texts.push((Text::Texts(texts), weight));
        self
    }

    /// Towards texts' vectors, one for all pictures or one for each, as [`Clip::text_embeddings`] gives them.
    pub fn vectors(mut self, vectors: Vec<f32>, weight: f64) -> Self {
        self.texts.push((Text::Vectors(vectors), weight));
        self
    }

    fn example(&mut self, picture: &Picture) -> usize {
        let known = self.examples.iter().position(|known| known == picture);
        known.unwrap_or_else(|| {
            self.examples.push(picture.clone());
            self.examples.len() - 1
        })
    }

    /// Towards what an example shows.
    pub fn content(mut self, example: &Picture, weight: f64) -> Self {
        let example = self.example(example);
        self.contents.push((example, weight));
        self
    }

    /// Towards showing at each place what an example shows there.
    pub fn structure(mut self, example: &Picture, weight: f64) -> Self {
        let example = self.example(example);
        self.comparisons.push(Comparison { features: Features::Maps, example, weight });
        self
    }

    /// Towards the style of an example.
    pub fn style(mut self, example: &Picture, weight: f64) -> Self {
        let example = self.example(example);
        self.comparisons.push(Comparison { features: Features::Grams, example, weight });
        self
    }

    /// Seed of the noise that examples get, 0 if this is not called; picture i of several takes `seed + i`.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Noise for the examples in place of a seed's: drawn at each step, for one example after another.
    pub fn noise(mut self, noise: impl Noise + 'static) -> Self {
        self.noise = Some(Box::new(noise));
        self
    }

    /// Bytes of activations it may take, [`MEMORY_BUDGET`] if this is not called; less takes more time.
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.budget = bytes;
        self
    }

    /// Encodes the texts.
    ///
    /// # Errors
    /// There is nothing to follow; a weight that is no number; a picture that is neither grey nor in colour; there is no
    /// picture encoder; see [`Clip::text_embeddings`].
    pub fn build(self) -> Result<ClipGuidance> {
        let image = self.clip.image()?.clone();
        let weights = self.texts.iter().map(|t| t.1).chain(self.contents.iter().map(|c| c.1));
        let mut weights = weights.chain(self.comparisons.iter().map(|c| c.weight)).peekable();
        if weights.peek().is_none() {
            return Err(Error::Request(
                "CLIP guidance has nothing to follow: add a text or a picture".into(),
            ));
        }
        if let Some(weight) = weights.find(|weight| !weight.is_finite()) {
            return Err(Error::Request(format!("a weight of {weight}: give a number")));
        }
        for example in &self.examples {
            let values = example.width * example.height * example.channels;
            if !matches!(example.channels, 1 | 3) || values == 0 || values != example.values.len() {
                return Err(Error::Request(format!(
                    "an example of {}x{} pixels, {} channels and {} values: give a picture, grey or in colour",
                    example.width,
                    example.height,
                    example.channels,
                    example.values.len()
                )));
            }
        }
        let (embed, mut texts) = (image.config.embed(), Vec::new());
        for (text, weight) in self.texts {
            let vectors = match text {
                Text::Texts(texts) => self.clip.text_embeddings(&self.device, &texts)?,
                Text::Vectors(vectors) => vectors,
            };
            if vectors.is_empty() || !vectors.len().is_multiple_of(embed) {
                let what = format!("texts' vectors of {} numbers: each has {embed}", vectors.len());
                return Err(Error::Request(what));
            }
            texts.push((vectors, weight));
        }
        let (contents, comparisons) = (self.contents, self.comparisons);
        Ok(ClipGuidance {
            terms: Terms { image, logit_scale: self.clip.logit_scale(), texts, contents, comparisons },
            device: self.device,
            examples: self.examples,
            seed: self.seed,
            noise: self.noise,
            budget: self.budget,
            made: None,
        })
    }
}

/// What the score is of.
struct Terms {
    image: Image,
    logit_scale: f64,
    /// Unit vectors, one or one for each picture, and their weight.
    texts: Vec<(Vec<f32>, f64)>,
    /// Numbers of examples, and their weight.
    contents: Vec<(usize, f64)>,
    comparisons: Vec<Comparison>,
}

/// Guidance by CLIP: the score of all its terms, by one pass through the picture encoder and back.
pub struct ClipGuidance {
    terms: Terms,
    device: Device,
    examples: Vec<Picture>,
    seed: u64,
    noise: Option<Box<dyn Noise>>,
    budget: u64,
    made: Option<Made>,
}

/// The programs for samples of one shape.
struct Made {
    shape: [usize; 4],
    /// Inputs `x`, `t`, `aim` and those of each comparison; outputs `scalar` and `gradient`.
    score: Program,
    /// What the examples are compared by, if there are any.
    examples: Option<Examples>,
}

struct Examples {
    /// Inputs `x` and `t`; outputs `unit`, and `map {j}`, `gram {j}` with the opposite sign, with `… size` (Σ²).
    program: Program,
    /// The pictures in the sample's size, repeated for each of its pictures.
    pictures: Vec<Vec<f32>>,
    /// Their unit vectors.
    units: Vec<Vec<f32>>,
    /// Whether the score's inputs hold what the program said of them.
    known: bool,
}

/// Σ x² by picture: x `[N, A, C]` → `[N, 1]`.
fn squares(g: &mut Graph, label: &str, x: &Tensor) -> Tensor {
    let (n, channels) = (x.dim(0), x.channels());
    let squares = mul(g, x, x);
    let by_channel = sum_rows(g, label, &squares, x.dim(1));
    sum_axis(g, label, &by_channel, [n, channels, 1], &[n, 1])
}

/// Features of a kind.
fn features(g: &mut Graph, maps: &[Tensor], kind: Features) -> Vec<Tensor> {
    match kind {
        Features::Maps => maps.to_vec(),
        Features::Grams => maps.iter().map(|map| gram(g, "gram", map)).collect(),
    }
}

impl Terms {
    fn compares(&self, kind: Features) -> bool {
        self.comparisons.iter().any(|comparison| comparison.features == kind)
    }

    /// Whether vectors are compared at all.
    fn aims(&self) -> bool {
        !self.texts.is_empty() || !self.contents.is_empty()
    }

    /// Records the sum of all terms, `[N]`.
    fn scalar(&self, g: &mut Graph, x: &Tensor, t: &Tensor) -> Tensor {
        let (n, embed) = (x.dim(0), self.image.config.embed());
        let seen = self.image.config.forward(g, x, Some(t), !self.comparisons.is_empty());
        let mut terms = Vec::new();
        if self.aims() {
            let unit = l2_normalise(g, "unit", &seen.embeds, FLOOR);
            let aim = g.input("aim", &[n, embed], Storage::F32);
            let aim = as_elem(g, &aim);
            let products = mul(g, &unit, &aim);
            terms.push(sum_axis(g, "cosine", &products, [n, embed, 1], &[n, 1]));
        }
        for kind in [Features::Maps, Features::Grams].into_iter().filter(|kind| self.compares(*kind)) {
            let found = features(g, &seen.maps, kind);
            for (term, comparison) in self.comparisons.iter().enumerate() {
                for (j, found) in found.iter().enumerate().filter(|_| comparison.features == kind) {
                    let [features, weight] = comparison.inputs(term, j);
                    let example = g.input(&features, &found.shape, Storage::Elem);
                    let difference = add(g, found, &example);
                    let distance = squares(g, kind.name(), &difference);
                    let weight = g.input(&weight, &[n, 1], Storage::F32);
                    let weight = as_elem(g, &weight);
                    terms.push(mul(g, &distance, &weight));
                }
            }
        }
        let sum = terms.into_iter().reduce(|sum, term| add(g, &sum, &term));
        // There is a term: an empty guidance is not built.
        let sum = sum.unwrap_or_else(|| g.constant(&[n, 1], vec![0.0; n]));
        g.reshape(&sum, &[n])
    }

    /// Records what the examples are compared by.
    fn record_examples(&self, shape: [usize; 4]) -> Graph {
        let mut g = Graph::new();
        let x = g.input("x", &shape, Storage::F32);
        let t = g.input("t", &shape[..1], Storage::F32);
        let seen = self.image.config.forward(&mut g, &x, Some(&t), !self.comparisons.is_empty());
        if !self.contents.is_empty() {
            let unit = l2_normalise(&mut g, "unit", &seen.embeds, FLOOR);
            g.output("unit", &unit);
        }
        for kind in [Features::Maps, Features::Grams].into_iter().filter(|kind| self.compares(*kind)) {
            for (j, found) in features(&mut g, &seen.maps, kind).iter().enumerate() {
                let size = squares(&mut g, kind.name(), found);
                let opposite = scale(&mut g, found, -1.0);
                g.output(&format!("{} {j}", kind.name()), &opposite);
                g.output(&format!("{} {j} size", kind.name()), &size);
            }
        }
        g
    }

    /// The weighted sum of all vectors, by picture.
    fn aim(&self, pictures: usize, examples: Option<&Examples>) -> Result<Vec<f32>> {
        let embed = self.image.config.embed();
        let mut aim = vec![0.0; pictures * embed];
        let mut follow = |vectors: &[f32], weight: f64| {
            let weight = (weight * self.logit_scale) as f32;
            aim.iter_mut().zip(vectors.iter().cycle()).for_each(|(aim, v)| *aim += weight * v);
        };
        for (vectors, weight) in &self.texts {
            let count = vectors.len() / embed;
            if count != 1 && count != pictures {
                let what =
                    format!("{count} texts for {pictures} pictures: give one for all, or one for each");
                return Err(Error::Request(what));
            }
            follow(vectors, *weight);
        }
        for (example, weight) in &self.contents {
            if let Some(unit) = examples.and_then(|examples| examples.units.get(*example)) {
                follow(unit, *weight);
            }
        }
        Ok(aim)
    }

    /// Hands an example's features to the score, with the weights that make their differences shares of them.
    fn set_comparison(
        &self,
        score: &mut Program,
        example: &mut Program,
        (term, comparison): (usize, Comparison),
    ) -> Result<()> {
        let kind = comparison.features.name();
        let count =
            (0..).take_while(|j| example.graph().find_output(&format!("{kind} {j}")).is_some()).count();
        for j in 0..count {
            let [features, weight] = comparison.inputs(term, j);
            let (from, to) =
                (example.graph().find_output(&format!("{kind} {j}")), score.graph().find_input(&features));
            if let (Some(from), Some(to)) = (from, to) {
                let len = score.graph().info(to).len();
                score.copy_from(example, &[Transfer { from, first: 0, to, at: 0, len }]);
            }
            let sizes = example.read(&format!("{kind} {j} size"))?;
            let share = -(comparison.weight * self.logit_scale / count as f64) as f32;
            let weights: Vec<f32> = sizes.iter().map(|size| share / size.max(LEAST)).collect();
            score.write(&weight, &weights);
        }
        Ok(())
    }
}

impl ClipGuidance {
    fn make(&self, shape: [usize; 4]) -> Result<Made> {
        let [pictures, height, width, _] = shape;
        let (terms, weights) = (&self.terms, &self.terms.image.weights);
        let scalar = |g: &mut Graph, x: &Tensor, t: &Tensor| terms.scalar(g, x, t);
        let graph = score_graph(shape, &scalar, self.budget)?;
        let score = self.device.program(graph, weights, &OPTIONS)?;
        let examples = match self.examples.is_empty() {
            true => None,
            false => {
                let program = self.device.program(terms.record_examples(shape), weights, &OPTIONS)?;
                let fit = |example: &Picture| colours(&example.fitted(width, height)).repeat(pictures);
                let pictures = self.examples.iter().map(fit).collect();
                Some(Examples { program, pictures, units: Vec::new(), known: false })
            }
        };
        Ok(Made { shape, score, examples })
    }

    /// The sum of all terms by picture, `[N]`, and its gradient with respect to x_t, `[N, H, W, 3]`.
    ///
    /// # Errors
    /// Samples that are not in colour; texts for another number of pictures; a device that fails.
    pub fn evaluate(&mut self, at: &State<'_>, monitor: &mut Monitor<'_>) -> Result<(Vec<f32>, Vec<f32>)> {
        if at.shape[3] != 3 {
            let what = format!("CLIP sees colour pictures; this model's have {} channels", at.shape[3]);
            return Err(Error::Request(what));
        }
        let mut made = match self.made.take().filter(|made| made.shape == at.shape) {
            Some(made) => made,
            None => self.make(at.shape)?,
        };
        let timestep = self.terms.image.alpha_bars.as_ref().map(|bars| super::nearest(bars, at.alpha_bar));
        self.look_at_examples(&mut made, at, timestep, monitor)?;
        let score = &mut made.score;
        if self.terms.aims() {
            score.write("aim", &self.terms.aim(at.shape[0], made.examples.as_ref())?);
        }
        score.write("x", if timestep.is_some() { at.x } else { at.x0 });
        score.write("t", &vec![timestep.unwrap_or(0) as f32; at.shape[0]]);
        score.run(monitor)?;
        let (values, mut gradient) = (score.read("scalar")?, score.read("gradient")?);
        if timestep.is_none() {
            let gain = (1.0 / at.alpha_bar.max(0.0).sqrt()).min(MAX_GAIN) as f32;
            gradient.iter_mut().for_each(|v| *v *= gain);
        }
        self.made = Some(made);
        Ok((values, gradient))
    }

    /// Sets what the score compares with, where it is not set yet or changes with the noise.
    fn look_at_examples(
        &mut self,
        made: &mut Made,
        at: &State<'_>,
        timestep: Option<usize>,
        monitor: &mut Monitor<'_>,
    ) -> Result<()> {
        let Some(examples) = &mut made.examples else { return Ok(()) };
        if examples.known && timestep.is_none() {
            return Ok(());
        }
        examples.units.clear();
        for i in 0..examples.pictures.len() {
            let (x, program) = (&examples.pictures[i], &mut examples.program);
            match timestep {
                Some(t) => program.write("x", &self.noised(i, x, at, t)),
                None => program.write("x", x),
            }
            program.write("t", &vec![timestep.unwrap_or(0) as f32; at.shape[0]]);
            // The share of a step that an example takes is not known.
            program.run(&mut |_| monitor(0.0))?;
            if !self.terms.contents.is_empty() {
                examples.units.push(program.read("unit")?);
            }
            for (term, comparison) in
                self.terms.comparisons.iter().enumerate().filter(|(_, c)| c.example == i)
            {
                self.terms.set_comparison(&mut made.score, program, (term, *comparison))?;
            }
        }
        examples.known = true;
        Ok(())
    }

    /// Example i with the noise of the encoder's timestep t: √ᾱ x₀ + √(1−ᾱ) z.
    fn noised(&mut self, i: usize, x0: &[f32], at: &State<'_>, t: usize) -> Vec<f32> {
        let [pictures, height, width, channels] = at.shape;
        let noise = match &mut self.noise {
            Some(noise) => noise.draw(pictures, channels, height, width),
            None => {
                let item = channels * height * width;
                let stream = |picture: usize| stream_seed(self.seed.wrapping_add(picture as u64), i, t);
                (0..pictures).flat_map(|picture| NoiseStream::new(stream(picture)).normal(item)).collect()
            }
        };
        let noise = channels_last(&noise, channels, height, width);
        let alpha_bar = self.terms.image.alpha_bars.as_ref().map_or(1.0, |bars| bars[t]);
        let (signal, deviation) = (alpha_bar.sqrt() as f32, (1.0 - alpha_bar).sqrt() as f32);
        x0.iter().zip(noise).map(|(x, z)| signal * x + deviation * z).collect()
    }
}

/// A stream of its own for each seed, example and timestep, whatever steps a run takes before (splitmix64's mixer).
fn stream_seed(seed: u64, example: usize, timestep: usize) -> u64 {
    let mix = |z: u64| {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for part in [seed, example as u64, timestep as u64] {
        state = mix(state.wrapping_add(part).wrapping_add(0x9e37_79b9_7f4a_7c15));
    }
    state
}

impl Guidance for ClipGuidance {
    fn direction(&mut self, at: &State<'_>, monitor: &mut Monitor<'_>) -> Result<Direction> {
        Ok(Direction::Score(self.evaluate(at, monitor)?.1))
    }
}
