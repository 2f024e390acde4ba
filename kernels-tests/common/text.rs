//! Golden check of the T5 tokenizer and IF's caption preparation.

use std::path::Path;

use ancestral::internals::text::{T5Tokenizer, caption};
use safetensors::SafeTensors;

/// Compares token ids and masks of a case's prompts, plain and cleaned, with the reference's.
///
/// Needs `prompts.json`, `tokens.safetensors` and `pipeline/tokenizer/` in `case_dir`; the summary says
/// how many prompts agreed, the error which one does not.
pub fn check_tokens(case_dir: &Path) -> Result<String, String> {
    let read = |name: &str| std::fs::read(case_dir.join(name)).map_err(|e| format!("{name}: {e}"));
    let prompts: serde_json::Value =
        serde_json::from_slice(&read("prompts.json")?).map_err(|e| e.to_string())?;
    let bytes = read("tokens.safetensors")?;
    let goldens = SafeTensors::deserialize(&bytes).map_err(|e| e.to_string())?;
    let tokenizer = T5Tokenizer::load(&case_dir.join("pipeline/tokenizer")).map_err(|e| e.to_string())?;
    let prompts = prompts["prompts"].as_array().ok_or("prompts.json: no `prompts`")?;
    let mut compared = 0;
    for (kind, prepare) in [("plain", caption::plain as fn(&str) -> String), ("clean", caption::clean)] {
        let (Ok(ids), Ok(mask)) =
            (goldens.tensor(&format!("ids_{kind}")), goldens.tensor(&format!("mask_{kind}")))
        else {
            continue;
        };
        let &[rows, length] = ids.shape() else { return Err(format!("ids_{kind}: shape {:?}", ids.shape())) };
        if rows != prompts.len() {
            return Err(format!("ids_{kind}: {rows} rows for {} prompts", prompts.len()));
        }
        let (ids, mask) = (integers(ids.data()), integers(mask.data()));
        for (row, prompt) in prompts.iter().enumerate() {
            let raw = prompt["raw"].as_str().ok_or("prompts.json: a prompt without `raw`")?;
            let text = prepare(raw);
            if let Some(expected) = prompt[kind].as_str().filter(|&expected| expected != text) {
                return Err(format!("{kind} prompt {row}: {text:?}, expected {expected:?}"));
            }
            let got = tokenizer.encode(&text, length).map_err(|e| e.to_string())?;
            let range = row * length..(row + 1) * length;
            let same = got.ids.iter().map(|&id| i64::from(id)).eq(ids[range.clone()].iter().copied())
                && got.mask.iter().map(|&m| i64::from(m)).eq(mask[range.clone()].iter().copied());
            if !same {
                return Err(format!(
                    "{kind} prompt {row} ({raw:?}): {:?}, expected {:?}",
                    got.ids, &ids[range]
                ));
            }
            compared += 1;
        }
    }
    let special = check_special(&tokenizer, &prompts_special(case_dir)?)?;
    match compared {
        0 => Err("tokens.safetensors: neither ids_plain nor ids_clean".into()),
        n => Ok(format!("{n} prompts and {special} texts with special tokens: ids and masks equal")),
    }
}

/// The `special` list of `prompts.json`: texts and ids without padding.
fn prompts_special(case_dir: &Path) -> Result<Vec<(String, Vec<u32>)>, String> {
    let text = std::fs::read(case_dir.join("prompts.json")).map_err(|e| e.to_string())?;
    let json: serde_json::Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    let list = json["special"].as_array().cloned().unwrap_or_default();
    let parse = |case: &serde_json::Value| {
        let ids = case["ids"]
            .as_array()?
            .iter()
            .map(|id| id.as_u64().map(|id| id as u32))
            .collect::<Option<_>>()?;
        Some((case["text"].as_str()?.to_owned(), ids))
    };
    list.iter()
        .map(|case| parse(case).ok_or_else(|| "prompts.json: malformed `special`".to_owned()))
        .collect()
}

fn check_special(tokenizer: &T5Tokenizer, cases: &[(String, Vec<u32>)]) -> Result<usize, String> {
    for (text, expected) in cases {
        let got = tokenizer.encode(text, expected.len().max(1)).map_err(|e| e.to_string())?;
        if got.truncated || got.ids != *expected {
            return Err(format!("{text:?}: {:?}, expected {expected:?}", got.ids));
        }
    }
    Ok(cases.len())
}

fn integers(bytes: &[u8]) -> Vec<i64> {
    bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap_or_default())).collect()
}
