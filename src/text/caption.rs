//! Preparing prompts as diffusers' `IFPipeline` does: [`plain`] or [`clean`].
//!
//! The cleaning stems from DeepFloyd's preparation of web captions for training; what it removes or
//! keeps was found from the reference's behaviour, and is stated step by step here.

use super::address::{remove_addresses, unquote};
use super::scan::{
    Step, any_literal, boundary, is_digit, is_letter, is_space, is_word, literal, replace, run, sub,
    sub_runs, word_ends,
};
use super::{entities, fixes, html};

/// File types whose names are taken out.
const TYPES: [&str; 9] = ["png", "jpg", "jpeg", "bmp", "webp", "eps", "pdf", "apk", "mp4"];
/// Punctuation that becomes a space.
const NOISE: &str = "#®•©™&@·º½¾¿¡§~)(][}{|\\/*";
/// Dashes of all scripts.
const DASHES: &str = "-\u{58a}\u{5be}\u{1400}\u{1806}\u{2010}\u{2011}\u{2012}\u{2013}\u{2014}\u{2015}\u{2e17}\
    \u{2e1a}\u{2e3a}\u{2e3b}\u{2e40}\u{301c}\u{3030}\u{30a0}\u{fe31}\u{fe32}\u{fe58}\u{fe63}\u{ff0d}";

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
    let lower = unquote(text).trim_matches(is_space).to_lowercase().replace("<person>", "person");
    let mut t: Vec<char> = lower.chars().collect();
    remove_addresses(&mut t, false);
    remove_addresses(&mut t, true);
    t = html::text_of(&t);
    normalize_characters(&mut t);
    remove_numbers_and_files(&mut t);
    remove_noise(&mut t);
    let fixed: String = fixes::fix(&t.iter().collect::<String>());
    t = entities::unescape(&entities::unescape(&fixed)).chars().collect();
    remove_codes(&mut t);
    remove_advertising(&mut t);
    remove_mixed_and_sizes(&mut t);
    tidy_spaces(&mut t);
    trim_ends(t)
}

/// Nicknames and Chinese go; dashes and quotes become plain.
fn normalize_characters(t: &mut Vec<char>) {
    sub(t, "", |t, i| {
        let name = literal(t, i, "@").and_then(|at| Some(run(t, at, is_word)).filter(|&end| end > at));
        Step::at(i, name)
    });
    // CJK strokes, phonetic extensions, enclosed and compatibility forms, hexagrams, ideographs.
    t.retain(|c| !('\u{31c0}'..='\u{9fff}').contains(c));
    sub_runs(t, "-", 1, |c| DASHES.contains(c));
    for c in t.iter_mut() {
        match c {
            '`' | '´' | '«' | '»' | '“' | '”' | '¨' => *c = '"',
            '‘' | '’' => *c = '\'',
            _ => {}
        }
    }
    sub(t, "", |t, i| Step::at(i, any_literal(t, i, &["&quot;", "&quot"])));
    sub(t, "", |t, i| Step::at(i, literal(t, i, "&amp")));
}

/// The end of a run of `least..=most` digits at `at`, not followed by another digit.
fn digits(t: &[char], at: usize, least: usize, most: usize) -> Option<usize> {
    let end = t.iter().skip(at).take(most + 1).take_while(|&&c| is_digit(c)).count();
    (least..=most).contains(&end).then_some(at + end)
}

/// Internet addresses, article numbers, `#123`, long numbers and file names.
fn remove_numbers_and_files(t: &mut Vec<char>) {
    sub(t, " ", |t, i| {
        let dotted = |at| literal(t, digits(t, at, 1, 3)?, ".");
        let last = dotted(i).and_then(dotted).and_then(dotted);
        Step::at(i, last.and_then(|at| Some(run(t, at, is_digit).min(at + 3)).filter(|&end| end > at)))
    });
    sub(t, "", |t, i| {
        let clock = digits(t, i, 1, 1).and_then(|at| literal(t, at, ":"));
        let end = clock.filter(|&at| t.iter().skip(at).take(2).filter(|&&c| is_digit(c)).count() == 2);
        let end = end.map(|at| (at + 2, run(t, at + 2, is_space)));
        Step::at(i, end.filter(|&(from, end)| end > from && end == t.len()).map(|(_, end)| end))
    });
    sub(t, " ", |t, i| Step::at(i, literal(t, i, "\\n")));
    let whole = |t: &[char], end: Option<usize>| end.filter(|&end| word_ends(t, end));
    sub(t, "", |t, i| Step::at(i, literal(t, i, "#").and_then(|at| whole(t, digits(t, at, 1, 3)))));
    sub(t, "", |t, i| Step::at(i, literal(t, i, "#").and_then(|at| whole(t, digits(t, at, 5, t.len())))));
    sub(t, "", |t, i| match (boundary(t, i), run(t, i, is_digit)) {
        (true, end) if end >= i + 6 && word_ends(t, end) => Step::Hit(end),
        (_, end) => Step::Miss(end.max(i + 1)),
    });
    remove_files(t);
}

/// Words up to the last dot with a file type.
fn remove_files(t: &mut Vec<char>) {
    sub(t, "", |t, i| {
        let end = run(t, i, |c| !is_space(c));
        let dots = (i + 1..end).rev().filter(|&p| t[p] == '.');
        match dots.filter_map(|p| any_literal(t, p + 1, &TYPES)).next() {
            Some(end) => Step::Hit(end),
            None => Step::Miss(end.max(i + 1)),
        }
    });
}

/// Repeated quotes and dots, odd punctuation, lone dots, words joined by dashes or underscores.
fn remove_noise(t: &mut Vec<char>) {
    sub_runs(t, "\"", 2, |c| c == '"' || c == '\'');
    sub_runs(t, " ", 2, |c| c == '.');
    sub_runs(t, " ", 1, |c| NOISE.contains(c));
    sub(t, " ", |t, i| {
        let dot = run(t, i, is_space);
        if dot == i || t.get(dot) != Some(&'.') {
            return Step::Miss(dot.max(i + 1));
        }
        match run(t, dot + 1, is_space) {
            end if end > dot + 1 => Step::Hit(end),
            _ => Step::Miss(dot),
        }
    });
    let joins = |c: &char| matches!(c, '-' | '_');
    if t.iter().filter(|c| joins(c)).count() > 3 {
        t.iter_mut().filter(|c| joins(c)).for_each(|c| *c = ' ');
    }
}

/// The end of a word made of these runs of letters (`a`) and digits (`0`), each at least one long.
fn word_of(t: &[char], start: usize, shape: &str) -> Option<usize> {
    if !boundary(t, start) {
        return None;
    }
    let mut at = start;
    for part in shape.chars() {
        let end = if part == 'a' { run(t, at, is_letter) } else { run(t, at, is_digit) };
        if end == at {
            return None;
        }
        at = end;
    }
    word_ends(t, at).then_some(at)
}

/// Article codes such as jc6640, jc6640vc, 6640vc231.
fn remove_codes(t: &mut Vec<char>) {
    sub(t, "", |t, i| {
        let end = word_of(t, i, "a0").filter(|_| {
            let letters = run(t, i, is_letter);
            letters <= i + 3 && digits(t, letters, 3, 15).is_some()
        });
        Step::at(i, end)
    });
    sub(t, "", |t, i| Step::at(i, word_of(t, i, "a0a")));
    sub(t, "", |t, i| Step::at(i, word_of(t, i, "0a0")));
}

/// One or more spaces at `at`.
fn spaces(t: &[char], at: usize) -> Option<usize> {
    Some(run(t, at, is_space)).filter(|&end| end > at)
}

/// Exactly one space at `at`.
fn space(t: &[char], at: usize) -> Option<usize> {
    t.get(at).filter(|&&c| is_space(c)).map(|_| at + 1)
}

/// `free shipping`, `click for more`, `page 3`, file types and the like.
fn remove_advertising(t: &mut Vec<char>) {
    sub(t, "", |t, i| {
        let spaced = |at, word| spaces(t, literal(t, at, word)?);
        let shipping = |at| literal(t, at, "shipping");
        let free = |at| spaced(at, "free").and_then(shipping).or_else(|| shipping(at));
        Step::at(i, spaced(i, "worldwide").and_then(free).or_else(|| free(i)))
    });
    sub(t, "", |t, i| {
        let download = |at| literal(t, at, "download");
        let free = literal(t, i, "free").and_then(|at| space(t, at)).and_then(download);
        let end = free.or_else(|| download(i));
        Step::at(i, end.map(|end| space(t, end).and_then(|at| literal(t, at, "free")).unwrap_or(end)))
    });
    sub(t, "", |t, i| {
        let click = || space(t, literal(t, i, "click").filter(|_| boundary(t, i))?);
        let target = || space(t, any_literal(t, click()?, &["for", "on"])?);
        Step::at(i, target().and_then(|at| Some(run(t, at, is_word)).filter(|&end| end > at)))
    });
    sub(t, "", |t, i| {
        let end = any_literal(t, i, &TYPES).filter(|_| boundary(t, i));
        let image = |end| any_literal(t, space(t, end)?, &["images", "image"]);
        Step::at(i, end.map(|end| image(end).unwrap_or(end)))
    });
    sub(t, "", |t, i| {
        let number = || spaces(t, literal(t, i, "page").filter(|_| boundary(t, i))?);
        let end = number().and_then(|at| Some(run(t, at, is_digit)).filter(|&end| end > at));
        Step::at(i, end.filter(|&end| word_ends(t, end)))
    });
}

/// Longer mixtures of letters and digits, and sizes such as 1920x1080.
fn remove_mixed_and_sizes(t: &mut Vec<char>) {
    sub(t, " ", |t, i| {
        if !boundary(t, i) {
            return Step::Miss(i + 1);
        }
        let mut at = run(t, i, is_digit);
        for class in [is_letter, is_digit, is_letter, is_digit] {
            match run(t, at, class) {
                end if end > at => at = end,
                end => return Step::Miss(end.max(i + 1)),
            }
        }
        let end = run(t, at, |c| is_letter(c) || is_digit(c));
        Step::at(i, Some(end).filter(|&end| word_ends(t, end)))
    });
    sub(t, "", |t, i| match boundary(t, i) {
        true => Step::at(i, size_end(t, i)),
        false => Step::Miss(i + 1),
    });
}

/// The end of `3.5x4.5` at `at`.
fn size_end(t: &[char], at: usize) -> Option<usize> {
    let number = |at| Some(run(t, at, is_digit)).filter(|&end| end > at);
    let whole = number(at)?;
    let first = literal(t, whole, ".").map_or(whole, |at| run(t, at, is_digit));
    t.get(first).filter(|c| matches!(c, 'x' | 'х' | '×'))?;
    let whole = number(first + 1)?;
    // What is a word's end after a dot depends on what follows: take as much as possible.
    let dot = literal(t, whole, ".");
    let fraction = dot.map(|dot| run(t, dot, is_digit));
    [fraction, dot, Some(whole)].into_iter().flatten().find(|&end| boundary(t, end))
}

/// Spaces around colons and after commas, then single spaces only.
fn tidy_spaces(t: &mut Vec<char>) {
    sub(t, ": ", |t, i| {
        let colon = run(t, i, is_space);
        let end = run(t, colon + 1, is_space);
        let hit = boundary(t, i) && colon > i && t.get(colon) == Some(&':') && end > colon + 1;
        if hit { Step::Hit(end) } else { Step::Miss(colon.max(i + 1)) }
    });
    *t = replace(
        t,
        |t, i| {
            let mark = !is_digit(t[i]) && t.get(i + 1).is_some_and(|c| matches!(c, ',' | '.' | '/'));
            if mark && boundary(t, i + 2) { Step::Hit(i + 2) } else { Step::Miss(i + 1) }
        },
        |found, out| {
            out.extend_from_slice(found);
            out.push(' ');
        },
    );
    sub_runs(t, " ", 1, is_space);
}

/// Takes surrounding quotes and one leading and trailing mark off; a lone `.word` is nothing.
fn trim_ends(mut t: Vec<char>) -> String {
    let quote = |c: Option<&char>| matches!(c, Some('"' | '\''));
    if t.len() > 2 && quote(t.first()) && quote(t.last()) {
        t = t[1..t.len() - 1].to_vec();
    }
    if matches!(t.first(), Some('\'' | '_' | ',' | '-' | ':' | ';')) {
        t.remove(0);
    }
    if matches!(t.last(), Some('\'' | '_' | ',' | '-' | ':' | '+')) {
        t.pop();
    }
    if t.len() > 1 && t[0] == '.' && !t.iter().any(|&c| is_space(c)) {
        t.clear();
    }
    t.iter().collect::<String>().trim_matches(is_space).to_owned()
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
