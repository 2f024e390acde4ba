//! A denoising network with its process, its data and its text encoder: what makes the batches of a run.

use super::data::{Data, Example, Examples};
use super::objective::{Noising, Weighting};
use super::scenes::Draws;
use crate::device::{Device, Program, ProgramOptions, Weights};
use crate::diffusion::{NoiseStream, stream_seed};
use crate::error::{Error, Result, request};
use crate::files::read_json;
use crate::kernels::variational_bound::NUMBERS;
use crate::models::network::{DenoisingNetwork, Shape};
use crate::models::t5::additive_mask;
use crate::pipeline::stage::Stage;
use crate::pipeline::text::{MAX_TOKENS, T5Text, t5_caption};
use crate::pipeline::{ddpm, imagen};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A model that is trained on.
pub struct Model {
    /// Its folder.
    pub folder: PathBuf,
    /// The folder of its network in there; empty where the files lie at the root.
    pub network: PathBuf,
    stage: Stage,
    text: Option<T5Text>,
    noising: Noising,
}

impl Model {
    /// Reads a folder of a `UNet2DModel` (DDPM), or a base stage of DeepFloyd IF's layout with its text encoder.
    ///
    /// # Errors
    /// Files that are absent or broken, and what cannot be trained yet.
    pub fn load(folder: &Path) -> Result<Model> {
        let network = if folder.join("unet").is_dir() { PathBuf::from("unet") } else { PathBuf::new() };
        let path = folder.join(&network).join("config.json");
        let config: Value = read_json(&path)?;
        let (stage, text) = match config["_class_name"].as_str() {
            Some("UNet2DConditionModel") => {
                (imagen::load_stage(folder, None, 0)?, Some(T5Text::load(folder, None)?))
            }
            _ => (ddpm::load_stage(folder)?, None),
        };
        if stage.network().enlarges() {
            return Err(Error::config(
                path,
                "class_embed_type",
                "super-resolution stages cannot be trained yet",
            ));
        }
        let noising = Noising::new(&stage.scheduler)?;
        Ok(Model { folder: folder.to_path_buf(), network, stage, text, noising })
    }

    /// The network.
    pub fn network(&self) -> &dyn DenoisingNetwork {
        self.stage.network()
    }

    /// Its weights as the files have them.
    pub fn weights(&self) -> &Weights {
        self.stage.networks[0].weights()
    }

    /// Side of the pictures that it is trained on.
    pub fn side(&self) -> usize {
        self.network().sides().side
    }

    /// Whether its output holds a variance, which the bound trains.
    pub fn learns_variance(&self) -> bool {
        use crate::diffusion::VarianceType::{Learned, LearnedRange};
        matches!(self.stage.scheduler.variance_type, Learned | LearnedRange)
    }

    /// The process.
    pub fn noising(&self) -> &Noising {
        &self.noising
    }

    /// What the bound reads of a timestep: a variance that is not learned is the sampler's.
    pub fn bound(&self, t: usize, weight: f64) -> [f32; NUMBERS] {
        use crate::diffusion::VarianceType::{FixedSmall, FixedSmallLog};
        let mut numbers = self.noising.bound(t, weight);
        if matches!(self.stage.scheduler.variance_type, FixedSmall | FixedSmallLog) {
            numbers[5] = numbers[4];
        }
        numbers
    }

    /// A batch's shape.
    pub fn shape(&self, pictures: usize, side: usize) -> Shape {
        let channels = self.network().sample_channels();
        let tokens = if self.text.is_some() { MAX_TOKENS } else { 0 };
        Shape { pictures, height: side, width: side, channels, tokens, ..Shape::default() }
    }
}

/// How batches are made.
#[derive(Clone, Debug, PartialEq)]
pub struct Batches {
    /// Where examples come from.
    pub data: Data,
    /// Examples of a batch.
    pub batch: usize,
    /// Side of the pictures; 0 is the network's.
    pub side: usize,
    /// Half of the pictures are flipped.
    pub flip: bool,
    /// Share of the captions that are left out, for classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598).
    pub caption_dropout: f64,
    /// How much timesteps count.
    pub weighting: Weighting,
    /// The variational bound trains the variance beside the error (L_hybrid).
    pub bound: bool,
    /// Seed of data, noise and dropout.
    pub seed: u64,
}

/// Makes a run's batches. The same seed and number give the same batch.
pub struct Maker<'a> {
    model: &'a Model,
    batches: Batches,
    examples: Examples,
    encoder: Option<Program>,
}

/// Names of a network's inputs and their values.
pub type Batch = Vec<(String, Vec<f32>)>;

impl<'a> Maker<'a> {
    /// Finds the data.
    ///
    /// # Errors
    /// Data that cannot be read or does not fit the model; a device that fails.
    pub fn new(model: &'a Model, batches: &Batches, device: &Device) -> Result<Self> {
        let multiple = model.network().sides().multiple;
        if batches.side == 0 || !batches.side.is_multiple_of(multiple) {
            let what = format!("{} pixels a side: this network needs multiples of {multiple}", batches.side);
            return Err(request!(Size, Mismatch, "{what}"));
        }
        if model.network().sample_channels() != 3 {
            return Err(request!(Model, Unsupported, "pictures of one channel cannot be trained on yet"));
        }
        if batches.bound && !model.learns_variance() {
            let what = "the bound trains a variance, which this model's output does not hold";
            return Err(request!(Model, Mismatch, "{what}"));
        }
        let examples = Examples::find(&batches.data, batches.side, batches.flip, batches.seed)?;
        let program = |text: &T5Text| {
            let graph = T5Text::graph(&text.config, batches.batch);
            device.program(graph, text.weights(), &ProgramOptions::default())
        };
        let encoder = model.text.as_ref().map(program).transpose()?;
        Ok(Maker { model, batches: batches.clone(), examples, encoder })
    }

    /// How many examples there are; none where they are drawn.
    pub fn count(&self) -> Option<usize> {
        self.examples.count()
    }

    /// Batch `number` of the run. Timesteps are spread evenly over the schedule, one at random in each part of it.
    ///
    /// # Errors
    /// A picture that cannot be read; a device that fails.
    pub fn batch(&mut self, number: u64) -> Result<Batch> {
        let n = self.batches.batch;
        let first = number * n as u64;
        let examples: Vec<Example> =
            (first..first + n as u64).map(|i| self.examples.example(i)).collect::<Result<_>>()?;
        let mut draws = Draws::new(self.batches.seed ^ BATCH, number);
        let noising = &self.model.noising;
        let steps = noising.timesteps();
        let t: Vec<usize> = (0..n)
            .map(|i| (((i as f64 + draws.unit()) / n as f64 * steps as f64) as usize).min(steps - 1))
            .collect();
        let weight = |t: &usize| (noising.weight(*t, self.batches.weighting) / n as f64) as f32;
        let mut noise = NoiseStream::new(stream_seed([self.batches.seed ^ NOISE, number]));
        let x0: Vec<f32> = examples.iter().flat_map(|example| example.picture.iter().copied()).collect();
        let mut batch: Batch = vec![
            ("noise".into(), noise.normal(x0.len())),
            ("x0".into(), x0),
            ("numbers".into(), t.iter().flat_map(|t| noising.numbers(*t)).collect()),
            ("t".into(), t.iter().map(|t| *t as f32).collect()),
            ("weights".into(), t.iter().map(weight).collect()),
        ];
        if self.batches.bound {
            // Where T is another, the bound counts as it does of a thousand steps (Nichol & Dhariwal 2021).
            let weight = steps as f64 / 1000.0 / n as f64;
            batch.push(("bound".into(), t.iter().flat_map(|t| noising.bound(*t, weight)).collect()));
        }
        if let (Some(text), Some(encoder)) = (&self.model.text, &mut self.encoder) {
            let (mut ids, mut mask) = (Vec::new(), Vec::new());
            for example in &examples {
                let dropped = draws.chance(self.batches.caption_dropout);
                let caption = if dropped { String::new() } else { t5_caption(&example.caption, false) };
                let tokens = text.tokenizer().encode(&caption, MAX_TOKENS)?;
                ids.extend(tokens.ids.iter().map(|id| *id as f32));
                mask.extend(additive_mask(&tokens.mask));
            }
            encoder.write("ids", &ids);
            encoder.write("mask", &mask);
            encoder.run(&mut |_| true)?;
            batch.push(("context".into(), encoder.read("states")?));
        }
        Ok(batch)
    }
}

/// Sets the streams of batches and noise apart from the data's.
const BATCH: u64 = 0xba7c_0000;
const NOISE: u64 = 0x0153_0000;
