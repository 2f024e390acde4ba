//! The tokenizer of T5 and IF: text to a fixed number of ids.

use std::path::{Path, PathBuf};

use prost::Message;
use tokenizers::{Encoding, PaddingDirection, Token, TruncationDirection};

use super::byte_pairs::{check_request, read};
use super::normalizer::{Normalizer, SPACE};
use super::proto::{ModelProto, kind};
use super::special::Specials;
use super::unigram::Unigram;
use crate::error::{Error, Result};

/// Larger files are refused before they are read; the largest published one (mT5) has 4.3 MB.
const MAX_FILE: u64 = 8 << 20;

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
/// Encodings are the tokenizers crate's. Its Unigram model and Precompiled normalizer are not used: they sum scores in
/// f64 where SentencePiece's f32 decides ties, take the shortest rule of the character map where SentencePiece takes
/// the longest, and know no user-defined or unused pieces.
///
/// Gives the ids of `transformers.T5Tokenizer` (the slow, exact one; 4.51).
#[derive(Debug)]
pub struct T5Tokenizer {
    normalizer: Normalizer,
    model: Unigram,
    specials: Specials,
    eos: u32,
    pad: u32,
    /// Number of pieces that the unknown token's own text makes; needed with `legacy: false`.
    unk_pieces: usize,
    size: usize,
}

impl T5Tokenizer {
    /// Reads `spiece.model` and, where they exist, `tokenizer_config.json`, `special_tokens_map.json`,
    /// `added_tokens.json` and `tokenizer.json` of a tokenizer folder.
    ///
    /// # Errors
    /// [`Error::ModelFile`] if `spiece.model` is missing, damaged or not a unigram model, or a JSON file is
    /// malformed, or a JSON value makes no sense.
    pub fn load(folder: &Path) -> Result<Self> {
        let path: PathBuf = folder.join("spiece.model");
        let bad = |what: String| Error::file(&path, what);
        let bytes = read(&path, MAX_FILE)?;
        if bytes.is_empty() {
            return Err(bad("has 0 bytes; download the tokenizer's folder again".into()));
        }
        let cut = |e| format!("is no SentencePiece model, or is cut off ({e}); download the folder again");
        let proto = ModelProto::decode(bytes.as_slice()).map_err(|e| bad(cut(e)))?;
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
        check_request(text, max_length, 1)?;
        let pieces = if self.specials.legacy { self.split(text) } else { self.split_modern(text) };
        let token = |piece: String| Token { id: self.id(&piece), value: piece, offsets: (0, 0) };
        let mut encoding = Encoding::from_tokens(pieces.into_iter().map(token).collect(), 0);
        // Neither the text's nor an added end of sequence is doubled, before or after the cut.
        let ends = |encoding: &Encoding| encoding.get_ids().last() == Some(&self.eos);
        let truncated = encoding.len() + usize::from(!ends(&encoding)) > max_length;
        encoding.truncate(max_length - 1, 0, TruncationDirection::Right);
        if !ends(&encoding) {
            let eos = vec![token(self.specials.eos.clone())];
            encoding = Encoding::merge([encoding, Encoding::from_tokens(eos, 0)], false);
        }
        encoding.pad(max_length, self.pad, 0, &self.specials.pad, PaddingDirection::Right);
        let mask = encoding.get_attention_mask().iter().map(|&m| m != 0).collect();
        Ok(Tokens { ids: encoding.get_ids().to_vec(), mask, truncated })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn goldens() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/if_stage1")
    }

    /// A fresh folder with only this `spiece.model`, and more files.
    fn folder(name: &str, model: &[u8], more: &[(&str, &str)]) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("ancestral-t5-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("spiece.model"), model).unwrap();
        more.iter().for_each(|(file, text)| std::fs::write(dir.join(file), text).unwrap());
        dir
    }

    fn model_bytes() -> Vec<u8> {
        std::fs::read(goldens().join("pipeline/tokenizer/spiece.model")).unwrap()
    }

    fn text_ids(tokenizer: &T5Tokenizer, text: &str) -> Vec<u32> {
        let tokens = tokenizer.encode(text, 77).unwrap();
        tokens.ids.iter().zip(&tokens.mask).filter(|(_, m)| **m).map(|(id, _)| *id).collect()
    }

    #[test]
    fn special_tokens_are_as_in_the_reference() {
        let full = T5Tokenizer::load(&goldens().join("pipeline/tokenizer")).unwrap();
        let bare = folder("bare", &model_bytes(), &[]);
        let bare_tokenizer = T5Tokenizer::load(&bare).unwrap();
        let text = std::fs::read_to_string(goldens().join("prompts.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        for case in json["special"].as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(text_ids(&full, case["text"].as_str().unwrap()), ids);
            assert_eq!(text_ids(&bare_tokenizer, case["text"].as_str().unwrap()), ids);
        }
        assert_eq!((full.vocab_size(), bare_tokenizer.vocab_size()), (454, 454));
        std::fs::remove_dir_all(bare).unwrap();
    }

    #[test]
    fn length_is_exact() {
        let tokenizer = T5Tokenizer::load(&goldens().join("pipeline/tokenizer")).unwrap();
        let empty = tokenizer.encode("", 3).unwrap();
        assert_eq!((empty.ids, empty.mask), (vec![1, 0, 0], vec![true, false, false]));
        assert!(!tokenizer.encode("fox</s>", 2).unwrap().truncated);
        assert!(tokenizer.encode("fox fox", 2).unwrap().truncated);
        assert_eq!(tokenizer.encode("fox fox", 1).unwrap().ids, [1]);
        assert!(tokenizer.encode("fox", 0).is_err());
        assert!(tokenizer.encode(&"fox ".repeat(300_000), 77).is_err());
        let long = "a blue whale 🦊 ".repeat(6_000);
        let start = std::time::Instant::now();
        assert!(tokenizer.encode(&long, 77).unwrap().truncated);
        assert!(start.elapsed().as_secs() < 10);
    }

    #[test]
    fn damaged_folders_are_errors() {
        let model = model_bytes();
        let fails = |name: &str, model: &[u8], more: &[(&str, &str)], what: &str| {
            let dir = folder(name, model, more);
            let message = T5Tokenizer::load(&dir).unwrap_err().to_string();
            assert!(message.contains(what), "{message}");
            std::fs::remove_dir_all(dir).unwrap();
        };
        let missing = T5Tokenizer::load(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(missing.contains("spiece.model"), "{missing}");
        fails("empty", b"", &[], "0 bytes");
        fails("lfs", b"version https://git-lfs.github.com/spec/v1", &[], "LFS");
        fails("garbage", &[0xff; 100], &[], "no SentencePiece model");
        fails("huge", &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], &[], "cut off");
        fails("json", &model, &[("tokenizer_config.json", "[1")], "not the JSON expected");
        let id = r#"{"added_tokens_decoder":{"4294967295":{"content":"x"}}}"#;
        fails("id", &model, &[("tokenizer_config.json", id)], "token id");
        let count = r#"{"extra_ids":3,"additional_special_tokens":["<extra_id_0>"]}"#;
        fails("count", &model, &[("tokenizer_config.json", count)], "lists 1");
    }

    #[test]
    fn cut_off_models_never_panic() {
        let model = model_bytes();
        for length in (1..model.len()).step_by(997) {
            let dir = folder("cut", &model[..length], &[]);
            if let Ok(tokenizer) = T5Tokenizer::load(&dir) {
                tokenizer.encode("a ﬁne fox½", 77).unwrap();
            }
        }
        let mut state = 7u32;
        for _ in 0..60 {
            let mut damaged = model.clone();
            for _ in 0..20 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = (state >> 4) as usize % damaged.len();
                damaged[at] ^= (state >> 24) as u8;
            }
            if let Ok(tokenizer) = T5Tokenizer::load(&folder("cut", &damaged, &[])) {
                tokenizer.encode("a ﬁne fox½ Å 日本 </s>", 77).unwrap();
            }
        }
        std::fs::remove_dir_all(folder("cut", &model, &[])).unwrap();
    }
}
