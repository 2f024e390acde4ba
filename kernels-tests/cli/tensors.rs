//! Broken weights.

use super::{Folder, copy, refused_model};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::PathBuf;

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const TEXT: &str = "text_encoder/model.safetensors";

/// A copy of stage I whose other weights are gone, and the file to break.
fn stage(file: &str) -> (Folder, PathBuf) {
    let folder = copy("if_stage1");
    for half in ["unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.fp16.safetensors"] {
        fs::remove_file(folder.0.join(half)).unwrap();
    }
    let path = folder.0.join(file);
    (folder, path)
}

fn split(bytes: &[u8]) -> (Map<String, Value>, &[u8]) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), &bytes[8 + length..])
}

fn join(header: &Map<String, Value>, data: &[u8]) -> Vec<u8> {
    let text = serde_json::to_vec(header).unwrap();
    [&(text.len() as u64).to_le_bytes()[..], &text, data].concat()
}

/// Breaks both networks' files in turn.
#[track_caller]
fn broken(edit: impl Fn(&[u8]) -> Vec<u8>, parts: &[&str]) {
    for file in [UNET, TEXT] {
        let (folder, path) = stage(file);
        let bytes = edit(&fs::read(&path).unwrap());
        fs::write(&path, bytes).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        refused_model(&folder.0, &[&[name], parts].concat());
    }
}

/// The tensor of the header's last bytes.
fn last(header: &Map<String, Value>) -> String {
    let end = |name: &&String| header[name.as_str()]["data_offsets"][1].as_u64();
    header.keys().filter(|name| *name != "__metadata__").max_by_key(end).unwrap().clone()
}

/// Changes the last tensor's entry.
fn entry(bytes: &[u8], change: impl Fn(&mut Value)) -> Vec<u8> {
    let (mut header, data) = split(bytes);
    let name = last(&header);
    change(&mut header[&name]);
    join(&header, data)
}

#[test]
fn headers() {
    broken(|_| Vec::new(), &["is empty", "download it again"]);
    broken(|bytes| bytes[..5].to_vec(), &["5 bytes", "download it again"]);
    broken(|bytes| bytes[..100].to_vec(), &["truncated", "Download it again"]);
    broken(|bytes| bytes[..bytes.len() - 3].to_vec(), &["truncated", "Download it again"]);
    broken(|bytes| [bytes, b"more"].concat(), &["after its last tensor", "Download it again"]);
    let announce = |length: u64| move |bytes: &[u8]| [&length.to_le_bytes()[..], &bytes[8..]].concat();
    broken(announce(u64::MAX), &["announces a header of 18446744073709551615 bytes", "download it again"]);
    broken(announce(24_000_000), &["truncated in its header"]);
    broken(announce(0), &["header is not a JSON object"]);
    broken(|_| b"<!doctype html><html>Log in</html>".to_vec(), &["web page", "log in"]);
    broken(|_| b"PK\x03\x04 a PyTorch archive".to_vec(), &["PyTorch file", "cut off", "Download it again"]);
    let old = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    broken(|_| old.to_vec(), &["before 1.6", "tools/convert.py"]);
}

#[test]
fn offsets() {
    let offsets = |begin: i64, end: i64| {
        move |entry: &mut Value| {
            let at = |i: usize| entry["data_offsets"][i].as_i64().unwrap();
            entry["data_offsets"] = json!([at(0) + begin, at(1) + end]);
        }
    };
    broken(|bytes| entry(bytes, offsets(-4, -4)), &["inside the tensor before it", "damaged"]);
    broken(|bytes| entry(bytes, offsets(0, 1 << 40)), &["bytes expected"]);
    broken(|bytes| entry(bytes, offsets(1 << 40, 1 << 40)), &["gap"]);
    broken(|bytes| entry(bytes, |e| e["data_offsets"] = json!([u64::MAX, u64::MAX])), &["error:"]);
    broken(|bytes| entry(bytes, |e| e["shape"] = json!([u64::MAX, u64::MAX])), &["larger than any memory"]);
}

#[test]
fn tensors() {
    let remedy = "Check that these weights and config.json are of the same model";
    broken(|bytes| entry(bytes, |e| e["dtype"] = json!("I32")), &["found I32", remedy]);
    let shape = |e: &mut Value| {
        let length: u64 = e["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product();
        e["shape"] = json!([1, length]);
    };
    broken(|bytes| entry(bytes, shape), &["expected shape", remedy]);
    let missing = |bytes: &[u8]| {
        let (mut header, data) = split(bytes);
        let name = last(&header);
        let begin = header[&name]["data_offsets"][0].as_u64().unwrap() as usize;
        header.remove(&name);
        join(&header, &data[..begin])
    };
    broken(missing, &["not found", remedy]);
    let superfluous = |bytes: &[u8]| {
        let (mut header, data) = split(bytes);
        header.insert(
            "decoder.w".into(),
            json!({"dtype": "F32", "shape": [0], "data_offsets": [data.len(), data.len()]}),
        );
        join(&header, data)
    };
    broken(superfluous, &["tensor `decoder.w`", "unknown to the model", remedy]);
    // A name with a line break and an escape sequence stays on its line.
    let hostile = |bytes: &[u8]| {
        let (mut header, data) = split(bytes);
        let name = "a\nerror: all is well\u{1b}[2J";
        header.insert(
            name.into(),
            json!({"dtype": "F32", "shape": [0], "data_offsets": [data.len(), data.len()]}),
        );
        join(&header, data)
    };
    broken(hostile, &["unknown to the model"]);
}

#[test]
fn values_that_are_no_numbers() {
    let (folder, path) = stage(UNET);
    let bytes = fs::read(&path).unwrap();
    let (header, data) = split(&bytes);
    let mut data = data.to_vec();
    let offsets = &header["conv_out.bias"]["data_offsets"];
    let at = |i: usize| offsets[i].as_u64().unwrap() as usize;
    data[at(0)..at(1)].chunks_exact_mut(4).for_each(|v| v.copy_from_slice(&f32::NAN.to_le_bytes()));
    fs::write(&path, join(&header, &data)).unwrap();
    refused_model(&folder.0, &["NaN", "weights"]);
}

#[test]
fn absent() {
    for (file, part) in [(UNET, "diffusion_pytorch_model.safetensors"), (TEXT, "model.safetensors")] {
        let (folder, path) = stage(file);
        fs::remove_file(&path).unwrap();
        refused_model(&folder.0, &[part, "is this the right folder, and complete?"]);
        fs::write(path.with_extension("pt"), "PK").unwrap();
        refused_model(&folder.0, &[part, "rename the file"]);
        fs::create_dir(&path).unwrap();
        refused_model(&folder.0, &[part, "is a folder"]);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        refused_model(
            &folder.0,
            &[part.split('.').next().unwrap_or("").get(..0).unwrap(), "config.json", "not found"],
        );
    }
}
