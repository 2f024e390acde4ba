//! Text-to-image diffusion on any GPU, in hand-written WGSL compute kernels on wgpu.
//!
//! ```
//! use ancestral::{Engine, LoadOptions, Settings};
//!
//! let engine = Engine::bundled(&LoadOptions::default())?;
//! let settings = Settings::new().seed(3).steps(8).on_progress(|p| {
//!     println!("stage {} of {}: {:.1} of {} steps", p.stage + 1, p.stages, p.done, p.steps);
//!     true // false cancels
//! });
//! let pictures = engine.generate("a red circle to the left of a blue square", settings)?;
//! pictures[0].save(std::env::temp_dir().join("circle.png"))?;
//! # Ok::<(), ancestral::Error>(())
//! ```
//!
//! - **Draw**: [`Engine::generate`] takes a prompt and [`Settings`], gives [`Picture`]s; [`Engine::start`] does so on a
//!   thread of its own and tells [`Event`]s; a [`CancelToken`] stops either.
//! - **Edit**: [`Engine::edit`] draws what a [`Mask`] says of a [`Photo`] anew.
//! - **Vary**: [`Engine::vary`], [`Engine::blend`], [`Engine::morph`] take pictures apart by CLIP (unCLIP).
//! - **Steer**: [`Settings::guide`] takes a [`Guidance`](guidance::Guidance): a closure, a recorded graph, or a [`Clip`].
//! - **Ask first**: [`Engine::plan`] says what a run costs, and what of the device is in its way.
//!
//! # Map of the source
//! ```text
//! cli         the commands                    engine      the face: Engine, edit, variations, events
//! pipeline    Settings ─resolve─> Run ─cascade─> stages ─denoiser, sampler─> pictures; cost and plan read the same Run
//!             what a system adds: imagen ddpm adm glide unclip upsampler; text, clip, guidance
//! train       what models are trained on
//! settings    what a caller asks, as data     catalog     which files make a model
//! models      networks: config + forward      device      runs graphs: GPU (wgpu) and CPU
//! weights     checkpoints                     text        tokenizers, captions
//! kernels     one file a kernel, beside shaders/          graph       nodes, gradient, fusion, plan, hoisting, rewrites
//! diffusion   schedules, samplers' coefficients, noise    picture     Picture, Photo, Mask
//! every network:  weights + config ─> graph::Graph ─> graph::plan ─> device
//! a denoiser:     graph::hoist ─> once a prompt, once for all steps, each step
//! ```
//! Modules import downwards only, in this order; a test holds them to it. Shape letters: N pictures (or N = 2 × pictures
//! under guidance), H and W rows and columns, C channels, L tokens, T text channels. Tensors are row-major, channels last:
//! `[N, H, W, C]`.

#![warn(missing_docs, clippy::allow_attributes_without_reason)]

mod catalog;
mod device;
mod diffusion;
mod engine;
mod error;
mod files;
mod graph;
mod kernels;
mod models;
mod picture;
mod pipeline;
mod settings;
mod text;
mod train;
mod weights;

pub use catalog::{Bundled, LoadOptions};
pub use device::{Choices, Device, DeviceChoice, DeviceLimits, Gpu, Measuring, list_adapters};
pub use diffusion::repaint::Resampling;
pub use diffusion::{Noise, Sampler, SeededNoise, Thresholding};
pub use engine::{Engine, Event, Run};
pub use error::{Error, Part, Problem, Result, Setting};
pub use image;
pub use kernels::Precision;
pub use picture::{ByteRounding, Mask, Photo, Picture, Rectangle, check_output};
pub use pipeline::clip::Clip;
pub use pipeline::system::Condition;
pub use settings::{
    CancelToken, DrawnEmbedding, GlideSettings, Latent, Layout, MAX_COUNT, PerStage, PriorKind, Progress,
    PromptEmbeds, SeedChoice, Settings, Source, Start, SystemSettings, UnClipSettings,
};
pub use wgpu;

/// The settings by the name that the first edition gave them.
pub type GenerateConfig = Settings;

/// What steers a run: closures, recorded graphs, CLIP.
pub mod guidance {
    pub use crate::device::Monitor;
    pub use crate::pipeline::clip::{ClipGuidance, GuidanceBuilder};
    pub use crate::pipeline::guidance::{GraphGuidance, Scalar};
    pub use crate::settings::guidance::{Direction, Guidance, State};

    /// What a [`GraphGuidance`] is made of: a graph, the operations to record in it, and the weights that it names.
    ///
    /// ```
    /// use ancestral::guidance::GraphGuidance;
    /// use ancestral::guidance::record::{Graph, Tensor, Weights, columns, mean_rows};
    /// use ancestral::{Engine, LoadOptions, Settings};
    /// use std::sync::Arc;
    ///
    /// let engine = Engine::bundled(&LoadOptions::default())?;
    /// // The mean of red, a number for each picture.
    /// let red = |g: &mut Graph, x: &Tensor, _t: &Tensor| {
    ///     let red = columns(g, "red", x, 0, 1);
    ///     let mean = mean_rows(g, "mean", &red, x.dim(1) * x.dim(2));
    ///     g.reshape(&mean, &[x.dim(0)])
    /// };
    /// let redder = GraphGuidance::new(engine.device(), Arc::new(Weights::none()), Arc::new(red));
    /// engine.generate("a green heart", Settings::new().steps([4, 2]).guide(100.0, redder))?;
    /// # Ok::<(), ancestral::Error>(())
    /// ```
    pub mod record {
        pub use crate::device::Weights;
        pub use crate::graph::{Graph, Storage, Tensor};
        pub use crate::kernels::concat::concat;
        pub use crate::kernels::conv2d::{Window, conv2d};
        pub use crate::kernels::cut::columns;
        pub use crate::kernels::elementwise::{activate, add, mul, scale};
        pub use crate::kernels::epilogue::Activation;
        pub use crate::kernels::layer_norm::{l2_normalise, layer_norm};
        pub use crate::kernels::matmul::matmul;
        pub use crate::kernels::resample::{Resample, resample};
        pub use crate::kernels::softmax::{log_softmax, softmax};
        pub use crate::kernels::sum_axis::{mean_rows, sum_rows};
        pub use crate::weights::Checkpoint;
    }
}

/// Settings of the samplers that have any.
pub mod samplers {
    pub use crate::diffusion::samplers::{
        Algorithm, BFunction, Deis, DpmSolver, Euler, Heun, Interpolation, LastSigma, Pndm, Sigmas,
        SolverType, Spread, UniPc,
    };
}

/// What a run costs before it is run.
pub mod cost {
    pub use crate::pipeline::bisect::Parting;
    pub use crate::pipeline::cost::{Bytes, NetworkCost, PartCost, RunCost, Target};
    pub use crate::pipeline::node_cost::NodeCost;
    pub use crate::pipeline::plan::plan_network;
}

/// The drawn scenes that the bundled models learn.
pub mod scenes {
    pub use crate::train::scenes::write_folder;
}

/// Training a model's denoising network.
pub mod training {
    pub use crate::train::data::Data;
    pub use crate::train::loss::{Losses, Stretch, losses};
    pub use crate::train::objective::Weighting;
    pub use crate::train::optimiser::{Average, Optimiser, Rate};
    pub use crate::train::plot::plot_losses;
    pub use crate::train::run::{
        Progress as TrainingProgress, Settings as RunSettings, TrainingCost, train, training_cost,
    };
    pub use crate::train::task::Batches;
}

/// Directions between embeddings.
pub mod vectors {
    pub use crate::diffusion::vectors::{slerp, text_diff};
}

/// The machine under the face: for this project's own tests, benches and fuzz targets. Nothing here is held stable.
#[doc(hidden)]
pub mod internals {
    macro_rules! open {
        ($($name:ident),*) => { $(pub mod $name { pub use crate::$name::*; })* };
    }

    open!(
        device, diffusion, files, graph, kernels, models, picture, pipeline, settings, text, train, weights
    );
}
