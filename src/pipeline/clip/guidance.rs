//! Texts and example pictures as one score.

use super::model::{colours, nearest};
use super::terms::Terms;
use crate::device::{Device, DeviceTensor, Monitor, Program, Work};
use crate::diffusion::{Noise, NoiseStream, channels_last, stream_seed};
use crate::error::{Result, request};
use crate::graph::{Graph, Tensor};
use crate::picture::Picture;
use crate::pipeline::guidance::{OPTIONS, score_graph};
use crate::settings::guidance::{DeviceDirection, DeviceState, Direction, Guidance, State, Toward};

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
    /// Inputs `x`, `t`, `aim` and those of each example, which are the outputs of its own program; outputs `scalar` and
    /// `gradient`.
    score: Program,
    /// What it sees where a caller brings it.
    own: DeviceTensor,
    examples: Vec<Example>,
    /// Whether what stays as it is at every step is on the device.
    ready: bool,
}

/// What an example is compared by.
struct Example {
    /// Inputs `x` and `t`.
    program: Program,
    /// The picture in the sample's size, repeated for each of its pictures.
    picture: Vec<f32>,
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
        let mut score = self.device.program(self.score(shape)?, weights, &OPTIONS)?;
        let mut examples = Vec::new();
        for (i, example) in self.examples.iter().enumerate() {
            let program = self.device.program(terms.record_example(shape, i), weights, &OPTIONS)?;
            for (name, _) in &program.graph().outputs {
                score.bind(name, &program.output(name))?;
            }
            let picture = colours(&example.fitted(width, height)).repeat(pictures);
            examples.push(Example { program, picture });
        }
        let own = score.value("x");
        Ok(Made { shape, score, own, examples, ready: false })
    }

    /// The sum of all terms by picture, `[N]`, and its gradient with respect to x_t, `[N, H, W, 3]`.
    ///
    /// # Errors
    /// Samples that are not in colour; texts for another number of pictures; a device that fails.
    pub fn evaluate(&mut self, at: &State<'_>, monitor: &mut Monitor<'_>) -> Result<(Vec<f32>, Vec<f32>)> {
        check_colour(at.shape)?;
        let mut made = self.take(at.shape)?;
        let timestep = self.timestep(at.alpha_bar);
        let mut work = self.device.work();
        let seen = made.own.clone();
        work.write(&seen, if timestep.is_some() { at.x } else { at.x0 })?;
        self.run(&mut made, &seen, timestep, (&mut work, monitor))?;
        work.finish()?;
        let (values, mut gradient) = (made.score.read("scalar")?, made.score.read("gradient")?);
        let gain = gain(timestep, at.alpha_bar) as f32;
        gradient.iter_mut().for_each(|v| *v *= gain);
        self.made = Some(made);
        Ok((values, gradient))
    }

    /// The encoder's timestep for a sample's ᾱ, where it is one of noised pictures.
    fn timestep(&self, alpha_bar: f64) -> Option<usize> {
        self.terms.image.alpha_bars.as_ref().map(|bars| nearest(bars, alpha_bar))
    }

    /// The programs for samples of a shape.
    fn take(&mut self, shape: [usize; 4]) -> Result<Made> {
        match self.made.take().filter(|made| made.shape == shape) {
            Some(made) => Ok(made),
            None => self.make(shape),
        }
    }

    /// Has the score run on what the encoder sees, on the device, after the examples where they are not known.
    fn run(
        &mut self,
        made: &mut Made,
        seen: &DeviceTensor,
        timestep: Option<usize>,
        (work, monitor): (&mut Work, &mut Monitor<'_>),
    ) -> Result<()> {
        let pictures = made.shape[0];
        if !made.ready && made.score.has("aim") {
            work.write(&made.score.value("aim"), &self.terms.aim(pictures)?)?;
        }
        // Examples that are noised are others at each step.
        if !made.ready || timestep.is_some() {
            self.look_at_examples(made, timestep, (work, monitor))?;
        }
        if !made.ready {
            // A run that ends before its work is handed over takes nothing with it that a later one counts on.
            work.submit()?;
            made.ready = true;
        }
        let score = &mut made.score;
        score.bind("x", seen)?;
        if score.has("t") {
            work.write(&score.value("t"), &vec![timestep.unwrap_or(0) as f32; pictures])?;
        }
        score.enqueue(work, monitor)
    }

    /// Has the examples' programs run, with noise where the encoder sees some.
    fn look_at_examples(
        &mut self,
        made: &mut Made,
        timestep: Option<usize>,
        (work, monitor): (&mut Work, &mut Monitor<'_>),
    ) -> Result<()> {
        let shape = made.shape;
        for (i, Example { program, picture }) in made.examples.iter_mut().enumerate() {
            match timestep {
                Some(t) => work.write(&program.value("x"), &self.noised(i, picture, shape, t))?,
                None => work.write(&program.value("x"), picture)?,
            }
            if program.has("t") {
                work.write(&program.value("t"), &vec![timestep.unwrap_or(0) as f32; shape[0]])?;
            }
            // The share of a step that an example takes is not known.
            program.enqueue(work, &mut |_| monitor(0.0))?;
        }
        Ok(())
    }

    /// Example i with the noise of the encoder's timestep t: √ᾱ x₀ + √(1−ᾱ) z.
    fn noised(&mut self, i: usize, x0: &[f32], shape: [usize; 4], t: usize) -> Vec<f32> {
        let [pictures, height, width, channels] = shape;
        let noise = match &mut self.noise {
            Some(noise) => noise.draw(pictures, channels, height, width),
            None => {
                let item = channels * height * width;
                let stream = |picture: usize| {
                    stream_seed([self.seed.wrapping_add(picture as u64), i as u64, t as u64])
                };
                (0..pictures).flat_map(|picture| NoiseStream::new(stream(picture)).normal(item)).collect()
            }
        };
        let noise = channels_last(&noise, channels, height, width);
        let alpha_bar = self.terms.image.alpha_bars.as_ref().map_or(1.0, |bars| bars[t]);
        let (signal, deviation) = (alpha_bar.sqrt() as f32, (1.0 - alpha_bar).sqrt() as f32);
        x0.iter().zip(noise).map(|(x, z)| signal * x + deviation * z).collect()
    }
}

/// By how much a score with respect to what the encoder sees is one with respect to x_t.
fn gain(timestep: Option<usize>, alpha_bar: f64) -> f64 {
    if timestep.is_some() { 1.0 } else { (1.0 / alpha_bar.max(0.0).sqrt()).min(MAX_GAIN) }
}

fn check_colour(shape: [usize; 4]) -> Result<()> {
    match shape[3] {
        3 => Ok(()),
        channels => Err(request!(
            Guide,
            Unsupported,
            "CLIP sees colour pictures; this model's have {channels} channels"
        )),
    }
}

impl Guidance for ClipGuidance {
    fn direction(&mut self, at: &State<'_>, monitor: &mut Monitor<'_>) -> Result<Direction> {
        Ok(Direction::Score(self.evaluate(at, monitor)?.1))
    }

    fn enqueue(
        &mut self,
        at: &DeviceState<'_>,
        work: &mut Work,
        monitor: &mut Monitor<'_>,
    ) -> Result<Option<DeviceDirection>> {
        check_colour(at.shape)?;
        if !self.device.is(at.device) {
            return Ok(None);
        }
        let timestep = self.timestep(at.alpha_bar);
        let mut made = self.take(at.shape)?;
        self.run(&mut made, if timestep.is_some() { at.x } else { at.x0 }, timestep, (work, monitor))?;
        let values = made.score.value("gradient");
        self.made = Some(made);
        let factor = gain(timestep, at.alpha_bar);
        Ok(Some(DeviceDirection { toward: Toward::Score, values, factor }))
    }

    fn graphs(&self, shape: [usize; 4], steps: usize) -> Result<Vec<(usize, Graph)>> {
        let mut graphs = vec![(steps, self.score(shape)?)];
        // Examples are looked at anew at each step where they get noise.
        let times = if self.terms.image.alpha_bars.is_some() { steps } else { 1 };
        let examples = 0..self.examples.len();
        graphs.splice(..0, examples.map(|i| (times, self.terms.record_example(shape, i))));
        Ok(graphs)
    }
}
