//! Broken files: each is refused with a message that names it, the thing and the remedy.

use super::*;
use crate::graph::{Pass, Repack};
use crate::weights::read_json;

#[track_caller]
fn refuses(bytes: impl AsRef<[u8]>, parts: &[&str]) {
    let folder = Folder::new();
    let path = folder.write("model.safetensors", bytes);
    refused(Checkpoint::open_file(&path), &path, parts);
    refused(Checkpoint::open(&folder.0, "model", None), &path, parts);
}

#[test]
fn not_the_file_it_promises() {
    refuses("", &["is empty", "download it again"]);
    refuses("1234567", &["7 bytes"]);
    refuses(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        &["Git LFS pointer", "git lfs pull"],
    );
    refuses("<!doctype html><html>Sign in</html>", &["web page"]);
    refuses(b"PK\x03\x04\0\0\0\0\0\0archive/data.pkl", &["PyTorch", "cut off", "Download it again"]);
    refuses(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", &["PyTorch", "tools/convert.py"]);
}

#[test]
fn header_length() {
    let whole = one("a", 1.0);
    // Cut in the header, and in the data: the message says how much is missing.
    refuses(&whole[..20], &["truncated in its header", "20 found"]);
    refuses(&whole[..whole.len() - 1], &["truncated", "4 bytes of tensors, 3 found"]);
    refuses([&whole[..], b"x"].concat(), &["after its last tensor", "4 bytes of tensors, 5 found"]);
    for length in [25_000_001, 1 << 63, u64::MAX, u64::MAX - 7] {
        refuses(
            [&length.to_le_bytes()[..], b"{}"].concat(),
            &[&length.to_string(), "not a safetensors file"],
        );
    }
    refuses([&25_000_000u64.to_le_bytes()[..], b"{}"].concat(), &["25000008 bytes expected, 10 found"]);
    refuses(0u64.to_le_bytes(), &["not a JSON object"]);
}

#[test]
fn header_text() {
    for text in ["", "{", "[]", "null", "7", "\"a\"", "{} {}", "{\"a\":"] {
        refuses(raw(text, b""), &["not a JSON object"]);
    }
    refuses(raw(&"[".repeat(100_000), b""), &["not a JSON object"]);
    let mut binary = 4u64.to_le_bytes().to_vec();
    binary.extend([0xff, 0xfe, 0x80, 0x81]);
    refuses(binary, &["not UTF-8"]);
}

#[test]
fn header_entries() {
    let with = |entry: &str| raw(&format!("{{{entry}}}"), &[0; 4]);
    refuses(with(r#""a":3"#), &["`a`", "not understood"]);
    refuses(with(r#""a":{"dtype":"F32","shape":[1]}"#), &["`a`", "data_offsets"]);
    refuses(with(&entry("a", "Q4_K", "[1]", 0, 4)), &["`a`", "Q4_K"]);
    refuses(with(&entry("a", "F32", "[-1]", 0, 4)), &["`a`", "-1"]);
    refuses(with(&entry("a", "F32", "[1.5]", 0, 4)), &["`a`", "1.5"]);
    refuses(with(r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,-4]}"#), &["`a`", "-4"]);
    refuses(with(r#""__metadata__":{"x":{}},"#.trim_end_matches(',')), &["header refused"]);
}

#[test]
fn offsets() {
    let two = |a: (u64, u64), b: (u64, u64), bytes: usize| {
        let entries = [entry("a", "F32", "[2]", a.0, a.1), entry("b", "F32", "[2]", b.0, b.1)];
        raw(&format!("{{{}}}", entries.join(",")), &vec![0; bytes])
    };
    refuses(two((0, 8), (4, 12), 12), &["`b`", "byte 4", "inside the tensor before it"]);
    refuses(two((0, 8), (0, 8), 8), &["byte 0", "inside the tensor before it"]);
    refuses(two((0, 8), (12, 20), 20), &["`b`", "gap after 8"]);
    refuses(two((4, 12), (12, 20), 20), &["`a`", "gap after 0"]);
    refuses(two((0, 8), (8, 16), 12), &["truncated", "16 bytes of tensors, 12 found"]);
    refuses(two((0, 8), (8, 20), 20), &["`b`", "8 bytes expected, 12 found"]);
    refuses(two((0, 8), (8, 4), 12), &["`b`", "before its begin"]);
}

#[test]
fn sizes_beyond_memory() {
    let with = |shape: &str, end: u64| raw(&format!("{{{}}}", entry("a", "F32", shape, 0, end)), &[0; 4]);
    refuses(with("[4294967296,4294967296,4294967296]", 4), &["`a`", "larger than any memory"]);
    refuses(with("[9223372036854775807]", 4), &["`a`", "larger than any memory"]);
    refuses(with("[99999999999999999999999]", 4), &["`a`", "not understood"]);
    refuses(with("[1]", u64::MAX), &["`a`", "4 bytes expected"]);
    refuses(with("[250000000000]", 1_000_000_000_000), &["truncated", "1000000000000 bytes"]);
    // Eight tensors of 2^61 - 1 bytes: together with the header, more than a usize counts.
    let step = (1u64 << 61) - 1;
    let list: Vec<_> =
        (0..8).map(|n| entry(&n.to_string(), "U8", &format!("[{step}]"), n * step, (n + 1) * step)).collect();
    refuses(raw(&format!("{{{}}}", list.join(",")), b""), &["truncated"]);
}

#[test]
fn an_empty_tensor_of_any_shape_is_harmless() {
    let folder = Folder::new();
    let header = format!("{{{}}}", entry("a", "F32", "[0,4294967295,4294967295,1]", 0, 0));
    let checkpoint = Checkpoint::open_file(&folder.write("a.safetensors", raw(&header, b""))).unwrap();
    for repack in [Repack::None, Repack::Conv(Pass::Forward), Repack::Conv(Pass::Backward)] {
        assert!(checkpoint.read("a", repack).unwrap().is_empty());
    }
}

#[test]
fn index() {
    let folder = Folder::new();
    let path = folder.0.join("model.safetensors.index.json");
    let name = "model-00001-of-00002.safetensors";
    folder.write(name, one("a", 1.0));
    let with = |text: &str, at: &Path, parts: &[&str]| {
        fs::write(&path, text).unwrap();
        refused(Checkpoint::open(&folder.0, "model", None), at, parts);
    };
    with("", &path, &["the file is empty"]);
    with(r#"{"weight_map": {"a":}}"#, &path, &["line 1 column"]);
    with(r#"{"metadata": {}}"#, &path, &["missing field `weight_map`"]);
    with(r#"{"weight_map": ["a"]}"#, &path, &["line 1 column"]);
    with(r#"{"weight_map": {"a": 1}}"#, &path, &["line 1 column"]);
    with(r#"{"weight_map": {}}"#, &path, &["names no tensor"]);
    for shard in ["../a", "/etc/passwd", "a/b", "..", ".", "", "..\\\\a", "C:a", "a\\u0000"] {
        with(
            &format!(r#"{{"weight_map": {{"a": "{shard}"}}}}"#),
            &path,
            &["`a`", "not the name of a file in this folder"],
        );
    }
    let second = folder.0.join("model-00002-of-00002.safetensors");
    let both = format!(r#"{{"weight_map": {{"a": "{name}", "b": "model-00002-of-00002.safetensors"}}}}"#);
    with(&both, &second, &["not found", "complete?"]);
    fs::write(&second, one("a", 1.0)).unwrap();
    with(&both, &second, &["`a`", "is also in", name]);
    fs::write(&second, one("c", 1.0)).unwrap();
    with(&both, &path, &["`b`", "does not hold it"]);
    let swapped = both.replace(r#""a": "model-00001"#, r#""a": "model-00002"#);
    with(
        &swapped.replace(r#""b": "model-00002"#, r#""c": "model-00001"#),
        &path,
        &["`a`", "expected in model-00002", name],
    );
    fs::write(&second, one("b", 1.0)).unwrap();
    fs::write(&path, &both).unwrap();
    assert_eq!(Checkpoint::open(&folder.0, "model", None).unwrap().names().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn not_a_file() {
    let folder = Folder::new();
    let absent = folder.0.join("unet");
    refused(Checkpoint::open(&absent, "model", None), &absent, &["not found", "expected in the folder"]);
    let deeper = absent.join("model.safetensors");
    refused(Checkpoint::open_file(&deeper), &deeper, &["not found", "does not exist"]);
    refused(Checkpoint::open_file(&folder.0), &folder.0, &["is a folder"]);
    let inner = folder.0.join("model.safetensors");
    fs::create_dir(&inner).unwrap();
    refused(Checkpoint::open(&folder.0, "model", None), &inner, &["is a folder"]);
    let file = folder.write("file", "x");
    refused(Checkpoint::open(&file, "model", None), &file, &["is a file"]);
    #[cfg(unix)]
    {
        let link = folder.0.join("link.safetensors");
        std::os::unix::fs::symlink(folder.0.join("blob"), &link).unwrap();
        refused(Checkpoint::open_file(&link), &link, &["link to a file that is gone"]);
        folder.write("blob", one("a", 1.0));
        assert_eq!(Checkpoint::open_file(&link).unwrap().names().count(), 1);
    }
    #[cfg(unix)]
    refused(Checkpoint::open_file(Path::new("/dev/zero")), Path::new("/dev/zero"), &["not a regular file"]);
}

#[test]
fn json() {
    type Map = std::collections::BTreeMap<String, u32>;
    let folder = Folder::new();
    let path = folder.write("config.json", "{\n  \"a\": 1\n}\n");
    assert_eq!(read_json::<Map>(&path).unwrap()["a"], 1);
    for (text, parts) in [
        ("", ["is empty", "line 1 column 0"]),
        ("{\n  \"a\": x}", ["line 2 column 8", "download it again"]),
        ("{\n\n\"a\": -1}", ["line 3", "-1"]),
        ("{} {}", ["trailing", "line 1 column 4"]),
    ] {
        fs::write(&path, text).unwrap();
        refused(read_json::<Map>(&path), &path, &parts);
    }
    fs::write(&path, "[".repeat(1 << 20)).unwrap();
    refused(read_json::<serde_json::Value>(&path), &path, &["recursion limit"]);
    fs::write(&path, vec![b' '; (16 << 20) + 1]).unwrap();
    refused(read_json::<Map>(&path), &path, &["16777217 bytes", "at most 16777216"]);
    refused(read_json::<Map>(&folder.0), &folder.0, &["is a folder"]);
    let absent = folder.0.join("model_index.json");
    refused(
        read_json::<Map>(&absent),
        &absent,
        &["not found", "expected in the folder", &folder.0.to_string_lossy()],
    );
    let deeper = folder.0.join("unet").join("config.json");
    refused(read_json::<Map>(&deeper), &deeper, &["the folder", "does not exist"]);
    #[cfg(unix)]
    refused(read_json::<Map>(Path::new("/dev/zero")), Path::new("/dev/zero"), &["not a regular file"]);
}
