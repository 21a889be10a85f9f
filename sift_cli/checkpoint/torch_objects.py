"""What PyTorch's pickles mean: which of their records are tensors, and where the bytes of each are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sift_cli.checkpoint import mask_optimizer
from sift_cli.checkpoint._bytes import ByteFile, checked_shape
from sift_cli.checkpoint._pickle import Call, Global, Persistent
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.strided import Stored, Strided, StridedCheckpoint
from sift_cli.checkpoint.torch_sparse import TorchSparse
from sift_cli.checkpoint.unwrap import unwrap
from sift_cli.core.tensors import DTYPES
from sift_cli.errors import CheckpointError, Malformed

#: PyTorch's dtypes and, where it has one, the storage class that stands for each in older files.
DTYPE_STORAGES: dict[str, tuple[str, str]] = {
    "bool": ("BOOL", "BoolStorage"),
    "uint8": ("U8", "ByteStorage"),
    "int8": ("I8", "CharStorage"),
    "uint16": ("U16", ""),
    "int16": ("I16", "ShortStorage"),
    "uint32": ("U32", ""),
    "int32": ("I32", "IntStorage"),
    "uint64": ("U64", ""),
    "int64": ("I64", "LongStorage"),
    "float8_e4m3fn": ("F8_E4M3", ""),
    "float8_e5m2": ("F8_E5M2", ""),
    "float16": ("F16", "HalfStorage"),
    "bfloat16": ("BF16", "BFloat16Storage"),
    "float32": ("F32", "FloatStorage"),
    "float64": ("F64", "DoubleStorage"),
    "complex64": ("C64", "ComplexFloatStorage"),
    "complex128": ("C128", "ComplexDoubleStorage"),
}
#: Storages of quantized tensors, which are refused by name; an old file cannot be walked without their sizes.
_QUANTIZED = {"QInt8": "I8", "QUInt8": "U8", "QInt32": "I32", "QUInt4x2": "U8", "QUInt2x4": "U8"}
_BY_NAME = {
    **{f"torch.{name}Storage": DTYPES[carrier] for name, carrier in _QUANTIZED.items()},
    **{f"torch.{torch}": DTYPES[name] for torch, (name, _) in DTYPE_STORAGES.items()},
    **{
        f"torch.{cuda}{storage}": DTYPES[name]
        for name, storage in DTYPE_STORAGES.values()
        if storage
        for cuda in ("", "cuda.")
    },
}
_UNTYPED = {"torch.storage.UntypedStorage": 1, "torch.UntypedStorage": 1, "torch.storage._UntypedStorage": 1}
_STRIDED = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"}
_WITH_STATE = "torch._utils._rebuild_parameter_with_state"
#: What tensors with a gradient were before PyTorch 0.4.
_VARIABLE = {"torch.nn.parameter.Parameter", "torch.autograd.variable.Variable"}
_PARAMETER = {"torch._utils._rebuild_parameter", _WITH_STATE, *_VARIABLE}
_BY_TYPE = "torch._tensor._rebuild_from_type_v2"
#: The second is what older versions called it for compressed rows.
_SPARSE = {"torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_sparse_csr_tensor"}
_UNSUPPORTED = {
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor without values",
    "torch._utils._rebuild_wrapper_subclass": "a tensor subclass",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor of another device",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
}
#: Makes an empty tensor, which is then given a storage; PyTorch 0.1 wrote them so. It is refused.
_CONSTRUCTOR = re.compile(r"torch\.(cuda\.)?(sparse\.)?\w*Tensor")
#: Attributes of a tensor that are its values.
_VALUES = {"data", "real", "imag"}
_NOT_WRITTEN = "its record is not one that PyTorch writes"
_MAPPINGS = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter"}

#: Globals that only describe data. What torch.load allows by default under weights_only, plus argparse.Namespace,
#: numpy's scalars and paths, which training scripts leave beside the weights. Nothing is called either way: the list
#: decides when a file is more than data, and so what a user is told about it.
_DATA = re.compile(
    r"torch\.(cuda\.)?(sparse\.)?\w+(Storage|Tensor)|torch\.(storage\._?(Unt|T)ypedStorage|Tensor|Size|device|\w*int\d+|\w*float\d\w*|bool)"
    r"|torch\.(complex|bits)\d\w*|torch\.q\w+|torch\.per_(tensor|channel)_\w+|torch\._utils\._rebuild_\w+"
    r"|torch\._tensor\._rebuild_from_type_v2|torch\.serialization\._get_layout"
    r"|torch\.nn\.parameter\.Parameter|torch\.autograd\.variable\.Variable"
    r"|collections\.(OrderedDict|defaultdict|Counter)|(builtins|__builtin__)\.(set|frozenset|bytearray|complex|dict|list"
    r"|int|float|slice|range)|_codecs\.encode|argparse\.Namespace|types\.SimpleNamespace"
    r"|pathlib\.(Pure)?(Posix|Windows)?Path|numpy\.(ndarray|dtype)|numpy\.dtypes\.\w+"
    r"|numpy\.(_core|core)\.(multiarray\.(scalar|_reconstruct)|numeric\._frombuffer)"
)


def unsafe(globals_: frozenset[str]) -> list[str]:
    """Those of a pickle's globals that make it more than data."""
    return sorted(name for name in globals_ if not _DATA.fullmatch(name))


@dataclass(frozen=True)
class StorageRef:
    """A storage that a pickle refers to.

    Attributes:
        key: Its name in the file.
        dtype: Element type, or None for an untyped one, whose ``count`` is in bytes.
        count: Number of elements.
        start: First element of a view on another storage, in old files.
        view: The name of that view there.
    """

    key: str
    dtype: np.dtype | None
    count: int
    start: int = 0
    view: str | None = None


def storage_ref(reference: Persistent) -> StorageRef:
    """The storage that a persistent id means.

    Raises:
        ValueError: It means something else.
    """
    match reference.id:
        case ("storage", Global(name=kind), str() | int() as key, _, int() as count, *view):
            dtype = _BY_NAME.get(kind)
            if dtype is None and kind not in _UNTYPED:
                raise ValueError(f"a storage of type {kind[:60]!r}")
            if count < 0:
                raise ValueError(f"a storage of {count} elements")
            start, called = 0, None
            match view:
                case [] | [None]:
                    pass
                case [(str() as named, int() as start, int() as size)]:
                    called = named
                    if start < 0 or size < 0 or start + size > count:
                        raise ValueError("a view lies outside its storage")
                case _:
                    raise ValueError("a storage's view is not made of key, offset and size")
            return StorageRef(str(key), dtype, count, start, called)
    raise ValueError("a reference to something other than a storage")


def storages(references: Iterable[Persistent]) -> dict[str, StorageRef]:
    """The storages that the persistent ids of a pickle mean, by their keys.

    Raises:
        ValueError: One means something else; or two have one name and are not alike: of these PyTorch takes the first.
    """
    found: dict[str, StorageRef] = {}
    views: dict[str | None, StorageRef] = {}
    for one in map(storage_ref, references):
        first = found.setdefault(one.key, one)
        alike = (first.dtype, first.count) == (one.dtype, one.count)
        if not alike or (one.view and views.setdefault(one.view, one) != one):
            raise ValueError(f"its storage {one.key[:40]!r} is there with two types or sizes")
    if not views.keys().isdisjoint(found):
        raise ValueError("a view has the name of a storage")
    return found


def is_tensor(value: Any) -> bool:
    return isinstance(value, Call) and (
        value.name == _BY_TYPE
        or any(value.name in kind for kind in (_STRIDED, _SPARSE, _PARAMETER, _UNSUPPORTED))
        or _CONSTRUCTOR.fullmatch(value.name) is not None
    )


def as_mapping(value: Any) -> Mapping[Any, Any] | None:
    """``value`` as a mapping, if a pickle's record is one."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Call) or value.name not in _MAPPINGS:
        return None
    items: dict[Any, Any] = {}
    for pairs in value.args:
        if isinstance(pairs, dict):  # as a Counter has it
            items.update(pairs)
        elif isinstance(pairs, list):  # OrderedDict([[key, value], …]), as pickle protocol 0 to 2 of Python 2 wrote it
            if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
                raise ValueError("it has a mapping of what are no pairs")
            items.update((key, item) for key, item in pairs if type(key) is str)
        elif not (pairs is None or isinstance(pairs, Global)):  # what a defaultdict makes its values with
            raise ValueError("it has a mapping that no pickler writes")
    return {**items, **(value.items or {})}


Place = Callable[[StorageRef], tuple[int, int]]


def checkpoint(file: ByteFile, format: str, root: Any, place: Place) -> Checkpoint:
    """The model in what a pickle describes.

    Args:
        file: The file, which the checkpoint goes on reading.
        format: Name of the reader.
        root: The pickle's one object.
        place: First byte and length in bytes of a storage in the file.

    Raises:
        CheckpointError: There is none in it.
    """
    try:
        state = unwrap(root, as_mapping, is_tensor)
    except ValueError as error:
        raise CheckpointError(f"{file.path}: {error}") from None

    def stored(calls: Mapping[str, Any]) -> dict[str, Stored]:
        return {name: tensor(file.path, name, call, place) for name, call in calls.items()}

    return StridedCheckpoint(
        file, format, stored(state.tensors), wrapper=state.wrapper, ignored=state.ignored,
        masks_apart=lambda: stored(mask_optimizer.masks(root, as_mapping, is_tensor)),
    )  # fmt: skip


def tensor(path: Path, name: str, value: Call, place: Place) -> Stored:
    """Where and how the tensor ``name`` lies in the file.

    Args:
        place: First byte and length in bytes of a storage in the file.

    Raises:
        Malformed: Its arguments are not what PyTorch writes, or it reaches outside its storage.
        CheckpointError: It is quantized or otherwise no plain array.
    """
    at = f"tensor {name!r}"
    for _ in range(8):  # a parameter of a parameter of … is no file of PyTorch's
        value = _without_gradient(value)
        _check_values(path, at, value)
        match value:
            case Call(name=kind, args=(Call() as data, *_)) if kind in _PARAMETER:
                value = data
            case Call(name=kind, args=(Global(name=function), Global(name=cls), tuple() as args, *_)) if (
                kind == _BY_TYPE
            ):
                if cls not in ("torch.Tensor", "torch.nn.parameter.Parameter"):
                    raise CheckpointError(f"{path}: {at} is a {cls[:60]}, which sift does not read")
                value = Call(function, args)
            case _:
                break
    if value.name in _UNSUPPORTED:
        raise CheckpointError(
            f"{path}: {at} is {_UNSUPPORTED[value.name]}, which sift does not read",
            hint="save it as a plain dense tensor",
        )
    return _sparse(path, name, value, place) if value.name in _SPARSE else _strided(path, name, value, place)


def _without_gradient(value: Call) -> Call:
    """A variable of PyTorch before 0.4 without its state: if it needs a gradient, if it is volatile, and its hooks."""
    match value:
        case Call(name=kind, args=(Call(),) as args, state=(bool(), bool(), _), items=None) if kind in _VARIABLE:
            return Call(kind, args)
        case Call(name=kind, args=(), state=(Call() as data, _, _, bool(), bool()), items=None) if kind in _VARIABLE:
            return Call(kind, (data,))  # in 0.1 the state had its values, too
    return value


def _check_values(path: Path, at: str, value: Call) -> None:
    """Refuse a record that gives the tensor it makes other values afterwards, as an attribute or in place.

    Raises:
        Malformed: It does.
    """
    states = value.args[3:4] if value.name in (_BY_TYPE, _WITH_STATE) else ()
    for attributes in states[0][:3] if states and isinstance(states[0], tuple) else states:
        if not isinstance(attributes, dict | None) or any(name in (attributes or ()) for name in _VALUES):
            raise Malformed(path, at, _NOT_WRITTEN)
    if value.state is not None or value.items is not None:
        raise Malformed(path, at, _NOT_WRITTEN)


def _sparse(path: Path, name: str, value: Call, place: Place) -> Stored:
    at = f"tensor {name!r}"
    match value.args:
        case (
            Call(name="torch.serialization._get_layout", args=(str() as layout,)),
            (*parts, Call(name="torch.Size", args=((*size,),)))
            | (*parts, Call(name="torch.Size", args=((*size,),)), _),
        ) if 2 <= len(parts) <= 3 and all(isinstance(part, Call) for part in parts):
            *indices, values = (_strided(path, name, part, place) for part in parts)
        case _:
            raise Malformed(path, at, _NOT_WRITTEN)
    try:
        if any(part.nbytes > part.span for part in (*indices, values)):
            raise ValueError("its indices or values repeat themselves")
        return TorchSparse.checked(layout.removeprefix("torch.sparse_"), size, tuple(indices), values)
    except ValueError as error:
        raise Malformed(path, at, str(error)) from None


def _strided(path: Path, name: str, value: Call, place: Place) -> Strided:
    at = f"tensor {name!r}"
    match value:
        case Call(
            name=kind,
            args=(Persistent() as reference, int() as offset, tuple() as size, tuple() as stride, *rest),
            state=None,
            items=None,
        ) if kind in _STRIDED:
            pass
        case _:
            raise Malformed(path, at, _NOT_WRITTEN)
    typed = kind.endswith("_v3")
    if any(rest[2 + typed :]):
        raise CheckpointError(
            f"{path}: {at} is a conjugated or negated view, which sift does not read",
            hint="save tensor.resolve_conj().resolve_neg()",
        )
    try:
        storage = storage_ref(reference)
        dtype = storage.dtype
        if typed:
            named = rest[2] if len(rest) > 2 else None
            dtype = _BY_NAME.get(named.name) if isinstance(named, Global) else None
        if dtype is None:
            raise ValueError("its dtype is none that sift knows")
        shape = checked_shape(size, dtype.itemsize)
        start, nbytes = place(storage)
        if storage.dtype is not None and storage.count * storage.dtype.itemsize > nbytes:
            raise ValueError(f"its storage has {nbytes} bytes for {storage.count} elements")
        skipped = storage.start * dtype.itemsize
        return Strided.placed(dtype, shape, stride, offset, start + skipped, nbytes - skipped)
    except ValueError as error:
        raise Malformed(path, at, str(error)) from None
