"""NumPy's ``.npz``: a zip file with a ``.npy`` file for each array, compressed or not. Nothing is unpickled.

Arrays that are the parts of a sparse matrix appear as one tensor: those of ``sift convert --to csr`` under its name,
and those of ``scipy.sparse.save_npz``, which have no name before theirs, under the name of the file.
"""

from __future__ import annotations

import ast
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sift_cli.checkpoint import _zip
from sift_cli.checkpoint._bytes import ByteFile, as_array, checked_shape, opened
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.strided import Fetch, Stored, Strided, StridedCheckpoint
from sift_cli.checkpoint.torch_sparse import TorchSparse
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPES, TensorSpec
from sift_cli.errors import CheckpointError, Malformed

_SUFFIX, _MAGIC = ".npy", b"\x93NUMPY"
#: Bytes at the beginning of a ``.npy`` file that have its header. numpy makes it 128 long; 64 axes may take 1,472.
_HEAD = 4096
_DTYPES = {dtype.str[1:]: dtype for dtype in DTYPES.values() if dtype.isbuiltin == 1}
_PARTS, _DENSE_SHAPE = ("indptr", "indices", "data", "shape"), "dense_shape"
#: What scipy's files have beside the parts: the layout, and whether it was an array or a matrix to scipy.
_LAYOUT, _IS_ARRAY = "format", "_is_array"
_LAYOUTS = ("csr", "csc", "bsr")


def sniff(head: bytes, path: Path) -> bool:
    return _zip.kind(head, path) == "numpy"


def open(path: Path) -> Checkpoint:
    with opened(path) as file:
        return _opened(file, _zip.Archive(file))


@dataclass(frozen=True)
class _Array(Strided):
    """A ``.npy`` file.

    Attributes:
        start: First byte of its elements in the record.
        record: Its name in the archive.
        stored: Bytes it takes there.
        compressed: Whether it is.
    """

    record: str
    stored: int
    compressed: bool

    def spec(self, name: str) -> TensorSpec:
        return replace(super().spec(name), stored_bytes=self.stored)


@dataclass(frozen=True)
class _Matrix:
    """A sparse matrix, and the shape that it has as a tensor."""

    sparse: TorchSparse
    shape: tuple[int, ...]
    stored: int

    def spec(self, name: str) -> TensorSpec:
        return replace(self.sparse.spec(name), shape=self.shape, stored_bytes=self.stored)

    def read(self, fetch: Fetch) -> np.ndarray:
        return self.sparse.read(fetch).reshape(self.shape)

    def mask(self, fetch: Fetch) -> Mask:
        return replace(self.sparse.mask(fetch), shape=self.shape)


class _Npz(StridedCheckpoint):
    def __init__(
        self, file: ByteFile, archive: _zip.Archive, tensors: Mapping[str, Stored], ignored: tuple[str, ...]
    ) -> None:
        super().__init__(file, "npz", tensors, ignored=ignored)
        self._archive = archive

    def _range(self, tensor: Strided, at: str) -> np.ndarray:
        assert isinstance(tensor, _Array)
        return _bytes(self._archive, tensor)


def _bytes(archive: _zip.Archive, array: _Array) -> np.ndarray:
    """Its elements, the checksum of the record verified."""
    return (archive.unpacked if array.compressed else archive.stored)(array.record)[array.start :]


def _opened(file: ByteFile, archive: _zip.Archive) -> Checkpoint:
    arrays: dict[str, _Array] = {}
    texts: dict[str, str] = {}
    for record in archive.names:
        name = record.removesuffix(_SUFFIX)
        try:
            found = _array(file.path, archive, record)
        except ValueError as error:
            raise Malformed(file.path, f"tensor {name!r}", str(error)) from None
        if isinstance(found, str):
            texts[name] = found
        else:
            arrays[name] = found
    if not arrays:
        raise CheckpointError(f"{file.path}: it holds no arrays of numbers")
    owner: dict[str, str] = {}
    matrices: dict[str, _Matrix] = {}
    for name, prefix, layout in _matrices(file.path, arrays, texts):
        parts = {part: arrays[f"{prefix}{part}"] for part in (*_PARTS, _DENSE_SHAPE) if f"{prefix}{part}" in arrays}
        owner |= dict.fromkeys((f"{prefix}{part}" for part in parts), name)
        try:
            if name in arrays:
                raise ValueError("it is stored both dense and sparse")
            matrices[name] = _matrix(archive, layout, parts)
        except ValueError as error:
            raise Malformed(file.path, f"tensor {name!r}", str(error)) from None
    tensors: dict[str, Stored] = {}
    for stored, array in arrays.items():
        name = owner.get(stored, stored)
        tensors[name] = matrices.get(name, array)
    ignored = [*texts]
    if _LAYOUT in texts and tensors.pop(_IS_ARRAY, None) is not None:
        ignored.append(_IS_ARRAY)
    return _Npz(file, archive, tensors, tuple(ignored))


def _matrices(path: Path, arrays: Mapping[str, _Array], texts: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Name, what stands before the names of its parts, and layout of each sparse matrix.

    Raises:
        CheckpointError: It is one of scipy's in another layout.
    """
    if _LAYOUT in texts:
        if any(part not in arrays for part in _PARTS) or texts[_LAYOUT] not in _LAYOUTS:
            raise CheckpointError(
                f"{path} has a sparse matrix of layout {texts[_LAYOUT]!r}, and sift reads {', '.join(_LAYOUTS)}",
                hint="save it as scipy.sparse.save_npz(path, matrix.tocsr())",
            )
        yield path.stem, "", texts[_LAYOUT]
    for stored in arrays:
        prefix = stored.removesuffix(_PARTS[0])
        if prefix.endswith(".") and all(f"{prefix}{part}" in arrays for part in _PARTS):
            yield prefix[:-1], prefix, "csr"


def _matrix(archive: _zip.Archive, layout: str, parts: Mapping[str, _Array]) -> _Matrix:
    indptr, indices, values, *shapes = parts.values()
    shape, *dense = (_integers(archive, one) for one in shapes)
    sparse = TorchSparse.checked(layout, shape, (indptr, indices), values)
    tensor = checked_shape(dense[0] if dense else shape, values.dtype.itemsize)
    if math.prod(tensor) != math.prod(shape):
        raise ValueError(f"a matrix {shape} is no tensor {list(tensor)}")
    return _Matrix(sparse, tensor, sum(part.stored for part in parts.values()))


def _integers(archive: _zip.Archive, array: _Array) -> list[int]:
    if array.dtype.kind != "i" or len(array.shape) != 1 or array.nbytes > _HEAD:
        raise ValueError(f"its shape is {array.dtype} {list(array.shape)}")
    integers: list[int] = as_array(_bytes(archive, array), array.dtype, array.shape).tolist()
    return integers


def _array(path: Path, archive: _zip.Archive, record: str) -> _Array | str:
    """A ``.npy`` file; the text of one that has a string.

    Raises:
        ValueError: It is none.
        CheckpointError: It has elements of another kind.
    """
    head = archive.unpacked(record, _HEAD).tobytes()
    info = archive.info(record)
    descr, shape, fortran, start = _header(head)
    byteorder, kind = descr[:1], descr[1:]
    if kind[:1] in ("S", "U"):
        return head[start:].decode("utf-32-le" if kind[0] == "U" else "latin-1", "replace").rstrip("\0")
    if byteorder == ">" or kind not in _DTYPES:
        what = "Python objects, which take a pickle" if kind[:1] == "O" else repr(descr[:20])
        raise CheckpointError(
            f"{path}: tensor {record.removesuffix(_SUFFIX)!r} has elements that sift cannot hold: {what}",
            hint="numpy keeps bfloat16 as bytes without a type; save it as float32" if kind == "V2" else None,
        )
    dtype = _DTYPES[kind]
    extents = checked_shape(shape, dtype.itemsize)
    nbytes = math.prod(extents) * dtype.itemsize
    if start + nbytes != info.file_size:
        raise ValueError(f"it has {info.file_size - start} bytes for {dtype} {list(extents)}")
    compressed = info.compress_type != zipfile.ZIP_STORED
    axes = range(len(extents))
    strides = (math.prod(extents[:axis] if fortran else extents[axis + 1 :]) for axis in axes)
    stored = info.compress_size if compressed else nbytes
    return _Array(dtype, extents, tuple(strides), start, record, stored, compressed)


def _header(head: bytes) -> tuple[str, tuple[object, ...], bool, int]:
    """Type, shape, whether the first axis is the innermost, and first byte of the elements of a ``.npy`` file.

    ``numpy.lib.format`` is not used, as it mends headers of Python 2 by running a tokenizer over them.
    """
    width = 2 if head[6:7] == b"\1" else 4
    start = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
    if not head.startswith(_MAGIC) or start > len(head):
        raise ValueError("it has no header of a .npy file")
    try:
        header = ast.literal_eval(head[8 + width : start].decode("latin-1").strip())
        descr, shape, fortran = header["descr"], header["shape"], header["fortran_order"]
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        raise ValueError("the header of its .npy file cannot be read") from None
    if not isinstance(descr, str) or not isinstance(shape, tuple) or not isinstance(fortran, bool):
        raise ValueError("the header of its .npy file describes no array of numbers")
    return descr, shape, fortran, start
