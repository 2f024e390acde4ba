//! Preparing prompts as diffusers' `IFPipeline` does: [`plain`] or [`clean`].
//!
//! The cleaning stems from DeepFloyd's preparation of web captions for training: a list of Python's regular expressions,
//! with HTML and damaged text read in between.

use std::sync::LazyLock;

use super::scan::{Rules, is_space, rewrite, rules, shade};
use super::{entities, fixes, html};

/// Punctuation that becomes a space.
const NOISE: &str = "#®•©™&@·º½¾¿¡§~)(][}{|\\/*";
/// Dashes of all scripts.
const DASHES: &str = "-\u{58a}\u{5be}\u{1400}\u{1806}\u{2010}\u{2011}\u{2012}\u{2013}\u{2014}\u{2015}\u{2e17}\
    \u{2e1a}\u{2e3a}\u{2e3b}\u{2e40}\u{301c}\u{3030}\u{30a0}\u{fe31}\u{fe32}\u{fe58}\u{fe63}\u{ff0d}";

/// Web addresses: a scheme, or a host's name with a known ending and a path, not followed by `@`.
static ADDRESSES: Rules = LazyLock::new(|| {
    const HOST: &str = r"([a-zA-Z0-9.-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?)(?:[^@]|$)";
    ["https?", "www"]
        .iter()
        .flat_map(|scheme| rules(&[(&format!(r"\b(?:{scheme}:(?:/{{1,3}}|[a-zA-Z0-9%])|{HOST})"), "")]))
        .collect()
});

/// Names such as `@me`.
static NICKNAMES: Rules = LazyLock::new(|| rules(&[(r"@\w+", "")]));

/// Numbers of machines and articles, names of files, repeated marks.
static NUMBERS: Rules = LazyLock::new(|| {
    rules(&[
        ("-+", "-"),
        ("&quot;?", ""),
        ("&amp", ""),
        (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
        (r"\d:\d\d\s+$", ""),
        (r"\\n", " "),
        (r"#\d{1,3}\b", ""),
        (r"#\d{5,}\b", ""),
        (r"\b\d{6,}\b", ""),
        (r"\S+\.(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)", ""),
        (r#"["']{2,}"#, "\""),
        (r"\.{2,}", " "),
    ])
});

/// Runs of [`NOISE`], of which each is `#` by then, and lone dots.
static MARKS: Rules = LazyLock::new(|| rules(&[("#+", " "), (r"\s+\.\s+", " ")]));

/// Article codes such as jc6640, jc6640vc, 6640vc231; advertising; longer mixtures of letters and digits.
static ADVERTISING: Rules = LazyLock::new(|| {
    rules(&[
        (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
        (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
        (r"\b\d+[a-zA-Z]+\d+\b", ""),
        (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
        (r"(?:free\s)?download(?:\sfree)?", ""),
        (r"\bclick\s(?:for|on)\s\w+", ""),
        (r"\b(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)(?:\simages?)?", ""),
        (r"\bpage\s+\d+\b", ""),
        (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    ])
});

/// Sizes such as 1920x1080; spaces around colons and after commas, then single spaces only.
static SPACES: Rules = LazyLock::new(|| {
    rules(&[
        (r"\b\d+\.?\d*[x\xd7]\d+\.?\d*\b", ""),
        (r"\b\s+:\s+", ": "),
        (r"\D[,./]\b()", " "),
        (r"\s+", " "),
    ])
});

/// Lower case, without surrounding white space: the pipeline with `clean_caption=False`.
pub fn plain(text: &str) -> String {
    text.trim_matches(is_space).to_lowercase().trim_matches(is_space).to_owned()
}

/// The pipeline's `clean_caption=True`: removes addresses, tags, file names, ids, advertising and odd
/// punctuation, normalises quotes, dashes and spaces. Applied twice, as there.
///
/// Chinese characters and some symbols are removed too; that is what the model was trained with.
/// Takes time linear in the text.
pub fn clean(text: &str) -> String {
    clean_once(&clean_once(text))
}

fn clean_once(text: &str) -> String {
    let spaced = text.replace('+', " ");
    let unquoted = percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy();
    let lower = unquoted.trim_matches(is_space).to_lowercase().replace("<person>", "person");
    // Hosts have no digits beyond ASCII.
    let host = |c: char| if shade(c) == b'0' && c != '0' { b'_' } else { shade(c) };
    let t = rewrite(&lower, &ADDRESSES, host);
    let t = html::text_of(&t.chars().collect::<Vec<_>>());
    let t = rewrite(&t.iter().collect::<String>(), &NICKNAMES, shade);
    // CJK strokes, phonetic extensions, enclosed and compatibility forms, hexagrams, ideographs.
    let t: String = t.chars().filter(|c| !('\u{31c0}'..='\u{9fff}').contains(c)).map(straight).collect();
    let t: String =
        rewrite(&t, &NUMBERS, shade).chars().map(|c| if NOISE.contains(c) { '#' } else { c }).collect();
    let mut t = rewrite(&t, &MARKS, shade);
    if t.matches(['-', '_']).count() > 3 {
        t = t.replace(['-', '_'], " ");
    }
    t = entities::unescape(&entities::unescape(&fixes::fix(&t)));
    t = rewrite(&t, &ADVERTISING, shade);
    // The Cyrillic letter and the sign stand between numbers for an x.
    let times = |c| match c {
        'х' => b'x',
        '×' => 0xd7,
        c => shade(c),
    };
    trim_ends(&rewrite(&t, &SPACES, times))
}

/// Quotes and dashes in their plain form.
fn straight(c: char) -> char {
    match c {
        '`' | '´' | '«' | '»' | '“' | '”' | '¨' => '"',
        '‘' | '’' => '\'',
        c if DASHES.contains(c) => '-',
        c => c,
    }
}

/// Takes surrounding quotes and one leading and trailing mark off; a lone `.word` is nothing.
fn trim_ends(mut t: &str) -> String {
    const QUOTES: [char; 2] = ['"', '\''];
    let inner = || t.strip_prefix(QUOTES)?.strip_suffix(QUOTES).filter(|inner| !inner.is_empty());
    t = inner().unwrap_or(t);
    t = t.strip_prefix(['\'', '_', ',', '-', ':', ';']).unwrap_or(t);
    t = t.strip_suffix(['\'', '_', ',', '-', ':', '+']).unwrap_or(t);
    if t.len() > 1 && t.starts_with('.') && !t.contains(is_space) {
        return String::new();
    }
    t.trim_matches(is_space).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_cleaned() {
        for (raw, cleaned) in [
            ("", ""),
            ("  A Glass   Teapot!  35 mm? ", "a glass teapot! 35 mm?"),
            ("it's a boat & they're; (64 + 256 = 320)", "it's a boat they're; 64 256 = 320"),
            ("see http://example.org/pic.jpg and www.site.com/x-y @me #123 file.png", "see and"),
            ("<b>bold</b> &amp; “quoted” 10.0.0.1 1234567 jc6640 1920x1080", "bold \"quoted\""),
            ("free shipping worldwide, click for more, page 12 . png images", "worldwide,"),
            ("this-is-my-cute-cat .b,c", "this is my cute cat b, c"),
            ("小さな猫 ﬁlter ½ ™ — Ａ", "さな filter - a"),
        ] {
            assert_eq!(clean(raw), cleaned, "{raw:?}");
        }
        assert_eq!(plain("\u{1c} A É\u{3000}"), "a é");
    }

    #[test]
    fn any_text_is_quick() {
        let parts = [
            "a",
            "a.",
            ".com/",
            "a.com@",
            " ",
            "\t.",
            "1",
            "1.",
            "1x1.",
            "é",
            "#1",
            "a1",
            "free ",
            "page ",
            "<a ",
            "&",
            "&a",
            "a-",
            "'",
            "%c3",
            ".png",
            "click ",
            "猫",
            "👍",
            "\u{301}",
            "1:23 ",
            "http:",
            "-_",
            "\u{1b}[1;",
        ];
        let start = std::time::Instant::now();
        for part in parts {
            clean(&part.repeat(100_000 / part.len()));
        }
        assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
    }
}
