//! Byte pair encoding of bytes, as GPT-2 and CLIP share it: reading the published tables, GPT-2's alphabet of
//! bytes, merging by the tokenizers crate.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use tokenizers::Model;
use tokenizers::models::bpe::BPE;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::error::{Error, Result, request};

/// Larger tables are refused, before and after they are unpacked; CLIP's, the largest, has 3.4 MB unpacked.
const MAX_FILE: u64 = 32 << 20;
/// Ids beyond this are taken for damage.
const MAX_ID: u32 = 10_000_000;
/// Longer texts are refused; no model sees more than the first few hundred tokens.
const MAX_TEXT: usize = 1 << 20;

/// Text in lower case to ids: words by the caller, their pieces by merges.
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
        for c in alphabet() {
            let ends = suffix.map(|suffix| format!("{c}{suffix}"));
            if let Some(lost) =
                [Some(c.to_string()), ends].into_iter().flatten().find(|t| !vocab.contains_key(t))
            {
                return Err(format!(
                    "has no token `{lost}`, one of those for single bytes, so is cut off or another kind"
                ));
            }
        }
        let vocab: Vec<(String, u32)> = vocab.into_iter().collect();
        let builder =
            BPE::builder().vocab_and_merges(vocab.into_iter().collect::<HashMap<_, _, _>>(), merges);
        let builder = match suffix {
            Some(suffix) => builder.end_of_word_suffix(suffix.into()),
            None => builder,
        };
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
        let letters = BYTES.get_or_init(letters_of_bytes);
        let spelled: String = word.bytes().map(|b| letters[usize::from(b)]).collect();
        let tokens = self.bpe.tokenize(&spelled);
        let tokens =
            tokens.map_err(|e| request!(Prompt, Malformed, "the prompt's `{word}` has no tokens: {e}"))?;
        ids.extend(tokens.iter().map(|token| token.id));
        Ok(())
    }
}

static BYTES: std::sync::OnceLock<[char; 256]> = std::sync::OnceLock::new();

/// GPT-2's printable letter of every byte: itself where it prints, else one from U+0100 on.
fn letters_of_bytes() -> [char; 256] {
    let mut letters = ['\0'; 256];
    let mut beyond = 0x100..0x200u32;
    for (byte, letter) in (0u8..).zip(letters.iter_mut()) {
        let prints = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
        let code = if prints { Some(u32::from(byte)) } else { beyond.next() };
        *letter = code.and_then(char::from_u32).unwrap_or_default();
    }
    letters
}

/// The letters in the order of their ids in CLIP's vocabulary: the bytes that print, then the others.
pub(super) fn alphabet() -> Vec<char> {
    let mut letters = BYTES.get_or_init(letters_of_bytes).to_vec();
    letters.sort_unstable();
    letters
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

/// Reads a table of text; one packed by gzip (by its first bytes, not its name) is unpacked.
pub(super) fn read_table(path: &Path) -> Result<String> {
    let unreadable = |e: std::io::Error| Error::file(path, format!("cannot be read: {e}"));
    let too_long =
        || Error::file(path, format!("holds more than {MAX_FILE} bytes, which no tokenizer's table does"));
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Error::file(path, "is not a regular file; a tokenizer's table is needed here"));
    }
    if meta.len() > MAX_FILE {
        return Err(too_long());
    }
    let mut bytes = std::fs::read(path).map_err(unreadable)?;
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(Error::file(path, "is a Git LFS pointer; fetch the file itself (`git lfs pull`)"));
    }
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = Vec::new();
        let mut reader = flate2::read::MultiGzDecoder::new(bytes.as_slice()).take(MAX_FILE + 1);
        let result = reader.read_to_end(&mut unpacked);
        result.map_err(|e| Error::file(path, format!("cannot be unpacked ({e}); download it again")))?;
        if unpacked.len() as u64 > MAX_FILE {
            return Err(too_long());
        }
        bytes = unpacked;
    }
    String::from_utf8(bytes)
        .map_err(|e| Error::file(path, format!("is not UTF-8 text ({e}); download it again")))
}

/// The pairs of a merge table's lines; other lines (a heading, a blank one) are no merges.
pub(super) fn merges<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let mut parts = line.split_whitespace();
        let pair = (parts.next()?.to_owned(), parts.next()?.to_owned());
        parts.next().is_none().then_some(pair)
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

/// What the published patterns tell apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// `\s`.
    Space,
    /// `\p{L}`.
    Letter,
    /// `\p{N}`.
    Number,
    /// Everything else.
    Other,
}

/// The class of a character.
pub(super) fn class(c: char) -> Class {
    match c.general_category_group() {
        _ if c.is_whitespace() => Class::Space,
        GeneralCategoryGroup::Letter => Class::Letter,
        GeneralCategoryGroup::Number => Class::Number,
        _ => Class::Other,
    }
}

/// The bytes of the run of one class at the start of `text`.
pub(super) fn run(text: &str, of: Class) -> usize {
    text.find(|c| class(c) != of).unwrap_or(text.len())
}

/// The bytes of an English contraction (`'s`, `'re`) at the start of `text`, by `fold` on its letters.
pub(super) fn contraction(text: &str, fold: impl Fn(char) -> char) -> Option<usize> {
    const ENDS: [&str; 7] = ["s", "t", "re", "ve", "m", "ll", "d"];
    let rest = text.strip_prefix('\'')?;
    ENDS.iter().find_map(|end| Some(1 + starts_folded(rest, end, &fold)?))
}

/// The bytes of `text` that spell `word` when folded.
pub(super) fn starts_folded(text: &str, word: &str, fold: impl Fn(char) -> char) -> Option<usize> {
    let mut letters = text.chars();
    word.chars().all(|c| letters.next().map(&fold) == Some(c)).then(|| text.len() - letters.as_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_gpt2s_letters() {
        let letters = letters_of_bytes();
        let of = |byte: u8| letters[usize::from(byte)];
        assert_eq!((of(b'!'), of(b' '), of(0), of(0xad), of(0xff)), ('!', 'Ġ', 'Ā', 'Ń', 'ÿ'));
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
