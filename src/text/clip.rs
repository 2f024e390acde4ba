//! The tokenizer of CLIP: text to a fixed number of ids.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use regex::bytes::Regex;
use serde_json::{Map, Value};

use super::byte_pairs::{
    BytePairs, alphabet, check_request, find, merges, read_table, read_vocabulary, words,
};
use super::scan::byte_pattern;
use super::special::Finder;
use super::{entities, fixes};
use crate::error::{Error, Result};
use crate::files::read_json;

/// CLIP's token before a text.
const START: &str = "<|startoftext|>";
/// CLIP's token after a text.
const END: &str = "<|endoftext|>";
/// What ends a word's last piece.
const WORD_END: &str = "</w>";
/// OpenAI's table, as published and as smaller ones are called.
const TABLES: [&str; 2] = ["bpe_simple_vocab_16e6.txt", "bpe_simple_vocab.txt"];
/// Ids of OpenAI's vocabulary; its table has more merges than are used.
const VOCABULARY: usize = 49_408;
/// CLIP's words: special tokens, contractions, letters, single digits, and the rest between spaces, of any case.
static WORDS: LazyLock<Regex> = LazyLock::new(|| {
    byte_pattern(r"(?i)<\|startoftext\|>|<\|endoftext\|>|'(?:[stmd]|re|ve|ll)|[a-z]+|[0-9]|[^\sa-z0-9]+")
});

/// Token ids of one text for a CLIP text encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClipTokens {
    /// The ids: start, text, end, then padding.
    pub ids: Vec<u32>,
    /// How many of [`ids`](Self::ids) come before the padding.
    pub len: usize,
    /// Whether the text was longer than the length asked for, so that its end is lost.
    pub truncated: bool,
}

/// CLIP's byte pair encoding of cleaned, lower-case text.
///
/// Gives the ids of OpenAI's `SimpleTokenizer` (CLIP, GLIDE) from its `bpe_simple_vocab_16e6.txt.gz`, and those of
/// `transformers.CLIPTokenizer` (4.51, with ftfy) from a folder's `vocab.json` and `merges.txt`. The two differ: the
/// former unescapes HTML twice and pads with 0; the latter pads with the folder's own token and finds that token and
/// other special ones inside a prompt first (Karlo pads with `!`, so each `!` is padding to it). Text decoded with a
/// wrong encoding is not guessed at, which ftfy does.
#[derive(Debug)]
pub struct ClipTokenizer {
    pairs: BytePairs,
    start: u32,
    end: u32,
    pad: u32,
    /// Transformers' special tokens; none for OpenAI's table.
    specials: Option<Finder>,
}

impl ClipTokenizer {
    /// Reads OpenAI's merge table or transformers' `vocab.json` and `merges.txt`; `path` is one of these files, a folder
    /// that holds them, or one whose `tokenizer` folder does. Files may be packed by gzip.
    ///
    /// # Errors
    /// [`Error::ModelFile`] if none is there (it says which are looked for), or one is damaged.
    pub fn load(path: &Path) -> Result<Self> {
        if path.is_dir() {
            if let Some(table) = find(path, &TABLES) {
                return Self::openai(&table);
            }
            return match (find(path, &["vocab.json"]), find(path, &["merges.txt"])) {
                (Some(vocab), Some(merges)) => Self::transformers(&vocab, &merges),
                (vocab, _) => Err(missing(path, vocab.is_some())),
            };
        }
        if !path.is_file() {
            return Err(missing(path, false));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match name.strip_suffix(".gz").unwrap_or(&name) {
            "vocab.json" => Self::transformers(path, &path.with_file_name("merges.txt")),
            "merges.txt" => Self::transformers(&path.with_file_name("vocab.json"), path),
            _ => Self::openai(path),
        }
    }

    /// Bytes, bytes that end words, merges, start, end: ids by their order.
    fn openai(path: &Path) -> Result<Self> {
        let text = read_table(path)?;
        let bad = |what: String| {
            Error::file(path, format!("{what}; it should be OpenAI's bpe_simple_vocab_16e6.txt"))
        };
        if text.lines().nth(1).is_none_or(|line| line.split(' ').count() != 2) {
            return Err(bad("holds no merges (two pieces per line)".into()));
        }
        let letters = alphabet();
        // Every line takes an id, the empty one behind the last line feed too.
        let lines: Vec<&str> = text.split('\n').skip(1).take(VOCABULARY - 2 * letters.len() - 2).collect();
        let whole = |line: &str| line.split_whitespace().collect::<String>();
        let tokens = letters.iter().map(char::to_string);
        let tokens = tokens.chain(letters.iter().map(|c| format!("{c}{WORD_END}")));
        let tokens = tokens.chain(lines.iter().map(|line| whole(line))).chain([START.into(), END.into()]);
        let vocab: HashMap<String, u32> = tokens.zip(0u32..).collect();
        let (start, end) = (vocab[START], vocab[END]);
        let pairs = BytePairs::new(vocab, merges(lines.into_iter()), Some(WORD_END)).map_err(bad)?;
        Ok(ClipTokenizer { pairs, start, end, pad: 0, specials: None })
    }

    /// Tokens by `vocab.json`; the special ones by the small JSON files beside it.
    fn transformers(vocab_path: &Path, merges_path: &Path) -> Result<Self> {
        let vocab = read_vocabulary(vocab_path)?;
        let text = read_table(merges_path)?;
        let named = special_tokens(vocab_path.parent().unwrap_or(Path::new("")))?;
        let name = |key: &str, default: &str| named.get(key).cloned().unwrap_or(default.to_owned());
        let id = |token: &str| {
            let what = format!(
                "has no token `{token}`, which starts, ends or pads a text; take the whole folder again"
            );
            vocab.get(token).copied().ok_or_else(|| Error::file(vocab_path, what))
        };
        let (start, end) = (id(&name("bos_token", START))?, id(&name("eos_token", END))?);
        let pad = id(&name("pad_token", END))?;
        named.values().try_for_each(|token| id(token).map(|_| ()))?;
        let specials = Finder::new(named.into_values())
            .map_err(|e| Error::file(vocab_path, format!("has special tokens beyond any size: {e}")))?;
        let pairs = BytePairs::new(vocab, merges(text.lines()), Some(WORD_END));
        let pairs = pairs.map_err(|what| Error::file(vocab_path, what))?;
        Ok(ClipTokenizer { pairs, start, end, pad, specials: Some(specials) })
    }

    /// One more than the largest id there is; an encoder's embedding must have at least so many rows.
    pub fn vocab_size(&self) -> usize {
        self.pairs.size()
    }

    /// The id that ends every text; text encoders take their answer from its place.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Ids of `text` between start and end, cut or padded to exactly `ctx` (77 for every published CLIP).
    ///
    /// # Errors
    /// [`Error::Request`] if `ctx` is less than 2 or the text is longer than 1 MiB.
    pub fn encode(&self, text: &str, ctx: usize) -> Result<ClipTokens> {
        check_request(text, ctx, 2)?;
        let mut ids = vec![self.start];
        if let Some(specials) = &self.specials {
            for (part, special) in specials.cut(text) {
                match self.pairs.id(part).filter(|_| special) {
                    Some(id) => ids.push(id),
                    None => self.words(&clean(&fixes::fix(part)), &mut ids)?,
                }
            }
        } else {
            let unescaped = entities::unescape(&entities::unescape(&fixes::fix(text)));
            self.words(&clean(&unescaped), &mut ids)?;
        }
        let truncated = ids.len() > ctx - 1;
        ids.truncate(ctx - 1);
        ids.push(self.end);
        let len = ids.len();
        ids.resize(ctx, self.pad);
        Ok(ClipTokens { ids, len, truncated })
    }

    /// Ids of CLIP's words.
    fn words(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        for word in words(text, &WORDS) {
            match (word, self.pairs.id(word)) {
                (START | END, Some(id)) => ids.push(id),
                (word, _) => self.pairs.encode(word, ids)?,
            }
        }
        Ok(())
    }
}

/// Lower case; runs of white space as one space.
fn clean(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

fn missing(path: &Path, half: bool) -> Error {
    let half = if half { "vocab.json is there but merges.txt is not; " } else { "" };
    Error::file(
        path,
        format!(
            "holds no CLIP tokenizer: {half}put OpenAI's bpe_simple_vocab_16e6.txt.gz here or in `tokenizer/` (the \
             glide-text2im package has it as glide_text2im/tokenizer/bpe_simple_vocab_16e6.txt.gz, the CLIP package as \
             clip/bpe_simple_vocab_16e6.txt.gz), or the vocab.json and merges.txt of a transformers folder"
        ),
    )
}

/// Special tokens by role (`bos_token`), or by id where they have none, of `special_tokens_map.json` and
/// `tokenizer_config.json`; the latter overrules.
fn special_tokens(folder: &Path) -> Result<HashMap<String, String>> {
    let mut named = HashMap::from([("bos_token".into(), START.into()), ("eos_token".into(), END.into())]);
    for file in ["special_tokens_map.json", "tokenizer_config.json"] {
        let path = folder.join(file);
        let json: Map<String, Value> = if path.exists() { read_json(&path)? } else { continue };
        let content =
            |v: &Value| Some(v.get("content").unwrap_or(v).as_str()?.to_owned()).filter(|s| !s.is_empty());
        for key in ["bos_token", "eos_token", "pad_token", "unk_token"] {
            named.extend(json.get(key).and_then(content).map(|token| (key.to_owned(), token)));
        }
        for (id, token) in json.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
            named.extend(content(token).map(|token| (id.clone(), token)));
        }
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn goldens() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/glide")
    }

    fn json(path: &Path) -> Value {
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// A fresh folder with copies of the tiny table under other names.
    fn folder(name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("ancestral-clip-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        files.iter().for_each(|(file, bytes)| std::fs::write(dir.join(file), bytes).unwrap());
        dir
    }

    #[test]
    fn ids_are_openais() {
        let tokenizer = ClipTokenizer::load(&goldens()).unwrap();
        assert_eq!((tokenizer.vocab_size(), tokenizer.end()), (1073, 1072));
        let cases = json(&goldens().join("tokens.json"));
        for case in cases["prompts"].as_array().unwrap() {
            let text: Vec<u32> = serde_json::from_value(case["clip_ids"].clone()).unwrap();
            let prompt = case["raw"].as_str().unwrap();
            let tokens = tokenizer.encode(prompt, 77).unwrap();
            let kept = &text[..text.len().min(75)];
            assert_eq!(tokens.ids[..tokens.len], [&[1071], kept, &[1072]].concat(), "{prompt:?}");
            assert_eq!((tokens.ids.len(), tokens.len), (77, kept.len() + 2));
            assert_eq!(tokens.truncated, text.len() > 75);
            assert!(tokens.ids[tokens.len..].iter().all(|&id| id == 0));
        }
    }

    #[test]
    fn ids_are_transformers() {
        let unclip = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/unclip");
        let tokenizer = ClipTokenizer::load(&unclip.join("pipeline")).unwrap();
        for case in json(&unclip.join("prompts.json"))["prompts"].as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let tokens = tokenizer.encode(case["raw"].as_str().unwrap(), 77).unwrap();
            let kept = ids.len().min(77);
            assert_eq!(tokens.ids[..kept - 1], ids[..kept - 1], "{case}");
            assert_eq!((tokens.len, tokens.ids[kept - 1], tokens.ids.len()), (kept, tokenizer.end(), 77));
            assert!(tokens.ids[tokens.len..].iter().all(|&id| id == 0));
        }
    }

    #[test]
    fn every_form_of_the_table_is_read() {
        let packed = goldens().join("tokenizer/bpe_simple_vocab.txt.gz");
        let plain = std::fs::read(goldens().join("tokenizer/bpe_simple_vocab.txt")).unwrap();
        let named = folder("plain", &[("bpe_simple_vocab_16e6.txt", &plain)]);
        let text = "<|startoftext|> it'ſ <|endoftext|>!<|endoftext|> fox";
        let expected = ClipTokenizer::load(&packed).unwrap().encode(text, 40).unwrap();
        assert_eq!(ClipTokenizer::load(&named).unwrap().encode(text, 40).unwrap(), expected);
        assert_eq!((expected.ids[1], expected.ids.iter().filter(|&&id| id == 1072).count()), (1071, 2));
        std::fs::remove_dir_all(named).unwrap();
    }

    #[test]
    fn broken_tables_are_errors() {
        let table = std::fs::read(goldens().join("tokenizer/bpe_simple_vocab.txt.gz")).unwrap();
        let fails = |name: &str, files: &[(&str, &[u8])], what: &str| {
            let dir = folder(name, files);
            let message = ClipTokenizer::load(&dir).unwrap_err().to_string();
            assert!(message.contains(what), "{name}: {message}");
            std::fs::remove_dir_all(dir).unwrap();
        };
        fails("none", &[], "bpe_simple_vocab_16e6.txt.gz");
        fails("half", &[("vocab.json", b"{}")], "merges.txt is not");
        fails("cut", &[("bpe_simple_vocab.txt.gz", &table[..table.len() / 2])], "unpacked");
        fails("lfs", &[("bpe_simple_vocab.txt", b"version https://git-lfs.github.com/spec/v1")], "LFS");
        fails("other", &[("bpe_simple_vocab.txt", b"one\nline of text\n")], "no merges");
        fails("unknown", &[("bpe_simple_vocab.txt", "#\nt h\nqz zz\n".as_bytes())], "qz");
        fails("array", &[("vocab.json", b"[1]"), ("merges.txt", b"")], "no JSON object");
        fails("empty", &[("vocab.json", b"{}"), ("merges.txt", b"")], "no token");
        fails("ids", &[("vocab.json", b"{\"a\": 4294967295}"), ("merges.txt", b"")], "beyond");
        let tokenizer = ClipTokenizer::load(&goldens()).unwrap();
        assert!(
            tokenizer.encode("fox", 1).is_err() && tokenizer.encode(&"fox ".repeat(300_000), 77).is_err()
        );
        for text in ["a", "'", " ", "fox ", "<|", "é", "1"] {
            assert!(tokenizer.encode(&text.repeat(500_000 / text.len()), 77).unwrap().ids.len() == 77);
        }
    }
}
