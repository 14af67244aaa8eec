//! The names that a checkpoint may use. None of them is ever called: each is a word for what to keep.

use tch::Kind;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    /// The numbers behind tensors, of a type.
    Storage(Kind),
    /// A tensor over a storage.
    Tensor,
    /// A tensor that is trained.
    Parameter,
    /// A dictionary.
    Dict,
    /// An object whose attributes are kept (`argparse.Namespace`).
    Record,
    /// The old way to write an object.
    Reconstructor,
    /// Known to be harmless and of no use here.
    Opaque,
}

/// What may be read; `None` = refused.
pub(super) fn global(module: &str, name: &str) -> Option<Global> {
    let storage = |name: &str| {
        Some(match name {
            "FloatStorage" => Kind::Float,
            "DoubleStorage" => Kind::Double,
            "HalfStorage" => Kind::Half,
            "BFloat16Storage" => Kind::BFloat16,
            "LongStorage" => Kind::Int64,
            "IntStorage" => Kind::Int,
            "ShortStorage" => Kind::Int16,
            "CharStorage" => Kind::Int8,
            "ByteStorage" => Kind::Uint8,
            "BoolStorage" => Kind::Bool,
            _ => return None,
        })
    };
    const TYPES: [&str; 11] =
        ["float32", "float", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"];
    Some(match (module, name) {
        ("torch", "Size" | "device") => Global::Opaque,
        ("torch", name) if TYPES.contains(&name) => Global::Opaque,
        ("torch", name) => Global::Storage(storage(name)?),
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Global::Tensor,
        ("torch._utils", "_rebuild_parameter") => Global::Parameter,
        ("collections", "OrderedDict" | "defaultdict" | "Counter") => Global::Dict,
        ("builtins" | "__builtin__", "dict") | ("yacs.config", "CfgNode") => Global::Dict,
        ("argparse", "Namespace") | ("types", "SimpleNamespace") => Global::Record,
        ("copyreg" | "copy_reg", "_reconstructor") => Global::Reconstructor,
        ("builtins" | "__builtin__", "set" | "frozenset" | "object" | "list" | "int" | "float" | "str" | "bool")
        | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct")
        | ("numpy", "dtype" | "ndarray")
        | ("_codecs", "encode")
        | ("pathlib", "PosixPath" | "PurePosixPath" | "WindowsPath" | "PureWindowsPath") => Global::Opaque,
        _ => return None,
    })
}
