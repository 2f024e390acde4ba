//! A loaded CLIP: vectors of texts and pictures.

use super::files::{self, Image, Parts};
use crate::device::{Device, Program};
use crate::error::{Error, Problem, Result, Setting, request};
use crate::graph::{Graph, Storage};
use crate::kernels::layer_norm::l2_normalise;
use crate::models::clip::{ImageEncoder, text};
use crate::picture::Picture;
use crate::pipeline::guidance::OPTIONS;
use crate::text::ClipTokenizer;
use std::path::Path;

/// Keeps the length of a vector of zeros from being divided by.
pub(super) const FLOOR: f32 = 1e-12;

/// A loaded CLIP: encoders of pictures and texts. Cheap to clone.
#[derive(Clone)]
pub struct Clip(Parts);

impl Clip {
    /// Loads a CLIP: GLIDE's noised one (a folder with `clip_image_enc` and `clip_text_enc`, `.pt` or `.safetensors`, or
    /// one of the two), OpenAI's (`ViT-B-32.pt`, `RN50.pt`), or a folder of transformers.
    ///
    /// # Errors
    /// A file that is none of these, is broken, or whose tensors are not those of its network.
    pub fn load(path: impl AsRef<Path>) -> Result<Clip> {
        Clip::load_parts(&[path])
    }

    /// Loads encoders from several files or folders; of each kind the first that is found counts. Semantic Diffusion
    /// Guidance's picture encoder comes without its text encoder, which is OpenAI's `RN50x16.pt`: give both, in this
    /// order.
    ///
    /// # Errors
    /// See [`Clip::load`]; encoders that do not answer in vectors of one length.
    pub fn load_parts(paths: &[impl AsRef<Path>]) -> Result<Clip> {
        let mut all = Parts::default();
        for path in paths {
            all = all.or(files::read(path.as_ref())?);
        }
        if let (Some(image), Some(text)) = (&all.image, &all.text) {
            let (seen, read) = (image.config.embed(), text.config.embed);
            if seen != read {
                return Err(request!(
                    ClipModel,
                    Mismatch,
                    "CLIP's picture encoder answers in {seen} numbers, its text encoder in {read}: they are not of one \
                     model"
                ));
            }
        }
        Ok(Clip(all))
    }

    /// Loads the small CLIP of scenes that comes with the program.
    ///
    /// # Errors
    /// It is not there.
    pub fn bundled() -> Result<Clip> {
        Clip::load(crate::catalog::bundled_folder("clip-scenes", "clip_config.yaml")?)
    }

    /// The picture encoder, if there is one.
    #[doc(hidden)]
    pub fn image_encoder(&self) -> Option<&ImageEncoder> {
        self.0.image.as_ref().map(|image| &image.config)
    }

    /// The text encoder, if there is one.
    #[doc(hidden)]
    pub fn text_encoder(&self) -> Option<&text::Config> {
        self.0.text.as_ref().map(|text| &text.config)
    }

    /// What cosines were multiplied by in training; guidance multiplies by it too.
    pub fn logit_scale(&self) -> f64 {
        self.0.scale()
    }

    /// The timestep of the picture encoder whose noise is nearest to ᾱ, by its logarithmic signal-to-noise ratio; none
    /// where it sees no noise.
    pub fn timestep(&self, alpha_bar: f64) -> Option<usize> {
        let alpha_bars = self.0.image.as_ref()?.alpha_bars.as_ref()?;
        Some(nearest(alpha_bars, alpha_bar))
    }

    /// The encoders and where their weights are.
    pub(crate) fn parts(&self) -> &Parts {
        &self.0
    }

    pub(super) fn image(&self) -> Result<&Image> {
        let missing = "this CLIP has no picture encoder";
        self.0.image.as_ref().ok_or_else(|| Error::request(Setting::ClipModel, Problem::Missing, missing))
    }

    /// Unit vectors of texts, `[texts, E]`.
    ///
    /// # Errors
    /// There is no text encoder, or no tokenizer beside it; a text that its tokenizer refuses; a device that fails.
    pub fn text_embeddings(&self, device: &Device, texts: &[impl AsRef<str>]) -> Result<Vec<f32>> {
        let missing = "this CLIP has no text encoder: give its checkpoint too";
        let encoder = self
            .0
            .text
            .as_ref()
            .ok_or_else(|| Error::request(Setting::ClipModel, Problem::Missing, missing))?;
        let tokenizer = ClipTokenizer::load(&encoder.tokenizer)?;
        let (config, known) = (&encoder.config, tokenizer.vocab_size());
        if known > config.vocab_size {
            return Err(Error::file(
                &encoder.tokenizer,
                format!(
                    "the tokenizer has {known} tokens, the text encoder {}: they are not of one model",
                    config.vocab_size
                ),
            ));
        }
        let (mut ids, mut ends) = (Vec::new(), Vec::new());
        for text in texts {
            let tokens = tokenizer.encode(text.as_ref(), config.context)?;
            if tokens.truncated {
                log::warn!("CLIP reads {} tokens; the text is longer, and its end is lost", config.context);
            }
            ends.push(config.end.place(&tokens.ids, tokens.len));
            ids.extend(tokens.ids.iter().map(|id| *id as f32));
        }
        self.embed_ids(device, &ids, &ends)
    }

    /// Unit vectors `[texts, E]` of token ids `[texts, L]` that end at places `ends`.
    fn embed_ids(&self, device: &Device, ids: &[f32], ends: &[usize]) -> Result<Vec<f32>> {
        let Some(encoder) = &self.0.text else { return Ok(Vec::new()) };
        if ends.is_empty() {
            return Ok(Vec::new());
        }
        let mut g = Graph::new();
        let input = g.input("ids", &[ends.len(), ids.len() / ends.len()], Storage::F32);
        let read = encoder.config.forward(&mut g, &input, ends);
        let unit = l2_normalise(&mut g, "unit", &read.embeds, FLOOR);
        g.output("unit", &unit);
        let mut program = device.program(g, &encoder.weights, &OPTIONS)?;
        program.write("ids", ids);
        program.run(&mut |_| true)?;
        program.read("unit")
    }

    /// Unit vectors of finished pictures, `[pictures, E]`; an encoder that sees noise is told that there is none.
    ///
    /// # Errors
    /// There is no picture encoder; a device that fails.
    pub fn image_embeddings(&self, device: &Device, pictures: &[Picture]) -> Result<Vec<f32>> {
        let image = self.image()?;
        let mut made: Option<([usize; 4], Program)> = None;
        let mut all = Vec::new();
        for picture in pictures {
            let shape = [1, picture.height, picture.width, 3];
            let (_, program) = match made.take().filter(|(of, _)| *of == shape) {
                Some(kept) => made.insert(kept),
                None => {
                    let mut g = Graph::new();
                    let x = g.input("x", &shape, Storage::F32);
                    let t = g.constant(&[1], vec![0.0]);
                    let seen = image.config.forward(&mut g, &x, Some(&t), false);
                    let unit = l2_normalise(&mut g, "unit", &seen.embeds, FLOOR);
                    g.output("unit", &unit);
                    made.insert((shape, device.program(g, &image.weights, &OPTIONS)?))
                }
            };
            program.write("x", &colours(picture));
            program.run(&mut |_| true)?;
            all.extend(program.read("unit")?);
        }
        Ok(all)
    }
}

/// The index of the ᾱ whose signal-to-noise ratio is nearest.
pub(super) fn nearest(alpha_bars: &[f64], alpha_bar: f64) -> usize {
    let log_snr = |alpha_bar: f64| {
        let a = alpha_bar.clamp(1e-20, 1.0 - 1e-16);
        (a / (1.0 - a)).ln()
    };
    let wanted = log_snr(alpha_bar);
    let distance = |at: &usize| (log_snr(alpha_bars[*at]) - wanted).abs();
    (0..alpha_bars.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
}

/// A picture's values as colours: grey is red, green and blue alike.
pub(super) fn colours(picture: &Picture) -> Vec<f32> {
    match picture.channels {
        1 => picture.values.iter().flat_map(|v| [*v; 3]).collect(),
        _ => picture.values.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{Arithmetic, BetaSchedule, Schedule};

    #[test]
    fn timesteps_of_one_schedule_are_found_in_another() {
        let of = |betas, precision| Schedule::new(&betas, 1000, precision, false).unwrap().alpha_bars;
        let cosine = of(BetaSchedule::SquaredCosCapV2, Arithmetic::Float64);
        let rounded = of(BetaSchedule::SquaredCosCapV2, Arithmetic::Float32);
        let linear = of(BetaSchedule::openai_linear(1000), Arithmetic::Float64);
        for t in 0..1000 {
            assert_eq!(nearest(&cosine, cosine[t]), t);
            assert_eq!(nearest(&cosine, rounded[t]), t);
            let other = linear[nearest(&linear, cosine[t])];
            let (a, b) = (other / (1.0 - other), cosine[t] / (1.0 - cosine[t]));
            assert!(!(50..950).contains(&t) || (a / b).ln().abs() < 0.1, "{t}: {a} and {b}");
        }
        assert_eq!((nearest(&linear, 0.0), nearest(&linear, 1.0)), (999, 0));
    }
}
