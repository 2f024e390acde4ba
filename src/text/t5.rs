//! The tokenizer of T5 and IF: text to a fixed number of ids.

use std::path::{Path, PathBuf};

use prost::Message;

use super::normalizer::{Normalizer, SPACE};
use super::proto::{ModelProto, kind};
use super::special::Specials;
use super::unigram::Unigram;
use crate::error::{Error, Result};

/// Larger files are refused before they are read; the largest published one (mT5) has 4.3 MB.
const MAX_FILE: u64 = 32 << 20;
/// Longer texts are refused; a prompt's first 77 tokens are all that any model sees.
const MAX_TEXT: usize = 1 << 20;

/// Token ids of one text, padded to the length asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The ids: text, end of sequence (1), then padding (0).
    pub ids: Vec<u32>,
    /// True where [`ids`](Self::ids) is text or the end of sequence.
    pub mask: Vec<bool>,
    /// Whether the text was longer than the length asked for, so that its end is lost.
    pub truncated: bool,
}

/// SentencePiece unigram tokenizer with T5's special tokens.
///
/// Gives the ids of `transformers.T5Tokenizer` (the slow, exact one; 4.51).
#[derive(Debug)]
pub struct T5Tokenizer {
    normalizer: Normalizer,
    model: Unigram,
    specials: Specials,
    eos: u32,
    pad: u32,
    /// What stands between this and a plain look-up with `legacy: false`.
    unk_pieces: usize,
    size: usize,
}

/// Reads and decodes `spiece.model`.
fn read_model(path: &Path) -> Result<ModelProto> {
    let again = "download the tokenizer folder again";
    let length = match std::fs::metadata(path) {
        Ok(m) if m.is_file() => m.len(),
        Ok(_) => return Err(Error::file(path, format!("is not a file; {again}"))),
        Err(e) => {
            return Err(Error::file(path, format!("cannot be read ({e}); a T5 tokenizer needs it, {again}")));
        }
    };
    if length == 0 || length > MAX_FILE {
        return Err(Error::file(
            path,
            format!("has {length} bytes, which no SentencePiece model has; {again}"),
        ));
    }
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(Error::file(path, "is a Git LFS pointer; fetch the file itself (`git lfs pull`)"));
    }
    ModelProto::decode(bytes.as_slice())
        .map_err(|e| Error::file(path, format!("is no SentencePiece model, or is cut off ({e}); {again}")))
}

impl T5Tokenizer {
    /// Reads `spiece.model` and, where they exist, `tokenizer_config.json`, `special_tokens_map.json`,
    /// `added_tokens.json` and `tokenizer.json` of a tokenizer folder.
    ///
    /// # Errors
    /// [`Error::File`] if `spiece.model` is missing, damaged or not a unigram model, or a JSON file is
    /// malformed; [`Error::Config`] if a JSON value makes no sense.
    pub fn load(folder: &Path) -> Result<Self> {
        let path: PathBuf = folder.join("spiece.model");
        let proto = read_model(&path)?;
        let bad = |what: String| Error::file(&path, what);
        let model = Unigram::new(&proto).map_err(bad)?;
        let specials = Specials::load(folder, &model)?;
        let user = proto.pieces.iter().filter(|p| p.kind == Some(kind::USER_DEFINED));
        let user = user.filter_map(|p| p.piece.clone()).collect();
        let normalizer = Normalizer::new(&proto, user, specials.legacy).map_err(bad)?;
        let size = specials.max_id().map_or(0, |id| id as usize + 1).max(model.len());
        let mut this = T5Tokenizer { normalizer, model, specials, eos: 0, pad: 0, unk_pieces: 0, size };
        (this.eos, this.pad) = (this.id(&this.specials.eos), this.id(&this.specials.pad));
        this.unk_pieces = this.pieces(&this.specials.unk).len();
        Ok(this)
    }

    /// One more than the largest id there is; a model's embedding must have at least so many rows.
    pub fn vocab_size(&self) -> usize {
        self.size
    }

    /// Ids of `text` with the end of sequence, cut or padded to exactly `max_length`.
    ///
    /// # Errors
    /// [`Error::Request`] if `max_length` is 0 or the text is longer than 1 MiB.
    pub fn encode(&self, text: &str, max_length: usize) -> Result<Tokens> {
        if max_length == 0 {
            return Err(Error::Request("a prompt needs room for at least 1 token".into()));
        }
        if text.len() > MAX_TEXT {
            let what = format!("the prompt has {} bytes; shorten it to at most {MAX_TEXT}", text.len());
            return Err(Error::Request(what));
        }
        let tokens = if self.specials.legacy { self.split(text) } else { self.split_modern(text) };
        let mut ids: Vec<u32> = tokens.iter().map(|t| self.id(t)).collect();
        // Neither the text's nor an added end of sequence is doubled, before or after the cut.
        let ends = |ids: &[u32]| ids.last() == Some(&self.eos);
        let truncated = ids.len() + usize::from(!ends(&ids)) > max_length;
        ids.truncate(max_length - 1);
        if !ends(&ids) {
            ids.push(self.eos);
        }
        let mut mask = vec![true; ids.len()];
        ids.resize(max_length, self.pad);
        mask.resize(max_length, false);
        Ok(Tokens { ids, mask, truncated })
    }

    /// The id of a token or piece.
    fn id(&self, token: &str) -> u32 {
        self.specials.id(token).unwrap_or_else(|| self.model.id(token))
    }

    fn pieces(&self, text: &str) -> Vec<String> {
        self.model.split(&self.normalizer.normalize(text))
    }

    /// Special tokens and the pieces between them.
    fn split(&self, text: &str) -> Vec<String> {
        let mut tokens = Vec::new();
        for part in self.specials.split(text) {
            if self.specials.id(&part).is_some() {
                tokens.push(part.into_owned());
            } else if self.specials.legacy || !part.starts_with(['\u{2581}', ' ']) {
                tokens.extend(self.pieces(&part));
            } else {
                // Without a dummy prefix SentencePiece drops leading spaces; an unknown token saves them.
                let mut pieces = self.pieces(&format!("{}{part}", self.specials.unk));
                if pieces.len() >= self.unk_pieces {
                    pieces.drain(..self.unk_pieces);
                }
                tokens.extend(pieces);
            }
        }
        tokens
    }

    /// `legacy: false` of transformers: one prefix for the text, none after special tokens.
    fn split_modern(&self, text: &str) -> Vec<String> {
        if text.is_empty() {
            return Vec::new();
        }
        let prefix = if self.specials.add_prefix_space { SPACE } else { "" };
        let mut tokens = self.split(&format!("{prefix}{}", text.replace(SPACE, " ")));
        if tokens.len() > 1 && tokens[0] == SPACE && self.specials.roles.contains(&tokens[1]) {
            tokens.remove(0);
        }
        tokens
    }
}
