//! Proving a safetensors file's header.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use serde_json::Value;

use super::entry::Entry;
use crate::error::{Error, Result};

/// Largest header taken: the limit of huggingface_hub; the largest published models need under 1 MB.
const MAX_HEADER: u64 = 25_000_000;

/// Reads the header and proves that every tensor lies inside the file, without gaps or overlaps, with as
/// many bytes as its shape and type need. `shard` is the file's number in the checkpoint.
pub(super) fn parse(path: &Path, file: &[u8], shard: usize) -> Result<Vec<(String, Entry)>> {
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
    let entry = |info: &TensorInfo| {
        let bytes = begin + info.data_offsets.0..begin + info.data_offsets.1;
        Entry { shard, dtype: info.dtype, shape: info.shape.clone(), bytes, strides: None }
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| (name, entry(info))).collect())
}

/// Where a file says what its tensors are called: its header, as it is.
pub(super) fn listing(file: &[u8]) -> Option<&[u8]> {
    let (length, rest) = file.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    (length <= MAX_HEADER).then(|| rest.get(..length as usize)).flatten()
}

/// What a header says besides tensors: its `__metadata__`.
pub(super) fn metadata(file: &[u8]) -> BTreeMap<String, String> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__", default)]
        metadata: BTreeMap<String, String>,
    }
    let header = listing(file).and_then(|header| serde_json::from_slice::<Header>(header).ok());
    header.map(|header| header.metadata).unwrap_or_default()
}

/// What to do with Python's older formats.
const RESAVE: &str =
    "load it in PyTorch and save it again with torch.save, or convert it with tools/convert.py";

/// What a file is instead, from its first bytes: the usual accidents of a download.
fn not_safetensors(path: &Path, file: &[u8], length: u64) -> Error {
    let what = match file {
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' ', ..] => {
            "is a Git LFS pointer, not the weights: run `git lfs pull` in its repository".to_string()
        }
        [b'<', ..] => {
            "is a web page, not the weights: log in where it came from and download it again".into()
        }
        // The pickle of a magic number that every file of torch.save began with before 1.6, or a tar archive
        // (before 0.1.10).
        [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, ..] => {
            format!("is in the format of PyTorch before 1.6, which is not read: {RESAVE}")
        }
        _ if file.get(257..262) == Some(b"ustar") => {
            format!("is a tar archive, perhaps of PyTorch before 0.1.10, which is not read: {RESAVE}")
        }
        [0x80, 2..=5, ..] => format!("is a bare Python pickle, which is not read: {RESAVE}"),
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
