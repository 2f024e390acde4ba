//! Text out of HTML-ish captions: what remains when tags are gone.
//!
//! Follows BeautifulSoup's `.text` over Python 3.11's lenient `html.parser`, whose reading of broken
//! markup decides what is left of captions such as `a < b <i>c`.

use super::entities::{c1_meaning, code_point, entity};
use super::page::Page;
use super::scan::{is_space, literal, run};

/// The text of `markup` without its tags, comments, scripts and styles.
pub(super) fn text_of(markup: &[char]) -> Vec<char> {
    let last = |c| markup.iter().rposition(|&m| m == c);
    let mut parser = Parser {
        t: markup,
        last_close: last('>'),
        last_semicolon: last(';'),
        last_nul: last('\0'),
        absent: Vec::new(),
        page: Page::default(),
        hidden_until: None,
    };
    // Python parses what it is fed, then once more from where it stopped, knowing that it is all.
    let stopped = parser.go(0, false);
    parser.go(stopped, true);
    parser.page.flush();
    parser.page.out
}

struct Parser<'a> {
    t: &'a [char],
    last_close: Option<usize>,
    last_semicolon: Option<usize>,
    last_nul: Option<usize>,
    /// Ends of sections that were not found, so that later searches for them must fail too.
    absent: Vec<(&'static str, bool)>,
    page: Page,
    /// `script` or `style` while inside one: nothing but its end tag counts.
    hidden_until: Option<&'static str>,
}

impl Parser<'_> {
    fn starts(&self, at: usize, prefix: &str) -> bool {
        literal(self.t, at, prefix).is_some()
    }

    fn find(&self, c: char, from: usize) -> Option<usize> {
        let last = if c == '>' { self.last_close } else { Some(self.t.len()) };
        if last.is_none_or(|last| from > last) {
            return None;
        }
        self.t[from..].iter().position(|&m| m == c).map(|n| from + n)
    }

    /// Reads on from `at`; returns where it had to stop. `all`: no more text will come.
    fn go(&mut self, mut at: usize, all: bool) -> usize {
        let n = self.t.len();
        while at < n {
            let next = match self.hidden_until {
                None => run(self.t, at, |c| c != '&' && c != '<'),
                Some(name) => match (at..n).find(|&i| self.closes(i, name)) {
                    Some(next) => next,
                    None => break,
                },
            };
            if at < next {
                self.page.data(&self.t[at..next]);
            }
            at = next;
            if at == n {
                break;
            }
            let step = if self.t[at] == '<' { self.tag(at, all) } else { self.ampersand(at, all) };
            match step {
                Ok(next) => at = next,
                Err(next) => {
                    at = next;
                    break;
                }
            }
        }
        if all && at < n && self.hidden_until.is_none() {
            self.page.data(&self.t[at..]);
        }
        at
    }

    /// True if the end tag of a script or style stands at `at`.
    fn closes(&self, at: usize, name: &str) -> bool {
        if !self.starts(at, "</") {
            return false;
        }
        let from = run(self.t, at + 2, is_space);
        let end = from + name.len();
        let same =
            self.t.get(from..end).is_some_and(|w| w.iter().map(char::to_ascii_lowercase).eq(name.chars()));
        same && self.t.get(run(self.t, end, is_space)) == Some(&'>')
    }

    /// Reads what begins with `<`. `Err`: stop there.
    fn tag(&mut self, at: usize, all: bool) -> Result<usize, usize> {
        let second = self.t.get(at + 1).copied();
        let end = match second {
            Some(c) if c.is_ascii_alphabetic() => self.start_tag(at),
            Some('/') => self.end_tag(at),
            Some('!') => self.declaration(at),
            Some('?') => self.find('>', at + 2).map(|end| {
                self.page.flush();
                end + 1
            }),
            Some(_) => {
                self.page.data(&['<']);
                Some(at + 1)
            }
            None => return Err(at),
        };
        match end {
            Some(end) => Ok(end),
            None if !all => Err(at),
            None => {
                // Not a tag after all: text up to the next bracket.
                let close = self.find('>', at + 1).map(|i| i + 1);
                let end = close.or_else(|| self.find('<', at + 1)).unwrap_or(at + 1);
                self.page.data(&self.t[at..end]);
                Ok(end)
            }
        }
    }

    /// Reads what begins with `&`. `Err`: stop there.
    fn ampersand(&mut self, at: usize, all: bool) -> Result<usize, usize> {
        let t = self.t;
        let rest = t.len() - at;
        match t.get(at + 1) {
            Some('#') => self.number(at),
            Some(c) if c.is_ascii_alphabetic() => {
                let longest = run(t, at + 1, |c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
                // The name must be followed by something that is no letter; that may be its own dash.
                let end =
                    (at + 2..=longest).rev().find(|&e| t.get(e).is_some_and(|c| !c.is_ascii_alphanumeric()));
                let Some(end) = end else {
                    return Err(if all && rest == 2 { at + 1 } else { at });
                };
                let name: String = t[at + 1..end].iter().collect();
                match entity(&name) {
                    Some(text) => self.page.data(&text.chars().collect::<Vec<_>>()),
                    None => self.page.data(&t[at..end]),
                }
                Ok(end + usize::from(t[end] == ';'))
            }
            Some(_) => {
                self.page.data(&['&']);
                Ok(at + 1)
            }
            None => Err(at),
        }
    }

    /// Reads a numeric reference.
    fn number(&mut self, at: usize) -> Result<usize, usize> {
        let hex = matches!(self.t.get(at + 2), Some('x' | 'X'));
        let (radix, from) = if hex { (16, at + 3) } else { (10, at + 2) };
        let end = run(self.t, from, |c| c.is_digit(radix));
        let after = self.t.get(end);
        if end == from || after.is_none_or(char::is_ascii_hexdigit) {
            // Python gives up here: what follows stays as it is (the second time for good).
            let semicolon = self.last_semicolon.is_some_and(|last| last >= at);
            if semicolon {
                self.page.data(&['&', '#']);
            }
            return Err(if semicolon { at + 2 } else { at });
        }
        let digits: String = self.t[from..end].iter().collect();
        let c = code_point(&digits, radix).filter(|&n| n != 0).and_then(char::from_u32).unwrap_or('\u{fffd}');
        self.page.data(&[c1_meaning(c)]);
        Ok(end + usize::from(after == Some(&';')))
    }

    /// `<!...>`: comments, doctype, marked sections.
    fn declaration(&mut self, at: usize) -> Option<usize> {
        if self.starts(at, "<!--") {
            let end = self.section_end(at + 4, "--", false);
            self.page_break(end);
            return end.map(|(_, end)| end);
        }
        if !self.starts(at, "<![") {
            let end = self.find('>', at + 2)?;
            self.page.flush();
            return Some(end + 1);
        }
        let word = run(self.t, at + 3, |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        let name: String = self.t[at + 3..word].iter().collect::<String>().to_ascii_lowercase();
        let end = match name.as_str() {
            "temp" | "cdata" | "ignore" | "include" | "rcdata" => self.section_end(at + 3, "]", true),
            "if" | "else" | "endif" => self.section_end(at + 3, "]", false),
            // Python refuses such markup altogether; here it is text.
            _ => None,
        };
        self.page_break(end);
        let (text_end, end) = end?;
        if name == "cdata" && self.t.get(word) == Some(&'[') {
            self.page.data(&self.t[(word + 1).min(text_end)..text_end]);
            self.page.flush_as(true);
        }
        Some(end)
    }

    fn page_break(&mut self, end: Option<(usize, usize)>) {
        if end.is_some() {
            self.page.flush();
        }
    }

    /// Finds `mark`, spaces (`mark` and spaces again if `twice`) and `>`: their start and end.
    fn section_end(&mut self, from: usize, mark: &'static str, twice: bool) -> Option<(usize, usize)> {
        let gone = self.absent.contains(&(mark, twice));
        let last = self.last_close.filter(|&last| from <= last && !gone)?;
        let t = self.t;
        let end = (from..last).find_map(|start| {
            let mut end = run(t, literal(t, start, mark)?, is_space);
            if twice {
                end = run(t, literal(t, end, mark)?, is_space);
            }
            (t.get(end) == Some(&'>')).then_some((start, end + 1))
        });
        if end.is_none() {
            self.absent.push((mark, twice));
        }
        end
    }

    fn end_tag(&mut self, at: usize) -> Option<usize> {
        let close = self.find('>', at + 1)?;
        let spaced = run(self.t, at + 2, is_space);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_');
        let end = run(self.t, spaced, plain);
        let letter = |i: usize| self.t.get(i).is_some_and(char::is_ascii_alphabetic);
        let (from, end) = if letter(spaced) && self.t.get(run(self.t, end, is_space)) == Some(&'>') {
            self.hidden_until = None;
            (spaced, end)
        } else if letter(at + 2) {
            (at + 2, run(self.t, at + 2, name_char))
        } else {
            if close > at + 2 {
                self.page.flush();
            }
            return Some(close + 1);
        };
        let name: String = self.t[from..end].iter().flat_map(|c| c.to_lowercase()).collect();
        self.page.end(&name);
        Some(self.find('>', end)? + 1)
    }

    fn start_tag(&mut self, at: usize) -> Option<usize> {
        let closable = self.last_close.is_some_and(|last| last > at);
        // No tag can end behind the last bracket, so do not look for one; only NUL ends a name early.
        if !closable
            && (self.last_nul < Some(at) || self.t.get(run(self.t, at + 1, name_char)) != Some(&'\0'))
        {
            return None;
        }
        let end = self.whole_start_tag(at)?;
        let name_end = run(self.t, at + 1, name_char);
        let name: String = self.t[at + 1..name_end].iter().flat_map(|c| c.to_lowercase()).collect();
        let mut k = self.gap(name_end);
        while k < end
            && let Some(next) = self.attribute(k)
        {
            k = next;
        }
        let tail: String = self.t.get(k..end).unwrap_or_default().iter().collect();
        match tail.trim_matches(is_space) {
            ">" => self.page.start(&name, false),
            "/>" => self.page.start(&name, true),
            _ => {
                self.page.data(&self.t[at..end]);
                return Some(end);
            }
        }
        if tail.trim_matches(is_space) == ">" {
            self.hidden_until = ["script", "style"].into_iter().find(|&n| n == name);
        }
        Some(end)
    }

    /// The end of the start tag at `at`, or of as much of it as can be read; `None`: incomplete.
    fn whole_start_tag(&self, at: usize) -> Option<usize> {
        let mut j = run(self.t, run(self.t, at + 1, name_char), |c| is_space(c) || c == '/');
        while let Some(next) = self.attribute(j) {
            j = next;
        }
        j = run(self.t, j, is_space);
        match self.t.get(j)? {
            '>' => Some(j + 1),
            '/' if self.starts(j, "/>") => Some(j + 2),
            '/' | '=' => None,
            c if c.is_ascii_alphabetic() => None,
            _ => Some(j),
        }
    }

    /// Spaces and slashes between attributes, up to a closing `/>`.
    fn gap(&self, mut at: usize) -> usize {
        while self.t.get(at).is_some_and(|&c| is_space(c) || (c == '/' && !self.starts(at, "/>"))) {
            at += 1;
        }
        at
    }

    /// The end of an attribute and the gap behind it.
    fn attribute(&self, at: usize) -> Option<usize> {
        let t = self.t;
        let before = *t.get(at.checked_sub(1)?)?;
        let first = *t.get(at)?;
        let starts = matches!(before, '\'' | '"' | '/') || is_space(before);
        if !starts || is_space(first) || matches!(first, '/' | '>') {
            return None;
        }
        let end = run(t, at + 1, |c| !is_space(c) && !matches!(c, '/' | '=' | '>'));
        Some(self.gap(self.value(end).unwrap_or(end)))
    }

    /// The end of `= value` at `at`, if there is one.
    fn value(&self, at: usize) -> Option<usize> {
        let t = self.t;
        let equals = run(t, at, is_space);
        let from = run(t, equals, |c| c == '=');
        if from == equals {
            return None;
        }
        let start = run(t, from, is_space);
        match t.get(start) {
            Some(&quote @ ('"' | '\'')) => match self.find(quote, start + 1) {
                Some(end) => Some(end + 1),
                // An open quote is no value. The value is empty, or the second of two equal signs.
                None if start > from => Some(start - 1),
                None if from > equals + 1 => Some(run(t, from - 1, |c| c != '>' && !is_space(c))),
                None => None,
            },
            _ => Some(run(t, start, |c| c != '>' && !is_space(c))),
        }
    }
}

/// Characters of a tag's name after its first.
fn name_char(c: char) -> bool {
    !matches!(c, '\t' | '\n' | '\r' | '\u{c}' | ' ' | '/' | '>' | '\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(markup: &str) -> String {
        text_of(&markup.chars().collect::<Vec<_>>()).into_iter().collect()
    }

    #[test]
    fn tags_disappear() {
        assert_eq!(text("a <b class='x>y'>bold</b><br/> c"), "a bold c");
        assert_eq!(text("x<script>if (a<b) &amp;</script>y<style>z"), "xy");
        assert_eq!(text("<!doctype html><!-- no -->t<?pi?><![CDATA[data]]>"), "tdata");
        assert_eq!(text("a < b <3 <i"), "a < b <3 <i");
        assert_eq!(text("&lt;i&gt; &copy &#233; &#x41; &nosuch; &"), "<i> © é A &nosuch &");
    }

    #[test]
    fn broken_markup_is_quick() {
        let parts = [
            "<a ",
            "<!--",
            "</",
            "<a b=\"",
            "&#",
            "<![cdata[",
            "<a b='>",
            "<script>",
            "<p>",
            "</p ",
            "-- ",
            "<!-- >",
            "<![cdata[>",
            "<![if>",
            "<a<",
            "<a =",
            "&#1",
            "<br></br>",
            "</>",
            "]] ",
        ];
        for part in parts {
            text(&part.repeat(100_000 / part.len()));
        }
    }
}
