//! Mapping a safetensors file and proving its header.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// Largest header taken: the limit of huggingface_hub; the largest published models need under 1 MB.
const MAX_HEADER: u64 = 25_000_000;

/// The tensors of one file: name, type, shape, range of bytes in the file.
type Tensors = Vec<(String, Dtype, Vec<usize>, Range<usize>)>;

/// One mapped file.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    map: Mmap,
}

impl Shard {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let about = fs::metadata(path).map_err(|e| super::json::unreadable(path, &e))?;
        // Opening a pipe would wait for a writer for ever, so anything but a file is refused unopened.
        if !about.is_file() {
            let what = if about.is_dir() { "is a folder" } else { "is not a regular file" };
            return Err(Error::file(path, format!("{what}, expected a safetensors file")));
        }
        if about.len() == 0 {
            return Err(Error::file(path, "is empty, expected a safetensors file: download it again"));
        }
        let map = File::open(path)
            // SAFETY: the mapping is only read. A file that another program shortens or rewrites while it
            // is mapped is out of scope (reads past its new end raise SIGBUS): no portable lock forbids it.
            .and_then(|file| unsafe { Mmap::map(&file) })
            .map_err(|e| super::json::unreadable(path, &e))?;
        Ok(Shard { path: path.to_path_buf(), map })
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

/// Reads the header and proves that every tensor lies inside the file, without gaps or overlaps, with as
/// many bytes as its shape and type need.
pub(super) fn parse(path: &Path, file: &[u8]) -> Result<Tensors> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(Error::file(
            path,
            format!("{} bytes are no safetensors file: download it again", file.len()),
        ));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(not_safetensors(path, file, length));
    }
    let Some((header, data)) = rest.split_at_checked(length as usize) else {
        let what = format!(
            "truncated in its header: {} bytes expected, {} found. Download it again",
            length + 8,
            file.len()
        );
        return Err(Error::file(path, what));
    };
    let header = std::str::from_utf8(header)
        .map_err(|e| Error::file(path, format!("header is not UTF-8 ({e}): not a safetensors file")))?;
    // `Metadata` proves types, shapes and offsets against each other. Not `SafeTensors::read_metadata`: it
    // adds the file's offsets to its length unchecked, which overflows and panics in a debug build.
    let metadata: Metadata = serde_json::from_str(header).map_err(|e| explain(path, header, &e))?;
    let needed = metadata.data_len();
    if needed != data.len() {
        let fault = if needed > data.len() { "truncated" } else { "has bytes after its last tensor" };
        let what = format!(
            "{fault}: the header announces {needed} bytes of tensors, {} found. Download it again",
            data.len()
        );
        return Err(Error::file(path, what));
    }
    let begin = file.len() - data.len();
    let place = |info: &TensorInfo| begin + info.data_offsets.0..begin + info.data_offsets.1;
    let tensors = metadata.tensors().into_iter();
    Ok(tensors.map(|(name, info)| (name, info.dtype, info.shape.clone(), place(info))).collect())
}

/// What a file is instead, from its first bytes: the usual accidents of a download.
fn not_safetensors(path: &Path, file: &[u8], length: u64) -> Error {
    let what = match file {
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' ', ..] => {
            "is a Git LFS pointer, not the weights: run `git lfs pull` in its repository".to_string()
        }
        [b'<', ..] => {
            "is a web page, not the weights: log in where it came from and download it again".into()
        }
        [b'P', b'K', 3, 4, ..] | [0x80, 2, ..] => {
            format!("is a PyTorch pickle with another name: {}", super::locate::CONVERT)
        }
        _ => format!(
            "announces a header of {length} bytes, expected at most {MAX_HEADER}: not a safetensors file, or \
             damaged; download it again"
        ),
    };
    Error::file(path, what)
}

/// Finds the tensor a refused header is wrong about, since the parser's message names few of them.
fn explain(path: &Path, header: &str, error: &serde_json::Error) -> Error {
    let Ok(Value::Object(mut entries)) = serde_json::from_str::<Value>(header) else {
        return Error::file(
            path,
            format!("header is not a JSON object ({error}): not a safetensors file, or damaged"),
        );
    };
    entries.remove("__metadata__");
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        match TensorInfo::deserialize(entry) {
            Ok(info) => tensors.push((name, info)),
            Err(e) => return Error::tensor(path, name, format!("header entry not understood: {e}")),
        }
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (name, info) in tensors {
        if let Some(fault) = fault(&info, end) {
            return Error::tensor(
                path,
                name,
                format!("{fault}. The file is damaged: download or convert it again"),
            );
        }
        end = info.data_offsets.1;
    }
    Error::file(path, format!("header refused: {error}. Download or convert it again"))
}

/// What is wrong with a tensor that follows others up to `previous`.
fn fault(info: &TensorInfo, previous: usize) -> Option<String> {
    let TensorInfo { dtype, shape, data_offsets: (begin, end) } = info;
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let Some(bits) = elements.and_then(|n| n.checked_mul(dtype.bitsize())) else {
        return Some(format!("shape {shape:?} of {dtype} is larger than any memory"));
    };
    if end < begin {
        Some(format!("ends at byte {end}, before its begin at {begin}"))
    } else if *begin < previous {
        Some(format!("begins at byte {begin}, inside the tensor before it, which ends at {previous}"))
    } else if *begin > previous {
        Some(format!("begins at byte {begin}, leaving a gap after {previous}, where the one before it ends"))
    } else if bits % 8 != 0 || bits / 8 != end - begin {
        Some(format!(
            "shape {shape:?} of {dtype}: {} bytes expected, {} found",
            bits.div_ceil(8),
            end - begin
        ))
    } else {
        None
    }
}
