//! The denoising loop all systems share: noise in, one graph a step, pictures out.

use crate::device::{Device, Program, ProgramOptions, Weights};
use crate::diffusion::{Clip, NoiseStream, Step};
use crate::error::{Error, Result};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::quantile::quantile;
use crate::kernels::step::{StepInputs, coefficients, step};
use crate::picture::Picture;

/// Standard normal numbers in the order the reference pipelines draw them: a picture's channels one after another.
pub trait Noise {
    /// `[pictures, channels, height, width]`, row-major.
    fn draw(&mut self, pictures: usize, channels: usize, height: usize, width: usize) -> Vec<f32>;
}

/// One PyTorch CPU generator for each picture, seeded `seed`, `seed + 1`, …: picture i of a batch is the picture a
/// single run with its own seed gives.
pub struct SeededNoise(Vec<NoiseStream>);

impl SeededNoise {
    /// Streams for `pictures` pictures.
    pub fn new(seed: u64, pictures: usize) -> Self {
        SeededNoise((0..pictures as u64).map(|i| NoiseStream::new(seed.wrapping_add(i))).collect())
    }
}

impl Noise for SeededNoise {
    fn draw(&mut self, pictures: usize, channels: usize, height: usize, width: usize) -> Vec<f32> {
        self.0.iter_mut().take(pictures).flat_map(|s| s.normal(channels * height * width)).collect()
    }
}

/// `[N, C, H, W]` to `[N, H, W, C]`.
pub fn channels_last(values: &[f32], channels: usize, height: usize, width: usize) -> Vec<f32> {
    let pixels = height * width;
    let mut out = Vec::with_capacity(values.len());
    for picture in values.chunks_exact(channels * pixels) {
        for pixel in 0..pixels {
            out.extend((0..channels).map(|c| picture[c * pixels + pixel]));
        }
    }
    out
}

/// What a step's callback learns.
pub struct StepDone<'a> {
    /// Steps done in this stage.
    pub done: f32,
    /// Steps of this stage.
    pub steps: usize,
    /// Reads the current estimate of the final pictures, x̂₀; only where a step has just been finished.
    pub estimate: Option<&'a mut dyn FnMut() -> Result<Vec<Picture>>>,
}

/// Called several times a step; returning false cancels.
pub type OnStep<'a> = dyn FnMut(StepDone<'_>) -> bool + 'a;

/// Sizes of a sampling run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Pictures at once.
    pub pictures: usize,
    /// Rows of a picture.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Channels of the sample.
    pub channels: usize,
    /// Tokens of a prompt; 0 without text.
    pub tokens: usize,
    /// The network runs on an unconditional and a conditional half.
    pub guided: bool,
    /// The sampler thresholds dynamically.
    pub dynamic: bool,
}

impl Shape {
    /// Whether the steps need the quantile of |x̂₀|.
    pub fn is_dynamic(steps: &[Step]) -> bool {
        steps.iter().any(|s| matches!(s.coefficients.clip, Clip::Dynamic { .. }))
    }

    /// Items of the network's batch.
    pub fn batch(&self) -> usize {
        if self.guided { 2 * self.pictures } else { self.pictures }
    }

    /// `[pictures, height, width, channels]`.
    pub fn sample(&self) -> [usize; 4] {
        [self.pictures, self.height, self.width, self.channels]
    }
}

/// A network and its sampler's step as one program, run once a step.
pub struct Denoiser {
    program: Program,
    shape: Shape,
}

impl Denoiser {
    /// Records `network`, which turns the sample x `[N, H, W, C]` and the timesteps t `[batch]` into the output
    /// `[batch, H, W, OC]`, with the step after it.
    pub fn new(
        device: &Device,
        weights: &Weights,
        options: &ProgramOptions,
        shape: Shape,
        network: impl FnOnce(&mut Graph, &Tensor, &Tensor) -> Tensor,
    ) -> Result<Self> {
        let mut g = Graph::new();
        let x = g.input("x", &shape.sample(), Storage::F32);
        let t = g.input("t", &[shape.batch()], Storage::F32);
        let numbers = g.input("coefficients", &[16], Storage::F32);
        let noise = g.input("noise", &shape.sample(), Storage::F32);
        let out = network(&mut g, &x, &t);
        g.output("out", &out);
        let quantile = shape.dynamic.then(|| quantile(&mut g, &x, &out, &numbers));
        let inputs =
            StepInputs { out: &out, noise: &noise, coefficients: &numbers, quantile: quantile.as_ref() };
        let next = step(&mut g, &x, &inputs);
        g.output("next", &next);
        Ok(Denoiser { program: device.program(g, weights, options)?, shape })
    }

    /// The denoiser in `slot` if it was made for `shape`, else a new one in its place. A network's denoisers are all
    /// made for the device its first one was made for.
    ///
    /// Errors: sizes that are not `multiple`s, and what `make` fails with.
    pub(crate) fn reuse(
        slot: &mut Option<Denoiser>,
        shape: Shape,
        multiple: usize,
        make: impl FnOnce() -> Result<Denoiser>,
    ) -> Result<&mut Denoiser> {
        let Shape { height, width, .. } = shape;
        let fits = |side: usize| side > 0 && side.is_multiple_of(multiple);
        if !fits(height) || !fits(width) {
            let what = format!("{width}x{height} pixels: this network needs multiples of {multiple}");
            return Err(Error::Request(what));
        }
        // The old program goes before the new one comes: two at once may not fit.
        let kept = slot.take().filter(|d| d.shape == shape);
        Ok(slot.insert(match kept {
            Some(kept) => kept,
            None => make()?,
        }))
    }

    /// The sizes it was made for.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The program, to set what conditions the network before sampling.
    pub fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    /// Runs all steps from noise; returns x_0 `[N, H, W, C]`.
    pub fn sample(
        &mut self,
        steps: &[Step],
        guidance_scale: f64,
        noise: &mut dyn Noise,
        start: Vec<f32>,
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<f32>> {
        let Shape { pictures, height, width, channels, .. } = self.shape;
        self.program.write("x", &start);
        for (i, step) in steps.iter().enumerate() {
            let z = match step.draws_noise {
                true => {
                    channels_last(&noise.draw(pictures, channels, height, width), channels, height, width)
                }
                false => vec![0.0; start.len()],
            };
            self.step(step, guidance_scale, &z, &mut |share| {
                on_step(StepDone { done: i as f32 + share, steps: steps.len(), estimate: None })
            })?;
            self.program.feed_back("next", "x");
            let program = &mut self.program;
            let mut estimate = || {
                let next = program.read("next")?;
                Ok(Picture::split(&next[next.len() / 2..], height, width, channels))
            };
            let done = StepDone { done: i as f32 + 1.0, steps: steps.len(), estimate: Some(&mut estimate) };
            if !on_step(done) {
                return Err(Error::Cancelled);
            }
        }
        let mut next = self.program.read("next")?;
        next.truncate(next.len() / 2);
        if next.iter().any(|v| !v.is_finite()) {
            return Err(Error::Device(
                "the picture came out as NaN or infinity; the weights or the device's arithmetic are at fault: try \
                 `--device cpu`"
                    .into(),
            ));
        }
        Ok(next)
    }

    /// One step from the sample in `x` with noise z `[N, H, W, C]`; outputs `out` and `next` can then be read.
    pub fn step(
        &mut self,
        step: &Step,
        guidance_scale: f64,
        z: &[f32],
        monitor: &mut dyn FnMut(f32) -> bool,
    ) -> Result<()> {
        self.program.write("t", &vec![step.timestep as f32; self.shape.batch()]);
        self.program.write("coefficients", &coefficients(step, guidance_scale));
        self.program.write("noise", z);
        self.program.run(monitor)
    }
}
