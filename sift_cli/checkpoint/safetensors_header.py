"""The header of a safetensors file, read and written without the safetensors library.

Its reader gives no byte offsets, and its writer puts the metadata in the order of a hash map that is seeded at random,
so that the same tensors make another file in every process. The format is small: an unsigned 64-bit little-endian
length, so many bytes of JSON, and the tensors' bytes one after another with no gap.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sift_cli.checkpoint._bytes import ByteFile, checked_shape, most_items
from sift_cli.checkpoint._json import loads
from sift_cli.core.tensors import DTYPE_NAMES, DTYPES
from sift_cli.errors import CheckpointError, Malformed

#: The safetensors library refuses longer headers too.
MAX_HEADER = 100_000_000
METADATA = "__metadata__"
#: Of the types that numpy holds the one that the safetensors library refuses, and with it the whole file.
_UNKNOWN = "C128"


@dataclass(frozen=True)
class Entry:
    """One stored array: dtype as safetensors spells it, shape, first byte in the file, number of bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read(file: ByteFile) -> tuple[dict[str, Entry], dict[str, str]]:
    """The entries of ``file`` in the header's order, and its metadata.

    Raises:
        Malformed: The header is not what the format says, or the tensors do not fill the file exactly, without overlap.
        CheckpointError: A dtype that numpy cannot hold (4-bit and 6-bit floats, …), or that the format has not.
    """
    path = file.path
    length = int.from_bytes(file.read(0, 8, "the header's length").tobytes(), "little")
    if length > min(MAX_HEADER, file.size - 8):
        raise Malformed(path, "the header's length", f"it announces {length} bytes, and {file.size - 8} follow")
    try:
        header = loads(file.read(8, length, "the header").tobytes(), most_items(file.size))
    except ValueError as error:
        raise Malformed(path, "the header", str(error)) from None
    if not isinstance(header, dict):
        raise Malformed(path, "the header", "it is not a JSON object")
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Malformed(path, "the header's metadata", "it is not a map of strings to strings")
    entries = {name: _entry(path, name, item, 8 + length) for name, item in header.items()}
    end = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if entry.offset != end:
            raise Malformed(path, f"tensor {name!r}", f"its bytes begin at {entry.offset} and not at {end}")
        end += entry.nbytes
    if end != file.size:
        raise Malformed(path, f"byte {min(end, file.size)}", f"the tensors end at {end}, the file at {file.size}")
    return entries, metadata


def _entry(path: Path, name: str, item: Any, start: int) -> Entry:
    at = f"tensor {name!r}"
    if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
        raise Malformed(path, at, "its header is not made of dtype, shape and data_offsets")
    dtype, offsets = item["dtype"], item["data_offsets"]
    if not isinstance(dtype, str):
        raise Malformed(path, at, "its dtype is not a string")
    if dtype not in DTYPES or dtype == _UNKNOWN:
        raise CheckpointError(f"{path}: {at} has the dtype {dtype[:20]}, which sift cannot hold")
    try:
        shape = checked_shape(item["shape"], DTYPES[dtype].itemsize)
    except ValueError as error:
        raise Malformed(path, at, str(error)) from None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise Malformed(path, at, "its data_offsets are not two non-negative integers")
    begin, end = offsets
    nbytes = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != nbytes:
        raise Malformed(path, at, f"{dtype} {list(shape)} takes {nbytes} bytes, and its offsets span {end - begin}")
    return Entry(dtype, shape, start + begin, nbytes)


def write(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """A header for ``arrays`` and the order in which their bytes have to follow it.

    The order depends on names and dtypes alone. Wide elements come first, as in the safetensors library's own writer,
    so that every tensor is aligned to its element size in a file that is mapped into memory.

    Raises:
        ValueError: An array's dtype has no name in the format.
    """
    for name, array in arrays.items():
        if array.dtype not in DTYPE_NAMES:
            raise ValueError(f"{name} is {array.dtype}, which safetensors cannot hold")
    return layout({name: (DTYPE_NAMES[array.dtype], array.shape) for name, array in arrays.items()}, metadata)


def layout(tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """:func:`write` for tensors of which only dtype and shape are known yet.

    Raises:
        ValueError: A name is the metadata's, or no Unicode text; or the format has no such dtype.
    """
    if METADATA in tensors:
        raise ValueError(f"safetensors keeps the name {METADATA} for itself")
    for name, (dtype, _) in tensors.items():
        if dtype == _UNKNOWN:
            raise ValueError(f"{name} is {DTYPES[dtype]}, which safetensors cannot hold")
    order = sorted(tensors, key=lambda name: (-DTYPES[tensors[name][0]].itemsize, name))
    items: dict[str, dict[str, Any]] = {}
    end = 0
    for name in order:
        dtype, shape = tensors[name]
        begin, end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
        items[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    header: dict[str, Any] = {METADATA: dict(sorted(metadata.items()))}
    header.update((name, items[name]) for name in sorted(items))
    return dumps(header), order


def dumps(header: Mapping[str, Any]) -> bytes:
    """A header as it stands in a file: its length before it, padded so that the tensors are aligned."""
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
