//! The text projection of a folder.

use crate::device::Weights;
use crate::error::Result;
use crate::models::text_proj;
use crate::pipeline::guidance::OPTIONS;
use crate::pipeline::stage::At;
use crate::weights::{Checkpoint, read_json};
use std::path::Path;
use std::sync::Arc;

/// What tells the decoder of a picture's embedding and a caption.
pub struct Projection {
    /// Its config.
    pub config: text_proj::Config,
    weights: Arc<Weights>,
}

impl Projection {
    /// Reads `text_proj/` of a pipeline's folder.
    ///
    /// Errors: files that are absent, broken, or of another network.
    pub fn load(folder: &Path, variant: Option<&str>) -> Result<Self> {
        let folder = folder.join("text_proj");
        let path = folder.join("config.json");
        let config: text_proj::Config = read_json(&path)?;
        config.validate(&path)?;
        let checkpoint = Checkpoint::open(&folder, "diffusion_pytorch_model", variant)?;
        checkpoint.check(config.graph(1, true, 1).weights(), |_| false)?;
        Ok(Projection { config, weights: Arc::new(Weights::new(checkpoint)) })
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Embeddings of pictures `[M, E]`, of captions `[N, E]` and captions' states `[N, L, E]`, N = 2 M with the
    /// unconditional half first where there is guidance → the decoder's `context` `[N, X + L, T]` and `class_labels`
    /// `[N, D]`.
    ///
    /// Errors: a device that fails.
    pub fn run(
        &self,
        at: At<'_>,
        pictures: &[f32],
        captions: &[f32],
        states: &[f32],
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let columns = self.config.clip_embeddings_dim;
        let (count, tokens) = (pictures.len() / columns, states.len() / captions.len());
        let graph = self.config.graph(count, captions.len() > pictures.len(), tokens);
        let mut program = at.device.program(graph, &self.weights, &OPTIONS)?;
        program.write("pictures", pictures);
        program.write("captions", captions);
        program.write("states", states);
        program.run(&mut |_| true)?;
        Ok((program.read("context")?, program.read("time")?))
    }
}

/// The mask `[N, L]` of captions with so many tokens before and after each that are always seen.
pub fn padded_mask(mask: &[f32], length: usize, before: usize, after: usize) -> Vec<f32> {
    let seen = |count| std::iter::repeat_n(0.0, count);
    mask.chunks_exact(length)
        .flat_map(|row| seen(before).chain(row.iter().copied()).chain(seen(after)))
        .collect()
}
