//! Web addresses in captions.

use super::scan::{Step, any_literal, boundary, is_word, literal, run, sub};

/// Ends of web addresses.
const DOMAINS: [&str; 8] = ["com", "co", "ru", "net", "org", "edu", "gov", "it"];
/// `+` is a space and `%41` is `A`, as in addresses (`urllib.parse.unquote_plus`).
pub(super) fn unquote(text: &str) -> String {
    let spaced = text.replace('+', " ");
    let mut out = Vec::with_capacity(spaced.len());
    let mut plain_from = 0;
    let bytes = spaced.as_bytes();
    let hex = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16)).map(|d| d as u8);
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'%'
            && let (Some(high), Some(low)) = (hex(i + 1), hex(i + 2))
        {
            out.extend_from_slice(&bytes[plain_from..i]);
            out.push(high << 4 | low);
            i += 3;
            plain_from = i;
        } else {
            i += 1;
        }
    }
    out.extend_from_slice(&bytes[plain_from..]);
    String::from_utf8_lossy(&out).into_owned()
}

/// Removes `http://` (or, the second time, `www:`) and host names with what follows up to a dot.
pub(super) fn remove_addresses(t: &mut Vec<char>, www: bool) {
    let hosts = host_ends(t);
    sub(t, "", |t, i| {
        if !boundary(t, i) {
            return Step::Miss(i + 1);
        }
        let schemes: &[&str] = if www { &["www:"] } else { &["https:", "http:"] };
        let scheme = any_literal(t, i, schemes).and_then(|end| {
            let slashes = run(t, end, |c| c == '/').min(end + 3);
            let one = t.get(end).is_some_and(|&c| c.is_ascii_alphanumeric() || c == '%');
            if slashes > end { Some(slashes) } else { one.then_some(end + 1) }
        });
        Step::at(i, scheme.or(hosts[i]))
    });
}

/// For each position in a run of host name characters, the end of the address that starts there: its
/// last dot with a known domain counts. Found run by run, as trying each position would be quadratic.
fn host_ends(t: &[char]) -> Vec<Option<usize>> {
    let mut ends = vec![None; t.len()];
    let is_host = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    let mut start = 0;
    while start < t.len() {
        let end = run(t, start, is_host);
        let dots = (start + 1..end).rev().filter(|&p| t[p] == '.');
        if let Some((dot, stop)) = dots.filter_map(|p| Some((p, address_end(t, p + 1)?))).next() {
            ends[start..dot].fill(Some(stop));
        }
        start = end + 1;
    }
    ends
}

/// The end of a domain at `at` and its path; none if it is followed by `@`.
fn address_end(t: &[char], at: usize) -> Option<usize> {
    let free = |end: usize| t.get(end) != Some(&'@');
    DOMAINS.iter().filter_map(|d| literal(t, at, d)).find_map(|domain| {
        let path = run(t, domain, |c| is_word(c) || c == '/' || c == '-');
        (domain..=path).rev().filter(|&end| boundary(t, end)).find_map(|end| {
            let slash = t.get(end) == Some(&'/') && free(end + 1);
            if slash { Some(end + 1) } else { free(end).then_some(end) }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_disappear() {
        assert_eq!(unquote("a+b%20%C3%A9%zz%c3é%"), "a b é%zz\u{fffd}é%");
        for (raw, rest) in [
            ("see http://a.b.org/c-d/ now", "see  now"),
            ("me@site.com x.com@me", "me@ x.com@me"),
            ("a.com.b it.nothing", ".b it.nothing"),
        ] {
            let mut t: Vec<char> = raw.chars().collect();
            remove_addresses(&mut t, false);
            assert_eq!(t.iter().collect::<String>(), rest);
        }
    }
}
