//! A zip archive's entries as ranges of the mapped file.
//!
//! Read here and not by a crate: what is wanted of an entry is where its bytes lie, so that tensors stay mapped, and
//! the proof that no two entries share any. Crates hand out readers that copy or inflate, and take more kinds of
//! archive than PyTorch writes; this is the part of the format that it does: one volume, no encryption, zip64 or not.

use std::collections::BTreeMap;
use std::ops::Range;

/// Most entries: the largest published checkpoints have a few thousand tensors.
const MAX_ENTRIES: usize = 1 << 16;
const STORED: u16 = 0;

/// What every message about a damaged file ends with.
const AGAIN: &str = "The file is damaged: download it again";

struct Entry {
    method: u16,
    bytes: Range<usize>,
}

pub(super) struct Archive<'a> {
    file: &'a [u8],
    entries: BTreeMap<&'a str, Entry>,
}

/// Where the central directory lies and how many entries it lists.
struct Directory {
    bytes: Range<usize>,
    count: usize,
}

/// A little-endian number of `N` bytes at `at`.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let mut wide = [0; 8];
    wide[..N].copy_from_slice(bytes.get(at..at.checked_add(N)?)?);
    Some(u64::from_le_bytes(wide))
}

fn truncated() -> String {
    format!("ends in the middle of its zip directory. {AGAIN}")
}

impl<'a> Archive<'a> {
    /// Reads the directory and proves that every entry lies inside the file, before the directory, and apart from
    /// all others.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, String> {
        let Directory { bytes, count } = directory(file)?;
        let mut entries = BTreeMap::new();
        // Every entry from its local header to its end.
        let mut places = Vec::new();
        let mut at = bytes.start;
        for _ in 0..count {
            let (name, entry, place) = record(file, &bytes, &mut at)?;
            places.push((place.start, place.end, name));
            if entries.insert(name, entry).is_some() {
                return Err(format!("holds two entries of the name `{}`. {AGAIN}", name.escape_debug()));
            }
        }
        if at != bytes.end {
            return Err(format!("its zip directory lists {count} entries and goes on after them. {AGAIN}"));
        }
        places.sort_unstable();
        for pair in places.windows(2) {
            let ((_, end, a), (begin, _, b)) = (pair[0], pair[1]);
            if end > begin {
                let (a, b) = (a.escape_debug(), b.escape_debug());
                return Err(format!("entries `{a}` and `{b}` overlap in the file. {AGAIN}"));
            }
        }
        Ok(Archive { file, entries })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().copied()
    }

    /// Where an entry's bytes lie in the file; `None` if there is no such entry.
    pub(super) fn place(&self, name: &str) -> Result<Option<Range<usize>>, String> {
        match self.entries.get(name) {
            Some(Entry { method: STORED, bytes }) => Ok(Some(bytes.clone())),
            Some(Entry { method, .. }) => Err(format!(
                "entry `{}` is compressed (method {method}), expected it stored as torch.save does, so that it can be \
                 mapped: load the file in PyTorch and save it again with torch.save",
                name.escape_debug()
            )),
            None => Ok(None),
        }
    }

    /// An entry's bytes.
    pub(super) fn read(&self, name: &str) -> Result<Option<&'a [u8]>, String> {
        Ok(self.place(name)?.map(|place| &self.file[place]))
    }
}

/// Finds the central directory from the file's end.
fn directory(file: &[u8]) -> Result<Directory, String> {
    // 22 bytes and a comment of at most 65535, which reaches to the end of the file.
    let last = file.len().checked_sub(22).ok_or_else(truncated)?;
    let end = (last.saturating_sub(65_535)..=last).rev().find(|&at| {
        file[at..].starts_with(b"PK\x05\x06") && number::<2>(file, at + 20) == Some((last - at) as u64)
    });
    let Some(end) = end else {
        return Err(
            "is cut off: a PyTorch file ends with a zip directory, none found. Download it again".into()
        );
    };
    let short = |at| number::<2>(file, end + at).unwrap_or_default();
    let long = |at| number::<4>(file, end + at).unwrap_or_default();
    let locator = end.checked_sub(20).filter(|&at| file[at..].starts_with(b"PK\x06\x07"));
    let (count, size, begin, close) = match locator {
        None => (short(10), long(12), long(16), end),
        Some(locator) => {
            let at = number::<8>(file, locator + 8)
                .and_then(|at| usize::try_from(at).ok())
                .ok_or_else(truncated)?;
            let record = at.checked_add(56).filter(|&end| end <= locator).map(|_| &file[at..locator]);
            let record = record.filter(|record| {
                record.starts_with(b"PK\x06\x06") && number::<8>(record, 4) == Some(record.len() as u64 - 12)
            });
            let Some(record) = record else {
                return Err(format!("its zip64 directory is not where the file says. {AGAIN}"));
            };
            let field = |at| number::<8>(record, at).unwrap_or_default();
            (field(32), field(40), field(48), at)
        }
    };
    // What the older record says must be the same, or left open.
    let agrees = |narrow: u64, open: u64, wide: u64| narrow == open || narrow == wide;
    let agree = agrees(short(10), 0xffff, count)
        && agrees(long(12), 0xffff_ffff, size)
        && agrees(long(16), 0xffff_ffff, begin)
        && agrees(short(8), 0xffff, count);
    if !agree {
        return Err(format!("its zip and zip64 directories contradict each other. {AGAIN}"));
    }
    if short(4) != 0 || short(6) != 0 {
        return Err("is one volume of a split zip archive, expected a whole PyTorch file".into());
    }
    if begin.checked_add(size) != Some(close as u64) {
        return Err(format!(
            "its zip directory should lie in bytes {begin} to {begin} + {size}, which is not where the file ends. {AGAIN}"
        ));
    }
    // Each record has 46 bytes or more, so that the count is bounded by the file's own length.
    if count > MAX_ENTRIES as u64 || count > size / 46 {
        return Err(format!(
            "its zip directory of {size} bytes announces {count} entries, at most {MAX_ENTRIES} are read. {AGAIN}"
        ));
    }
    Ok(Directory { bytes: begin as usize..close, count: count as usize })
}

/// One record of the directory at `at`, which moves behind it: the entry's name, the entry, and its place with its
/// local header.
fn record<'a>(
    file: &'a [u8],
    directory: &Range<usize>,
    at: &mut usize,
) -> Result<(&'a str, Entry, Range<usize>), String> {
    let record = &file[*at..directory.end];
    if !record.starts_with(b"PK\x01\x02") || record.len() < 46 {
        return Err(format!("its zip directory lists fewer entries than it announces. {AGAIN}"));
    }
    let short = |at| number::<2>(record, at).unwrap_or_default();
    let long = |at| number::<4>(record, at).unwrap_or_default();
    let (flags, method) = (short(8), short(10) as u16);
    let (name, extra, comment) = (short(28) as usize, short(30) as usize, short(32) as usize);
    let rest = record.get(46..46 + name + extra + comment).ok_or_else(truncated)?;
    *at += 46 + rest.len();
    let (name, rest) = rest.split_at(name);
    let Ok(text) = std::str::from_utf8(name) else {
        return Err(format!("the name of an entry is not UTF-8: {:?}", String::from_utf8_lossy(name)));
    };
    let shown = text.escape_debug();
    if flags & 0x2041 != 0 {
        return Err(format!("entry `{shown}` is encrypted, expected a file as torch.save writes it"));
    }
    // In this order, and each only where the narrow field is full.
    let mut wide = zip64(&rest[..extra]);
    let mut widen = |narrow: u64| if narrow == 0xffff_ffff { wide.next() } else { Some(narrow) };
    let (size, compressed, offset) = (widen(long(24)), widen(long(20)), widen(long(42)));
    let (Some(size), Some(compressed), Some(offset)) = (size, compressed, offset) else {
        return Err(format!("entry `{shown}` lacks its zip64 sizes. {AGAIN}"));
    };
    if method == STORED && size != compressed {
        return Err(format!("entry `{shown}` is stored as {compressed} bytes of {size}. {AGAIN}"));
    }
    let outside = || {
        format!(
            "entry `{shown}` of {compressed} bytes at byte {offset} lies outside the archive's entries. {AGAIN}"
        )
    };
    let begin = usize::try_from(offset).ok().filter(|&begin| begin < directory.start).ok_or_else(outside)?;
    let local = &file[begin..directory.start];
    let same = local.starts_with(b"PK\x03\x04")
        && number::<2>(local, 8) == Some(u64::from(method))
        && number::<2>(local, 26) == Some(name.len() as u64)
        && local.get(30..30 + name.len()) == Some(name);
    // Sizes may be left to a descriptor behind the data, or to zip64's extra field.
    let later = number::<2>(local, 6).is_some_and(|flags| flags & 8 != 0);
    let fits = |at, wide| number::<4>(local, at).is_some_and(|n| later || n == 0xffff_ffff || n == wide);
    if !same || !fits(18, compressed) || !fits(22, size) {
        return Err(format!("entry `{shown}` is not at byte {offset}, where its directory says. {AGAIN}"));
    }
    let start = begin + 30 + name.len() + number::<2>(local, 28).unwrap_or_default() as usize;
    let end = usize::try_from(compressed).ok().and_then(|size| start.checked_add(size));
    let end = end.filter(|&end| end <= directory.start).ok_or_else(outside)?;
    Ok((text, Entry { method, bytes: start..end }, begin..end))
}

/// The numbers of the zip64 extra field.
fn zip64(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut field: &[u8] = &[];
    while let (Some(kind), Some(size)) = (number::<2>(extra, 0), number::<2>(extra, 2)) {
        let Some((body, rest)) = extra[4..].split_at_checked(size as usize) else { break };
        if kind == 1 {
            field = body;
            break;
        }
        extra = rest;
    }
    field.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
}
