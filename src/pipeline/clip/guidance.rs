//! Texts and example pictures as one score.

use super::model::{colours, nearest};
use super::terms::Terms;
use crate::device::{Device, Monitor, Program};
use crate::diffusion::{Noise, NoiseStream, channels_last};
use crate::error::{Result, request};
use crate::graph::{Graph, Tensor};
use crate::picture::Picture;
use crate::pipeline::guidance::{OPTIONS, score_graph};
use crate::settings::guidance::{Direction, Guidance, State};

/// The largest 1/√ᾱ by which a score with respect to x̂₀ becomes one with respect to x_t.
const MAX_GAIN: f64 = 100.0;
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

impl ClipGuidance {
    pub(super) fn new(
        terms: Terms,
        device: Device,
        examples: Vec<Picture>,
        (seed, noise): (u64, Option<Box<dyn Noise>>),
        budget: u64,
    ) -> Self {
        ClipGuidance { terms, device, examples, seed, noise, budget, made: None }
    }

    /// The score's graph for samples of a shape.
    fn score(&self, shape: [usize; 4]) -> Result<Graph> {
        let scalar = |g: &mut Graph, x: &Tensor, t: &Tensor| self.terms.scalar(g, x, t);
        score_graph(shape, &scalar, self.budget)
    }

    fn make(&self, shape: [usize; 4]) -> Result<Made> {
        let [pictures, height, width, _] = shape;
        let (terms, weights) = (&self.terms, &self.terms.image.weights);
        let score = self.device.program(self.score(shape)?, weights, &OPTIONS)?;
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
            return Err(request!(
                Guide,
                Unsupported,
                "CLIP sees colour pictures; this model's have {} channels",
                at.shape[3]
            ));
        }
        let mut made = match self.made.take().filter(|made| made.shape == at.shape) {
            Some(made) => made,
            None => self.make(at.shape)?,
        };
        let timestep = self.terms.image.alpha_bars.as_ref().map(|bars| nearest(bars, at.alpha_bar));
        self.look_at_examples(&mut made, at, timestep, monitor)?;
        let score = &mut made.score;
        if self.terms.aims() {
            score.write(
                "aim",
                &self.terms.aim(at.shape[0], made.examples.as_ref().map_or(&[], |of| &of.units))?,
            );
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

    fn graphs(&self, shape: [usize; 4], steps: usize) -> Result<Vec<(usize, Graph)>> {
        let mut graphs = vec![(steps, self.score(shape)?)];
        if !self.examples.is_empty() {
            // Examples are looked at anew at each step where they get noise.
            let times = if self.terms.image.alpha_bars.is_some() { steps } else { 1 };
            graphs.insert(0, (times * self.examples.len(), self.terms.record_examples(shape)));
        }
        Ok(graphs)
    }
}
