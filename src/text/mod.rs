//! Prompts to token ids: the tokenizers of T5, CLIP and GLIDE, and IF's caption cleaning.
//!
//! [`T5Tokenizer`] reads a `spiece.model` (SentencePiece, unigram) with the small JSON files beside it
//! and gives the ids that Hugging Face's `T5Tokenizer` gives. [`ClipTokenizer`] reads OpenAI's merge table or a
//! transformers folder, [`Gpt2Tokenizer`] GLIDE's tables. [`caption`] prepares a prompt as
//! diffusers' `IFPipeline` does. All work in time linear in the text and know no input that fails
//! other than a text far beyond any prompt.

mod byte_pairs;
pub mod caption;
mod clip;
mod entities;
mod fixes;
mod gpt2;
mod html;
mod normalizer;
mod page;
mod proto;
mod scan;
mod special;
mod t5;
mod unigram;

pub use clip::{ClipTokenizer, ClipTokens};
pub use gpt2::Gpt2Tokenizer;
pub use t5::{T5Tokenizer, Tokens};
