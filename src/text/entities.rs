//! HTML's character references, as Python's `html` module reads them.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::scan::pattern;

/// HTML's named references (<https://html.spec.whatwg.org/multipage/named-characters.html>), one per
/// line: name, `~` if it is known without its semicolon too, code points.
const LIST: &str = include_str!("entities.txt");

/// Text by name, and whether the name needs no semicolon.
static ENTITIES: LazyLock<HashMap<&str, (String, bool)>> = LazyLock::new(|| {
    let read = |line: &'static str| {
        let (name, codes) = line.split_once(' ')?;
        let code = |hex| char::from_u32(u32::from_str_radix(hex, 16).ok()?);
        let text = codes.split(' ').map(code).collect::<Option<String>>()?;
        Some((name.trim_end_matches('~'), (text, name.ends_with('~'))))
    };
    LIST.lines().filter_map(read).collect()
});

/// Windows-1252's characters for the bytes 0x80..=0x9f; NUL where it has none.
const WINDOWS_1252: [char; 32] = [
    '€', '\0', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\0', 'Ž', '\0', '\0', '‘', '’', '“',
    '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\0', 'ž', 'Ÿ',
];

/// What browsers show for a C1 control character (U+0080..U+009F): its Windows-1252 meaning.
pub(super) fn c1_meaning(c: char) -> char {
    let index = (c as usize).wrapping_sub(0x80);
    WINDOWS_1252.get(index).copied().filter(|&c| c != '\0').unwrap_or(c)
}

/// The text of the named entity, without `&` and `;`.
pub(super) fn entity(name: &str) -> Option<String> {
    ENTITIES.get(name).map(|(text, _)| text.clone())
}

/// A number of a character reference, or nothing beyond Unicode.
pub(super) fn code_point(digits: &str, radix: u32) -> Option<u32> {
    digits.chars().try_fold(0u32, |n, c| Some(n * radix + c.to_digit(radix)?).filter(|&n| n <= 0x10_ffff))
}

/// The character of a numeric reference, by Python's `html.unescape`: nothing for invalid ones.
pub(super) fn character_reference(digits: &str, radix: u32) -> String {
    let Some(c) = code_point(digits, radix).filter(|&n| n != 0).and_then(char::from_u32) else {
        return '\u{fffd}'.into();
    };
    let meaning = c1_meaning(c);
    let n = c as u32;
    let noncharacter = (0xfdd0..=0xfdef).contains(&n) || n & 0xfffe == 0xfffe;
    // The five C1 codes that Windows-1252 lacks are kept, U+007F and most of C0 are not.
    let control = matches!(n, 1..=8 | 0xb | 0xe..=0x1f | 0x7f);
    if noncharacter || control { String::new() } else { meaning.into() }
}

/// Python's `html.unescape`: all entities, also the ones that HTML knows without semicolon.
pub(super) fn unescape(text: &str) -> String {
    static REFERENCE: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"&(?:#(?:[xX]([[:xdigit:]]+)|([0-9]+))|([[:alnum:]]{2,32}));?"));
    let text = REFERENCE.replace_all(text, |found: &Captures| {
        if let Some(digits) = found.get(1).or(found.get(2)) {
            return character_reference(digits.as_str(), if found.get(1).is_some() { 16 } else { 10 });
        }
        let (whole, name) = (&found[0], &found[3]);
        if let Some(text) = entity(name).filter(|_| whole.ends_with(';')) {
            return text;
        }
        let bare = |n: usize| ENTITIES.get(&name[..n]).filter(|(_, bare)| *bare);
        let longest = (2..=name.len()).rev().find_map(|n| Some(format!("{}{}", bare(n)?.0, &whole[n + 1..])));
        longest.unwrap_or_else(|| whole.to_owned())
    });
    text.into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_whole() {
        assert_eq!((ENTITIES.len(), LIST.lines().count()), (2125, 2125));
        assert_eq!(ENTITIES.values().filter(|(_, bare)| *bare).count(), 106);
    }

    #[test]
    fn entities_are_decoded() {
        assert_eq!(unescape("&amp;lt; &notit; &#0; &#x80; &eacute&; & &;"), "&lt; ¬it; \u{fffd} € é&; & &;");
        assert_eq!(unescape("&ThickSpace;&NotEqualTilde;"), "\u{205f}\u{200a}≂\u{338}");
    }
}
