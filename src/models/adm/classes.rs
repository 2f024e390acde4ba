//! Classes by number or by name.

use crate::error::{Result, request};

/// How many names a message lists.
const LISTED: usize = 6;

/// What the classes of a model are called, by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes(Vec<Vec<String>>);

/// `Golden_retriever` as `golden retriever`.
fn plain(name: &str) -> String {
    let spaced = name.to_lowercase().replace(['_', '-'], " ");
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Classes {
    /// The classes of a model that tells `count` apart: its own names, one class to an entry; without them, ImageNet's
    /// where there are 1000 classes, and plain numbers where there are others.
    ///
    /// # Errors
    /// There are not so many names.
    pub fn new(names: Option<Vec<String>>, count: usize) -> Result<Classes> {
        match names {
            Some(names) if names.len() != count => Err(request!(
                Model,
                Malformed,
                "{} names for {count} classes: correct `classes` in config.json",
                names.len()
            )),
            Some(names) => Ok(Classes::listed(names.iter().map(String::as_str))),
            None if count == 1000 => Ok(Classes::imagenet()),
            None => Ok(Classes((0..count).map(|number| vec![number.to_string()]).collect())),
        }
    }

    /// ImageNet's 1000 classes, with the synonyms of WordNet.
    pub fn imagenet() -> Classes {
        Classes::listed(include_str!("imagenet.txt").lines().filter(|line| !line.starts_with('#')))
    }

    /// One class to an entry; commas separate its names, the usual one first.
    fn listed<'a>(classes: impl Iterator<Item = &'a str>) -> Classes {
        let names = |class: &str| class.split(',').map(|name| name.trim().to_string()).collect();
        Classes(classes.map(names).collect())
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

    /// Some names, for a message.
    pub fn examples(&self) -> String {
        let names =
            (0..self.len()).step_by(self.len().div_ceil(3).max(1)).filter_map(|number| self.name(number));
        names.collect::<Vec<_>>().join(", ")
    }

    /// The number of the class that `text` names or numbers, whatever its case, with `_` or `-` for spaces. A usual name
    /// goes before the same word as another class's synonym.
    ///
    /// # Errors
    /// No class is called so, or several are; the message lists those meant or near.
    pub fn number(&self, text: &str) -> Result<usize> {
        let wanted = plain(text);
        if self.is_empty() {
            return Err(request!(Classes, Malformed, "this model knows no classes"));
        }
        if let Ok(number) = wanted.parse::<usize>() {
            return if number < self.len() {
                Ok(number)
            } else {
                Err(request!(
                    Classes,
                    Malformed,
                    "class {number} is out of range; there are 0 to {}",
                    self.len().saturating_sub(1)
                ))
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
                Err(request!(Classes, Malformed, "no class is called `{text}`{near}"))
            }
            ([], several) | (several, _) => Err(request!(
                Classes,
                Malformed,
                "`{text}` may be {}: give the number or another name",
                self.list(several)
            )),
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
        let names = Classes::imagenet();
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
            assert_eq!(names.number(text).unwrap(), number, "{text}");
        }
    }

    #[test]
    fn errors_list_what_may_be_meant() {
        let names = Classes::imagenet();
        for (text, parts) in [
            ("crane", &["134 (crane)", "517 (crane)"][..]),
            ("goldn retriever", &["no class", "207 (golden retriever)"]),
            ("1000", &["out of range", "0 to 999"]),
            ("retriever", &["golden retriever"]),
            ("xyzzyx", &["no class is called `xyzzyx`"]),
            ("", &["no class"]),
        ] {
            let message = names.number(text).unwrap_err().to_string();
            assert!(
                parts.iter().all(|part| message.contains(part)) && message.len() < 1000,
                "{text}: {message}"
            );
        }
    }

    #[test]
    fn a_model_s_own_names() {
        let own = || vec!["red circle".to_string(), "blue square".to_string()];
        let names = Classes::new(Some(own()), 2).unwrap();
        assert_eq!((names.number("Blue square").unwrap(), names.name(0)), (1, Some("red circle")));
        assert_eq!(names.examples(), "red circle, blue square");
        let message = Classes::new(Some(own()), 3).unwrap_err().to_string();
        assert!(message.contains("classes") && message.contains("2 names for 3"), "{message}");
        assert_eq!(Classes::new(None, 1000).unwrap(), Classes::imagenet());
        let numbers = Classes::new(None, 10).unwrap();
        assert_eq!((numbers.number("9").unwrap(), numbers.number("10").is_err()), (9, true));
        let none = Classes::new(None, 0).unwrap();
        assert!(none.is_empty() && none.examples().is_empty() && none.number("cat").is_err());
    }
}
