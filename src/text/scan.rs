//! Python's words, digits and spaces, and its regular expressions on them.
//!
//! Python's `\w`, `\d`, `\s` and `\b` differ from those of the regex crate (combining marks, U+001C..U+001F). So patterns
//! look at a shade of the text, in which each character is one byte: itself where it is ASCII, else one that says what
//! Python takes it for. There the bytes' classes are Python's.

use std::sync::LazyLock;

use regex::bytes::CaptureLocations;
use regex::{Regex, bytes};
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

/// The end of the run of characters that fulfil `class`, from `at` on.
pub(super) fn run(text: &[char], at: usize, class: impl Fn(char) -> bool) -> usize {
    text.iter().skip(at).position(|&c| !class(c)).map_or(text.len().max(at), |n| at + n)
}

/// The end of `word` if it stands at `at`.
pub(super) fn literal(text: &[char], at: usize, word: &str) -> Option<usize> {
    let mut letters = text.iter().skip(at);
    word.chars().all(|c| letters.next() == Some(&c)).then(|| at + word.chars().count())
}

/// What a pattern sees of a character: words, digits and spaces beyond ASCII as `_`, `0` and a space.
pub(super) fn shade(c: char) -> u8 {
    match c {
        c if is_space(c) => b' ',
        c if c.is_ascii() => c as u8,
        c if is_digit(c) => b'0',
        c if is_word(c) => b'_',
        _ => 0x80,
    }
}

/// Patterns, each with what replaces its matches; of a pattern with a group, the group's.
pub(super) type Rules = LazyLock<Vec<(bytes::Regex, &'static str)>>;

/// Reads a pattern of this program, which tests have read before.
pub(super) fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap_or_else(|e| unreachable!("{pattern}: {e}"))
}

/// Reads a pattern of bytes' classes.
pub(super) fn byte_pattern(pattern: &str) -> bytes::Regex {
    let read = bytes::RegexBuilder::new(pattern).unicode(false).build();
    read.unwrap_or_else(|e| unreachable!("{pattern}: {e}"))
}

/// Reads patterns of bytes' classes, each with what replaces it.
pub(super) fn rules(list: &[(&str, &'static str)]) -> Vec<(bytes::Regex, &'static str)> {
    list.iter().map(|&(pattern, by)| (byte_pattern(pattern), by)).collect()
}

/// Applies the rules one after another to the whole text, whose characters they see as `shade` says.
pub(super) fn rewrite(text: &str, rules: &Rules, shade: impl Fn(char) -> u8) -> String {
    let mut text: Vec<char> = text.chars().collect();
    let mut shades: Vec<u8> = text.iter().map(|&c| shade(c)).collect();
    for (pattern, by) in rules.iter() {
        let (mut new, mut new_shades) = (Vec::new(), Vec::new());
        let (mut at, mut groups) = (0, pattern.capture_locations());
        while let Some((start, end)) = find(pattern, &shades, at, &mut groups) {
            new.extend(text[at..start].iter().copied().chain(by.chars()));
            new_shades.extend(shades[at..start].iter().copied().chain(by.bytes()));
            at = end;
        }
        if at > 0 {
            new.extend_from_slice(&text[at..]);
            new_shades.extend_from_slice(&shades[at..]);
            (text, shades) = (new, new_shades);
        }
    }
    text.into_iter().collect()
}

/// The first match at or behind `at`: the part that is to be replaced.
fn find(
    pattern: &bytes::Regex,
    shades: &[u8],
    at: usize,
    groups: &mut CaptureLocations,
) -> Option<(usize, usize)> {
    if groups.len() == 1 {
        return pattern.find_at(shades, at).map(|found| (found.start(), found.end()));
    }
    let whole = pattern.captures_read_at(groups, shades, at)?;
    Some(groups.get(1).unwrap_or((whole.start(), whole.end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_pythons() {
        assert!(is_word('é') && is_word('猫') && is_word('½') && is_word('_') && !is_word('\u{301}'));
        assert!(is_digit('٣') && !is_digit('½'));
        assert!(is_space('\u{1c}') && is_space('\u{a0}') && !is_space('\u{200b}'));
    }

    #[test]
    fn patterns_replace() {
        static RULES: Rules =
            LazyLock::new(|| rules(&[("--+", "+"), (r"\b(\d)\s\d", "<>"), (r"\D\.()", " ")]));
        assert_eq!(rewrite("a--b-c.½", &RULES, shade), "a+b-c. ½");
        assert_eq!(rewrite("é\u{301}٣\u{1c}4\u{301}.", &RULES, shade), "é\u{301}<>\u{1c}4\u{301}. ");
    }
}
