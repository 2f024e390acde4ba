//! Files: JSON of a model folder, why one cannot be read, and writing whole ones.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Largest JSON file read: tokenizers' vocabularies are a few MiB, configurations a few KiB.
const MAX_JSON: u64 = 16 << 20;

/// Reads a JSON file of a model folder: a configuration or an index.
///
/// # Errors
/// When the file is missing (the message says which folder was expected to hold it), unreadable, larger
/// than 16 MiB, or not JSON of the expected form (with line and column).
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let about = fs::metadata(path).map_err(|e| unreadable(path, &e))?;
    // Opening a pipe would wait for a writer for ever, so anything but a file is refused unopened.
    if !about.is_file() {
        let what = if about.is_dir() { "is a folder" } else { "is not a regular file" };
        return Err(Error::file(path, format!("{what}, expected a JSON file")));
    }
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_JSON + 1).read_to_end(&mut text));
    read.map_err(|e| unreadable(path, &e))?;
    if text.len() as u64 > MAX_JSON {
        let what =
            format!("{} bytes, expected at most {MAX_JSON}: not one of a model's JSON files", about.len());
        return Err(Error::file(path, what));
    }
    let text = finite(text);
    let value = serde_json::from_slice(&text).map_err(|e| {
        let hint = if text.is_empty() {
            "the file is empty: download it again"
        } else {
            "correct or download it again"
        };
        Error::file(path, format!("not the JSON expected here: {e}. {hint}"))
    })?;
    // serde fills a struct from a list too, field by field, which no file means.
    match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => Ok(value),
        _ => Err(Error::file(
            path,
            "not the JSON expected here: line 1 begins no object. Correct or download it again",
        )),
    }
}

/// Numbers that Python writes and JSON has not, outside strings: null in their place.
pub fn finite(json: Vec<u8>) -> Vec<u8> {
    const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    if !json.windows(3).any(|word| word == b"Inf" || word == b"NaN") {
        return json;
    }
    let (mut found, mut at, mut text) = (Vec::with_capacity(json.len()), 0, false);
    while at < json.len() {
        let word = WORDS.iter().find(|word| !text && json[at..].starts_with(word));
        let taken = match word {
            Some(word) => word.len(),
            // an escaped quote ends no string
            None if text && json[at] == b'\\' => 2.min(json.len() - at),
            None => 1,
        };
        text ^= json[at] == b'"';
        found.extend_from_slice(if word.is_some() { b"null" } else { &json[at..at + taken] });
        at += taken;
    }
    found
}

/// Why a file cannot be read; for a missing one, whether its folder is there.
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Error {
    if error.kind() != io::ErrorKind::NotFound {
        return Error::file(path, format!("cannot be read: {error}"));
    }
    if path.is_symlink() {
        // The hub's cache links to blobs, which are sometimes cleaned away.
        return Error::file(path, "is a link to a file that is gone: download it again");
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Error::file(path, format!("not found: the folder {} does not exist", folder.display()))
        }
        Some(folder) if !folder.as_os_str().is_empty() => {
            let what = "is this the right folder, and complete? If not, download it again";
            Error::file(path, format!("not found: expected in the folder {}: {what}", folder.display()))
        }
        _ => Error::file(path, "not found: is the path right?"),
    }
}

/// A name beside `path` that no other call of this or another process takes: what is written there is moved to `path` once
/// it is whole.
pub(crate) fn partial(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".partial-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

/// Writes a file that appears whole or not at all: it is written beside its place and then moved there.
///
/// # Errors
/// When its folder is absent or not writable, or the disk is full; what was at `path` stays.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = partial(path);
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // Best effort: the error to report is the first one.
        let _ = fs::remove_file(&partial);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pythons_numbers_are_null() {
        let json = r#"{"a \" NaN": [NaN, -Infinity, 1.5], "b\\": Infinity, "c": "NaN"}"#;
        let expected = r#"{"a \" NaN": [null, null, 1.5], "b\\": null, "c": "NaN"}"#;
        assert_eq!(String::from_utf8(finite(json.into())).unwrap(), expected);
        assert_eq!(finite(b"\"Inf\\".to_vec()), b"\"Inf\\");
    }

    #[test]
    fn many_writers_of_one_file_leave_it_whole() {
        let folder = std::env::temp_dir().join(format!("ancestral-files-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("one");
        std::thread::scope(|scope| {
            for letter in b'a'..b'e' {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..200 {
                        write_whole(path, &vec![letter; 10_000]).unwrap();
                        let read = fs::read(path).unwrap();
                        assert!(read.len() == 10_000 && read.iter().all(|byte| *byte == read[0]));
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside it");
        assert!(write_whole(&folder.join("absent/one"), b"").is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
