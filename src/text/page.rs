//! The text of a page while its tags come and go, as BeautifulSoup's `.text` collects it.

use std::collections::HashMap;

/// Elements without content.
const VOID: [&str; 24] = [
    "area", "base", "basefont", "bgsound", "br", "col", "command", "embed", "frame", "hr", "image", "img",
    "input", "isindex", "keygen", "link", "menuitem", "meta", "nextid", "param", "source", "spacer", "track",
    "wbr",
];

/// Elements whose text is not part of a page's text.
const HIDDEN: [&str; 5] = ["rt", "rp", "style", "script", "template"];

/// The growing page: its visible text and open elements.
#[derive(Default)]
pub(super) struct Page {
    pub out: Vec<char>,
    pending: Option<Vec<char>>,
    open: Vec<String>,
    counts: HashMap<String, usize>,
    /// Void elements whose end tag may still follow, to be ignored.
    closed: HashMap<String, usize>,
}

impl Page {
    pub fn data(&mut self, text: &[char]) {
        self.pending.get_or_insert_default().extend_from_slice(text);
    }

    fn is_open(&self, names: &[&str]) -> bool {
        names.iter().any(|n| self.counts.get(*n).is_some_and(|&c| c > 0))
    }

    /// Ends a piece of text, visible unless its element hides it.
    pub fn flush(&mut self) {
        let shown = !self.is_open(&HIDDEN);
        self.flush_as(shown);
    }

    pub fn flush_as(&mut self, shown: bool) {
        let Some(mut text) = self.pending.take() else { return };
        let blank = text.iter().all(|c| matches!(c, ' ' | '\n' | '\t' | '\u{c}' | '\r'));
        if blank && !self.is_open(&["pre", "textarea"]) {
            text = vec![if text.contains(&'\n') { '\n' } else { ' ' }];
        }
        if shown {
            self.out.append(&mut text);
        }
    }

    pub fn start(&mut self, name: &str, closed_here: bool) {
        self.flush();
        *self.counts.entry(name.to_owned()).or_default() += 1;
        self.open.push(name.to_owned());
        let void = VOID.contains(&name);
        if void || closed_here {
            self.close(name);
        }
        if void && !closed_here {
            *self.closed.entry(name.to_owned()).or_default() += 1;
        }
    }

    pub fn end(&mut self, name: &str) {
        match self.closed.get_mut(name) {
            Some(n) if *n > 0 => *n -= 1,
            _ => self.close(name),
        }
    }

    /// Closes the innermost element of that name and all within, if there is one.
    fn close(&mut self, name: &str) {
        self.flush();
        while self.is_open(&[name]) {
            let Some(popped) = self.open.pop() else { return };
            if let Some(n) = self.counts.get_mut(&popped) {
                *n -= 1;
            }
            if popped == name {
                return;
            }
        }
    }
}
