//! Repairs of damaged text, as far as IF's captions need them: what `ftfy.fix_text` does by default,
//! except guessing text that was decoded with the wrong encoding.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use unicode_normalization::UnicodeNormalization;

use super::entities::{c1_meaning, character_reference, entity};
use super::scan::{Rules, pattern, rewrite, rules, shade};

/// Rounds after which text that still changes is taken as it is; two are common.
const MAX_ROUNDS: usize = 8;

/// Latin ligatures and digraphs, which mean their letters, and full-width forms.
fn is_wide(c: char) -> bool {
    matches!(c, 'Ĳ' | 'ĳ' | 'ŉ' | 'Ǆ'..='ǌ' | 'Ǳ'..='ǳ' | 'ﬀ'..='ﬆ' | '\u{3000}' | '\u{ff01}'..='\u{ffef}')
}

/// Characters that show nothing and mean nothing in a caption.
fn is_control(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}')
        || matches!(c, '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

/// Repairs line by line, as ftfy does: entities stay in and after a line that has a `<`.
pub(super) fn fix(text: &str) -> String {
    let mut unescape = true;
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        unescape &= !line.contains('<');
        let mut line = line.to_owned();
        for _ in 0..MAX_ROUNDS {
            let fixed = fix_once(&line, unescape);
            if fixed == line {
                break;
            }
            line = fixed;
        }
        out.push_str(&line);
    }
    out
}

fn fix_once(line: &str, unescape: bool) -> String {
    // A terminal's colour codes.
    static COLOUR: Rules = LazyLock::new(|| rules(&[(r"\x1b\[[\d;]*[a-zA-Z]", "")]));
    let line = if unescape { unescape_strict(line) } else { line.into() };
    let mut wide = String::with_capacity(line.len());
    for c in line.chars().map(c1_meaning) {
        match c {
            'ﬅ' => wide.push_str("ſt"),
            c if is_wide(c) => wide.extend(std::iter::once(c).nfkc()),
            c => wide.push(c),
        }
    }
    let mut straight = String::with_capacity(wide.len());
    for c in wide.replace("\r\n", "\n").chars() {
        straight.push(match c {
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
            '\u{201c}'..='\u{201f}' => '"',
            '\r' | '\u{2028}' | '\u{2029}' | '\u{85}' => '\n',
            c => c,
        });
    }
    if straight.contains("\x1b[") {
        straight = rewrite(&straight, &COLOUR, shade);
    }
    straight.chars().filter(|&c| !is_control(c)).nfc().collect()
}

/// Decodes the entities that end in a semicolon, all-capital names of lower-case ones included.
fn unescape_strict(line: &str) -> Cow<'_, str> {
    static ENTITY: LazyLock<Regex> = LazyLock::new(|| pattern("&(#?)([[:alnum:]]{1,24});"));
    ENTITY.replace_all(line, |found: &Captures| {
        decode(&found[2], !found[1].is_empty()).unwrap_or_else(|| found[0].to_owned())
    })
}

/// The text of a name or of a number with or without `x`; `None` leaves it alone.
fn decode(name: &str, numeric: bool) -> Option<String> {
    if numeric {
        let (digits, radix) = name.strip_prefix(['x', 'X']).map_or((name, 10), |hex| (hex, 16));
        let digits_only = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
        return digits_only.then(|| character_reference(digits, radix)).filter(|s| s != ";");
    }
    entity(name).or_else(|| {
        // `&EACUTE;` is no entity, but clearly É; `&GT;` is one.
        let lower = name.to_ascii_lowercase();
        (name.to_ascii_uppercase() == name && lower != name)
            .then(|| entity(&lower).map(|s| s.to_uppercase()))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_repaired() {
        assert_eq!(fix("ﬁlter ＡＢ　ｶﾞ e\u{301} “x” \u{1b}[31mred\u{7}"), "filter AB ガ é \"x\" red");
        assert_eq!(fix("a\r\nb\rc\u{2028}d"), "a\nb\nc\nd");
        assert_eq!(fix("P&EACUTE;REZ &amp;lt; &notit; \u{92}"), "PÉREZ < &notit; '");
        assert_eq!(fix("<b> &amp;"), "<b> &amp;");
        assert_eq!(fix("\u{1b}[12 \u{1b}["), "[12 [");
    }
}
