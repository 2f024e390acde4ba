//! What a guidance by CLIP is to follow, term by term.

use super::guidance::ClipGuidance;
use super::model::Clip;
use super::terms::{Comparison, Features, Terms};
use crate::device::Device;
use crate::diffusion::Noise;
use crate::error::{Result, request};
use crate::picture::Picture;
use crate::pipeline::guidance::MEMORY_BUDGET;

impl Clip {
    /// Guidance by this CLIP on a device: add what it is to follow, then [build](GuidanceBuilder::build) it.
    pub fn guidance(&self, device: &Device) -> GuidanceBuilder {
        GuidanceBuilder::new(self, device)
    }

    /// [`Clip::guidance`] by texts alone, one for all pictures or one for each: GLIDE's, at any weight.
    ///
    /// # Errors
    /// See [`Clip::text_embeddings`].
    pub fn text_guidance(&self, device: &Device, texts: &[impl AsRef<str>]) -> Result<ClipGuidance> {
        self.guidance(device).texts(texts, 1.0).build()
    }
}

enum Text {
    /// Still to be encoded.
    Texts(Vec<String>),
    /// Unit vectors, one or one for each picture.
    Vectors(Vec<f32>),
}

/// What a guidance is to follow; see [`Clip::guidance`].
///
/// Each term is at most about 1 apart from its weight, and is multiplied by the CLIP's [logit scale](Clip::logit_scale),
/// 100 for those published, so that weights of different terms, and GLIDE's, compare: its notebook guides by a text at
/// weight 3. The score is the gradient of their sum with respect to x_t.
///
/// - Text and content: the cosine of the picture's vector and that of the text, or of the example.
/// - Structure: −Σ (F − F′)² / Σ F′², of the features F of the picture and F′ of the example at the same places, in the mean
///   over the encoder's maps. The paper's term has the number of features in place of Σ F′².
/// - Style: −Σ (G − G′)² / Σ G′², of the Gram matrices over places, G = Fᵀ F / (places · channels), in the mean over the
///   maps. The paper's code has the number of elements in place of Σ G′², times 10¹⁰.
///
/// An encoder that was trained on noisy pictures sees x_t and, as timestep, that of its own schedule whose ᾱ is nearest;
/// examples get noise of the same ᾱ, anew at each step. Any other sees x̂₀, and the score is the gradient there times
/// 1/√ᾱ, which holds while ε does not change with x_t; at most times 100.
///
/// Examples of another size or shape than the sample are cut to its shape about their centre and resized. Samples of
/// another size than the encoder's are resized to it, noise and all: an encoder that was trained on noisy pictures serves
/// best at its own size.
pub struct GuidanceBuilder {
    clip: Clip,
    device: Device,
    texts: Vec<(Text, f64)>,
    examples: Vec<Picture>,
    contents: Vec<(usize, f64)>,
    comparisons: Vec<Comparison>,
    seed: u64,
    noise: Option<Box<dyn Noise>>,
    budget: u64,
}

impl GuidanceBuilder {
    fn new(clip: &Clip, device: &Device) -> Self {
        GuidanceBuilder {
            clip: clip.clone(),
            device: device.clone(),
            texts: Vec::new(),
            examples: Vec::new(),
            contents: Vec::new(),
            comparisons: Vec::new(),
            seed: 0,
            noise: None,
            budget: MEMORY_BUDGET,
        }
    }

    /// Towards what a text says.
    pub fn text(self, text: impl Into<String>, weight: f64) -> Self {
        self.texts(&[text.into()], weight)
    }

    /// Towards what texts say, one for all pictures or one for each.
    pub fn texts(mut self, texts: &[impl AsRef<str>], weight: f64) -> Self {
        let texts = texts.iter().map(|text| text.as_ref().to_string()).collect();
        self.texts.push((Text::Texts(texts), weight));
        self
    }

    /// Towards texts' vectors, one for all pictures or one for each, as [`Clip::text_embeddings`] gives them.
    pub fn vectors(mut self, vectors: Vec<f32>, weight: f64) -> Self {
        self.texts.push((Text::Vectors(vectors), weight));
        self
    }

    fn example(&mut self, picture: &Picture) -> usize {
        let known = self.examples.iter().position(|known| known == picture);
        known.unwrap_or_else(|| {
            self.examples.push(picture.clone());
            self.examples.len() - 1
        })
    }

    /// Towards what an example shows.
    pub fn content(mut self, example: &Picture, weight: f64) -> Self {
        let example = self.example(example);
        self.contents.push((example, weight));
        self
    }

    /// Towards showing at each place what an example shows there.
    pub fn structure(mut self, example: &Picture, weight: f64) -> Self {
        let example = self.example(example);
        self.comparisons.push(Comparison { features: Features::Maps, example, weight });
        self
    }

    /// Towards the style of an example.
    pub fn style(mut self, example: &Picture, weight: f64) -> Self {
        let example = self.example(example);
        self.comparisons.push(Comparison { features: Features::Grams, example, weight });
        self
    }

    /// Seed of the noise that examples get, 0 if this is not called; picture i of several takes `seed + i`.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Noise for the examples in place of a seed's: drawn at each step, for one example after another.
    pub fn noise(mut self, noise: impl Noise + 'static) -> Self {
        self.noise = Some(Box::new(noise));
        self
    }

    /// Bytes of activations it may take, [`MEMORY_BUDGET`] if this is not called; less takes more time.
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.budget = bytes;
        self
    }

    /// Encodes the texts.
    ///
    /// # Errors
    /// There is nothing to follow; a weight that is no number; a picture that is neither grey nor in colour; there is no
    /// picture encoder; see [`Clip::text_embeddings`].
    pub fn build(self) -> Result<ClipGuidance> {
        let image = self.clip.image()?.clone();
        let weights = self.texts.iter().map(|t| t.1).chain(self.contents.iter().map(|c| c.1));
        let mut weights = weights.chain(self.comparisons.iter().map(|c| c.weight)).peekable();
        if weights.peek().is_none() {
            return Err(request!(
                Guide,
                Missing,
                "CLIP guidance has nothing to follow: add a text or a picture"
            ));
        }
        if let Some(weight) = weights.find(|weight| !weight.is_finite()) {
            return Err(request!(Guide, OutOfRange, "a weight of {weight}: give a number"));
        }
        for example in &self.examples {
            example.check()?;
            if !matches!(example.channels, 1 | 3) {
                return Err(request!(
                    Guide,
                    Malformed,
                    "an example of {} channels: give a picture, grey or in colour",
                    example.channels
                ));
            }
        }
        let (embed, mut texts) = (image.config.embed(), Vec::new());
        for (text, weight) in self.texts {
            let vectors = match text {
                Text::Texts(texts) => self.clip.text_embeddings(&self.device, &texts)?,
                Text::Vectors(vectors) => vectors,
            };
            if vectors.is_empty() || !vectors.len().is_multiple_of(embed) {
                return Err(request!(
                    Guide,
                    Mismatch,
                    "texts' vectors of {} numbers: each has {embed}",
                    vectors.len()
                ));
            }
            texts.push((vectors, weight));
        }
        let (contents, comparisons) = (self.contents, self.comparisons);
        let terms = Terms { image, logit_scale: self.clip.logit_scale(), texts, contents, comparisons };
        Ok(ClipGuidance::new(terms, self.device, self.examples, (self.seed, self.noise), self.budget))
    }
}
