//! PyTorch's files, written here byte by byte: sound ones of every form, and hostile ones.

use std::time::{Duration, Instant};

use super::archive::zip;
use super::*;
use crate::graph::Repack;

/// A Python value, to be pickled.
#[derive(Clone)]
enum Py {
    None,
    Int(i64),
    Text(String),
    List(Vec<Py>),
    Tuple(Vec<Py>),
    Dict(Vec<(Py, Py)>),
    /// A TorchScript module of this class.
    Module(&'static str, Vec<(Py, Py)>),
    /// Opcodes that leave one value.
    Raw(Vec<u8>),
}

fn text(text: &str) -> Py {
    Py::Text(text.into())
}

fn dict(items: &[(&str, Py)]) -> Py {
    Py::Dict(items.iter().map(|(key, value)| (text(key), value.clone())).collect())
}

fn ints(numbers: &[i64]) -> Py {
    Py::Tuple(numbers.iter().copied().map(Py::Int).collect())
}

fn global(module: &str, name: &str) -> Py {
    Py::Raw(format!("c{module}\n{name}\n").into_bytes())
}

fn call(function: Py, arguments: &[Py]) -> Py {
    Py::Raw([opcodes(&function), opcodes(&Py::Tuple(arguments.to_vec())), vec![b'R']].concat())
}

fn opcodes(value: &Py) -> Vec<u8> {
    let all = |items: &[Py]| items.iter().flat_map(opcodes).collect::<Vec<_>>();
    let pairs = |items: &[(Py, Py)]| {
        let items = items.iter().flat_map(|(key, value)| [opcodes(key), opcodes(value)].concat());
        [vec![b'}', b'('], items.collect(), vec![b'u']].concat()
    };
    match value {
        Py::None => vec![b'N'],
        Py::Int(n) => match i32::try_from(*n) {
            Ok(n) => [&[b'J'][..], &n.to_le_bytes()].concat(),
            Err(_) => [&[0x8a, 8][..], &n.to_le_bytes()].concat(),
        },
        Py::Text(text) => [&[b'X'][..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat(),
        Py::List(items) => [vec![b']', b'('], all(items), vec![b'e']].concat(),
        Py::Tuple(items) => [vec![b'('], all(items), vec![b't']].concat(),
        Py::Dict(items) => pairs(items),
        Py::Module(class, items) => {
            [opcodes(&global("__torch__", class)), vec![b')', 0x81], pairs(items), vec![b'b']].concat()
        }
        Py::Raw(opcodes) => opcodes.clone(),
    }
}

/// `torch.{kind}Storage` of the entry `key`.
fn storage(kind: &str, key: &str, count: i64) -> Py {
    let kind = global("torch", &format!("{kind}Storage"));
    let id = Py::Tuple(vec![text("storage"), kind, text(key), text("cpu"), Py::Int(count)]);
    Py::Raw([opcodes(&id), vec![b'Q']].concat())
}

fn tensor(storage: Py, offset: i64, shape: &[i64], strides: &[i64]) -> Py {
    let hooks = call(global("collections", "OrderedDict"), &[]);
    let arguments = [storage, Py::Int(offset), ints(shape), ints(strides), Py::Raw(vec![0x89]), hooks];
    call(global("torch._utils", "_rebuild_tensor_v2"), &arguments)
}

/// One f32 in storage 0.
fn scalar() -> Py {
    tensor(storage("Float", "0", 1), 0, &[], &[])
}

/// A file with this pickle and these storages.
fn file_of(pickle: &[u8], storages: &[&[u8]]) -> Vec<u8> {
    let names: Vec<_> = (0..storages.len()).map(|n| format!("x/data/{n}")).collect();
    let mut entries = vec![("x/data.pkl", pickle), ("x/byteorder", b"little"), ("x/version", b"3\n")];
    entries.extend(names.iter().map(String::as_str).zip(storages.iter().copied()));
    zip(&entries, true)
}

fn pt(root: &Py, storages: &[&[u8]]) -> Vec<u8> {
    file_of(&[&[0x80, 2][..], &opcodes(root), b"."].concat(), storages)
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[track_caller]
fn open(bytes: &[u8]) -> (Folder, Checkpoint) {
    let folder = Folder::new();
    let path = folder.write("weights.pt", bytes);
    let checkpoint = Checkpoint::open_file(&path).unwrap();
    (folder, checkpoint)
}

#[track_caller]
fn names(root: &Py, expected: &[&str]) {
    let (_folder, checkpoint) = open(&pt(root, &[&[0; 4]]));
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), expected);
}

#[test]
fn element_types() {
    let half: Vec<u8> = [1.5, -2.0].iter().flat_map(|&v| f16::from_f64(v).to_le_bytes()).collect();
    let brain: Vec<u8> = [0.5, 3.0].iter().flat_map(|&v| bf16::from_f64(v).to_le_bytes()).collect();
    let double: Vec<u8> = [1e-3, 7.0f64].iter().flat_map(|v| v.to_le_bytes()).collect();
    /// Its name in PyTorch, the bytes of two elements, its type, the values if they can be read.
    type Kind<'a> = (&'a str, &'a [u8], Dtype, Option<[f32; 2]>);
    let kinds: [Kind<'_>; 7] = [
        ("Float", &f32s(&[0.1, 2.0]), Dtype::F32, Some([0.1, 2.0])),
        ("Half", &half, Dtype::F16, Some([1.5, -2.0])),
        ("BFloat16", &brain, Dtype::BF16, Some([0.5, 3.0])),
        ("Double", &double, Dtype::F64, Some([1e-3, 7.0])),
        ("Long", &[0; 16], Dtype::I64, None),
        ("Bool", &[0, 1], Dtype::BOOL, None),
        ("Byte", &[3, 4], Dtype::U8, None),
    ];
    let storages: Vec<&[u8]> = kinds.iter().map(|kind| kind.1).collect();
    let tensors: Vec<_> = kinds
        .iter()
        .enumerate()
        .map(|(n, kind)| (kind.0, tensor(storage(kind.0, &n.to_string(), 2), 0, &[2, 1], &[1, 1])))
        .collect();
    let (_folder, checkpoint) = open(&pt(&dict(&tensors), &storages));
    for (name, _, dtype, values) in kinds {
        assert_eq!((checkpoint.dtype(name), checkpoint.shape(name)), (Some(dtype), Some(&[2, 1][..])));
        match values {
            Some(values) => assert_eq!(checkpoint.read(name, Repack::None).unwrap(), values),
            None => refused(checkpoint.read(name, Repack::None), checkpoint.path(), &[name, "expected F32"]),
        }
    }
    // Newer types: an untyped storage, counted in bytes, and the type beside it.
    let untyped = Py::Raw(opcodes(&storage("Untyped", "0", 4)));
    let hooks = call(global("collections", "OrderedDict"), &[]);
    let arguments = [untyped, Py::Int(1), ints(&[1]), ints(&[1]), Py::None, hooks, global("torch", "uint16")];
    let newer = dict(&[("a", call(global("torch._utils", "_rebuild_tensor_v3"), &arguments))]);
    assert_eq!(open(&pt(&newer, &[&[0; 4]])).1.dtype("a"), Some(Dtype::U16));
}

#[test]
fn paths_are_names() {
    names(&dict(&[("a", scalar()), ("b.c", scalar())]), &["a", "b.c"]);
    let inner = dict(&[("w", scalar()), ("n", Py::Int(3)), ("s", text("x"))]);
    let nested =
        dict(&[("x", Py::List(vec![scalar(), inner.clone()])), ("y", Py::Tuple(vec![inner.clone()]))]);
    names(&nested, &["x.0", "x.1.w", "y.0.w"]);
    names(&Py::Dict(vec![(Py::Int(7), scalar()), (Py::None, Py::None)]), &["7"]);
    // Wrappers, also in each other; a trainer's state beside them.
    let trained = dict(&[
        ("epoch", Py::Int(3)),
        ("state_dict", inner.clone()),
        ("optimizer", dict(&[("s", scalar())])),
    ]);
    names(&trained, &["w"]);
    names(&dict(&[("state_dict", dict(&[("model", inner.clone())]))]), &["w"]);
    // Not where there are two, nor a model's own part, nor a trainer's state by itself.
    names(&dict(&[("model", inner.clone()), ("ema", inner.clone())]), &["ema.w", "model.w"]);
    names(&dict(&[("visual", inner.clone())]), &["visual.w"]);
    names(&dict(&[("model", scalar()), ("a", scalar())]), &["a", "model"]);
    names(&dict(&[("optimizer", inner.clone())]), &["optimizer.w"]);
    // DataParallel.
    names(&dict(&[("module.a", scalar()), ("module.b.w", scalar())]), &["a", "b.w"]);
    names(&dict(&[("module.a", scalar()), ("b", scalar())]), &["b", "module.a"]);
    // Parameters, an OrderedDict of either form with its attributes, bytes, sizes and devices.
    let parameter = call(global("torch._utils", "_rebuild_parameter"), &[scalar(), Py::None, Py::None]);
    let ordered = opcodes(&call(global("collections", "OrderedDict"), &[]));
    let filled = [ordered, opcodes(&text("p")), opcodes(&parameter), b"s}b".to_vec()].concat();
    let pairs = Py::List(vec![Py::List(vec![text("q"), scalar()]), Py::Tuple(vec![text("n"), Py::Int(1)])]);
    let others = [
        ("a", Py::Raw(filled)),
        ("b", call(global("collections", "OrderedDict"), &[pairs])),
        ("c", call(global("_codecs", "encode"), &[text("x"), text("latin1")])),
        ("d", call(global("torch", "Size"), &[ints(&[1, 2])])),
        ("e", call(global("torch", "device"), &[text("cpu")])),
        ("f", global("torch", "float16")),
        ("g", Py::Raw(vec![0x8a, 9, 0, 0, 0, 0, 0, 0, 0, 0, 1])),
    ];
    names(&dict(&others), &["a.p", "b.q"]);
}

#[test]
fn torchscript() {
    let layer = Py::Module("nn.Conv2d", vec![(text("weight"), scalar()), (text("stride"), Py::None)]);
    let list = call(global("torch.jit._pickle", "build_intlist"), &[Py::List(vec![Py::Int(1)])]);
    let named = vec![(text("0"), layer.clone()), (text("training"), Py::Raw(vec![0x88]))];
    let sequential = Py::Module("nn.___torch_mangle_3.Sequential", named);
    let root = vec![(text("visual"), sequential), (text("k"), scalar()), (text("sizes"), list)];
    names(&Py::Module("M", root), &["k", "visual.0.weight"]);
}

/// Protocol 4's way of writing the same.
#[test]
fn newer_protocols() {
    let mut program = vec![0x80, 4, 0x95];
    let short = |text: &str| [&[0x8c, text.len() as u8][..], text.as_bytes(), &[0x94]].concat();
    let stack_global = |module, name| [short(module), short(name), vec![0x93, 0x94]].concat();
    let body = [
        &b"}\x94("[..],
        &short("a"),
        &stack_global("torch._utils", "_rebuild_tensor_v2"),
        b"((",
        &short("storage"),
        &stack_global("torch", "FloatStorage"),
        &short("0"),
        &short("cpu"),
        b"K\x02t\x94QK\x00K\x01K\x02\x86\x94K\x02K\x01\x86\x94\x89",
        &stack_global("collections", "OrderedDict"),
        b")R\x94t\x94R\x94\x8c\x01bC\x03xyzu.",
    ]
    .concat();
    program.extend((body.len() as u64).to_le_bytes());
    program.extend(body);
    let (_folder, checkpoint) = open(&file_of(&program, &[&f32s(&[4.0, 5.0])]));
    assert_eq!(checkpoint.shape("a"), Some(&[1, 2][..]));
    assert_eq!(checkpoint.read("a", Repack::None).unwrap(), [4.0, 5.0]);
}

#[test]
fn views() {
    let values: Vec<f32> = (0..24).map(|v| v as f32).collect();
    let view =
        |offset, shape: &[i64], strides: &[i64]| tensor(storage("Float", "0", 24), offset, shape, strides);
    let views = [
        ("whole", view(0, &[2, 3, 4], &[12, 4, 1])),
        ("part", view(5, &[2, 2], &[2, 1])),
        ("transposed", view(0, &[4, 6], &[1, 4])),
        ("channels_last", view(0, &[1, 2, 3, 4], &[24, 1, 8, 2])),
        ("every_other", view(1, &[4], &[2])),
        ("expanded", view(3, &[2, 3], &[0, 1])),
        ("ones", view(7, &[1, 1, 2], &[99, 1000, 1])),
        ("empty", view(99, &[0, 1 << 40], &[5, 1])),
    ];
    let (_folder, checkpoint) = open(&pt(&dict(&views), &[&f32s(&values)]));
    let read = |name| checkpoint.read(name, Repack::None).unwrap();
    let gathered = |first: usize, shape: &[usize], strides: &[usize]| {
        let count: usize = shape.iter().product();
        let mut expected = Vec::new();
        for e in 0..count {
            let (mut rest, mut at) = (e, first);
            for (&size, &stride) in shape.iter().zip(strides).rev() {
                at += rest % size * stride;
                rest /= size;
            }
            expected.push(values[at]);
        }
        expected
    };
    assert_eq!(read("whole"), values);
    assert_eq!(read("part"), [5.0, 6.0, 7.0, 8.0]);
    assert_eq!(read("transposed"), gathered(0, &[4, 6], &[1, 4]));
    assert_eq!(read("channels_last"), gathered(0, &[1, 2, 3, 4], &[24, 1, 8, 2]));
    assert_eq!(read("every_other"), [1.0, 3.0, 5.0, 7.0]);
    assert_eq!(read("expanded"), [3.0, 4.0, 5.0, 3.0, 4.0, 5.0]);
    assert_eq!(read("ones"), [7.0, 8.0]);
    assert_eq!(read("empty"), [0.0; 0]);
    // A repack of a view reads the view, not its storage.
    let back: Vec<_> = gathered(0, &[6, 4], &[4, 1]);
    assert_eq!(checkpoint.read("transposed", Repack::Transpose).unwrap(), back);
    // Only what was gathered is a copy.
    let mapped =
        |name| matches!(checkpoint.bytes(checkpoint.entry(name).unwrap()), std::borrow::Cow::Borrowed(_));
    assert_eq!(
        ["whole", "part", "ones", "transposed", "expanded"].map(mapped),
        [true, true, true, false, false]
    );
}

#[test]
fn folders() {
    let one = |name: &str, value: f32| pt(&dict(&[(name, scalar())]), &[&f32s(&[value])]);
    let value = |folder: &Folder, stem: &str, variant: Option<&str>| {
        Checkpoint::open(&folder.0, stem, variant).unwrap().read("a", Repack::None).unwrap()[0]
    };
    let folder = Folder::new();
    folder.write("pytorch_model.fp16.bin", one("a", 16.0));
    folder.write("diffusion_pytorch_model.bin", one("a", 1.0));
    assert_eq!(value(&folder, "model", None), 16.0);
    assert_eq!(value(&folder, "model", Some("fp16")), 16.0);
    assert_eq!(value(&folder, "diffusion_pytorch_model", None), 1.0);
    // Precision before format, safetensors before PyTorch's.
    folder.write("model.fp16.safetensors", super::one("a", 17.0));
    assert_eq!(value(&folder, "model", None), 17.0);
    folder.write("pytorch_model.bin", one("a", 32.0));
    assert_eq!((value(&folder, "model", None), value(&folder, "model", Some("fp16"))), (32.0, 17.0));
    folder.write("model.safetensors", super::one("a", 33.0));
    assert_eq!(value(&folder, "model", None), 33.0);

    let shards = Folder::new();
    let files = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
    shards.write(files[0], one("a", 2.0));
    refused(Checkpoint::open(&shards.0, "model", None), &shards.0, &[files[1], "is missing"]);
    shards.write(files[1], one("b", 3.0));
    assert_eq!(value(&shards, "model", None), 2.0);
    let index = format!(r#"{{"weight_map": {{"a": "{}", "b": "{}"}}}}"#, files[0], files[1]);
    let path = shards.write("pytorch_model.bin.index.json", &index);
    assert_eq!(value(&shards, "model", None), 2.0);
    fs::write(&path, index.replace("\"b\"", "\"c\"")).unwrap();
    refused(Checkpoint::open(&shards.0, "model", None), &path, &["`c`", "does not hold it"]);
}

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

/// weights.md names every key that is left out of names.
#[test]
fn wrappers_are_documented() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("weights.md")).unwrap();
    for key in crate::weights::torch::WRAPPERS {
        assert!(page.contains(&format!("`{key}`")), "{key}");
        names(&dict(&[(key, dict(&[("w", scalar())])), ("optimizer", scalar())]), &["w"]);
    }
}

/// What PyTorch wrote, in `goldens/torch`, beside what it read from it.
#[test]
fn published_forms() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/torch");
    for name in ["mixed", "script", "protocol5"] {
        let file = Checkpoint::open_file(&goldens.join(format!("{name}.pt"))).unwrap();
        let twin = Checkpoint::open_file(&goldens.join(format!("{name}.safetensors"))).unwrap();
        same(&file, &twin);
    }
    refused(
        Checkpoint::open_file(&goldens.join("before_1.6.pt")),
        &goldens,
        &["before 1.6", "save it again with torch.save"],
    );
}

/// Names, types, shapes and bytes.
#[track_caller]
fn same(file: &Checkpoint, twin: &Checkpoint) {
    assert_eq!(file.names().collect::<Vec<_>>(), twin.names().collect::<Vec<_>>());
    for name in file.names() {
        let (a, b) = (file.entry(name).unwrap(), twin.entry(name).unwrap());
        assert_eq!((a.dtype, &a.shape), (b.dtype, &b.shape), "{name}");
        assert_eq!(file.bytes(a), twin.bytes(b), "{name}");
    }
}

/// Compares the `.pt` files of a folder, those below it too, with the safetensors twins that lie beside them:
/// `ANCESTRAL_PT=/path/to/conformance cargo test --release --lib twins -- --nocapture`.
#[test]
fn twins() {
    fn walk(folder: &Path) {
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for path in files {
            if path.is_dir() {
                walk(&path);
            } else if path.extension().is_some_and(|end| end == "pt") {
                let start = Instant::now();
                let file = Checkpoint::open_file(&path).unwrap();
                let kinds: std::collections::BTreeSet<_> =
                    file.names().map(|name| file.dtype(name).unwrap().to_string()).collect();
                let (count, time) = (file.names().count(), start.elapsed());
                let twin = path.with_extension("safetensors");
                if twin.exists() {
                    same(&file, &Checkpoint::open_file(&twin).unwrap());
                }
                println!("{}: {count} tensors, {kinds:?}, {time:?}, twin {}", path.display(), twin.exists());
            }
        }
    }
    if let Some(folder) = std::env::var_os("ANCESTRAL_PT") {
        walk(Path::new(&folder));
    }
}

/// The process's largest resident memory so far, in bytes.
#[cfg(target_os = "linux")]
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Opens the files of `$ANCESTRAL_HOSTILE`, which [`hostile_files_cost_little`] has written, in a process of its own.
#[cfg(target_os = "linux")]
#[test]
fn hostile_files_alone() {
    let Some(folder) = std::env::var_os("ANCESTRAL_HOSTILE") else { return };
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

#[cfg(target_os = "linux")]
#[test]
fn hostile_files_cost_little() {
    let folder = Folder::new();
    let cases = hostile();
    for (name, bytes, _) in &cases {
        folder.write(name, bytes);
    }
    let run = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "weights::tests::torch::hostile_files_alone", "--nocapture"])
        .env("ANCESTRAL_HOSTILE", &folder.0)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    println!("{said}");
    assert!(run.status.success() && said.matches("bytes more").count() == cases.len(), "{said}");
}
