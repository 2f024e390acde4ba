//! Python's idea of words, digits and spaces, and linear-time replacement of hand-written patterns.
//!
//! IF's caption cleaning is a list of Python regular expressions. Python's `\w`, `\s`, `\b` differ from
//! those of Rust's regex crate (combining marks, U+001C..U+001F), and several of the patterns need
//! look-ahead or are quadratic when backtracked; so each is a small function here.

use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// Python's `\w`: letters and numbers of any script, and `_`.
pub(super) fn is_word(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || c == '_';
    }
    matches!(c.general_category_group(), GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number)
}

/// Python's `\d`: decimal digits of any script.
pub(super) fn is_digit(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_digit() } else { c.general_category() == GeneralCategory::DecimalNumber }
}

/// Python's `\s` and `str.isspace`.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// ASCII letter, as `[a-zA-Z]`.
pub(super) fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic()
}

/// Python's `\b` before index `at`.
pub(super) fn boundary(text: &[char], at: usize) -> bool {
    let word = |i: Option<usize>| i.and_then(|i| text.get(i)).is_some_and(|&c| is_word(c));
    word(at.checked_sub(1)) != word(Some(at))
}

/// True if no word goes on at `at`.
pub(super) fn word_ends(text: &[char], at: usize) -> bool {
    !text.get(at).is_some_and(|&c| is_word(c))
}

/// The end of the run of characters that fulfil `class`, from `at` on.
pub(super) fn run(text: &[char], at: usize, class: impl Fn(char) -> bool) -> usize {
    text.iter().skip(at).position(|&c| !class(c)).map_or(text.len().max(at), |n| at + n)
}

/// The end of `word` if it stands at `at`.
pub(super) fn literal(text: &[char], at: usize, word: &str) -> Option<usize> {
    let mut end = at;
    for c in word.chars() {
        if text.get(end) != Some(&c) {
            return None;
        }
        end += 1;
    }
    Some(end)
}

/// The end of the first of `words` that stands at `at`.
pub(super) fn any_literal(text: &[char], at: usize, words: &[&str]) -> Option<usize> {
    words.iter().find_map(|word| literal(text, at, word))
}

/// What a pattern says about a position.
pub(super) enum Step {
    /// It matches up to here (exclusive, beyond the position).
    Hit(usize),
    /// It matches neither here nor before this later position.
    Miss(usize),
}

impl Step {
    /// A match up to `end`, or none at `at`.
    pub fn at(at: usize, end: Option<usize>) -> Self {
        end.map_or(Step::Miss(at + 1), Step::Hit)
    }
}

/// Replaces all matches of a pattern from left to right; `put` writes what replaces a match.
pub(super) fn replace(
    text: &[char],
    pattern: impl Fn(&[char], usize) -> Step,
    put: impl Fn(&[char], &mut Vec<char>),
) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match pattern(text, at) {
            Step::Hit(end) if end > at => {
                put(&text[at..end], &mut out);
                at = end;
            }
            Step::Miss(next) if next > at => {
                out.extend_from_slice(&text[at..next.min(text.len())]);
                at = next;
            }
            // A pattern that does not advance would hang; treat it as no match.
            _ => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    out
}

/// Replaces all matches by `by`.
pub(super) fn sub(text: &mut Vec<char>, by: &str, pattern: impl Fn(&[char], usize) -> Step) {
    *text = replace(text, pattern, |_, out| out.extend(by.chars()));
}

/// Replaces runs of at least `least` characters of a class by `by`.
pub(super) fn sub_runs(text: &mut Vec<char>, by: &str, least: usize, class: impl Fn(char) -> bool) {
    sub(text, by, |t, i| match run(t, i, &class) {
        end if end >= i + least => Step::Hit(end),
        end => Step::Miss(end.max(i + 1)),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_pythons() {
        assert!(is_word('é') && is_word('猫') && is_word('½') && is_word('_') && !is_word('\u{301}'));
        assert!(is_digit('٣') && !is_digit('½'));
        assert!(is_space('\u{1c}') && is_space('\u{a0}') && !is_space('\u{200b}'));
        let t: Vec<char> = "a\u{301}b".chars().collect();
        assert!((0..=3).all(|i| boundary(&t, i)));
    }

    #[test]
    fn patterns_replace() {
        let mut t: Vec<char> = "a--b-c".chars().collect();
        sub_runs(&mut t, "+", 2, |c| c == '-');
        assert_eq!(t.iter().collect::<String>(), "a+b-c");
        sub(&mut t, "", |_, i| Step::Hit(i));
        assert_eq!(t.iter().collect::<String>(), "a+b-c");
    }
}
