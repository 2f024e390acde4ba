//! One mapped file of a checkpoint.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::entry::Entry;
use super::{header, torch};
use crate::error::{Error, Result};

/// One mapped file.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    map: Mmap,
}

impl Shard {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let about = fs::metadata(path).map_err(|e| crate::files::unreadable(path, &e))?;
        // Opening a pipe would wait for a writer for ever, so anything but a file is refused unopened.
        if !about.is_file() {
            let what = if about.is_dir() { "is a folder" } else { "is not a regular file" };
            return Err(Error::file(path, format!("{what}, expected a safetensors or PyTorch file")));
        }
        if about.len() == 0 {
            return Err(Error::file(
                path,
                "is empty, expected a safetensors or PyTorch file: download it again",
            ));
        }
        let map = File::open(path)
            // SAFETY: the mapping is only read. A file that another program shortens or rewrites while it
            // is mapped is out of scope (reads past its new end raise SIGBUS): no portable lock forbids it.
            .and_then(|file| unsafe { Mmap::map(&file) })
            .map_err(|e| crate::files::unreadable(path, &e))?;
        Ok(Shard { path: path.to_path_buf(), map })
    }

    /// Its tensors by name; `number` is the file's in the checkpoint.
    pub(super) fn tensors(&self, number: usize) -> Result<Vec<(String, Entry)>> {
        if !torch::is_zip(&self.map) {
            return header::parse(&self.path, &self.map, number);
        }
        // An archive's entries are looked at all over the file, a line of each: reading ahead there would
        // read much of a large file.
        self.advise(true);
        let tensors = torch::parse(&self.path, &self.map, number);
        self.advise(false);
        tensors
    }

    /// Whether the file's list of tensors has a name, by a look for its bytes: nothing of the list is read or proved.
    pub(super) fn lists(&self, name: &str) -> bool {
        // As a text in JSON, and in a pickle: after its length, in 4 bytes or in 1.
        let (torch, length) = (torch::is_zip(&self.map), name.len() as u8);
        let spellings = match torch {
            true => vec![[b"X", &[length, 0, 0, 0][..]].concat(), vec![0x8c, length]],
            false => vec![vec![b'"']],
        };
        let listing = if torch { torch::listing(&self.map) } else { header::listing(&self.map) };
        spellings.iter().any(|before| {
            let needle = [before, name.as_bytes()].concat();
            listing.is_some_and(|text| text.windows(needle.len()).any(|found| found == needle))
        })
    }

    /// What its header says besides tensors; nothing of PyTorch's files.
    pub(super) fn metadata(&self) -> BTreeMap<String, String> {
        if torch::is_zip(&self.map) { BTreeMap::new() } else { header::metadata(&self.map) }
    }

    /// Tells the kernel whether to expect reads here and there; a hint, which it may refuse.
    fn advise(&self, random: bool) {
        #[cfg(unix)]
        let _ = self.map.advise(if random { memmap2::Advice::Random } else { memmap2::Advice::Normal });
        #[cfg(not(unix))]
        let _ = random;
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Asks the kernel to read a tensor's bytes ahead: the repacks stride through them, which its own
    /// guess at what comes next does not follow.
    pub(super) fn will_need(&self, bytes: &Range<usize>) {
        #[cfg(unix)]
        // A hint: a kernel that refuses it reads on demand.
        let _ = self.map.advise_range(memmap2::Advice::WillNeed, bytes.start, bytes.len());
        #[cfg(not(unix))]
        let _ = bytes;
    }
}
