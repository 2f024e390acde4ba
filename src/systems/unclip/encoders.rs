//! CLIP as unCLIP uses it: what the networks see of prompts, and a picture's embedding.

use crate::clip::{Clip, Image, Preprocessor, Text, read_transformers};
use crate::device::{Device, Weights};
use crate::error::{Error, Result};
use crate::graph::{Graph, Storage};
use crate::guidance::OPTIONS;
use crate::models::check::require;
use crate::models::clip::{self, ImageEncoder};
use crate::models::prior;
use crate::picture::Picture;
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

/// What the networks see of prompts.
#[derive(Clone, Debug)]
pub struct Captions {
    /// States after the last norm `[prompts, L, E]`.
    pub states: Vec<f32>,
    /// The prompts' embeddings `[prompts, E]`.
    pub embeds: Vec<f32>,
    /// Added to the scores of their tokens `[prompts, L]`: [`prior::HIDDEN`] where there is padding.
    pub mask: Vec<f32>,
    /// A prompt was longer than the tokens it may have.
    pub truncated: bool,
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

    /// States and embeddings of prompts. Errors: a prompt that the tokenizer refuses; a device that fails.
    pub fn encode(&self, device: &Device, prompts: &[&str]) -> Result<Captions> {
        let length = self.config.context;
        let (mut ids, mut ends, mut mask, mut truncated) = (Vec::new(), Vec::new(), Vec::new(), false);
        for prompt in prompts {
            let tokens = self.tokenizer.encode(prompt, length)?;
            ends.push(self.config.end.place(&tokens.ids, tokens.len));
            ids.extend(tokens.ids.iter().map(|&id| id as f32));
            mask.extend((0..length).map(|at| if at < tokens.len { 0.0 } else { prior::HIDDEN }));
            truncated |= tokens.truncated;
        }
        let mut program = device.program(self.config.graph(length, &ends), &self.weights, &OPTIONS)?;
        program.write("ids", &ids);
        program.run(&mut |_| true)?;
        let (states, embeds) = (program.read("hidden")?, program.read("embeds")?);
        drop(program);
        self.weights.release_if_large();
        Ok(Captions { states, embeds, mask, truncated })
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
    pub fn embed(&self, device: &Device, pictures: &[Picture]) -> Result<Vec<f32>> {
        let mut program = device.program(self.graph(pictures.len()), &self.weights, &OPTIONS)?;
        let mut values = Vec::new();
        for picture in pictures {
            values.extend(self.preprocessor.apply(picture)?.values);
        }
        program.write("x", &values);
        program.run(&mut |_| true)?;
        let embeds = program.read("embeds");
        drop(program);
        self.weights.release_if_large();
        embeds
    }

    pub(super) fn graph(&self, pictures: usize) -> Graph {
        let (mut g, side) = (Graph::new(), self.config.image_size());
        let x = g.input("x", &[pictures, side, side, 3], Storage::F32);
        let t = self.config.is_noised().then(|| g.constant(&[pictures], vec![0.0; pictures]));
        let seen = self.config.forward(&mut g, &x, t.as_ref(), false);
        g.output("embeds", &seen.embeds);
        g
    }
}
