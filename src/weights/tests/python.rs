//! PyTorch's files, written byte by byte.

use super::archive::zip;
use super::*;

/// A Python value, to be pickled.
#[derive(Clone)]
pub(super) enum Py {
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

pub(super) fn text(text: &str) -> Py {
    Py::Text(text.into())
}

pub(super) fn dict(items: &[(&str, Py)]) -> Py {
    Py::Dict(items.iter().map(|(key, value)| (text(key), value.clone())).collect())
}

pub(super) fn ints(numbers: &[i64]) -> Py {
    Py::Tuple(numbers.iter().copied().map(Py::Int).collect())
}

pub(super) fn global(module: &str, name: &str) -> Py {
    Py::Raw(format!("c{module}\n{name}\n").into_bytes())
}

pub(super) fn call(function: Py, arguments: &[Py]) -> Py {
    Py::Raw([opcodes(&function), opcodes(&Py::Tuple(arguments.to_vec())), vec![b'R']].concat())
}

pub(super) fn opcodes(value: &Py) -> Vec<u8> {
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
pub(super) fn storage(kind: &str, key: &str, count: i64) -> Py {
    let kind = global("torch", &format!("{kind}Storage"));
    let id = Py::Tuple(vec![text("storage"), kind, text(key), text("cpu"), Py::Int(count)]);
    Py::Raw([opcodes(&id), vec![b'Q']].concat())
}

pub(super) fn tensor(storage: Py, offset: i64, shape: &[i64], strides: &[i64]) -> Py {
    let hooks = call(global("collections", "OrderedDict"), &[]);
    let arguments = [storage, Py::Int(offset), ints(shape), ints(strides), Py::Raw(vec![0x89]), hooks];
    call(global("torch._utils", "_rebuild_tensor_v2"), &arguments)
}

/// One f32 in storage 0.
pub(super) fn scalar() -> Py {
    tensor(storage("Float", "0", 1), 0, &[], &[])
}

/// A file with this pickle and these storages.
pub(super) fn file_of(pickle: &[u8], storages: &[&[u8]]) -> Vec<u8> {
    let names: Vec<_> = (0..storages.len()).map(|n| format!("x/data/{n}")).collect();
    let mut entries = vec![("x/data.pkl", pickle), ("x/byteorder", b"little"), ("x/version", b"3\n")];
    entries.extend(names.iter().map(String::as_str).zip(storages.iter().copied()));
    zip(&entries, true)
}

pub(super) fn pt(root: &Py, storages: &[&[u8]]) -> Vec<u8> {
    file_of(&[&[0x80, 2][..], &opcodes(root), b"."].concat(), storages)
}

pub(super) fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[track_caller]
pub(super) fn open(bytes: &[u8]) -> (Folder, Checkpoint) {
    let folder = Folder::new();
    let path = folder.write("weights.pt", bytes);
    let checkpoint = Checkpoint::open_file(&path).unwrap();
    (folder, checkpoint)
}

#[track_caller]
pub(super) fn names(root: &Py, expected: &[&str]) {
    let (_folder, checkpoint) = open(&pt(root, &[&[0; 4]]));
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), expected);
}
