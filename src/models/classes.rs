//! Classes by number or by name.

use crate::error::{Error, Result};
use crate::weights::read_json;
use serde_json::Value;
use std::path::Path;

/// How many names a message lists.
const LISTED: usize = 6;

/// What the classes of a model are called, by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassNames(Vec<Vec<String>>);

/// `Golden_retriever` as `golden retriever`.
fn plain(name: &str) -> String {
    let spaced = name.to_lowercase().replace(['_', '-'], " ");
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl ClassNames {
    /// ImageNet's 1000 classes, with the synonyms of WordNet.
    pub fn imagenet() -> ClassNames {
        let lines = include_str!("imagenet.txt").lines().filter(|line| !line.starts_with('#'));
        ClassNames::new(lines)
    }

    /// One class to an entry; commas separate its names, the usual one first.
    pub fn new<'a>(classes: impl IntoIterator<Item = &'a str>) -> ClassNames {
        let names = |class: &str| class.split(',').map(|name| name.trim().to_string()).collect();
        ClassNames(classes.into_iter().map(names).collect())
    }

    /// The names of a model of `count` classes: the list `classes` of the JSON file beside its weights; without one,
    /// ImageNet's where there are 1000 classes, and none where there are others.
    ///
    /// # Errors
    /// The file cannot be read, or its `classes` are not so many texts.
    pub fn of_model(file: Option<&Path>, count: usize) -> Result<Option<ClassNames>> {
        if let Some(path) = file {
            let mut all: serde_json::Map<String, Value> = read_json(path)?;
            if let Some(list) = all.remove("classes") {
                let names: Vec<String> = serde_json::from_value(list)
                    .map_err(|_| Error::config(path, "classes", "expected a list of names"))?;
                if names.len() != count {
                    let what = format!("{} names for {count} classes", names.len());
                    return Err(Error::config(path, "classes", what));
                }
                return Ok(Some(ClassNames::new(names.iter().map(String::as_str))));
            }
        }
        Ok((count == 1000).then(ClassNames::imagenet))
    }

    /// How many classes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no class.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The usual name of a class.
    pub fn name(&self, number: usize) -> Option<&str> {
        self.0.get(number)?.first().map(String::as_str)
    }

    /// The number of the class that `text` names or numbers, whatever its case, with `_` or `-` for spaces. A usual name
    /// goes before the same word as another class's synonym.
    ///
    /// # Errors
    /// No class is called so, or several are; the message lists those meant or near.
    pub fn find(&self, text: &str) -> Result<usize> {
        let wanted = plain(text);
        if let Ok(number) = wanted.parse::<usize>() {
            return if number < self.len() {
                Ok(number)
            } else {
                let what = format!(
                    "class {number} is out of range; there are 0 to {}",
                    self.len().saturating_sub(1)
                );
                Err(Error::Request(what))
            };
        }
        let called = |names: &[String]| names.iter().any(|name| plain(name) == wanted);
        let usual = self.numbers(|names| called(&names[..names.len().min(1)]));
        let any = self.numbers(called);
        match (&usual[..], &any[..]) {
            (&[number], _) | (&[], &[number]) => Ok(number),
            ([], []) => {
                let near = self.near(&wanted);
                let near =
                    if near.is_empty() { String::new() } else { format!("; near are {}", self.list(&near)) };
                Err(Error::Request(format!("no class is called `{text}`{near}")))
            }
            ([], several) | (several, _) => {
                let what = format!("`{text}` may be {}: give the number or another name", self.list(several));
                Err(Error::Request(what))
            }
        }
    }

    fn numbers(&self, is: impl Fn(&[String]) -> bool) -> Vec<usize> {
        (0..self.len()).filter(|&number| is(&self.0[number])).collect()
    }

    fn list(&self, numbers: &[usize]) -> String {
        let entry = |&number: &usize| format!("{number} ({})", self.0[number].join(", "));
        numbers.iter().map(entry).collect::<Vec<_>>().join(", ")
    }

    /// Classes with the words in a name, then those with a name a few letters away.
    fn near(&self, wanted: &str) -> Vec<usize> {
        let distance = |number: usize| {
            let of = |name: &String| {
                let name = plain(name);
                let shares =
                    !wanted.is_empty() && name.split(' ').any(|word| wanted.split(' ').any(|w| w == word));
                if name.contains(wanted) || shares { 0 } else { edits(&name, wanted) }
            };
            self.0[number].iter().map(of).min().unwrap_or(usize::MAX)
        };
        let few = wanted.chars().count() / 3;
        let mut near: Vec<(usize, usize)> =
            (0..self.len()).map(|n| (distance(n), n)).filter(|(d, _)| *d <= few).collect();
        near.sort_unstable();
        near.into_iter().take(LISTED).map(|(_, number)| number).collect()
    }
}

/// Letters to change, add or take away to make one word of another (Levenshtein 1966).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut before = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = before + usize::from(from != *to);
            before = row[j + 1];
            row[j + 1] = changed.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imagenet_by_name_and_number() {
        let names = ClassNames::imagenet();
        assert_eq!(names.len(), 1000);
        assert_eq!((names.name(0), names.name(999)), (Some("tench"), Some("toilet tissue")));
        for (text, number) in [
            ("golden retriever", 207),
            ("Golden_Retriever", 207),
            ("  golden   retriever ", 207),
            ("207", 207),
            ("999", 999),
            ("man eater", 2),
            ("missile", 657),
            ("tank suit", 639),
        ] {
            assert_eq!(names.find(text).unwrap(), number, "{text}");
        }
    }

    #[test]
    fn errors_list_what_may_be_meant() {
        let names = ClassNames::imagenet();
        for (text, parts) in [
            ("crane", &["134 (crane)", "517 (crane)"][..]),
            ("goldn retriever", &["no class", "207 (golden retriever)"]),
            ("1000", &["out of range", "0 to 999"]),
            ("retriever", &["golden retriever"]),
            ("xyzzyx", &["no class is called `xyzzyx`"]),
            ("", &["no class"]),
        ] {
            let message = names.find(text).unwrap_err().to_string();
            assert!(
                parts.iter().all(|part| message.contains(part)) && message.len() < 1000,
                "{text}: {message}"
            );
        }
    }

    #[test]
    fn a_model_s_own_names() {
        let folder = std::env::temp_dir().join(format!("ancestral-classes-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("config.json");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write(r#"{"classes": ["red circle", "blue square"], "diffusion": {}}"#);
        let names = ClassNames::of_model(Some(&path), 2).unwrap().unwrap();
        assert_eq!((names.find("Blue square").unwrap(), names.name(0)), (1, Some("red circle")));
        let message = ClassNames::of_model(Some(&path), 3).unwrap_err().to_string();
        assert!(message.contains("classes") && message.contains("2 names for 3"), "{message}");
        write(r#"{"classes": 3}"#);
        assert!(ClassNames::of_model(Some(&path), 3).is_err());
        write("{}");
        assert_eq!(ClassNames::of_model(Some(&path), 1000).unwrap(), Some(ClassNames::imagenet()));
        assert_eq!(ClassNames::of_model(None, 10).unwrap(), None);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
