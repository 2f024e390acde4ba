//! PyTorch's own files (`.pt`, `.pth`, `.ckpt`, `.bin`): a zip archive ([`zip`]) of a pickle that describes the tensors
//! ([`pickle`]) and of one stored entry for each storage, which stays mapped. TorchScript archives have the same form,
//! with modules in the place of dictionaries.
//!
//! **Names.** A tensor's name is its path in the file, joined with `.`: keys of dictionaries, indices of lists,
//! attributes of TorchScript modules. A dictionary that only wraps the weights ([`walk::WRAPPERS`]) is left out of the path,
//! again and again, while all tensors lie under one of its keys; a trainer's state beside it ([`TRAINING`]) does not
//! count and is not listed. Where all names begin with `module.` (`DataParallel`), that is left out too.
//!
//! **Bounds.** The pickle's length, its values, nesting, tensors and their names are bounded, products are checked, and
//! a tensor's first and last element lie inside its storage, which lies inside its entry: a broken file costs no
//! more than some milliseconds and megabytes. Nothing in a file is ever run.

mod pickle;
pub(super) mod walk;
mod zip;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use self::pickle::{MAX_PICKLE, Pickle, Tensor, Value};
use self::walk::{MAX_NAME, Walk, shown};
use self::zip::Archive;
use super::entry::Entry;
use crate::error::{Error, Result};

/// Most dimensions: PyTorch's own limit for most kernels is 25, no weight has more than 6.
const MAX_RANK: usize = 16;
/// A view that repeats elements (`expand`) is copied when it is read; up to so many elements, or its storage's.
const MAX_REPEATED: usize = 1 << 20;

/// Whether a file begins as a zip archive.
pub(super) fn is_zip(file: &[u8]) -> bool {
    file.starts_with(b"PK\x03\x04") || file.starts_with(b"PK\x05\x06")
}

/// Reads a file's list of tensors; `shard` is the file's number in the checkpoint.
pub(super) fn parse(path: &Path, file: &[u8], shard: usize) -> Result<Vec<(String, Entry)>> {
    let wrong = |what: String| Error::file(path, what);
    let archive = Archive::parse(file).map_err(wrong)?;
    let folder = folder(&archive).map_err(wrong)?;
    let text = read(&archive, &format!("{folder}data.pkl")).map_err(wrong)?;
    let (pickle, root) = Pickle::load(text).map_err(wrong)?;
    let mut walk = Walk::new(&pickle);
    let root = walk.unwrap(root).map_err(wrong)?;
    walk.visit(root).map_err(wrong)?;
    let prefixed =
        walk.found.iter().all(|(name, _)| name.strip_prefix("module.").is_some_and(|n| !n.is_empty()));
    let strip = if prefixed && matches!(root, Value::Dict(_)) { "module." } else { "" };
    let mut entries = BTreeMap::new();
    for (name, tensor) in walk.found {
        let name = name.strip_prefix(strip).unwrap_or(&name);
        let entry = place(&archive, folder, &pickle, tensor, shard);
        let entry = entry.map_err(|what| Error::tensor(path, name, what))?;
        if entries.insert(name.to_string(), entry).is_some() {
            return Err(Error::tensor(path, name, "two tensors have this name: save the file again"));
        }
    }
    if entries.is_empty() {
        return Err(Error::file(path, "holds no tensors: not a checkpoint of weights"));
    }
    Ok(entries.into_iter().collect())
}

/// Where a file says what its tensors are called: its pickle, as it is.
pub(super) fn listing(file: &[u8]) -> Option<&[u8]> {
    let archive = Archive::parse(file).ok()?;
    let folder = folder(&archive).ok()?;
    read(&archive, &format!("{folder}data.pkl")).ok()
}

/// The one folder of the archive, with its slash: named after the file, or `archive`. Proves the byte order.
fn folder<'a>(archive: &Archive<'a>) -> Result<&'a str, String> {
    let mut folders = archive.names().filter_map(|name| {
        let folder = name.strip_suffix("data.pkl")?;
        (folder.strip_suffix('/').is_some_and(|f| !f.contains('/'))).then_some(folder)
    });
    let folder = match (folders.next(), folders.next()) {
        (Some(folder), None) => folder,
        (Some(a), Some(b)) => {
            let (a, b) = (a.escape_debug(), b.escape_debug());
            return Err(format!("holds two checkpoints, `{a}data.pkl` and `{b}data.pkl`: expected one"));
        }
        _ => {
            return Err(
                "is a zip archive without a data.pkl, so not PyTorch's: unpack it, or download the weights themselves"
                    .into(),
            );
        }
    };
    match archive.read(&format!("{folder}byteorder"))? {
        None | Some(b"little") => Ok(folder),
        Some(b"big") => {
            Err("was written on a big-endian machine: load it in PyTorch here and save it again".into())
        }
        Some(_) => Err("its entry `byteorder` is neither little nor big: download it again".into()),
    }
}

fn read<'a>(archive: &Archive<'a>, name: &str) -> Result<&'a [u8], String> {
    let text = archive.read(name)?.ok_or("holds no data.pkl: download it again")?;
    if text.len() > MAX_PICKLE {
        let length = text.len();
        return Err(format!(
            "its data.pkl has {length} bytes, at most {MAX_PICKLE} are read: more than weights need"
        ));
    }
    Ok(text)
}

/// Proves a tensor to lie inside its storage and that inside its entry.
fn place(
    archive: &Archive<'_>,
    folder: &str,
    pickle: &Pickle<'_>,
    tensor: Tensor,
    shard: usize,
) -> Result<Entry, String> {
    let Tensor { dtype, .. } = tensor;
    let (bytes, storage) = storage(archive, folder, pickle, tensor)?;
    let (sizes, steps) = (pickle.tuple(tensor.shape), pickle.tuple(tensor.strides));
    if sizes.len() != steps.len() || sizes.len() > MAX_RANK {
        let (sizes, steps) = (sizes.len(), steps.len());
        return Err(format!(
            "{sizes} sizes and {steps} strides; as many of both, at most {MAX_RANK}, are read"
        ));
    }
    let numbers = |values: &[Value], of: &str| -> Result<Vec<usize>, String> {
        let number = |value: &Value| match *value {
            Value::Int(n) => usize::try_from(n).map_err(|_| format!("a {of} of {n}, expected 0 or more")),
            _ => Err(format!("a {of} that is no number")),
        };
        values.iter().map(number).collect()
    };
    let (shape, strides) = (numbers(sizes, "size")?, numbers(steps, "stride")?);
    let Some(count) = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) else {
        return Err(format!("shape {shape:?} is larger than any memory"));
    };
    let width = dtype.bitsize() / 8;
    if count == 0 {
        return Ok(Entry { shard, dtype, shape, bytes: bytes.start..bytes.start, strides: None });
    }
    let first = usize::try_from(tensor.offset).map_err(|_| format!("begins at element {}", tensor.offset))?;
    let last = shape.iter().zip(&strides).try_fold(first, |last, (&size, &stride)| {
        (size - 1).checked_mul(stride).and_then(|way| last.checked_add(way))
    });
    let Some(last) = last.filter(|&last| last < storage) else {
        return Err(format!(
            "shape {shape:?} with strides {strides:?} from element {first} on reaches beyond its storage of {storage} \
             elements. The file is damaged: download it again"
        ));
    };
    let bytes = bytes.start + first * width..bytes.start + (last + 1) * width;
    if is_contiguous(&shape, &strides) {
        return Ok(Entry { shard, dtype, shape, bytes, strides: None });
    }
    if count > storage.max(MAX_REPEATED) {
        return Err(format!(
            "shape {shape:?} with strides {strides:?} repeats the {storage} elements of its storage, into more than \
             {MAX_REPEATED}: save it with `.contiguous()`"
        ));
    }
    Ok(Entry { shard, dtype, shape, bytes, strides: Some(strides) })
}

/// The bytes of a tensor's storage, and how many of the tensor's elements they are.
fn storage(
    archive: &Archive<'_>,
    folder: &str,
    pickle: &Pickle<'_>,
    tensor: Tensor,
) -> Result<(Range<usize>, usize), String> {
    let storage = pickle.storage(tensor.storage);
    let key = pickle.text(storage.key);
    if key.len() > MAX_NAME {
        return Err(format!("its storage is called `{}…`, which no file of torch.save has", shown(key)));
    }
    let name = format!("{folder}data/{key}");
    let Some(place) = archive.place(&name)? else {
        return Err(format!("its storage `{}` is not in the file: download it again", shown(&name)));
    };
    let width = storage.dtype.map_or(1, |dtype| dtype.bitsize() / 8);
    let needed = usize::try_from(storage.count).ok().and_then(|count| count.checked_mul(width));
    let Some(needed) = needed.filter(|&needed| needed <= place.len()) else {
        return Err(format!(
            "its storage should have {} elements of {width} bytes, its entry `{}` has {} bytes. The file is damaged: \
             download it again",
            storage.count,
            shown(&name),
            place.len()
        ));
    };
    Ok((place.start..place.start + needed, needed * 8 / tensor.dtype.bitsize()))
}

/// Whether the elements lie in a row, in order. Strides of dimensions of size 1 mean nothing.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().filter(|&(&size, _)| size > 1).all(|(&size, &stride)| {
        let here = stride == expected;
        expected *= size;
        here
    })
}

/// Copies a view's elements of `width` bytes into a row. `bytes` begin at its first element; [`parse`] has proved that
/// they hold its last.
pub(super) fn gather(bytes: &[u8], width: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let (Some((&columns, rows)), Some((&step, far))) = (shape.split_last(), strides.split_last()) else {
        return bytes.to_vec();
    };
    let mut index = vec![0; rows.len()];
    let count: usize = rows.iter().product();
    let mut out = Vec::with_capacity(count * columns * width);
    for _ in 0..count {
        let row: usize = index.iter().zip(far).map(|(i, stride)| i * stride).sum();
        for column in 0..columns {
            let at = (row + column * step) * width;
            out.extend_from_slice(&bytes[at..at + width]);
        }
        // The next row: the last index that has not come to its end moves on, those after it begin again.
        for (i, &size) in index.iter_mut().zip(rows).rev() {
            *i += 1;
            if *i < size {
                break;
            }
            *i = 0;
        }
    }
    out
}
