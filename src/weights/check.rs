//! Comparing what a model wants with what a checkpoint holds.

use std::collections::HashSet;

use super::checkpoint::Checkpoint;
use super::element::{FLOATS, Float};
use crate::error::{Error, Result};

/// How many tensors of each kind of trouble a message names.
const NAMED: usize = 4;

impl Checkpoint {
    /// Whether every wanted tensor is there with that shape and a float type, and nothing else is there
    /// except what `ignored` accepts.
    ///
    /// # Errors
    /// Names the first few tensors that are missing, of another shape or type, or superfluous.
    pub fn check<'a>(
        &self,
        wanted: impl Iterator<Item = (&'a str, &'a [usize])>,
        ignored: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let mut known = HashSet::new();
        let mut missing = Vec::new();
        let mut misshapen = Vec::new();
        let mut mistyped = Vec::new();
        for (name, shape) in wanted {
            known.insert(name);
            match self.entries.get(name) {
                None => missing.push((name, format!("expected shape {shape:?}, not found"))),
                Some(entry) if entry.shape != shape => {
                    misshapen.push((name, format!("expected shape {shape:?}, found {:?}", entry.shape)));
                }
                Some(entry) if Float::of(entry.dtype).is_none() => {
                    mistyped.push((name, format!("expected {FLOATS}, found {}", entry.dtype)));
                }
                Some(_) => {}
            }
        }
        let mut superfluous = Vec::new();
        for name in self.names().filter(|name| !known.contains(name) && !ignored(name)) {
            let shape = self.shape(name).unwrap_or_default();
            superfluous.push((name, format!("found with shape {shape:?}, unknown to the model")));
        }
        let kinds = [
            ("missing", missing),
            ("of another shape", misshapen),
            ("of another type", mistyped),
            ("superfluous", superfluous),
        ];
        self.report(&kinds)
    }

    fn report(&self, kinds: &[(&str, Vec<(&str, String)>)]) -> Result<()> {
        const REMEDY: &str =
            "Check that these weights and config.json are of the same model, or download both again";
        let troubles: Vec<_> = kinds.iter().filter(|(_, list)| !list.is_empty()).collect();
        match troubles[..] {
            [] => Ok(()),
            [(_, list)] if list.len() == 1 => {
                let (name, what) = &list[0];
                Err(Error::tensor(&self.path, name, format!("{what}. {REMEDY}")))
            }
            _ => {
                let mut text = String::from("does not fit the model. ");
                for (kind, list) in troubles {
                    let named: Vec<_> =
                        list.iter().take(NAMED).map(|(name, what)| format!("`{name}` ({what})")).collect();
                    let more = if list.len() > NAMED { ", …" } else { "" };
                    text += &format!("{} {kind}: {}{more}. ", list.len(), named.join(", "));
                }
                Err(Error::file(&self.path, text + REMEDY))
            }
        }
    }
}
