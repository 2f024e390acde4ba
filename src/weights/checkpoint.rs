//! A checkpoint: its files opened and proved, its tensors by name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use safetensors::Dtype;

use super::adapter::Adapters;
use super::entry::Entry;
use super::shard::Shard;
use super::{locate, torch};
use crate::error::{Error, Result};
use crate::graph::WeightPart;

/// A checkpoint's tensors: one memory-mapped file, safetensors or PyTorch's, or the shards an index names.
#[derive(Debug)]
pub struct Checkpoint {
    pub(super) path: PathBuf,
    pub(super) shards: Vec<Shard>,
    pub(super) entries: BTreeMap<String, Entry>,
    /// What is added to its tensors as they are read.
    pub(super) adapters: OnceLock<Adapters>,
}

impl Checkpoint {
    /// Finds and maps the weights in `folder`.
    ///
    /// Looked for, in this order: `{stem}.safetensors`; the shards of an index
    /// (`{stem}.safetensors.index.json`); shards without an index
    /// (`{stem}-00001-of-00002.safetensors`). With a variant such as `fp16` the names are
    /// `{stem}.fp16.safetensors`, `{stem}.safetensors.index.fp16.json` or
    /// `{stem}.fp16.safetensors.index.json`, `{stem}.fp16-00001-of-00002.safetensors` or
    /// `{stem}-00001-of-00002.fp16.safetensors`: both spellings are published. Without a variant, full
    /// precision is preferred and `fp16` taken where there is nothing else. Where there are no safetensors of
    /// that precision, PyTorch's files of the same spellings are taken: `{stem}.bin`,
    /// `{stem}.bin.index.json` and so on, the stem `model` being called `pytorch_model` there.
    ///
    /// The stem is `diffusion_pytorch_model` for U-Nets and `model` for text encoders.
    ///
    /// # Errors
    /// When the folder or the weights are missing, an index or a file is broken, or two shards hold the same
    /// tensor.
    pub fn open(folder: &Path, stem: &str, variant: Option<&str>) -> Result<Self> {
        match locate::find(folder, stem, variant)? {
            locate::Found::Single(file) => Self::open_file(&folder.join(file)),
            locate::Found::Index(file) => {
                let index = folder.join(file);
                let map = locate::read_index(&index)?;
                let mut files: Vec<&str> = map.values().map(String::as_str).collect();
                files.sort_unstable();
                files.dedup();
                let checkpoint = Self::open_shards(folder, &files)?;
                checkpoint.agrees_with(&index, &map)?;
                Ok(checkpoint)
            }
            locate::Found::Shards(files) => {
                Self::open_shards(folder, &files.iter().map(String::as_str).collect::<Vec<_>>())
            }
        }
    }

    /// Maps one file, safetensors or PyTorch's (`.pt`, `.pth`, `.ckpt`, `.bin`, since 1.6; also TorchScript
    /// archives), told by its content, whatever its name.
    ///
    /// Of PyTorch's files a tensor's name is its path, joined with `.`, without well-known wrappers such as
    /// `state_dict` around all tensors, an optimiser's state beside them, and `DataParallel`'s `module.`.
    /// Nothing in the file is ever run: what is no tensor, number, text, list or dictionary is refused.
    ///
    /// # Errors
    /// When the file cannot be read or is not a sound file of one of these formats.
    pub fn open_file(path: &Path) -> Result<Self> {
        let mut checkpoint = Checkpoint::empty(path);
        checkpoint.add_shard(path)?;
        Ok(checkpoint)
    }

    /// Whether a file lists tensors of all these names (of at most 255 bytes), as they stand in it. Only that is looked
    /// for, which is much less than to open it; a broken file may list some, too.
    pub fn lists(path: &Path, names: &[&str]) -> bool {
        Shard::open(path).is_ok_and(|shard| names.iter().all(|name| shard.lists(name)))
    }

    fn open_shards(folder: &Path, files: &[&str]) -> Result<Self> {
        let mut checkpoint = Checkpoint::empty(folder);
        for file in files {
            checkpoint.add_shard(&folder.join(file))?;
        }
        Ok(checkpoint)
    }

    fn empty(path: &Path) -> Self {
        let (path, shards, entries) = (path.to_path_buf(), Vec::new(), BTreeMap::new());
        Checkpoint { path, shards, entries, adapters: OnceLock::new() }
    }

    fn add_shard(&mut self, path: &Path) -> Result<()> {
        let shard = Shard::open(path)?;
        let number = self.shards.len();
        for (name, entry) in shard.tensors(number)? {
            if let Some(other) = self.entries.get(&name) {
                let other = self.shards[other.shard].path().display();
                let what =
                    format!("is also in {other}: these shards do not belong together, download both again");
                return Err(Error::tensor(path, name, what));
            }
            self.entries.insert(name, entry);
        }
        self.shards.push(shard);
        Ok(())
    }

    /// Whether every tensor is in the shard its index names.
    fn agrees_with(&self, index: &Path, map: &BTreeMap<String, String>) -> Result<()> {
        for (name, file) in map {
            let found = self.entries.get(name).map(|entry| self.shards[entry.shard].path());
            let wrong = match found {
                Some(path) if path.ends_with(file) => continue,
                Some(path) => format!("found in {}", path.display()),
                None => "which does not hold it".to_string(),
            };
            let what = format!(
                "expected in {file}, {wrong}: index and shards do not belong together, download them again"
            );
            return Err(Error::tensor(index, name, what));
        }
        Ok(())
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// A tensor's shape as it is in the file, outermost dimension first.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// A tensor's element type in the file.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.entries.get(name).map(|entry| entry.dtype)
    }

    /// What the first file's header says besides tensors; nothing of PyTorch's files.
    pub(super) fn metadata(&self) -> BTreeMap<String, String> {
        self.shards.first().map(Shard::metadata).unwrap_or_default()
    }

    /// The file, or the folder of the shards.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renames tensors, from old spellings to the ones the models use: `rename` returns the new name, or
    /// `None` to keep the old one.
    ///
    /// # Errors
    /// When two tensors would get one name, unless they are the same bit for bit: a tied tensor that was
    /// saved twice (T5's embedding), of which one is kept.
    pub fn rename(&mut self, rename: impl Fn(&str) -> Option<String>) -> Result<()> {
        // The names before, for the message: an entry no longer knows its own.
        let mut renamed: BTreeMap<String, (String, Entry)> = BTreeMap::new();
        for (old, entry) in std::mem::take(&mut self.entries) {
            let new = rename(&old).unwrap_or_else(|| old.clone());
            match renamed.get(&new) {
                Some((_, first)) if self.same(first, &entry) => {}
                Some((first, _)) => {
                    let what = format!(
                        "`{first}` and `{old}` are two spellings of this tensor and the checkpoint holds \
                         both, with different values: delete the one that does not belong"
                    );
                    return Err(Error::tensor(&self.path, new, what));
                }
                None => {
                    renamed.insert(new, (old, entry));
                }
            }
        }
        self.entries = renamed.into_iter().map(|(new, (_, entry))| (new, entry)).collect();
        Ok(())
    }

    /// Merges adapters into its tensors from here on. False, and nothing is changed, where there are adapters already.
    pub fn adapt(&self, adapters: Adapters) -> bool {
        self.adapters.set(adapters).is_ok()
    }

    /// The adapters that change these parts, by number and the bits of their scale.
    pub fn adapters_of(&self, parts: &[WeightPart]) -> Vec<(u64, u32)> {
        let adapters = self.adapters.get().into_iter();
        adapters.flat_map(|adapters| parts.iter().flat_map(|part| adapters.of(&part.name))).collect()
    }

    fn same(&self, a: &Entry, b: &Entry) -> bool {
        a.dtype == b.dtype && a.shape == b.shape && self.bytes(a) == self.bytes(b)
    }

    /// A tensor's bytes in order: those of the file, or, of a view whose elements do not lie in a row there, a
    /// copy.
    pub(super) fn bytes(&self, entry: &Entry) -> Cow<'_, [u8]> {
        let bytes = &self.shards[entry.shard].bytes()[entry.bytes.clone()];
        match &entry.strides {
            None => Cow::Borrowed(bytes),
            Some(strides) => {
                Cow::Owned(torch::gather(bytes, entry.dtype.bitsize() / 8, &entry.shape, strides))
            }
        }
    }

    pub(super) fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| {
            Error::tensor(&self.path, name, "not in this checkpoint: check that it belongs to this model")
        })
    }
}
