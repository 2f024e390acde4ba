//! Which files of a folder are taken, renaming, and comparing with what a model wants.

use super::*;
use crate::graph::Repack;
use crate::weights::{ddpm_attention_name, t5_name};

/// The value of `[1]`-shaped tensor `a`, which says the file it came from.
fn value(folder: &Folder, variant: Option<&str>) -> f32 {
    Checkpoint::open(&folder.0, "model", variant).unwrap().read("a", Repack::None).unwrap()[0]
}

#[test]
fn variants() {
    let folder = Folder::new();
    folder.write("model.fp16.safetensors", one("a", 16.0));
    assert_eq!((value(&folder, None), value(&folder, Some("fp16"))), (16.0, 16.0));
    folder.write("model.safetensors", one("a", 32.0));
    assert_eq!((value(&folder, None), value(&folder, Some("fp16"))), (32.0, 16.0));
    let path = &folder.0;
    refused(
        Checkpoint::open(path, "model", Some("bf16")),
        path,
        &["model.bf16.safetensors", "ask for no variant"],
    );
    refused(Checkpoint::open(path, "unet", None), path, &["unet.safetensors", "model.fp16.safetensors"]);
    // A variant is part of a name in this folder, never a path.
    refused(Checkpoint::open(path, "model", Some("/../model")), path, &["ask for no variant"]);
}

#[test]
fn shards() {
    for (index, first, second) in [
        (
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ),
        (
            "model.safetensors.index.fp16.json",
            "model.fp16-00001-of-00002.safetensors",
            "model.fp16-00002-of-00002.safetensors",
        ),
        (
            "model.fp16.safetensors.index.json",
            "model-00001-of-00002.fp16.safetensors",
            "model-00002-of-00002.fp16.safetensors",
        ),
    ] {
        let folder = Folder::new();
        folder.write(first, one("a", 1.0));
        folder.write(second, one("b", 2.0));
        // Without the index, then with it: it is preferred, and may name its shards as it likes.
        assert_eq!(value(&folder, None), 1.0);
        folder.write("other", one("a", 3.0));
        folder.write(index, r#"{"metadata": {"total_size": 4}, "weight_map": {"a": "other"}}"#);
        assert_eq!(value(&folder, None), 3.0);
        let variant = index.contains("fp16").then_some("fp16");
        let checkpoint = Checkpoint::open(&folder.0, "model", variant).unwrap();
        assert_eq!(
            (checkpoint.path(), checkpoint.shape("a"), checkpoint.shape("b")),
            (&*folder.0, Some(&[1][..]), None)
        );
    }
    let folder = Folder::new();
    folder.write("model-00001-of-00002.safetensors", one("a", 1.0));
    refused(
        Checkpoint::open(&folder.0, "model", None),
        &folder.0,
        &["model-00002-of-00002.safetensors is missing"],
    );
    folder.write("model-00002-of-00002.safetensors", one("a", 1.0));
    refused(Checkpoint::open(&folder.0, "model", None), &folder.0, &["`a`", "is also in"]);
}

#[test]
fn other_names_and_nothing() {
    let folder = Folder::new();
    let path = &folder.0;
    refused(Checkpoint::open(path, "model", None), path, &["no model.safetensors", "right folder"]);
    // PyTorch's files are taken by their published names alone.
    for name in ["diffusion_pytorch_model.bin", "64x64_diffusion.pt"] {
        folder.write(name, "x");
        refused(Checkpoint::open(path, "model", None), path, &[name, "model.safetensors", "rename the file"]);
    }
}

#[test]
fn accessors() {
    let folder = Folder::new();
    let bytes = file(&[("b", Dtype::F16, &[2, 1], &[1.0, 2.0]), ("a", Dtype::I64, &[], &[7.0])]);
    let path = folder.write("x", bytes);
    let checkpoint = Checkpoint::open_file(&path).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((checkpoint.shape("b"), checkpoint.shape("a")), (Some(&[2, 1][..]), Some(&[][..])));
    assert_eq!((checkpoint.dtype("b"), checkpoint.dtype("a")), (Some(Dtype::F16), Some(Dtype::I64)));
    assert_eq!((checkpoint.dtype("c"), checkpoint.shape("c"), checkpoint.path()), (None, None, &*path));
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&checkpoint);
}

#[test]
fn renaming() {
    let folder = Folder::new();
    let open = |tensors: &[(&str, Dtype, &[usize], &[f64])]| {
        Checkpoint::open_file(&folder.write("x", file(tensors))).unwrap()
    };
    let f = Dtype::F32;
    let mut ddpm = open(&[("attentions.0.query.weight", f, &[1], &[1.0]), ("conv_in.bias", f, &[1], &[2.0])]);
    ddpm.rename(ddpm_attention_name).unwrap();
    assert_eq!(ddpm.names().collect::<Vec<_>>(), ["attentions.0.to_q.weight", "conv_in.bias"]);
    assert_eq!(ddpm.read("attentions.0.to_q.weight", Repack::None).unwrap(), [1.0]);
    // Names may change places.
    let mut swap = open(&[("a", f, &[1], &[1.0]), ("b", f, &[1], &[2.0])]);
    swap.rename(|name| Some(if name == "a" { "b" } else { "a" }.into())).unwrap();
    assert_eq!(swap.read("a", Repack::None).unwrap(), [2.0]);

    let (old, new) = ("encoder.embed_tokens.weight", "shared.weight");
    for tensors in [
        vec![(old, 3.0)],
        vec![(new, 3.0)],
        vec![(old, 3.0), (new, 3.0)],
        vec![(old, f64::NAN), (new, f64::NAN)],
    ] {
        let values: Vec<_> = tensors.iter().map(|&(_, value)| [value]).collect();
        let tensors: Vec<_> =
            tensors.iter().zip(&values).map(|(t, v)| (t.0, f, &[1usize][..], &v[..])).collect();
        let mut t5 = open(&tensors);
        t5.rename(t5_name).unwrap();
        assert_eq!(t5.names().collect::<Vec<_>>(), [new]);
    }
    let mut other = open(&[(old, f, &[1], &[1.0]), (new, f, &[1], &[2.0])]);
    refused(other.rename(t5_name), &folder.0, &[old, new, "different values"]);
    let mut other = open(&[(old, f, &[1, 1], &[1.0]), (new, f, &[1], &[1.0])]);
    refused(other.rename(t5_name), &folder.0, &[old, new, "different values"]);
}

#[test]
fn checking() {
    let folder = Folder::new();
    let (v, w) = (&[1.0, 2.0][..], &[1.0, f64::NAN, 3.0, 4.0, 5.0, 6.0][..]);
    let path = folder.write(
        "x",
        file(&[
            ("w", Dtype::F16, &[2, 3], w),
            ("b", Dtype::F32, &[2], v),
            ("n", Dtype::I64, &[2], v),
            ("text.position_ids", Dtype::I64, &[2], v),
        ]),
    );
    let checkpoint = Checkpoint::open_file(&path).unwrap();
    let good = [("w", &[2, 3][..]), ("b", &[2][..])];
    let with = |more: &[(&'static str, &'static [usize])]| check(&checkpoint, &[&good[..], more].concat());
    refused(with(&[]), &path, &["`n`", "unknown to the model", "config.json"]);
    refused(with(&[("n", &[2])]), &path, &["`n`", "expected F32", "found I64"]);
    checkpoint.check(good.iter().copied(), |name| name != "w").unwrap();
    let n = |name: &str| name == "n" || name == "text.position_ids";
    checkpoint.check(good.iter().copied().chain(good), n).unwrap();
    for (name, shape, parts) in [
        ("w", &[3, 2][..], ["`w`", "expected shape [3, 2], found [2, 3]"]),
        ("w", &[6], ["`w`", "expected shape [6], found [2, 3]"]),
        ("q", &[1], ["`q`", "expected shape [1], not found"]),
    ] {
        refused(checkpoint.check([good[0], good[1], (name, shape)].into_iter(), n), &path, &parts);
    }
    // Several at once: the first few of each kind, and how many there are.
    let many = ["c", "d", "e", "f", "g"].map(|name| (name, &[1][..]));
    let all = many.into_iter().chain([("w", &[1][..]), ("n", &[2])]);
    let parts = [
        "5 missing: `c` (expected shape [1], not found)",
        "`f`",
        ", …",
        "1 of another shape: `w`",
        "1 of another type: `n`",
    ];
    refused(checkpoint.check(all.clone(), |name| name != "b"), &path, &parts);
    refused(checkpoint.check(all, |_| false), &path, &["2 superfluous: `b`", "text.position_ids"]);
    let nothing = Checkpoint::open_file(&folder.write("y", raw("{}", b""))).unwrap();
    check(&nothing, &[]).unwrap();
    refused(check(&nothing, &good), &folder.0, &["2 missing"]);
}
