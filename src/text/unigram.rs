//! The unigram language model of SentencePiece (Kudo 2018, arXiv:1804.10959): the most probable
//! sequence of pieces, found by Viterbi.
//!
//! Written here, not taken from the `tokenizers` crate, because ids must equal SentencePiece's: float32
//! sums decide ties, and control, unused and user-defined pieces each have rules of their own.

use std::collections::{HashMap, HashSet};

use super::proto::{ModelProto, kind};

/// How much worse than the rarest piece an unknown character is.
const UNKNOWN_PENALTY: f32 = 10.0;

/// Longest piece taken, in bytes; the search looks so far ahead from every character. Published ones have up to 100.
const LONGEST_PIECE: usize = 4_096;

/// A piece found in text, its id and score (none: unused).
type Entry = (Box<str>, u32, Option<f32>);

/// Pieces by name.
type Reserved = HashMap<Box<str>, u32>;

/// A vocabulary with scores.
#[derive(Debug)]
pub(super) struct Unigram {
    /// Sorted by the pieces' bytes.
    sorted: Vec<Entry>,
    /// Range of `sorted` per first byte, as its start; 257 entries.
    first: Vec<usize>,
    /// Control, unknown and byte pieces, which text never contains.
    reserved: Reserved,
    size: usize,
    unknown: u32,
    unknown_score: f32,
    byte_fallback: bool,
}

/// The best path to a position: where its last piece starts.
#[derive(Clone, Copy)]
struct Node {
    score: f32,
    start: u32,
    unknown: bool,
}

impl Unigram {
    /// Checks and indexes a model's pieces; the message says what is wrong.
    pub fn new(model: &ModelProto) -> Result<Self, String> {
        let trainer = model.trainer_spec.clone().unwrap_or_default();
        match trainer.model_type.unwrap_or(1) {
            1 => {}
            other => {
                let name =
                    ["BPE", "WORD", "CHAR"].get((other as usize).wrapping_sub(2)).unwrap_or(&"unknown");
                return Err(format!(
                    "is a SentencePiece model of type {name} ({other}); T5 needs a UNIGRAM one"
                ));
            }
        }
        if model.pieces.is_empty() {
            return Err("holds no pieces, so is no SentencePiece model".into());
        }
        let (sorted, reserved, unknown) = Self::sort_pieces(model)?;
        let normal = model.pieces.iter().filter(|p| p.kind.unwrap_or(kind::NORMAL) == kind::NORMAL);
        let min_score = normal.map(|p| p.score.unwrap_or(0.0)).fold(f32::MAX, f32::min);
        let first =
            (0..=256).map(|b| sorted.partition_point(|(p, ..)| usize::from(p.as_bytes()[0]) < b)).collect();
        Ok(Unigram {
            sorted,
            first,
            reserved,
            size: model.pieces.len(),
            unknown,
            unknown_score: min_score - UNKNOWN_PENALTY,
            byte_fallback: trainer.byte_fallback.unwrap_or(false),
        })
    }

    /// The pieces found in text, the reserved ones, and the id of unknown text.
    fn sort_pieces(model: &ModelProto) -> Result<(Vec<Entry>, Reserved, u32), String> {
        let (mut sorted, mut reserved) = (Vec::with_capacity(model.pieces.len()), HashMap::new());
        let (mut seen, mut unknown) = (HashSet::with_capacity(model.pieces.len()), None);
        for (id, p) in model.pieces.iter().enumerate() {
            let id = u32::try_from(id).map_err(|_| "holds more pieces than ids")?;
            let piece = p.piece.as_deref().unwrap_or_default();
            let score = p.score.unwrap_or(0.0);
            if piece.is_empty() || !seen.insert(piece) {
                return Err(format!("piece {id} is empty or appears twice; the file is damaged"));
            }
            if piece.len() > LONGEST_PIECE {
                return Err(format!("piece {id} has {} bytes; the file is damaged", piece.len()));
            }
            if !score.is_finite() {
                return Err(format!("piece {id} ({piece:?}) has the score {score}; the file is damaged"));
            }
            // A user-defined symbol is scored to win wherever it occurs.
            let bonus = 0.1 * (piece.len() - 1) as f32;
            match p.kind.unwrap_or(kind::NORMAL) {
                kind::NORMAL => sorted.push((piece.into(), id, Some(score))),
                kind::USER_DEFINED => sorted.push((piece.into(), id, Some(bonus))),
                kind::UNUSED => sorted.push((piece.into(), id, None)),
                other => {
                    if other == kind::UNKNOWN && unknown.replace(id).is_some() {
                        return Err("has two unknown pieces; the file is damaged".into());
                    }
                    reserved.insert(piece.into(), id);
                }
            }
        }
        sorted.sort_unstable_by(|a: &Entry, b| a.0.cmp(&b.0));
        Ok((sorted, reserved, unknown.ok_or("has no piece for unknown text; the file is damaged")?))
    }

    /// Number of pieces.
    pub fn len(&self) -> usize {
        self.size
    }

    /// The id of exactly this piece, if it is one.
    pub fn find(&self, piece: &str) -> Option<u32> {
        let index = || self.sorted.binary_search_by(|(p, ..)| (**p).cmp(piece)).ok();
        self.reserved.get(piece).copied().or_else(|| index().map(|i| self.sorted[i].1))
    }

    /// The id of this piece, or the one of unknown text.
    pub fn id(&self, piece: &str) -> u32 {
        self.find(piece).unwrap_or(self.unknown)
    }

    /// Calls `found(bytes, score)` for each usable piece that `text` starts with, shortest first.
    fn prefixes(&self, text: &[u8], mut found: impl FnMut(usize, f32)) {
        let Some(&byte) = text.first() else { return };
        let (mut low, mut high) = (self.first[usize::from(byte)], self.first[usize::from(byte) + 1]);
        for depth in 1..=text.len() {
            if low == high {
                return;
            }
            let (piece, _, score) = &self.sorted[low];
            if piece.len() == depth
                && let Some(score) = score
            {
                found(depth, *score);
            }
            let next = text.get(depth);
            let range = &self.sorted[low..high];
            high = low + range.partition_point(|(p, ..)| p.as_bytes().get(depth) <= next);
            low += range.partition_point(|(p, ..)| p.as_bytes().get(depth) < next);
        }
    }

    /// Cuts normalised text into its most probable pieces; runs of unknown characters are one piece.
    pub fn split(&self, text: &str) -> Vec<String> {
        let unset = Node { score: 0.0, start: u32::MAX, unknown: false };
        let mut best = vec![unset; text.len() + 1];
        for (start, c) in text.char_indices() {
            let (here, width) = (best[start].score, c.len_utf8());
            let mut single = false;
            let mut reach = |length: usize, score: f32, unknown: bool| {
                let node = &mut best[start + length];
                let score = score + here;
                if node.start == u32::MAX || score > node.score {
                    *node = Node { score, start: start as u32, unknown };
                }
            };
            self.prefixes(&text.as_bytes()[start..], |length, score| {
                single |= length == width;
                reach(length, score, false);
            });
            if !single {
                reach(width, self.unknown_score, true);
            }
        }
        let mut cuts = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let node = best[end];
            cuts.push((node.start as usize..end, node.unknown));
            end = node.start as usize;
        }
        self.join(text, cuts.into_iter().rev())
    }

    /// Pieces of a path, with unknown neighbours fused or spelled in bytes.
    fn join(&self, text: &str, cuts: impl Iterator<Item = (std::ops::Range<usize>, bool)>) -> Vec<String> {
        let mut pieces: Vec<String> = Vec::new();
        let mut after_unknown = false;
        for (range, unknown) in cuts {
            let piece = &text[range];
            if unknown && self.byte_fallback {
                pieces.extend(piece.bytes().map(|b| format!("<0x{b:02X}>")));
            } else if let (true, Some(last)) = (unknown && after_unknown, pieces.last_mut()) {
                last.push_str(piece);
            } else {
                pieces.push(piece.to_owned());
            }
            after_unknown = unknown;
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::SentencePiece;
    use super::*;

    fn model(pieces: &[(&str, f32, i32)]) -> ModelProto {
        let piece = |&(p, s, k): &(&str, f32, i32)| SentencePiece {
            piece: Some(p.into()),
            score: Some(s),
            kind: Some(k),
        };
        ModelProto { pieces: pieces.iter().map(piece).collect(), ..Default::default() }
    }

    #[test]
    fn the_best_path_wins() {
        let pieces = [
            ("<unk>", 0.0, 2),
            ("</s>", 0.0, 3),
            ("a", -1.0, 1),
            ("b", -1.0, 1),
            ("ab", -1.5, 1),
            ("bc", -9.0, 5),
            ("aba", 0.0, 4),
        ];
        let unigram = Unigram::new(&model(&pieces)).unwrap();
        assert_eq!(unigram.split("abb"), ["ab", "b"]);
        assert_eq!(unigram.split("xyabcabaé"), ["xy", "ab", "c", "aba", "é"]);
        assert_eq!(["a", "bc", "</s>", "xy"].map(|p| unigram.id(p)), [2, 5, 1, 0]);
        assert!(unigram.split("").is_empty());
    }

    #[test]
    fn damaged_vocabularies_are_errors() {
        let wrong = |pieces: &[(&str, f32, i32)]| Unigram::new(&model(pieces)).unwrap_err();
        assert!(wrong(&[]).contains("no pieces"));
        assert!(wrong(&[("a", 0.0, 1)]).contains("unknown text"));
        assert!(wrong(&[("a", 0.0, 1), ("a", 0.0, 1)]).contains("twice"));
        assert!(wrong(&[("", 0.0, 1)]).contains("empty"));
        assert!(wrong(&[("a", f32::NAN, 1)]).contains("NaN"));
        let mut bpe = model(&[("<unk>", 0.0, 2)]);
        bpe.trainer_spec =
            Some(super::super::proto::TrainerSpec { model_type: Some(2), ..Default::default() });
        assert!(Unigram::new(&bpe).unwrap_err().contains("BPE"));
    }
}
