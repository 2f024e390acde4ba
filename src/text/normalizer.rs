//! SentencePiece's normalizer: the precompiled character map (nmt_nfkc and the like) and white space.
//!
//! `spm_precompiled` (in the `tokenizers` crate) takes the shortest rule per grapheme where SentencePiece
//! takes the longest per position, and indexes out of bounds on a damaged map; hence this one.

use super::proto::{ModelProto, NormalizerSpec};

/// SentencePiece's visible space, U+2581.
pub(super) const SPACE: &str = "\u{2581}";

/// Longest replacement taken, in bytes.
const MAX_REPLACEMENT: usize = 1_024;

/// Rules stored as a darts-clone double array over UTF-8 bytes, whose values are offsets of
/// NUL-terminated replacements.
#[derive(Debug, Default)]
struct CharsMap {
    trie: Vec<u32>,
    replacements: String,
}

impl CharsMap {
    /// `<trie bytes: u32><trie: [u32]><replacements>`, all little-endian.
    fn parse(blob: &[u8]) -> Result<Self, String> {
        let (size, rest) = blob.split_first_chunk::<4>().ok_or("the character map is cut off")?;
        let size = u32::from_le_bytes(*size) as usize;
        let (trie, replacements) = rest.split_at_checked(size).ok_or_else(|| {
            format!("the character map claims {size} bytes of rules but has {}", rest.len())
        })?;
        let trie = trie.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let replacements = std::str::from_utf8(replacements)
            .map_err(|e| format!("the character map's replacements are not UTF-8: {e}"))?;
        Ok(CharsMap { trie, replacements: replacements.to_owned() })
    }

    /// The longest rule that `text` starts with: its length in bytes and its replacement.
    fn longest(&self, text: &str) -> Option<(usize, &str)> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & 0x200) >> 6)) as usize;
        let mut node = offset(*self.trie.first()?);
        let mut best = None;
        for (i, &byte) in text.as_bytes().iter().enumerate() {
            node ^= usize::from(byte);
            let Some(&unit) = self.trie.get(node) else { break };
            if unit & 0x8000_00ff != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if unit & 0x100 != 0 {
                let value = self.trie.get(node).map(|&u| (u & 0x7fff_ffff) as usize);
                best = value.map(|v| (i + 1, v)).or(best);
            }
        }
        let (length, value) = best?;
        // The longest replacement of nmt_nfkc has 33 bytes; a map without an end to them is damaged.
        let tail = self.replacements.get(value..)?;
        let end = tail.bytes().take(MAX_REPLACEMENT).position(|b| b == 0)?;
        // A damaged map may end a rule inside a character; such a rule is none.
        text.is_char_boundary(length).then(|| (length, &tail[..end]))
    }
}

/// The normalizer of one model.
#[derive(Debug)]
pub(super) struct Normalizer {
    map: CharsMap,
    /// User-defined symbols, which no rule may touch; longest first.
    protected: Vec<String>,
    add_dummy_prefix: bool,
    remove_extra: bool,
    escape: bool,
    suffix: bool,
}

impl Normalizer {
    /// Reads a model's specification; `protected` are its user-defined symbols.
    pub fn new(model: &ModelProto, mut protected: Vec<String>, legacy: bool) -> Result<Self, String> {
        let none = NormalizerSpec::default();
        let spec = model.normalizer_spec.as_ref().unwrap_or(&none);
        let map = match spec.precompiled_charsmap.as_deref() {
            None | Some([]) => CharsMap::default(),
            Some(blob) => CharsMap::parse(blob)?,
        };
        protected.sort_by_key(|s| std::cmp::Reverse(s.len()));
        Ok(Normalizer {
            map,
            protected,
            // transformers' `legacy: false` switches the prefix off and adds its own.
            add_dummy_prefix: legacy && spec.add_dummy_prefix.unwrap_or(true),
            remove_extra: spec.remove_extra_whitespaces.unwrap_or(true),
            escape: spec.escape_whitespaces.unwrap_or(true),
            suffix: model.trainer_spec.as_ref().and_then(|t| t.treat_whitespace_as_suffix).unwrap_or(false),
        })
    }

    /// The normalised beginning of a non-empty `text`, and how many bytes it stands for.
    fn prefix<'a>(&'a self, text: &'a str) -> (&'a str, usize) {
        if let Some(symbol) = self.protected.iter().find(|s| text.starts_with(s.as_str())) {
            return (&text[..symbol.len()], symbol.len());
        }
        if let Some((length, replacement)) = self.map.longest(text) {
            return (replacement, length);
        }
        let length = text.chars().next().map_or(0, char::len_utf8);
        (&text[..length], length)
    }

    /// `text` as the model wants it: mapped, spaces collapsed, marked and prefixed.
    pub fn normalize(&self, mut text: &str) -> String {
        while self.remove_extra && !text.is_empty() {
            let (" ", used) = self.prefix(text) else { break };
            text = &text[used..];
        }
        let mut out = String::with_capacity(text.len() + text.len() / 2 + SPACE.len());
        if text.is_empty() {
            return out;
        }
        let space = if self.escape { SPACE } else { " " };
        if self.add_dummy_prefix && !self.suffix {
            out.push_str(space);
        }
        let mut after_space = self.remove_extra;
        while !text.is_empty() {
            let (mut part, used) = self.prefix(text);
            if after_space {
                part = part.trim_start_matches(' ');
            }
            if !part.is_empty() {
                for c in part.chars() {
                    if c == ' ' { out.push_str(space) } else { out.push(c) }
                }
                after_space = self.remove_extra && part.ends_with(' ');
            }
            text = &text[used..];
        }
        if self.remove_extra {
            out.truncate(out.trim_end_matches(space).len());
        }
        if self.add_dummy_prefix && self.suffix {
            out.push_str(space);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_are_collapsed_and_marked() {
        let plain = Normalizer::new(&ModelProto::default(), vec![], true).unwrap();
        assert_eq!(plain.normalize("  a   b "), "▁a▁b");
        assert_eq!(plain.normalize("   "), "");
        let modern = Normalizer::new(&ModelProto::default(), vec![], false).unwrap();
        assert_eq!(modern.normalize("a b"), "a▁b");
    }

    #[test]
    fn damaged_maps_are_errors_or_harmless() {
        assert!(CharsMap::parse(&[1, 2]).is_err());
        assert!(CharsMap::parse(&[0xff; 12]).unwrap_err().contains("claims"));
        assert!(CharsMap::parse(&[0, 0, 0, 0, 0xff]).unwrap_err().contains("UTF-8"));
        let mut state = 1u32;
        for _ in 0..2000 {
            let mut blob = vec![64, 0, 0, 0];
            for _ in 0..64 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                blob.push((state >> 24) as u8 & 0x6f);
            }
            blob.extend_from_slice("x\0ÿ\0".as_bytes());
            let map = CharsMap::parse(&blob).unwrap();
            for text in ["abc", "é日本", "\u{1}\u{2}oo", "////"] {
                map.longest(text);
            }
        }
    }
}
