//! Special tokens of a Hugging Face T5 tokenizer: `</s>`, `<pad>`, `<extra_id_0>` and the like.
//!
//! Follows transformers 4.51 (`PreTrainedTokenizerBase._from_pretrained`, `T5Tokenizer.__init__`), in
//! which any of the JSON files may be absent and later ones overrule earlier ones.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use aho_corasick::{AhoCorasick, BuildError, MatchKind};
use serde_json::{Map, Value};

use super::scan::is_space;
use super::unigram::Unigram;
use crate::error::{Error, Result};
use crate::files::read_json;

/// Ids beyond this are taken for damage.
const MAX_ID: u64 = 10_000_000;
/// More special tokens than this are taken for damage.
const MAX_SPECIAL: u64 = 10_000;
/// Named special tokens in the order transformers adds them.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token's text and which white space around it disappears.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Added {
    pub content: String,
    lstrip: bool,
    rstrip: bool,
    single_word: bool,
}

impl Added {
    fn named(content: impl Into<String>) -> Self {
        Added { content: content.into(), ..Default::default() }
    }

    /// A string, or an object with `content` and flags.
    fn from_json(value: &Value) -> Option<Self> {
        let flag = |key| value.get(key).and_then(Value::as_bool).unwrap_or(false);
        match value {
            Value::String(s) => Some(Added::named(s)),
            Value::Object(o) => Some(Added {
                content: o.get("content")?.as_str()?.to_owned(),
                lstrip: flag("lstrip"),
                rstrip: flag("rstrip"),
                single_word: flag("single_word"),
            }),
            _ => None,
        }
    }
}

/// What a tokenizer folder says about special tokens.
#[derive(Debug)]
pub(super) struct Specials {
    by_content: HashMap<String, (u32, Added)>,
    finder: Finder,
    /// Contents of tokens with a role (not just added).
    pub roles: HashSet<String>,
    pub eos: String,
    pub pad: String,
    pub unk: String,
    pub legacy: bool,
    pub add_prefix_space: bool,
    split_inside: bool,
}

/// Finds given texts: leftmost, then longest.
#[derive(Debug)]
pub(super) struct Finder(AhoCorasick);

impl Finder {
    /// Of these texts; empty ones are never found.
    pub fn new(texts: impl Iterator<Item = String>) -> Result<Self, BuildError> {
        let builder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts.filter(|t| !t.is_empty()));
        builder.map(Finder)
    }

    /// Cuts `text` into parts that are not empty, each with whether it is one of the texts.
    pub fn cut<'a>(&self, text: &'a str) -> Vec<(&'a str, bool)> {
        let (mut parts, mut at) = (Vec::new(), 0);
        for found in self.0.find_iter(text) {
            parts.extend([(&text[at..found.start()], false), (&text[found.range()], true)]);
            at = found.end();
        }
        parts.push((&text[at..], false));
        parts.retain(|(part, _)| !part.is_empty());
        parts
    }
}

/// Reads a JSON object, `None` if there is no such file.
fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    if path.exists() { read_json(path).map(Some) } else { Ok(None) }
}

/// The special tokens as they stand while the files are read.
#[derive(Default)]
struct Draft {
    named: HashMap<&'static str, Added>,
    additional: Option<Vec<Added>>,
    /// Tokens with ids, in the order they were given.
    decoder: Vec<(u32, Added)>,
}

impl Draft {
    /// Takes `*_token` and `additional_special_tokens` out of a JSON object.
    fn take_names(&mut self, path: &Path, object: &Map<String, Value>) -> Result<()> {
        let bad = |key: &str| {
            Error::config(
                path,
                key,
                "is no token (text or object), or no list of at most 10000; download the file again",
            )
        };
        for key in NAMED {
            if let Some(value) = object.get(key).filter(|v| !v.is_null()) {
                self.named.insert(key, Added::from_json(value).ok_or_else(|| bad(key))?);
            }
        }
        let key = "additional_special_tokens";
        if let Some(value) = object.get(key).filter(|v| !v.is_null()) {
            let list = self.additional.get_or_insert_default();
            let tokens = value.as_array().filter(|a| a.len() as u64 <= MAX_SPECIAL);
            for token in tokens.ok_or_else(|| bad(key))? {
                let token = Added::from_json(token).ok_or_else(|| bad(key))?;
                if !list.contains(&token) {
                    list.push(token);
                }
            }
        }
        Ok(())
    }

    /// Sets or replaces the token of an id.
    fn set(&mut self, id: u32, token: Added) {
        match self.decoder.iter_mut().find(|(i, _)| *i == id) {
            Some(slot) => slot.1 = token,
            None => self.decoder.push((id, token)),
        }
    }
}

fn checked_id(path: &Path, key: &str, id: Option<u64>) -> Result<u32> {
    match id {
        Some(id) if id <= MAX_ID => Ok(id as u32),
        _ => Err(Error::config(
            path,
            key,
            format!("is not a token id up to {MAX_ID}; download the file again"),
        )),
    }
}

/// Tokens with explicit ids: from `added_tokens_decoder`, or else from the older files.
fn explicit_ids(folder: &Path, config: &Map<String, Value>, draft: &mut Draft) -> Result<Vec<(u32, Added)>> {
    let mut found = Vec::new();
    let path = folder.join("tokenizer_config.json");
    if let Some(decoder) = config.get("added_tokens_decoder") {
        for (key, value) in decoder.as_object().into_iter().flatten() {
            let id = checked_id(&path, "added_tokens_decoder", key.parse().ok())?;
            let token = value.is_object().then(|| Added::from_json(value)).flatten();
            found.push((id, token.ok_or_else(|| Error::config(&path, key, "is not a token object"))?));
        }
        return Ok(found);
    }
    let path = folder.join("special_tokens_map.json");
    if let Some(map) = read_object(&path)? {
        draft.take_names(&path, &map)?;
    }
    let path = folder.join("added_tokens.json");
    for (content, id) in read_object(&path)?.into_iter().flatten() {
        found.push((checked_id(&path, &content, id.as_u64())?, Added::named(content)));
    }
    let path = folder.join("tokenizer.json");
    if let Some(Value::Array(list)) = read_object(&path)?.and_then(|mut o| o.remove("added_tokens")) {
        for value in list {
            let id = checked_id(&path, "added_tokens", value.get("id").and_then(Value::as_u64))?;
            let token = Added::from_json(&value);
            found.push((
                id,
                token.ok_or_else(|| Error::config(&path, "added_tokens", "has a token without content"))?,
            ));
        }
    }
    Ok(found)
}

/// The sentinels `<extra_id_N>`, counted down from the end of the vocabulary.
fn extra_ids(path: &Path, config: &Map<String, Value>, pieces: usize, draft: &mut Draft) -> Result<()> {
    let count = config.get("extra_ids").map_or(Some(100), Value::as_u64).filter(|&n| n <= MAX_SPECIAL);
    let count = count
        .ok_or_else(|| Error::config(path, "extra_ids", format!("is not a number up to {MAX_SPECIAL}")))?
        as usize;
    let names = || (0..count).map(|i| Added::named(format!("<extra_id_{i}>")));
    let extras = match &mut draft.additional {
        None => {
            draft.additional = Some(names().collect());
            count
        }
        Some(list) => {
            let given = list.iter().filter(|t| t.content.contains("<extra_id_")).count();
            if given == 0 {
                list.extend(names());
            } else if count > 0 && given != count {
                let what = format!(
                    "is {count}, but additional_special_tokens lists {given} of them; make them equal"
                );
                return Err(Error::config(path, "extra_ids", what));
            }
            given
        }
    };
    for i in 0..extras {
        let id = (pieces + count).checked_sub(i + 1);
        let id = checked_id(path, "additional_special_tokens", id.map(|id| id as u64))?;
        let content = format!("<extra_id_{i}>");
        draft.decoder.push((id, Added { content, lstrip: true, rstrip: true, single_word: false }));
    }
    Ok(())
}

impl Specials {
    /// Reads the JSON files of `folder` (each may be absent) for the vocabulary `model`.
    ///
    /// # Errors
    /// [`Error::ModelFile`] for unreadable or malformed JSON, or values that make no sense.
    pub fn load(folder: &Path, model: &Unigram) -> Result<Self> {
        let path = folder.join("tokenizer_config.json");
        let config = read_object(&path)?.unwrap_or_default();
        let mut draft = Draft::default();
        for (key, name) in [("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")] {
            draft.named.insert(key, Added::named(name));
        }
        draft.take_names(&path, &config)?;
        let explicit = explicit_ids(folder, &config, &mut draft)?;
        extra_ids(&path, &config, model.len(), &mut draft)?;
        let mut places: HashMap<u32, usize> = HashMap::new();
        for (i, (id, _)) in draft.decoder.iter().enumerate() {
            places.insert(*id, i);
        }
        for (id, token) in explicit {
            let next = draft.decoder.len();
            match *places.entry(id).or_insert(next) {
                i if i < next => draft.decoder[i].1 = token,
                _ => draft.decoder.push((id, token)),
            }
        }
        let roles = Self::add_missing(model, &mut draft);
        let flag = |key, default| config.get(key).and_then(Value::as_bool).unwrap_or(default);
        let content = |key| draft.named.get(key).map(|t: &Added| t.content.clone()).unwrap_or_default();
        let (eos, pad, unk) = (content("eos_token"), content("pad_token"), content("unk_token"));
        let by_content: HashMap<_, _> =
            draft.decoder.into_iter().map(|(id, t)| (t.content.clone(), (id, t))).collect();
        let finder = Finder::new(by_content.keys().cloned())
            .map_err(|e| Error::config(&path, "added_tokens_decoder", format!("is too large: {e}")))?;
        let (legacy, add_prefix_space) = (flag("legacy", true), flag("add_prefix_space", true));
        let split_inside = flag("split_special_tokens", false);
        Ok(Specials { by_content, finder, roles, eos, pad, unk, legacy, add_prefix_space, split_inside })
    }

    /// Gives ids to the special tokens that have none yet, behind the vocabulary if need be.
    fn add_missing(model: &Unigram, draft: &mut Draft) -> HashSet<String> {
        let mut ids: HashMap<String, u32> =
            draft.decoder.iter().map(|(i, t)| (t.content.clone(), *i)).collect();
        let fresh = ids.keys().filter(|c| model.find(c).is_none()).count();
        let mut next = (model.len() + fresh) as u32;
        let mut roles = HashSet::new();
        let named = NAMED.iter().filter_map(|key| draft.named.get(key)).cloned();
        let wanted: Vec<Added> = named.chain(draft.additional.take().into_iter().flatten()).collect();
        for token in wanted {
            if !roles.insert(token.content.clone())
                || token.content.is_empty()
                || ids.contains_key(&token.content)
            {
                continue;
            }
            let id = model.find(&token.content).unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            ids.insert(token.content.clone(), id);
            draft.set(id, token);
        }
        roles
    }

    /// The id of exactly this special token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.by_content.get(token).map(|(id, _)| *id)
    }

    /// The largest id of all special tokens.
    pub fn max_id(&self) -> Option<u32> {
        self.by_content.values().map(|(id, _)| *id).max()
    }

    /// Cuts `text` at special tokens, which take the white space around them as their flags say.
    pub fn split<'a>(&self, text: &'a str) -> Vec<Cow<'a, str>> {
        if self.split_inside {
            return vec![Cow::Borrowed(text)];
        }
        let mut parts: Vec<Cow<'a, str>> =
            self.finder.cut(text).into_iter().map(|(part, _)| part.into()).collect();
        for i in 0..parts.len() {
            let Some((_, token)) = self.by_content.get(&*parts[i]) else { continue };
            if token.rstrip && i + 1 < parts.len() {
                trim(&mut parts[i + 1], |s| s.trim_start_matches(is_space));
            }
            if token.lstrip && i > 0 {
                trim(&mut parts[i - 1], |s| s.trim_end_matches(is_space));
            }
            if !token.single_word {
                continue;
            }
            if i > 0 && !parts[i - 1].is_empty() && !parts[i - 1].ends_with(' ') {
                let joined = format!("{}{}", parts[i - 1], parts[i]);
                parts[i - 1] = joined.into();
                parts[i] = "".into();
            } else if parts.get(i + 1).is_some_and(|p| !p.is_empty() && !p.starts_with(' ')) {
                let joined = format!("{}{}", parts[i], parts[i + 1]);
                parts[i + 1] = joined.into();
                parts[i] = "".into();
            }
        }
        parts.retain(|p| !p.is_empty());
        parts
    }
}

fn trim(part: &mut Cow<'_, str>, by: fn(&str) -> &str) {
    match part {
        Cow::Borrowed(s) => *s = by(s),
        Cow::Owned(s) => *s = by(s).to_owned(),
    }
}
