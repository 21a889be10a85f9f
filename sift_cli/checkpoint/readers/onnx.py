"""ONNX: the initializers of the main graph, and sift's sparse nodes as the tensors that they stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sift_cli.checkpoint import _protobuf
from sift_cli.checkpoint._bytes import ByteFile, as_array, checked_shape
from sift_cli.checkpoint._protobuf import varint
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.sparse_initializer import SparseInitializer
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPES, TensorSpec
from sift_cli.errors import CheckpointError, Malformed
from sift_cli.sparsity import formats

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

#: onnx.TensorProto.DataType
_DTYPES = {
    1: "F32",
    2: "U8",
    3: "I8",
    4: "U16",
    5: "I16",
    6: "I32",
    7: "I64",
    9: "BOOL",
    10: "F16",
    11: "F64",
    12: "U32",
    13: "U64",
    14: "C64",
    15: "C128",
    16: "BF16",
    17: "F8_E4M3",
    19: "F8_E5M2",
}
_STRING = 8
_EXTERNAL = 1
#: Wire type of each field of ModelProto: ir_version, producer, domain, versions, graph, opsets, metadata, functions ….
_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_FORMAT = "bitmask"


def sniff(head: bytes, path: Path) -> bool:
    """Whether ``head`` is a run of ModelProto's own fields, a plausible ir_version among them."""
    at, seen = 0, set()
    while at < len(head):
        tag, at = varint(head, at)
        field, wire = tag >> 3, tag & 7
        if _FIELDS.get(field) != wire:
            return False
        seen.add(field)
        value, at = varint(head, at)
        if field == 1 and not 1 <= value < 1000:
            return False
        if wire == 2:
            at += value
    return 1 in seen and len(seen) > 1


def open(path: Path) -> Checkpoint:
    model = parse(path)
    metadata: dict[str, str] = {}
    for item in model.metadata_props:
        if not isinstance(item.key, str) or not isinstance(item.value, str):
            raise Malformed(path, "its metadata", "it is no UTF-8")
        if item.key in metadata:
            raise Malformed(path, "its metadata", f"the key {item.key[:40]!r} is there twice")
        metadata[item.key] = item.value
    return of_graph(path, model.graph, metadata)


def of_graph(path: Path, graph: GraphProto, metadata: Mapping[str, str] | None = None) -> Checkpoint:
    """The tensors of one graph of the model at ``path``: the main one, or a subgraph.

    Raises:
        Malformed: It contradicts itself.
    """
    return _Onnx(path, graph, metadata or {})


def parse(path: Path) -> ModelProto:
    """The model in a file; data that lies in other files is not read.

    Raises:
        Unreadable: It is missing, empty, or refused by the system.
        Malformed: It does not parse, or lacks what every model has.
    """
    file = ByteFile(path)
    try:
        data = file.read(0, file.size, "the model").tobytes()
    finally:
        file.close()
    import onnx
    from google.protobuf.message import DecodeError

    try:
        _protobuf.check(data, onnx.ModelProto.DESCRIPTOR)
        model = onnx.ModelProto.FromString(data)
    except ValueError as error:
        raise Malformed(path, "the model", str(error)) from None
    except DecodeError:
        raise Malformed(path, "the model", "it does not parse as ONNX") from None
    if not model.HasField("graph") or not model.opset_import:
        raise Malformed(path, "the model", "it ends before its graph and opset, which every ONNX model has")
    return model


def external_data(path: Path, tensor: TensorProto, nbytes: int) -> np.ndarray:
    """The ``nbytes`` bytes of a tensor that the model at ``path`` keeps in another file, in its own folder.

    Raises:
        Malformed: That file is too short, or see :func:`data_file`.
    """
    at = f"tensor {tensor.name!r}"
    target, entries = data_file(path, tensor)
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", str(nbytes)))
    except ValueError:
        raise Malformed(path, at, "the offset or length of its data is no number") from None
    if length != nbytes:
        raise Malformed(path, at, f"its data has {length} bytes and not {nbytes}")
    file = ByteFile(target)
    try:
        return file.read(offset, nbytes, at)
    finally:
        file.close()


def data_file(path: Path, tensor: TensorProto) -> tuple[Path, dict[str, str]]:
    """The file in which a tensor of the model at ``path`` has its data, and all that the tensor says of where they are.

    Raises:
        Malformed: That file is missing, lies outside of the model's folder, or is a link; or it says one thing twice.
    """
    at = f"tensor {tensor.name!r}"
    entries: dict[str, str] = {}
    for item in tensor.external_data:
        if not isinstance(item.key, str) or not isinstance(item.value, str):  # protobuf gives bytes then
            raise Malformed(path, at, "where its data is, is no UTF-8")
        if item.key in entries:
            raise Malformed(path, at, f"it says twice what the {item.key[:40]!r} of its data is")
        entries[item.key] = item.value
    location = PurePosixPath(entries.get("location", "").replace("\\", "/"))
    folder = path.parent.resolve()
    if not location.parts or location.is_absolute() or ".." in location.parts or ":" in location.parts[0]:
        raise Malformed(path, at, f"its data is at {str(location)[:80]!r}, which is not inside the model's folder")
    try:
        target = folder / location
        outside = target.resolve(strict=True) != target
    except (OSError, ValueError, RuntimeError):
        raise Malformed(path, at, f"its data file {str(location)[:80]!r} is missing") from None
    if outside:
        raise Malformed(path, at, f"its data file {str(location)[:80]!r} is a link")
    return target, entries


def spec_of(path: Path, tensor: TensorProto) -> TensorSpec:
    """What a tensor of the model at ``path`` says of itself.

    Raises:
        CheckpointError: sift cannot hold its data type.
        Malformed: It has another number of bytes than its shape.
    """
    name, at = tensor.name, f"tensor {tensor.name!r}"
    _check_name(path, tensor)
    if tensor.data_type not in _DTYPES:
        raise CheckpointError(f"{path}: {at} has the ONNX data type {tensor.data_type}, which sift cannot hold")
    dtype = _DTYPES[tensor.data_type]
    try:
        shape = checked_shape(list(tensor.dims), DTYPES[dtype].itemsize)
    except ValueError as error:
        raise Malformed(path, at, str(error)) from None
    nbytes = math.prod(shape) * DTYPES[dtype].itemsize
    if tensor.HasField("raw_data") and tensor.data_location != _EXTERNAL and len(tensor.raw_data) != nbytes:
        raise Malformed(path, at, f"it has {len(tensor.raw_data)} bytes for {dtype} {list(shape)}")
    return TensorSpec(name, shape, dtype, nbytes)


def _check_name(path: Path, tensor: TensorProto) -> None:
    if not isinstance(tensor.name, str):
        raise Malformed(path, f"tensor {tensor.name!r}", "its name is no UTF-8")


class _Sparse(NamedTuple):
    shape: tuple[int, ...]
    dtype: str
    nonzero: int


class _Onnx(Checkpoint):
    format = "onnx"

    def __init__(self, path: Path, graph: GraphProto, metadata: Mapping[str, str]) -> None:
        self.path = path
        self.metadata = metadata
        self._initializers: dict[str, TensorProto] = {}
        ignored: dict[str, None] = {}
        made = {name for node in graph.node for name in node.output}
        for tensor in graph.initializer:
            if tensor.name in made:  # onnxruntime takes that of the node
                raise Malformed(path, f"tensor {tensor.name!r}", "a node's output has the same name")
            if tensor.name in self._initializers or tensor.name in ignored:
                raise Malformed(path, f"tensor {tensor.name!r}", "it is there twice")
            _check_name(path, tensor)
            if tensor.data_type == _STRING:
                ignored[tensor.name] = None
            else:
                self._initializers[tensor.name] = tensor
        self.ignored = tuple(ignored)
        dense = {name: spec_of(path, tensor) for name, tensor in self._initializers.items()}
        self._sparse = self._sparse_nodes(graph.node, dense)
        owner = {f"{name}.{part}": name for name in self._sparse for part in ("bitmask", "values")}
        self.tensors = {}
        for stored, spec in dense.items():
            if stored not in owner:
                self.tensors[stored] = spec
            elif owner[stored] not in self.tensors:
                name = owner[stored]
                sparse = self._sparse[name]
                size = sum(dense[f"{name}.{part}"].stored_bytes for part in ("bitmask", "values"))
                self.tensors[name] = TensorSpec(name, sparse.shape, sparse.dtype, size, _FORMAT, sparse.nonzero)
        self._sparse_initializers: dict[str, SparseInitializer] = {}
        for proto in graph.sparse_initializer:
            name = proto.values.name
            if name in dense or name in self.tensors or name in ignored or name in made:
                raise Malformed(path, f"tensor {name!r}", "it is there twice")
            try:
                listed = SparseInitializer.checked(proto, partial(spec_of, path))
            except ValueError as error:
                raise Malformed(path, f"tensor {name!r}", str(error)) from None
            self._sparse_initializers[name], self.tensors[name] = listed, listed.spec

    def _sparse_nodes(self, nodes: list[NodeProto], dense: dict[str, TensorSpec]) -> dict[str, _Sparse]:
        """Tensors whose bitmask and values go into one node that says their dense shape in ``weight_shape``."""
        found: dict[str, _Sparse] = {}
        for node in nodes:
            texts = dict.fromkeys(name for name in node.input if isinstance(name, str))
            stems = [name.removesuffix(".bitmask") for name in texts if name.endswith(".bitmask") and name in dense]
            shapes = [list(a.ints) for a in node.attribute if a.name == "weight_shape"]
            for name in stems:
                values = dense.get(f"{name}.values")
                if values is None or values.name not in texts or len(shapes) != 1:
                    continue
                at = f"tensor {name!r}"
                if name in dense:
                    raise Malformed(self.path, at, "it is stored both dense and sparse")
                try:
                    shape = checked_shape(shapes[0], DTYPES[values.dtype].itemsize)
                    if len(values.shape) != 1:
                        raise ValueError(f"its values have the shape {list(values.shape)}")
                    sparse = _Sparse(shape, values.dtype, values.shape[0])
                    layout = formats.get(_FORMAT).layout(shape, DTYPES[values.dtype], sparse.nonzero)
                    stored = dense[f"{name}.bitmask"]
                    if not layout["bitmask"].fits(DTYPES[stored.dtype], stored.shape):
                        raise ValueError(f"its bitmask is {stored.dtype} {list(stored.shape)}, its shape {list(shape)}")
                except ValueError as error:
                    raise Malformed(self.path, at, str(error)) from None
                if found.setdefault(name, sparse) != sparse:
                    raise Malformed(self.path, at, "two nodes give it different shapes")
        return found

    def _array(self, name: str) -> np.ndarray:
        return self._decoded(self._initializers[name])

    def _decoded(self, tensor: TensorProto) -> np.ndarray:
        dtype = DTYPES[_DTYPES[tensor.data_type]]
        shape = tuple(tensor.dims)
        nbytes = math.prod(shape) * dtype.itemsize
        at = f"tensor {tensor.name!r}"
        try:
            if tensor.data_location == _EXTERNAL:
                return as_array(external_data(self.path, tensor, nbytes), dtype, shape)
            if tensor.HasField("raw_data"):
                return as_array(np.frombuffer(tensor.raw_data, np.uint8).copy(), dtype, shape)
            from onnx import numpy_helper

            array = np.ascontiguousarray(numpy_helper.to_array(tensor)).reshape(shape)
        except (ValueError, TypeError, OverflowError) as error:
            raise Malformed(self.path, at, str(error)) from None
        if array.dtype != dtype:
            raise Malformed(self.path, at, f"it decodes to {array.dtype}")
        return array.copy()

    def files(self) -> Sequence[Path]:
        listed = (part for one in self._sparse_initializers.values() for part in (one.values, one.indices))
        outside = (one for one in (*self._initializers.values(), *listed) if one.data_location == _EXTERNAL)
        return [self.path, *dict.fromkeys(data_file(self.path, one)[0] for one in outside)]

    def _read(self, name: str) -> np.ndarray:
        sparse = self._sparse.get(name)
        try:
            if name in self._sparse_initializers:
                return self._sparse_initializers[name].read(self._decoded)
            if sparse is None:
                return self._array(name)
            parts = {part: self._array(f"{name}.{part}") for part in ("bitmask", "values")}
            return formats.get(_FORMAT).decode(parts, sparse.shape, DTYPES[sparse.dtype])
        except ValueError as error:
            raise Malformed(self.path, f"tensor {name!r}", str(error)) from None

    def _mask(self, name: str) -> Mask | None:
        sparse = self._sparse.get(name)
        try:
            if name in self._sparse_initializers:
                return self._sparse_initializers[name].mask(self._decoded)
            if sparse is None:
                return None
            return formats.get(_FORMAT).mask(self._array(f"{name}.bitmask"), sparse.shape, sparse.nonzero)
        except ValueError as error:
            raise Malformed(self.path, f"tensor {name!r}", str(error)) from None
