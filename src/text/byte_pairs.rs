//! Byte pair encoding of bytes, as GPT-2 and CLIP share it: reading the published tables, GPT-2's alphabet of
//! bytes, merging by the tokenizers crate.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use regex::bytes::Regex;
use tokenizers::Model;
use tokenizers::models::bpe::BPE;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::error::{Error, Result, request};
use crate::files::unreadable;

/// Larger tables are refused, before and after they are unpacked; CLIP's, the largest, has 3.4 MB unpacked.
const MAX_FILE: u64 = 32 << 20;
/// Ids beyond this are taken for damage.
const MAX_ID: u32 = 10_000_000;
/// Longer texts are refused; no model sees more than the first few hundred tokens.
const MAX_TEXT: usize = 1 << 20;

/// Words to ids: their bytes as letters, merged to pieces.
#[derive(Debug)]
pub(super) struct BytePairs {
    bpe: BPE,
    size: usize,
}

impl BytePairs {
    /// `vocab` maps tokens to ids, `merges` are pairs of tokens by rank, `suffix` marks a word's last piece. The
    /// message says what is wrong.
    pub fn new(
        vocab: HashMap<String, u32>,
        merges: Vec<(String, String)>,
        suffix: Option<&str>,
    ) -> Result<Self, String> {
        let size = vocab.values().max().map_or(0, |&id| id as usize + 1);
        let bytes =
            alphabet().into_iter().flat_map(|c| [Some(c.to_string()), suffix.map(|end| format!("{c}{end}"))]);
        if let Some(lost) = bytes.flatten().find(|token| !vocab.contains_key(token)) {
            return Err(format!(
                "has no token `{lost}`, one of those for single bytes, so is cut off or another kind"
            ));
        }
        let vocab: HashMap<_, _, _> = vocab.into_iter().collect();
        let mut builder = BPE::builder().vocab_and_merges(vocab, merges);
        if let Some(suffix) = suffix {
            builder = builder.end_of_word_suffix(suffix.into());
        }
        let bpe = builder.build().map_err(|e| format!("does not fit its other half: {e}"))?;
        Ok(BytePairs { bpe, size })
    }

    /// One more than the largest id.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The id of a whole token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.bpe.token_to_id(token)
    }

    /// Adds the ids of one word.
    pub fn encode(&self, word: &str, ids: &mut Vec<u32>) -> Result<()> {
        let spelled: String = word.bytes().map(letter).collect();
        let tokens = self.bpe.tokenize(&spelled);
        let tokens =
            tokens.map_err(|e| request!(Prompt, Malformed, "the prompt's `{word}` has no tokens: {e}"))?;
        ids.extend(tokens.iter().map(|token| token.id));
        Ok(())
    }
}

/// GPT-2's printable letter of a byte: itself where it prints, else one from U+0100 on.
fn letter(byte: u8) -> char {
    match byte {
        0..=b' ' => char::from_u32(0x100 + u32::from(byte)),
        0x7f..=0xa0 => char::from_u32(0x121 + u32::from(byte - 0x7f)),
        0xad => Some('\u{143}'),
        _ => None,
    }
    .unwrap_or(char::from(byte))
}

/// The letters in the order of their ids in CLIP's vocabulary: the bytes that print, then the others.
pub(super) fn alphabet() -> Vec<char> {
    let mut letters: Vec<char> = (0..=255).map(letter).collect();
    letters.sort_unstable();
    letters
}

/// What a pattern of words sees of a character: letters, numbers and white space beyond ASCII as `z`, `0` and a tab.
fn shade(c: char) -> u8 {
    match c {
        _ if c.is_ascii() => c as u8,
        // The one letter beyond ASCII that is one of `'s` and the like where a pattern ignores case: ſ (long s).
        'ſ' => b'S',
        _ if c.is_whitespace() => b'\t',
        _ => match c.general_category_group() {
            GeneralCategoryGroup::Letter => b'z',
            GeneralCategoryGroup::Number => b'0',
            _ => 0x80,
        },
    }
}

/// The words of a text in lower case by a pattern of characters' shades; the last of much white space is left to the word
/// behind it.
pub(super) fn words<'a>(text: &'a str, pattern: &Regex) -> Vec<&'a str> {
    let (mut places, shades): (Vec<usize>, Vec<u8>) =
        text.char_indices().map(|(at, c)| (at, shade(c))).unzip();
    places.push(text.len());
    let (mut words, mut at) = (Vec::new(), 0);
    while let Some(found) = pattern.find_at(&shades, at) {
        let blank = matches!(shades[found.end() - 1], b'\t'..=b'\r' | b' ') && found.end() < shades.len();
        at = found.end() - usize::from(blank && found.len() > 1);
        words.push(&text[places[found.start()]..places[at]]);
    }
    words
}

/// Refuses texts far beyond any prompt, and lengths without room.
pub(super) fn check_request(text: &str, length: usize, least: usize) -> Result<()> {
    if text.len() > MAX_TEXT {
        return Err(request!(
            Prompt,
            Malformed,
            "the prompt has {} bytes; shorten it to at most {MAX_TEXT}",
            text.len()
        ));
    }
    if length < least {
        return Err(request!(
            Prompt,
            Malformed,
            "a prompt needs room for at least {least} tokens, not {length}"
        ));
    }
    Ok(())
}

/// The first of `names` that `folder` or its `tokenizer` folder holds, packed (`.gz`) or not.
pub(super) fn find(folder: &Path, names: &[&str]) -> Option<PathBuf> {
    let folders = [folder.to_path_buf(), folder.join("tokenizer")];
    let paths = folders.iter().flat_map(|folder| {
        names.iter().flat_map(move |name| [folder.join(name), folder.join(format!("{name}.gz"))])
    });
    paths.into_iter().find(|path| path.is_file())
}

/// Reads a file of at most `most` bytes that a tokenizer is made of.
pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let unreadable = |e: std::io::Error| unreadable(path, &e);
    let about = std::fs::metadata(path).map_err(unreadable)?;
    if !about.is_file() {
        return Err(Error::file(path, "is not a regular file; one of a tokenizer's is needed here"));
    }
    if about.len() > most {
        return Err(too_long(path, most));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(Error::file(path, "is a Git LFS pointer; fetch the file itself (`git lfs pull`)"));
    }
    Ok(bytes)
}

fn too_long(path: &Path, most: u64) -> Error {
    Error::file(path, format!("holds more than {most} bytes, which no file of a tokenizer does"))
}

/// Reads a table of text; one packed by gzip (by its first bytes, not its name) is unpacked.
pub(super) fn read_table(path: &Path) -> Result<String> {
    let mut bytes = read(path, MAX_FILE)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = Vec::new();
        let mut reader = flate2::read::MultiGzDecoder::new(bytes.as_slice()).take(MAX_FILE + 1);
        let result = reader.read_to_end(&mut unpacked);
        result.map_err(|e| Error::file(path, format!("cannot be unpacked ({e}); download it again")))?;
        if unpacked.len() as u64 > MAX_FILE {
            return Err(too_long(path, MAX_FILE));
        }
        bytes = unpacked;
    }
    String::from_utf8(bytes)
        .map_err(|e| Error::file(path, format!("is not UTF-8 text ({e}); download it again")))
}

/// The pairs of a merge table's lines; other lines (a heading, a blank one) are no merges.
pub(super) fn merges<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let pair = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [left, right] => Some((left.to_owned(), right.to_owned())),
        _ => None,
    };
    lines.filter(|line| !line.starts_with("#version")).filter_map(pair).collect()
}

/// A JSON object of tokens and ids: `encoder.json`, `vocab.json`.
pub(super) fn read_vocabulary(path: &Path) -> Result<HashMap<String, u32>> {
    let text = read_table(path)?;
    let vocab: HashMap<String, u32> = serde_json::from_str(&text)
        .map_err(|e| Error::file(path, format!("is no JSON object of tokens and their ids ({e})")))?;
    match vocab.iter().find(|(_, id)| **id > MAX_ID) {
        Some((token, id)) => Err(Error::file(path, format!("gives `{token}` the id {id}, beyond {MAX_ID}"))),
        None => Ok(vocab),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_gpt2s_letters() {
        assert_eq!([b'!', b' ', 0, 0x7f, 0xa0, 0xad, 0xff].map(letter), ['!', 'Ġ', 'Ā', 'ġ', 'ł', 'Ń', 'ÿ']);
        let order = alphabet();
        assert_eq!((order.len(), order[0], order[188], order[255]), (256, '!', 'Ā', 'Ń'));
        assert!(order.windows(2).all(|pair| pair[0] < pair[1]));
    }

    /// Tables cut off or with bytes changed are errors or other tables, never a panic.
    #[test]
    fn damaged_tables_never_panic() {
        use super::super::{ClipTokenizer, Gpt2Tokenizer};
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/glide/tokenizer");
        let dir = std::env::temp_dir().join(format!("ancestral-tables-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let files = ["encoder.json", "vocab.bpe", "bpe_simple_vocab.txt"];
        let whole = files.map(|name| std::fs::read(goldens.join(name)).unwrap());
        let (mut state, mut loaded) = (7u32, 0);
        let mut random = |most: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as usize % most
        };
        for round in 0..120 {
            for (name, bytes) in files.iter().zip(&whole) {
                let mut damaged = bytes.clone();
                match round % 3 {
                    0 => damaged.truncate(random(bytes.len())),
                    // Letters for letters, so that it stays text.
                    1 => (0..4).for_each(|_| damaged[random(bytes.len())] = b'a' + random(26) as u8),
                    _ => (0..4).for_each(|_| damaged[random(bytes.len())] ^= 1 << random(8)),
                }
                std::fs::write(dir.join(name), damaged).unwrap();
            }
            let text = "a ﬁne fox½ <|endoftext|> 日本 it's";
            if let Ok(tokenizer) = Gpt2Tokenizer::load(&dir) {
                loaded += usize::from(tokenizer.encode(text, 20).is_ok());
            }
            if let Ok(tokenizer) = ClipTokenizer::load(&dir) {
                loaded += usize::from(tokenizer.encode(text, 20).is_ok());
            }
        }
        assert!(loaded > 0);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
