//! Repairs of damaged text, as far as IF's captions need them: what `ftfy.fix_text` does by default,
//! except guessing text that was decoded with the wrong encoding.

use unicode_normalization::UnicodeNormalization;

use super::entities::{c1_meaning, character_reference, entity};

/// Rounds after which text that still changes is taken as it is; two are common.
const MAX_ROUNDS: usize = 8;

/// Latin ligatures and digraphs, which mean their letters.
fn ligature(c: char) -> Option<&'static str> {
    Some(match c {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "ʼn",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        _ => return None,
    })
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
    let line = if unescape { unescape_strict(line) } else { line.to_owned() };
    let mut wide = String::with_capacity(line.len());
    for c in line.chars().map(c1_meaning) {
        match (ligature(c), c) {
            (Some(letters), _) => wide.push_str(letters),
            (_, '\u{3000}') => wide.push(' '),
            (_, '\u{ff01}'..='\u{ffef}') => wide.extend(std::iter::once(c).nfkc()),
            _ => wide.push(c),
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
    without_escapes(&straight).chars().filter(|&c| !is_control(c)).nfc().collect()
}

/// Removes terminal colour codes: ESC `[` numbers letter.
fn without_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\u{1b}[") {
        let code = &rest[at + 2..];
        let body = code.trim_start_matches(|c: char| super::scan::is_digit(c) || c == ';');
        let skip =
            if body.starts_with(|c: char| c.is_ascii_alphabetic()) { code.len() - body.len() + 3 } else { 0 };
        out.push_str(&rest[..at]);
        if skip == 0 {
            out.push_str("\u{1b}[");
        }
        rest = &rest[at + skip.max(2)..];
    }
    out.push_str(rest);
    out
}

/// Decodes the entities that end in a semicolon, all-capital names of lower-case ones included.
fn unescape_strict(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let hash = usize::from(rest[1..].starts_with('#'));
        let body = &rest[1 + hash..];
        let length = body.bytes().take(25).take_while(u8::is_ascii_alphanumeric).count();
        let known = (1..=24).contains(&length) && body[length..].starts_with(';');
        let decoded = known.then(|| decode(&body[..length], hash == 1)).flatten();
        match decoded {
            Some(decoded) => {
                out.push_str(&decoded);
                rest = &body[length + 1..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
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
