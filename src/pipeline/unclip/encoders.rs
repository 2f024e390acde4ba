//! CLIP as unCLIP uses it: what the networks see of prompts, and a picture's embedding.

use crate::device::Weights;
use crate::error::{Error, Result};
use crate::graph::{Graph, Storage};
use crate::models::check::require;
use crate::models::clip::{self, ImageEncoder};
use crate::models::prior;
use crate::picture::Picture;
use crate::pipeline::clip::{Clip, Image, Preprocessor, Text, read_transformers};
use crate::pipeline::guidance::OPTIONS;
use crate::pipeline::stage::At;
use crate::settings::PromptEmbeds;
use crate::text::ClipTokenizer;
use std::path::Path;
use std::sync::Arc;

/// Tokenizer and CLIP's text encoder of a folder.
pub struct TextEncoder {
    /// The encoder's config.
    pub config: clip::text::Config,
    tokenizer: ClipTokenizer,
    weights: Arc<Weights>,
}

impl TextEncoder {
    /// Reads `tokenizer/` and `text_encoder/` of a pipeline's folder; `variant` chooses e.g. the `fp16` files.
    ///
    /// Errors: files that are absent, broken, or of different models.
    pub fn load(folder: &Path, variant: Option<&str>) -> Result<Self> {
        let (encoder, tokenizer) = (folder.join("text_encoder"), folder.join("tokenizer"));
        let found = read_transformers(folder, &encoder, variant)?.and_then(|parts| parts.text);
        TextEncoder::of(found.map(|text| Text { tokenizer, ..text }), &encoder.join("config.json"))
    }

    /// The text encoder that `file` describes.
    fn of(found: Option<Text>, file: &Path) -> Result<Self> {
        let Some(Text { config, weights, tokenizer }) = found else {
            return Err(Error::file(file, "describes no text encoder of CLIP"));
        };
        let tokenizer = ClipTokenizer::load(&tokenizer)?;
        let (rows, ids) = (config.vocab_size, tokenizer.vocab_size());
        require(file, "vocab_size", ids <= rows, || {
            format!("{rows} rows, but the tokenizer has ids up to {}", ids - 1)
        })?;
        Ok(TextEncoder { config, tokenizer, weights })
    }

    /// The text encoder of a CLIP that lies in `path`.
    pub(super) fn of_clip(clip: &Clip, path: &Path) -> Result<Self> {
        TextEncoder::of(clip.parts().text.clone(), path)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &ClipTokenizer {
        &self.tokenizer
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// States after the last norm, embeddings, and masks ([`prior::HIDDEN`] where there is padding) of prompts.
    ///
    /// Errors: a prompt that the tokenizer refuses; a device that fails.
    pub fn encode(&self, at: At<'_>, prompts: &[&str]) -> Result<Vec<PromptEmbeds>> {
        let (length, channels) = (self.config.context, self.config.transformer.width);
        let (mut ids, mut ends, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
        for prompt in prompts {
            let of_prompt = self.tokenizer.encode(prompt, length)?;
            ends.push(self.config.end.place(&of_prompt.ids, of_prompt.len));
            ids.extend(of_prompt.ids.iter().map(|&id| id as f32));
            tokens.push((of_prompt.len, of_prompt.truncated));
        }
        let graph = self.config.graph(length, &ends);
        let mut program = at.device.program(graph, &self.weights, &OPTIONS)?;
        program.write("ids", &ids);
        program.run(&mut |_| true)?;
        let (states, embeds) = (program.read("hidden")?, program.read("embeds")?);
        let rows = states.chunks_exact(length * channels).zip(embeds.chunks_exact(self.config.embed));
        let mask = |len| (0..length).map(|at| if at < len { 0.0 } else { prior::HIDDEN }).collect();
        let of_prompts = rows.zip(tokens).map(|((states, pooled), (len, truncated))| PromptEmbeds {
            states: states.to_vec(),
            channels,
            pooled: pooled.to_vec(),
            mask: mask(len),
            truncated,
        });
        Ok(of_prompts.collect())
    }
}

/// CLIP's picture encoder of a folder.
pub struct PictureEncoder {
    /// The encoder's config.
    pub config: ImageEncoder,
    /// How pictures come to its size.
    pub preprocessor: Preprocessor,
    weights: Arc<Weights>,
}

impl PictureEncoder {
    /// Reads `image_encoder/` and, if it is there, `feature_extractor/` of a pipeline's folder.
    ///
    /// Errors: files that are absent, broken, or of different models.
    pub fn load(folder: &Path, variant: Option<&str>) -> Result<Self> {
        let encoder = folder.join("image_encoder");
        let found = read_transformers(folder, &encoder, variant)?.and_then(|parts| parts.image);
        let mut encoder = PictureEncoder::of(found, &encoder.join("config.json"))?;
        let path = folder.join("feature_extractor/preprocessor_config.json");
        if path.exists() {
            encoder.preprocessor = Preprocessor::read(&path, encoder.config.image_size())?;
        }
        Ok(encoder)
    }

    /// The picture encoder that `file` describes; CLIP's usual preprocessing.
    fn of(found: Option<Image>, file: &Path) -> Result<Self> {
        let Some(Image { config, weights, .. }) = found else {
            return Err(Error::file(file, "describes no picture encoder of CLIP"));
        };
        let preprocessor = Preprocessor::square(config.image_size());
        Ok(PictureEncoder { config, preprocessor, weights })
    }

    /// The picture encoder of a CLIP that lies in `path`; one that sees noise is told that there is none.
    pub(super) fn of_clip(clip: &Clip, path: &Path) -> Result<Self> {
        PictureEncoder::of(clip.parts().image.clone(), path)
    }

    /// Embeddings of pictures of any size `[pictures, E]`, of no particular length.
    ///
    /// Errors: see [`Preprocessor::apply`]; a device that fails.
    pub fn embed(&self, at: At<'_>, pictures: &[Picture]) -> Result<Vec<f32>> {
        let mut program = at.device.program(self.graph(pictures.len()), &self.weights, &OPTIONS)?;
        let mut values = Vec::new();
        for picture in pictures {
            values.extend(self.preprocessor.apply(picture)?.values);
        }
        program.write("x", &values);
        program.run(&mut |_| true)?;
        program.read("embeds")
    }

    /// The graph of so many pictures.
    pub(super) fn graph(&self, pictures: usize) -> Graph {
        let (mut g, side) = (Graph::new(), self.config.image_size());
        let x = g.input("x", &[pictures, side, side, 3], Storage::F32);
        let t = self.config.is_noised().then(|| g.constant(&[pictures], vec![0.0; pictures]));
        let seen = self.config.forward(&mut g, &x, t.as_ref(), false);
        g.output("embeds", &seen.embeds);
        g
    }
}
