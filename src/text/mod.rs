//! Prompts to token ids: the T5 tokenizer of IF, and IF's caption cleaning.
//!
//! [`T5Tokenizer`] reads a `spiece.model` (SentencePiece, unigram) with the small JSON files beside it
//! and gives the ids that Hugging Face's `T5Tokenizer` gives. [`caption`] prepares a prompt as
//! diffusers' `IFPipeline` does. Both work in time linear in the text and know no input that fails
//! other than a text far beyond any prompt.

mod address;
pub mod caption;
mod entities;
mod fixes;
mod html;
mod normalizer;
mod page;
mod proto;
mod scan;
mod special;
mod t5;
mod unigram;

pub use t5::{T5Tokenizer, Tokens};
