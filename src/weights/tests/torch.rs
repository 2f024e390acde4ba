//! PyTorch's files: sound ones of every form.

use super::python::*;
use super::*;
use crate::graph::Repack;

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

/// weights.md names every key that is left out of names.
#[test]
fn wrappers_are_documented() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("weights.md")).unwrap();
    for key in crate::weights::torch::walk::WRAPPERS {
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
