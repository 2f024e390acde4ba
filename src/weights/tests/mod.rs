//! Every test writes its own file, whole or broken, into a folder of its own.

mod archive;
mod broken;
mod folders;
mod hostile;
mod python;
mod torch;
mod values;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use half::{bf16, f16};

use super::{Checkpoint, Dtype, Element};

/// A fresh folder, deleted when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ancestral-weights-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file of this header and this data, whatever they say.
fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A header's entry.
fn entry(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

/// A sound file of these tensors.
fn file(tensors: &[(&str, Dtype, &[usize], &[f64])]) -> Vec<u8> {
    let mut data = Vec::new();
    let mut entries = vec![r#""__metadata__":{"format":"pt"}"#.to_string()];
    for (name, dtype, shape, values) in tensors {
        let begin = data.len() as u64;
        for &value in *values {
            match dtype {
                Dtype::F16 => data.extend(f16::from_f64(value).to_le_bytes()),
                Dtype::BF16 => data.extend(bf16::from_f64(value).to_le_bytes()),
                Dtype::F32 => data.extend((value as f32).to_le_bytes()),
                Dtype::F64 => data.extend(value.to_le_bytes()),
                Dtype::I64 => data.extend((value as i64).to_le_bytes()),
                other => panic!("{other}"),
            }
        }
        entries.push(entry(name, &dtype.to_string(), &format!("{shape:?}"), begin, data.len() as u64));
    }
    raw(&format!("{{{}}}", entries.join(",")), &data)
}

/// A file of one f32 tensor `[1]` of this name.
fn one(name: &str, value: f64) -> Vec<u8> {
    file(&[(name, Dtype::F32, &[1], &[value])])
}

/// The message of an expected error, which names the path and each of `parts`.
#[track_caller]
fn refused<T>(result: crate::error::Result<T>, path: &Path, parts: &[&str]) {
    let Err(error) = result else { panic!("accepted, expected an error with {parts:?}") };
    let message = error.to_string();
    for part in parts.iter().copied().chain([&*path.to_string_lossy()]) {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

fn check(checkpoint: &Checkpoint, wanted: &[(&str, &[usize])]) -> crate::error::Result<()> {
    checkpoint.check(wanted.iter().copied(), |name| name.ends_with("position_ids"))
}
