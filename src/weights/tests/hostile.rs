//! PyTorch's files that are damaged or mean harm.

use std::time::{Duration, Instant};

use super::archive::zip;
use super::python::*;
use super::*;
use crate::graph::Repack;

/// Files that are not what they promise, or mean harm, and what their messages say.
fn hostile() -> Vec<(&'static str, Vec<u8>, Vec<&'static str>)> {
    let program = |opcodes: &[u8]| file_of(&[&[0x80, 2][..], opcodes, b"."].concat(), &[&[0; 16]]);
    let root = |value: Py| pt(&value, &[&[0; 16]]);
    let a = |value: Py| root(dict(&[("a", value)]));
    let view = |count, offset, shape: &[i64], strides: &[i64]| {
        a(tensor(storage("Float", "0", count), offset, shape, strides))
    };
    let good = a(scalar());
    let patched = |signature: &[u8], entry: usize, at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        let starts: Vec<_> = (0..file.len()).filter(|&n| file[n..].starts_with(signature)).collect();
        let begin = starts[entry] + at;
        file[begin..begin + bytes.len()].copy_from_slice(bytes);
        file
    };
    let (local, record, wide, end) = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x06\x06", b"PK\x05\x06");
    let plain = |entries: &[(&str, &[u8])]| zip(entries, true);
    let pickle = [&[0x80, 2][..], &opcodes(&dict(&[("a", scalar())])), b"."].concat();
    // The directory points at an entry inside another's bytes.
    let inner = zip(&[("x/data.pkl", &pickle)], false);
    let inner = &inner[..30 + 10 + pickle.len()];
    let mut overlap = zip(&[("x/a", inner), ("x/data.pkl", &pickle)], false);
    let at = overlap.windows(4).rposition(|w| w == record).unwrap() + 42;
    overlap[at..at + 4].copy_from_slice(&33u32.to_le_bytes());
    let nested = |levels: usize| [b"]".repeat(levels), b"a".repeat(levels - 1)].concat();
    // Each list holds the one before it twice.
    let doubling: Vec<u8> =
        (0..60u8).flat_map(|n| [b']', b'q', n + 1, b'(', b'h', n, b'h', n, b'e']).collect();
    let million = vec![b'N'; 1 << 20];
    let mut garbage = vec![0u8; 4096];
    garbage[..5].copy_from_slice(b"name\0");
    garbage[257..262].copy_from_slice(b"ustar");
    vec![
        // The archive.
        ("cut", good[..good.len() - 1].to_vec(), vec!["cut off", "Download it again"]),
        ("cut_in_half", good[..good.len() / 2].to_vec(), vec!["cut off"]),
        ("only_a_head", local.to_vec(), vec!["ends in the middle"]),
        ("compressed_pickle", patched(record, 0, 10, &[8]), vec!["not at byte 0"]),
        ("no_pickle", plain(&[("x/model.json", b"{}")]), vec!["without a data.pkl"]),
        ("two_pickles", plain(&[("x/data.pkl", b""), ("y/data.pkl", b"")]), vec!["two checkpoints"]),
        ("same_names", plain(&[("x/data.pkl", b""), ("x/data.pkl", b"")]), vec!["two entries", "x/data.pkl"]),
        ("big_endian", plain(&[("x/data.pkl", &pickle), ("x/byteorder", b"big")]), vec!["big-endian"]),
        ("overlap", overlap, vec!["`x/a` and `x/data.pkl` overlap"]),
        ("local_sizes", patched(record, 0, 20, &[0xff, 0, 0, 0, 0xff]), vec!["not at byte 0"]),
        ("same_place", patched(record, 1, 42, &[0; 4]), vec!["x/byteorder", "not at byte 0"]),
        ("outside", patched(record, 3, 42, &[0, 0, 0, 0x40]), vec!["x/data/0", "lies outside"]),
        ("encrypted", patched(record, 0, 8, &[1]), vec!["encrypted"]),
        (
            "stored_larger",
            patched(record, 3, 24, &[0xff, 0xff, 0xff, 0x7f]),
            vec!["is stored as 16 bytes of"],
        ),
        ("wide_without", patched(record, 3, 20, &[0xff; 8]), vec!["lacks its zip64 sizes"]),
        ("more_entries", patched(wide, 0, 32, &[0xff; 4]), vec!["contradict"]),
        ("wide_count", patched(wide, 0, 39, &[0x7f]), vec!["contradict"]),
        ("wide_offset", patched(wide, 0, 48, &[0xff; 8]), vec!["contradict"]),
        ("wide_elsewhere", patched(b"PK\x06\x07", 0, 8, &[0xff; 8]), vec!["zip64 directory is not where"]),
        ("wide_before", patched(b"PK\x06\x07", 0, 8, &[1]), vec!["zip64 directory is not where"]),
        ("narrow_count", patched(end, 0, 8, &[0, 0, 0, 0]), vec!["contradict"]),
        ("volumes", patched(end, 0, 4, &[1]), vec!["split zip"]),
        ("names_differ", patched(local, 3, 30, b"y"), vec!["x/data/0", "where its directory says"]),
        // What is no PyTorch file, or an old one.
        ("tar", garbage, vec!["tar archive", "save it again"]),
        (
            "before_1.6",
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec(),
            vec!["before 1.6", "torch.save", "tools/convert.py"],
        ),
        (
            "pickle",
            [b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8f\x94.", &[9; 32][..]].concat(),
            vec!["bare Python pickle"],
        ),
        // The program.
        (
            "os_system",
            root(call(global("os", "system"), &[text("touch /tmp/x")])),
            vec!["`os.system`", "refused"],
        ),
        (
            "eval",
            root(call(global("__builtin__", "eval"), &[text("1")])),
            vec!["`__builtin__.eval`", "state_dict"],
        ),
        (
            "whole_model",
            root(global("torch.nn.modules.conv", "Conv2d")),
            vec!["`torch.nn.modules.conv.Conv2d`"],
        ),
        ("stack_global", program(b"\x8c\x05posix\x8c\x06system\x93"), vec!["`posix.system`", "refused"]),
        ("near", root(global("torch", "load")), vec!["`torch.load`"]),
        ("quantised", root(global("torch", "QInt8Storage")), vec!["torch.QInt8Storage", "not supported"]),
        ("long_name", program(&[b"c", &[b'x'; 5000][..], b"\ny\n"].concat()), vec!["name without an end"]),
        ("control", root(global("os\u{1b}[2J", "x")), vec![r"`os\u{1b}[2J.x`"]),
        ("instance", program(b"(ios\nsystem\n"), vec!["opcode 0x69"]),
        ("extension", program(b"\x82\x01"), vec!["opcode 0x82"]),
        ("protocol_0", program(b"\x80\x00"), vec!["protocol 0"]),
        ("unending", file_of(b"\x80\x02N", &[]), vec!["ends too early"]),
        ("nothing", file_of(b"\x80\x02.", &[]), vec!["takes a value where there is none"]),
        ("below_mark", program(b"N(0"), vec!["takes a value where there is none"]),
        ("no_mark", program(b"Nt"), vec!["without its begin"]),
        ("no_memo", program(b"j\xff\xff\xff\xff"), vec!["memo 4294967295"]),
        ("far_memo", program(b"Nr\xff\xff\xff\xff"), vec!["holds no tensors"]),
        ("giant_long", program(b"\x8b\xff\xff\xff\x7f"), vec!["2147483647 bytes", "more than there are"]),
        ("giant_text", program(b"X\xff\xff\xff\xff"), vec!["4294967295 bytes", "more than there are"]),
        ("giant_bytes", program(b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff"), vec!["18446744073709551615 bytes"]),
        (
            "giant_frame",
            program(b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f"),
            vec!["frame of 9223372036854775807"],
        ),
        ("not_text", program(b"X\x02\0\0\0\xff\xfe"), vec!["not UTF-8"]),
        ("full_stack", program(&million), vec!["on the stack"]),
        ("marks", program(&vec![b'('; 1 << 20]), vec!["on the stack"]),
        ("lists", program(&b"]0".repeat(1 << 20)), vec!["more than 524288 values"]),
        (
            "memos",
            program(
                &(0..1u32 << 20)
                    .flat_map(|n| [&b"Nr"[..], &n.to_le_bytes(), b"0"].concat())
                    .collect::<Vec<_>>(),
            ),
            vec!["524288"],
        ),
        (
            "tuples",
            program(
                &[b"N".repeat(3), b"\x87q\x00".to_vec(), b"h\x00h\x00h\x00\x870".repeat(1 << 19)].concat(),
            ),
            vec!["524288"],
        ),
        ("long_pickle", program(&vec![b'N'; (16 << 20) + 1]), vec!["data.pkl has", "16777216"]),
        ("in_itself", program(b"}q\x00X\x01\0\0\0a]q\x01h\x01as"), vec!["inside themselves"]),
        // {"optimizer": tensor, "model": the same dictionary}
        (
            "wrapper_in_itself",
            program(
                &[
                    b"}q\x00",
                    &opcodes(&text("opt"))[..],
                    &opcodes(&scalar()),
                    b"s",
                    &opcodes(&text("model")),
                    b"h\x00s",
                ]
                .concat(),
            ),
            vec!["1048576 ways"],
        ),
        ("list_in_itself", program(b"]q\x00h\x00a"), vec!["inside itself"]),
        ("deep", program(&nested(1 << 16)), vec!["nested more than 64 deep"]),
        ("doubling", program(&[b"]q\x00".to_vec(), doubling.clone()].concat()), vec!["1048576 ways"]),
        (
            "doubling_tensors",
            program(
                &[opcodes(&dict(&[("a", scalar())])), b"q\x00".to_vec(), doubling[..9 * 30].to_vec()]
                    .concat(),
            ),
            vec!["32768 tensors"],
        ),
        (
            "doubling_names",
            program(
                &[
                    opcodes(&dict(&[(&"k".repeat(400), scalar())])),
                    b"q\x00".to_vec(),
                    doubling[..9 * 14].to_vec(),
                ]
                .concat(),
            ),
            vec!["names have more than 4194304 bytes"],
        ),
        ("empty_dict", root(dict(&[])), vec!["holds no tensors"]),
        ("one_tensor", root(scalar()), vec!["without a name"]),
        ("odd_key", root(Py::Dict(vec![(Py::None, scalar())])), vec!["neither text nor a number"]),
        ("same_keys", root(dict(&[("a", scalar()), ("a", scalar())])), vec!["key `a` twice"]),
        (
            "same_path",
            root(dict(&[("a", dict(&[("b", scalar())])), ("a.b", scalar())])),
            vec!["`a.b`", "two tensors have this name"],
        ),
        ("long_key", root(dict(&[(&"k".repeat(1 << 20), scalar())])), vec!["longer than 512"]),
        (
            "pairs",
            root(dict(&[("a", Py::Raw([opcodes(&dict(&[])), b"(Nu".to_vec()].concat()))])),
            vec!["key without"],
        ),
        ("not_a_storage", a(tensor(Py::None, 0, &[1], &[1])), vec!["a tensor's arguments"]),
        ("call_of_text", root(call(text("os"), &[])), vec!["no function"]),
        ("attributes", program(b"]}b"), vec!["attributes of what has none"]),
        ("other_id", program(b"X\x01\0\0\0xQ"), vec!["persistent id"]),
        // The tensors.
        (
            "absent",
            a(tensor(storage("Float", "7", 1), 0, &[1], &[1])),
            vec!["`a`", "x/data/7", "not in the file"],
        ),
        (
            "elsewhere",
            a(tensor(storage("Float", "../../etc/passwd", 1), 0, &[1], &[1])),
            vec!["not in the file"],
        ),
        (
            "huge_shape",
            view(4, 0, &[1_000_000, 1_000_000], &[1_000_000, 1]),
            vec!["`a`", "beyond its storage of 4"],
        ),
        ("overflow", view(4, 0, &[i64::MAX, i64::MAX, 4], &[1, 1, 1]), vec!["`a`", "larger than any memory"]),
        ("stride_overflow", view(4, 0, &[2, 3], &[i64::MAX, i64::MAX]), vec!["beyond its storage"]),
        (
            "repeated",
            view(4, 0, &[1_000_000, 1_000_000], &[0, 0]),
            vec!["`a`", "repeats the 4 elements", "contiguous"],
        ),
        ("beyond", view(4, 1, &[4], &[1]), vec!["`a`", "from element 1 on", "beyond its storage of 4"]),
        ("negative_size", view(4, 0, &[-1], &[1]), vec!["`a`", "size of -1"]),
        ("negative_stride", view(4, 3, &[4], &[-1]), vec!["`a`", "stride of -1"]),
        ("negative_offset", view(4, -1, &[1], &[1]), vec!["`a`", "begins at element -1"]),
        ("negative_count", view(-4, 0, &[1], &[1]), vec!["`a`", "-4 elements"]),
        ("larger_storage", view(5, 0, &[5], &[1]), vec!["`a`", "5 elements of 4 bytes", "has 16 bytes"]),
        ("count_overflow", view(i64::MAX, 0, &[5], &[1]), vec!["`a`", "elements of 4 bytes"]),
        ("ranks", view(4, 0, &[1, 1], &[1]), vec!["2 sizes and 1 strides"]),
        ("dimensions", view(4, 0, &[1; 1000], &[1; 1000]), vec!["1000 sizes"]),
        // No harm.
        ("sound", good.clone(), vec![]),
    ]
}

#[test]
fn hostile_files() {
    let folder = Folder::new();
    let mut wrong = Vec::new();
    for (name, bytes, parts) in hostile() {
        let path = folder.write(name, bytes);
        let message = Checkpoint::open_file(&path).err().map_or(String::new(), |error| error.to_string());
        println!("{message}");
        let says = parts.iter().all(|part| message.contains(part)) && message.len() < 700;
        if !says || message.is_empty() != parts.is_empty() {
            wrong.push(format!("{name}: {parts:?}: {message:.1000}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// No name of a compressed entry that is not needed matters: TorchScript's sources are.
#[test]
fn compressed_entries() {
    let sources = |name: &str| {
        let pickle = [&[0x80, 2][..], &opcodes(&dict(&[("a", scalar())])), b"."].concat();
        let mut file = zip(&[("x/data.pkl", &pickle), ("x/data/0", &[0; 4]), ("x/code/a.py", b"xyz")], false);
        for n in 0..file.len() {
            let at = if file[n..].starts_with(b"PK\x03\x04") { 8 } else { 10 };
            let header = if at == 8 { 30 } else { 46 };
            let signed = file[n..].starts_with(b"PK\x03\x04") || file[n..].starts_with(b"PK\x01\x02");
            if signed && file[n + header..].starts_with(name.as_bytes()) {
                file[n + at] = 8;
            }
        }
        file
    };
    assert_eq!(open(&sources("x/code/a.py")).1.names().collect::<Vec<_>>(), ["a"]);
    let folder = Folder::new();
    for name in ["x/data.pkl", "x/data/0"] {
        let path = folder.write("compressed", sources(name));
        refused(Checkpoint::open_file(&path), &path, &[name, "is compressed", "save it again"]);
    }
}

/// Every prefix of a sound file, and every file with one byte changed, comes back.
#[test]
fn any_damage_comes_back() {
    let layer = Py::Module("L", vec![(text("w"), tensor(storage("Half", "1", 6), 0, &[2, 3], &[1, 2]))]);
    let whole = pt(&dict(&[("state_dict", dict(&[("a", scalar()), ("b", layer)]))]), &[&[0; 4], &[0; 12]]);
    let folder = Folder::new();
    let read = |bytes: &[u8]| {
        let path = folder.write("damaged", bytes);
        if let Ok(checkpoint) = Checkpoint::open_file(&path) {
            for name in checkpoint.names() {
                let _ = checkpoint.read(name, Repack::None);
            }
        }
        // A new file is quicker than one cut short, which the file system writes out.
        fs::remove_file(path).unwrap();
    };
    for length in 0..whole.len() {
        read(&whole[..length]);
    }
    for at in 0..whole.len() {
        for value in [0xff, whole[at] ^ 1] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            read(&bytes);
        }
    }
}

/// The process's largest resident memory so far, in bytes.
#[cfg(target_os = "linux")]
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Opens the files of a folder, each in less than a second and 32 MiB.
#[cfg(target_os = "linux")]
fn open_all(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let (start, before) = (Instant::now(), peak());
        let failed = Checkpoint::open_file(&path).is_err();
        let (time, grown) = (start.elapsed(), peak() - before);
        let size = fs::metadata(&path).unwrap().len();
        println!("{}: {size} bytes, {time:?}, {grown} bytes more, refused: {failed}", path.display());
        // The file's own pages count as resident once they are read.
        let grown = grown.saturating_sub(size);
        assert!(time < Duration::from_secs(1) && grown < 32 << 20, "{}: {time:?}, {grown}", path.display());
    }
}

/// Runs itself in a process of its own, whose largest memory is no other test's; there it opens the files of
/// `$ANCESTRAL_HOSTILE`.
#[cfg(target_os = "linux")]
#[test]
fn hostile_files_cost_little() {
    if let Some(folder) = std::env::var_os("ANCESTRAL_HOSTILE") {
        return open_all(Path::new(&folder));
    }
    let folder = Folder::new();
    let cases = hostile();
    for (name, bytes, _) in &cases {
        folder.write(name, bytes);
    }
    let run = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "weights::tests::hostile::hostile_files_cost_little", "--nocapture"])
        .env("ANCESTRAL_HOSTILE", &folder.0)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    println!("{said}");
    assert!(run.status.success() && said.matches("bytes more").count() == cases.len(), "{said}");
}
