//! The tokenizer of GLIDE's text transformer, which is GPT-2's: text to a fixed number of ids.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::bytes::Regex;

use super::byte_pairs::{BytePairs, check_request, find, merges, read_table, read_vocabulary, words};
use super::scan::byte_pattern;
use super::t5::Tokens;
use crate::error::{Error, Result};

/// The file of tokens and ids.
const VOCABULARY: &str = "encoder.json";
/// The file of merges.
const MERGES: &str = "vocab.bpe";
/// GPT-2's words: contractions; letters, numbers or other signs with up to one space before them; white space.
static WORDS: LazyLock<Regex> =
    LazyLock::new(|| byte_pattern(r"'(?:[stmd]|re|ve|ll)| ?[a-zA-Z]+| ?[0-9]+| ?[^\sa-zA-Z0-9]+|\s+"));

/// Byte pair encoding of lower-case text as GPT-2 does it (Radford et al. 2019), with GLIDE's padding.
///
/// Gives the ids of glide-text2im's `get_encoder()`: the text is taken as it is, spaces and all, in lower case; no token
/// is put before or after it; the last id of the vocabulary pads.
#[derive(Debug)]
pub struct Gpt2Tokenizer {
    pairs: BytePairs,
}

impl Gpt2Tokenizer {
    /// Reads `encoder.json` and `vocab.bpe`, packed by gzip (`.gz`) or not, of `folder` or its `tokenizer` folder.
    ///
    /// # Errors
    /// [`Error::ModelFile`] if one is not there (it says where it is published), or is damaged.
    pub fn load(folder: &Path) -> Result<Self> {
        let file = |name: &str| -> Result<PathBuf> {
            find(folder, &[name]).ok_or_else(|| {
                Error::file(
                    folder,
                    format!(
                        "holds no {name}, which makes tokens of a prompt: put {VOCABULARY}.gz and {MERGES}.gz here or in \
                         `tokenizer/` (the glide-text2im package has them in glide_text2im/tokenizer/)"
                    ),
                )
            })
        };
        let (vocabulary, table) = (file(VOCABULARY)?, file(MERGES)?);
        let text = read_table(&table)?;
        let pairs = BytePairs::new(read_vocabulary(&vocabulary)?, merges(text.lines()), None);
        let pairs = pairs.map_err(|what| Error::file(&vocabulary, what))?;
        Ok(Gpt2Tokenizer { pairs })
    }

    /// One more than the largest id there is; a network's embedding must have as many rows.
    pub fn vocab_size(&self) -> usize {
        self.pairs.size()
    }

    /// Ids of `text`, cut or padded to exactly `length`; `""` is padding alone, which GLIDE takes for no text.
    ///
    /// # Errors
    /// [`Error::Request`] if `length` is 0 or the text is longer than 1 MiB.
    pub fn encode(&self, text: &str, length: usize) -> Result<Tokens> {
        check_request(text, length, 1)?;
        let lower = text.to_lowercase();
        let mut ids = Vec::new();
        for word in words(&lower, &WORDS) {
            self.pairs.encode(word, &mut ids)?;
        }
        let truncated = ids.len() > length;
        ids.truncate(length);
        let mask = (0..length).map(|i| i < ids.len()).collect();
        ids.resize(length, self.pairs.size().saturating_sub(1) as u32);
        Ok(Tokens { ids, mask, truncated })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goldens() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/glide")
    }

    #[test]
    fn ids_are_glides() {
        let tokenizer = Gpt2Tokenizer::load(&goldens()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 757);
        let text = std::fs::read_to_string(goldens().join("tokens.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        for case in json["prompts"].as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let prompt = case["raw"].as_str().unwrap();
            let tokens = tokenizer.encode(prompt, 300).unwrap();
            assert_eq!(tokens.ids[..ids.len()], ids, "{prompt:?}");
            assert!(tokens.ids[ids.len()..].iter().all(|&id| id == 756));
            assert!(tokens.mask.iter().enumerate().all(|(i, &text)| text == (i < ids.len())));
            let cut = tokenizer.encode(prompt, 32).unwrap();
            assert_eq!((&cut.ids[..], cut.truncated), (&tokens.ids[..32], ids.len() > 32));
        }
    }

    #[test]
    fn words_are_gpt2s() {
        let words = |text| words(text, &WORDS);
        assert_eq!(
            words("it's  a\t\n b 12½ !?'s 'stop  "),
            ["it", "'s", " ", " a", "\t\n", " b", " 12½", " !?'", "s", " '", "stop", "  "]
        );
        assert_eq!(words("a\u{3000}b"), ["a", "\u{3000}", "b"]);
        assert_eq!(words(" \u{a0}x"), [" ", "\u{a0}", "x"]);
    }

    #[test]
    fn broken_folders_are_errors() {
        let message = Gpt2Tokenizer::load(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(
            message.contains("encoder.json.gz") && message.contains("glide_text2im/tokenizer"),
            "{message}"
        );
        let folder = std::env::temp_dir().join(format!("ancestral-gpt2-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let source = goldens().join("tokenizer");
        std::fs::copy(source.join("encoder.json.gz"), folder.join("encoder.json.gz")).unwrap();
        let fails = |text: &[u8], part: &str| {
            std::fs::write(folder.join("vocab.bpe"), text).unwrap();
            let message = Gpt2Tokenizer::load(&folder).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        fails(b"#version: 0.2\nzz qq\n", "does not fit");
        fails(&[0x1f, 0x8b, 8, 0], "unpacked");
        fails(&[0xff, 0xfe], "UTF-8");
        let table = std::fs::read(source.join("encoder.json.gz")).unwrap();
        std::fs::write(folder.join("vocab.bpe"), std::fs::read(source.join("vocab.bpe")).unwrap()).unwrap();
        assert!(Gpt2Tokenizer::load(&folder).is_ok());
        std::fs::write(folder.join("encoder.json.gz"), &table[..table.len() / 2]).unwrap();
        assert!(Gpt2Tokenizer::load(&folder).is_err());
        std::fs::remove_dir_all(folder).unwrap();
        let tokenizer = Gpt2Tokenizer::load(&goldens()).unwrap();
        assert!(
            tokenizer.encode("fox", 0).is_err() && tokenizer.encode(&"fox ".repeat(300_000), 32).is_err()
        );
        for text in ["a", "'", " ", "\t ", "fox ", "é", "1"] {
            assert_eq!(tokenizer.encode(&text.repeat(500_000 / text.len()), 32).unwrap().ids.len(), 32);
        }
    }
}
