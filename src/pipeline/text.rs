//! Prompts on their way to a network: T5 as a component, states that are kept between runs, halves of a batch.

use super::run::Run;
use super::stage::At;
use crate::device::{ProgramOptions, Weights};
use crate::error::{Error, Result, request};
use crate::graph::Graph;
use crate::kernels::Precision;
use crate::models::network::Shape;
use crate::models::t5;
use crate::settings::{PromptEmbeds, Settings, Source};
use crate::text::{T5Tokenizer, caption};
use crate::weights::{Checkpoint, read_json, t5_name};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Tokens a prompt is padded or cut to.
pub const MAX_TOKENS: usize = 77;

/// Tokenizer and T5 encoder of a folder.
pub struct T5Text {
    /// The encoder's config.
    pub config: t5::Config,
    tokenizer: T5Tokenizer,
    weights: Weights,
}

impl T5Text {
    /// Reads `tokenizer/` and `text_encoder/` of a pipeline's folder; `variant` chooses e.g. the `fp16` files.
    ///
    /// Errors: files that are absent, broken, or of different models.
    pub fn load(folder: &Path, variant: Option<&str>) -> Result<Self> {
        let tokenizer = T5Tokenizer::load(&folder.join("tokenizer"))?;
        let folder = folder.join("text_encoder");
        let path = folder.join("config.json");
        let config: t5::Config = read_json(&path)?;
        config.validate(&path)?;
        let (rows, ids) = (config.vocab_size, tokenizer.vocab_size());
        if ids > rows {
            let what = format!("{rows} rows, but the tokenizer has ids up to {}", ids - 1);
            return Err(Error::config(path, "vocab_size", what));
        }
        let mut checkpoint = Checkpoint::open(&folder, "model", variant)?;
        checkpoint.rename(t5_name)?;
        checkpoint.check(t5::graph(&config, 1, 2).weights(), |name| name == "encoder.embed_tokens.weight")?;
        Ok(T5Text { config, tokenizer, weights: Weights::new(checkpoint) })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &T5Tokenizer {
        &self.tokenizer
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The graph of so many prompts.
    pub fn graph(config: &t5::Config, prompts: usize) -> Graph {
        t5::graph(config, prompts, MAX_TOKENS)
    }

    /// The states of prompts that were cleaned.
    ///
    /// Errors: a prompt that the tokenizer refuses; a device that fails.
    pub fn encode(&self, at: At<'_>, prompts: &[&str]) -> Result<Vec<PromptEmbeds>> {
        let (mut ids, mut mask, mut truncated) = (Vec::new(), Vec::new(), Vec::new());
        for prompt in prompts {
            let tokens = self.tokenizer.encode(prompt, MAX_TOKENS)?;
            ids.extend(tokens.ids.iter().map(|&id| id as f32));
            mask.extend(t5::additive_mask(&tokens.mask));
            truncated.push(tokens.truncated);
        }
        // Activations in f32 always: T5's feed-forward sums leave f16's range.
        let precision = Precision { elem_f16: false, ..at.options.precision };
        let options = ProgramOptions { precision, ..Default::default() };
        let graph = T5Text::graph(&self.config, prompts.len());
        let mut program = at.device.program(graph, &self.weights, &options)?;
        program.write("ids", &ids);
        program.write("mask", &mask);
        program.run(&mut |_| true)?;
        let states = program.read("states")?;
        let channels = self.config.d_model;
        let of_prompt = |(states, truncated): (&[f32], bool)| PromptEmbeds {
            states: states.to_vec(),
            channels,
            pooled: Vec::new(),
            mask: Vec::new(),
            truncated,
        };
        Ok(states.chunks_exact(MAX_TOKENS * channels).zip(truncated).map(of_prompt).collect())
    }
}

/// A prompt as IF's tokenizer gets it: cleaned of markup, addresses and hashtags if asked, else lower-cased.
pub fn t5_caption(prompt: &str, clean: bool) -> String {
    if clean { caption::clean(prompt) } else { caption::plain(prompt) }
}

/// Text states of the last few prompts, so that the next run with one of them needs no encoder.
#[derive(Default)]
pub struct Remembered(Mutex<VecDeque<(String, PromptEmbeds)>>);

impl Remembered {
    /// The states of texts: what is not known is encoded, each text once.
    ///
    /// Errors: those of `encode`.
    pub fn states(
        &self,
        texts: &[String],
        encode: impl FnOnce(&[&str]) -> Result<Vec<PromptEmbeds>>,
    ) -> Result<Vec<PromptEmbeds>> {
        const MOST: usize = 32;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut missing: Vec<&str> = texts.iter().map(String::as_str).collect();
        missing.retain(|text| !known.iter().any(|(of, _)| of == text));
        let missing = distinct(missing);
        if !missing.is_empty() {
            let states = encode(&missing)?;
            known.extend(missing.iter().map(|text| text.to_string()).zip(states));
        }
        let of = |text: &String| known.iter().find(|(of, _)| of == text).map(|(_, states)| states.clone());
        let found = texts.iter().filter_map(of).collect();
        while known.len() > MOST {
            known.pop_front();
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(found)
    }
}

/// Each of them once, in the order in which they come.
fn distinct<T: PartialEq>(all: Vec<T>) -> Vec<T> {
    all.into_iter().fold(Vec::new(), |mut kept, next| {
        if !kept.contains(&next) {
            kept.push(next);
        }
        kept
    })
}

/// The texts of a run, prepared for an encoder: those of what is not drawn, where any stage is guided, then the prompts.
/// Where states are given in their place there are none.
pub(crate) struct Texts {
    pub negative: Vec<String>,
    pub prompts: Vec<String>,
}

impl Texts {
    pub fn of(run: &Run, settings: &Settings, prepare: impl Fn(&str) -> String) -> Texts {
        let prepared = |texts: &[String]| texts.iter().map(|text| prepare(text)).collect::<Vec<_>>();
        let guided = run.stages.iter().any(|stage| stage.shape.guided);
        let (prompts, negative) = match &settings.source {
            Source::Embeds { negative, .. } => (Vec::new(), negative.is_empty()),
            _ => (prepared(&run.prompts), true),
        };
        let negative = if guided && negative { prepared(&run.negative) } else { Vec::new() };
        Texts { negative, prompts }
    }

    /// How many an encoder that remembers none encodes.
    pub fn count(&self) -> usize {
        distinct(self.negative.iter().chain(&self.prompts).collect()).len()
    }

    /// Their states: those that are given, else those of `encode`, which the encoder remembers.
    ///
    /// Errors: states of another model than one of so many tokens of so many channels; those of `encode`.
    pub fn states(
        &self,
        settings: &Settings,
        remembered: &Remembered,
        (tokens, channels): (usize, usize),
        encode: impl FnOnce(&[&str]) -> Result<Vec<PromptEmbeds>>,
    ) -> Result<Halves> {
        let texts: Vec<String> = self.negative.iter().chain(&self.prompts).cloned().collect();
        let mut states = remembered.states(&texts, encode)?;
        let prompts = states.split_off(self.negative.len());
        let mut halves = Halves { negative: states, prompts };
        if let Source::Embeds { prompts, negative } = &settings.source {
            let fits = |e: &PromptEmbeds| e.channels == channels && e.states.len() == tokens * channels;
            if let Some(other) = prompts.iter().chain(negative).find(|embeds| !fits(embeds)) {
                return Err(request!(
                    Embeds,
                    Mismatch,
                    "text states of {} values in {} channels: this model's are {tokens} tokens of {channels} channels",
                    other.states.len(),
                    other.channels
                ));
            }
            halves.prompts = prompts.clone();
            if !negative.is_empty() {
                halves.negative = negative.clone();
            }
        }
        if halves.negative.iter().chain(&halves.prompts).any(|states| states.truncated) {
            log::warn!("the prompt is longer than {tokens} tokens; its end is not seen");
        }
        Ok(halves)
    }
}

/// What the networks see of a run's prompts, one for all pictures or one for each.
pub struct Halves {
    /// Of what is not drawn.
    pub negative: Vec<PromptEmbeds>,
    /// Of what is.
    pub prompts: Vec<PromptEmbeds>,
}

impl Halves {
    /// A part of the states as a network's batch: each picture's, those of what is not drawn first where it is guided.
    pub fn of(&self, shape: Shape, part: impl Fn(&PromptEmbeds) -> &[f32]) -> Vec<f32> {
        halves(shape, &self.negative, &self.prompts, |embeds| part(embeds).to_vec())
    }
}

/// Rows of what is not drawn and of what is as a network's batch: for every picture its own or the one there is, the former
/// only if guided.
pub fn halves<T>(shape: Shape, negative: &[T], prompts: &[T], part: impl Fn(&T) -> Vec<f32>) -> Vec<f32> {
    let each = |of: &[T]| -> Vec<f32> {
        of.iter().flat_map(&part).collect::<Vec<_>>().repeat(shape.pictures / of.len())
    };
    let negative = if shape.guided { each(negative) } else { Vec::new() };
    [negative, each(prompts)].concat()
}
