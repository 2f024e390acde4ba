//! What a pickle builds: values in flat tables that refer to each other by number.

use safetensors::Dtype;

/// A run of bytes of the pickle, or of [`Pickle::items`].
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Span {
    pub(super) at: u32,
    pub(super) len: u32,
}

/// What a program may name.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Global {
    /// `torch._utils._rebuild_tensor_v2`, and `_v3`, which names the element type too.
    RebuildTensor {
        typed: bool,
    },
    /// `torch._utils._rebuild_parameter`: the tensor itself.
    RebuildParameter,
    OrderedDict,
    /// `torch.FloatStorage` and its like; no type: `torch.storage.UntypedStorage`.
    Storage(Option<Dtype>),
    /// `torch.Size`: a tuple.
    Size,
    /// `torch.device`, `_codecs.encode` (how protocol 2 spells bytes): a value without tensors.
    Plain,
    /// TorchScript's marks of a list's or dictionary's type: the first argument itself.
    Typed,
    /// A TorchScript module's class, `__torch__.…`: a holder of attributes.
    Module,
}

#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Value {
    /// What holds no tensor and is not asked for: None, True, 1.5, bytes, a device.
    Plain,
    Int(i64),
    Text(Span),
    Tuple(Span),
    List(u32),
    Dict(u32),
    /// A TorchScript module: an index into [`Pickle::modules`].
    Module(u32),
    Storage(u32),
    Tensor(u32),
    Dtype(Dtype),
    Global(Global),
}

/// A run of elements, or of bytes, in an entry of the archive.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Storage {
    pub(in super::super) dtype: Option<Dtype>,
    /// The entry's name.
    pub(in super::super) key: Span,
    /// Elements of `dtype`, else bytes.
    pub(in super::super) count: i64,
}

/// A view of a storage, as the file describes it: nothing is proved yet.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Tensor {
    pub(in super::super) storage: u32,
    pub(in super::super) dtype: Dtype,
    pub(in super::super) offset: i64,
    pub(in super::super) shape: Span,
    pub(in super::super) strides: Span,
}

/// What a pickle built.
#[derive(Debug, Default)]
pub(in super::super) struct Pickle<'a> {
    pub(super) text: &'a [u8],
    /// Tuples' values, one tuple after the other.
    pub(super) items: Vec<Value>,
    pub(super) lists: Vec<Vec<Value>>,
    pub(super) dicts: Vec<Vec<(Value, Value)>>,
    /// Each module's attributes, once they are set.
    pub(super) modules: Vec<Option<Value>>,
    pub(super) storages: Vec<Storage>,
    pub(super) tensors: Vec<Tensor>,
}

impl<'a> Pickle<'a> {
    pub(in super::super) fn text(&self, span: Span) -> &'a str {
        // Proved UTF-8 when the value was made.
        std::str::from_utf8(slice(self.text, span)).unwrap_or_default()
    }

    pub(in super::super) fn tuple(&self, span: Span) -> &[Value] {
        slice(&self.items, span)
    }

    pub(in super::super) fn list(&self, n: u32) -> &[Value] {
        &self.lists[n as usize]
    }

    pub(in super::super) fn dict(&self, n: u32) -> &[(Value, Value)] {
        &self.dicts[n as usize]
    }

    pub(in super::super) fn module(&self, n: u32) -> Option<Value> {
        self.modules[n as usize]
    }

    pub(in super::super) fn storage(&self, n: u32) -> Storage {
        self.storages[n as usize]
    }

    pub(in super::super) fn tensor(&self, n: u32) -> Tensor {
        self.tensors[n as usize]
    }
}

/// The elements of a run.
pub(super) fn slice<T>(all: &[T], span: Span) -> &[T] {
    &all[span.at as usize..(span.at + span.len) as usize]
}
