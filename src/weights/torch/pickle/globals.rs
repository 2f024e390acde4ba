//! The globals that a checkpoint of weights may name.

use super::Fault;
use super::values::{Global, Value};
use safetensors::Dtype;

pub(super) fn refusal(module: &str, name: &str) -> Fault {
    let what = match module {
        "torch" if name.ends_with("Storage") => "is an element type that is not supported",
        _ => {
            "is not what tensors need, and is refused: nothing in a file is ever run. The file holds more than weights \
             (a whole model, or a trainer's state), or is malicious"
        }
    };
    let full = format!("{module}.{name}");
    // Not a page of it, and no control characters.
    let shown: String = full.chars().take(120).flat_map(char::escape_debug).collect();
    Fault::Refused(format!("global `{shown}` {what}"))
}

pub(super) fn global(module: &str, name: &str) -> Option<Value> {
    let global = match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor { typed: false },
        ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTensor { typed: true },
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch.storage" | "torch", "UntypedStorage") => Global::Storage(None),
        ("torch", "Size") => Global::Size,
        ("torch", "device") | ("_codecs", "encode") => Global::Plain,
        (
            "torch.jit._pickle",
            "build_intlist" | "build_tensorlist" | "build_doublelist" | "build_boollist" | "restore_type_tag",
        ) => Global::Typed,
        ("torch", _) => match name.strip_suffix("Storage") {
            Some(kind) => Global::Storage(Some(storage_type(kind)?)),
            None => return Some(Value::Dtype(dtype(name)?)),
        },
        _ if module == "__torch__" || module.starts_with("__torch__.") => Global::Module,
        _ => return None,
    };
    Some(Value::Global(global))
}

fn storage_type(kind: &str) -> Option<Dtype> {
    Some(match kind {
        "Float" => Dtype::F32,
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::BF16,
        "Double" => Dtype::F64,
        "Long" => Dtype::I64,
        "Int" => Dtype::I32,
        "Short" => Dtype::I16,
        "Char" => Dtype::I8,
        "Byte" => Dtype::U8,
        "Bool" => Dtype::BOOL,
        "ComplexFloat" => Dtype::C64,
        _ => return None,
    })
}

pub(super) fn dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "float32" | "float" => Dtype::F32,
        "float16" | "half" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "float64" | "double" => Dtype::F64,
        "int64" | "long" => Dtype::I64,
        "int32" | "int" => Dtype::I32,
        "int16" | "short" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint8" => Dtype::U8,
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        "bool" => Dtype::BOOL,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        "complex64" => Dtype::C64,
        _ => return None,
    })
}
