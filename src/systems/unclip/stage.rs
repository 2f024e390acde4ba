//! A network of a folder with the process it was trained for.

use crate::device::{Device, ProgramOptions, Weights};
use crate::diffusion::{SchedulerConfig, Step};
use crate::error::Result;
use crate::graph::{Graph, Storage};
use crate::guidance::OPTIONS;
use crate::models::check::require;
use crate::models::{prior, unet};
use crate::request::{Size, StageSide};
use crate::systems::denoise::{self, Denoiser, Shape};
use crate::systems::imagen;
use crate::systems::loaded::Loaded;
use crate::weights::{Checkpoint, read_json};
use std::path::Path;
use std::sync::Arc;

/// What a stage's network is.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a model has two of them")]
pub enum Kind {
    /// It draws embeddings.
    Prior(prior::Config),
    /// It draws pictures of embeddings.
    Decoder(unet::Config),
}

impl Kind {
    /// Reads the config of a folder's `part`.
    fn read(path: &Path, part: &str) -> Result<Kind> {
        match part {
            "prior" => {
                let config: prior::Config = read_json(path)?;
                config.validate(path)?;
                Ok(Kind::Prior(config))
            }
            _ => {
                let config: unet::Config = read_json(path)?;
                config.validate(path)?;
                require(path, "class_embed_type", config.takes_embedding(), || {
                    "unCLIP's decoder has `identity`: a picture's embedding joins the time's".into()
                })?;
                Ok(Kind::Decoder(config))
            }
        }
    }

    /// The network alone, to list its weights or to compare devices.
    pub(super) fn graph(&self) -> Graph {
        match self {
            Kind::Prior(config) => config.graph(),
            Kind::Decoder(config) => imagen::network_graph(config),
        }
    }

    /// The network as a denoiser records it.
    pub(super) fn network(&self) -> Box<denoise::Network> {
        match self {
            Kind::Prior(config) => prior_network(config),
            Kind::Decoder(config) => imagen::network(config),
        }
    }

    /// Channels of its sample and of its output.
    fn channels(&self) -> [usize; 2] {
        match self {
            Kind::Prior(config) => [config.embedding_dim; 2],
            Kind::Decoder(config) => [config.in_channels, config.out_channels],
        }
    }

    pub(super) fn side(&self) -> StageSide {
        match self {
            Kind::Prior(_) => StageSide { side: 1, multiple: 1 },
            Kind::Decoder(config) => StageSide { side: config.sample_size, multiple: config.size_multiple() },
        }
    }
}

/// The prior as a denoiser records it. Inputs besides the sample `[N, 1, 1, E]`: `embeds` and `states` of the captions,
/// and the `mask` `[batch, L + 1]`.
pub fn prior_network(config: &prior::Config) -> Box<denoise::Network> {
    let config = config.clone();
    Box::new(move |g, shape, x, t| {
        let (batch, columns, tokens) = (shape.batch(), config.embedding_dim, config.num_embeddings);
        let embeds = g.input("embeds", &[batch, columns], Storage::Elem);
        let states = g.input("states", &[batch, tokens, columns], Storage::Elem);
        let mask = g.input("mask", &[batch, tokens + 1], Storage::F32);
        config.forward(g, &prior::Inputs { x, t, embeds: &embeds, states: &states, mask: &mask })
    })
}

/// A network with the process it was trained for.
pub struct Stage {
    /// The network.
    pub kind: Kind,
    /// How it was trained and is sampled.
    pub scheduler: SchedulerConfig,
    loaded: Loaded,
}

impl Stage {
    /// Reads a network's folder, `part` of a pipeline's (`prior`, `decoder`), and its scheduler, and checks every tensor.
    ///
    /// Errors: files that are absent, broken, or of another network.
    pub fn load(folder: &Path, part: &str, variant: Option<&str>) -> Result<Self> {
        let scheduler = folder.join(format!("{part}_scheduler/scheduler_config.json"));
        let scheduler = SchedulerConfig::read(&scheduler)?;
        let folder = folder.join(part);
        let path = folder.join("config.json");
        let kind = Kind::read(&path, part)?;
        let [sample, out] = kind.channels();
        scheduler.fits(&path, sample, out)?;
        let checkpoint = Checkpoint::open(&folder, "diffusion_pytorch_model", variant)?;
        checkpoint.check(kind.graph().weights(), |_| false)?;
        Ok(Stage { kind, scheduler, loaded: Loaded::new(Arc::new(Weights::new(checkpoint))) })
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.loaded.weights
    }

    /// The sizes of a run: of pictures of `width` by `height`, or of embeddings, with `tokens` tokens of a caption (and,
    /// for the decoder, of a picture).
    pub fn shape(
        &self,
        steps: &[Step],
        pictures: usize,
        (width, height): Size,
        tokens: usize,
        scale: f64,
    ) -> Shape {
        let (channels, dynamic) = (self.kind.channels()[0], Shape::is_dynamic(steps));
        Shape { pictures, height, width, channels, tokens, guided: scale > 1.0 && tokens > 0, dynamic }
    }

    /// The program for pictures or embeddings of a shape. Its inputs besides the sample: the prior's `embeds`, `states`
    /// and `mask`; the decoder's `context`, `class_labels` and `mask`.
    pub fn denoiser(
        &mut self,
        device: &Device,
        options: &ProgramOptions,
        shape: Shape,
    ) -> Result<&mut Denoiser> {
        let kind = &self.kind;
        self.loaded.denoiser(device, options, (shape, kind.side().multiple), || kind.network())
    }

    pub(super) fn release_if_large(&mut self) {
        self.loaded.release_if_large();
    }

    /// What the prior has drawn `[N, E]` as CLIP has it. Errors: a device that fails.
    pub fn denormalised(&self, device: &Device, drawn: &[f32]) -> Result<Vec<f32>> {
        let Kind::Prior(config) = &self.kind else { return Ok(drawn.to_vec()) };
        let (mut g, columns) = (Graph::new(), config.embedding_dim);
        let x = g.input("x", &[drawn.len() / columns, columns], Storage::Elem);
        let y = config.denormalised(&mut g, &x);
        g.output("y", &y);
        let mut program = device.program(g, &self.loaded.weights, &OPTIONS)?;
        program.write("x", drawn);
        program.run(&mut |_| true)?;
        program.read("y")
    }
}
