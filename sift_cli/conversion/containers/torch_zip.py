"""One file of ``torch.save``: a zip archive with a pickle, and a record of raw bytes for each tensor.

The pickle is put together from its opcodes, which needs no torch and gives the same bytes whatever its version is.
"""

from __future__ import annotations

import math
import pickle
import zlib
from collections.abc import Callable, Iterator, Mapping

from sift_cli.checkpoint.torch_objects import DTYPE_STORAGES
from sift_cli.conversion.containers import PlannedFile, Tensor, arrays_of
from sift_cli.conversion.containers._archive import Archive
from sift_cli.conversion.encodings import About, Array

SUFFIXES = (".pt", ".pth", ".bin")
ENCODING = "mask"
CHECKSUMS = True
_FOLDER = "archive/"
_TORCH = {carrier: (name, storage) for name, (carrier, storage) in DTYPE_STORAGES.items()}
#: Pickle's own opcodes: see the module pickletools of the standard library.
_PROTOCOL, _STOP, _MARK, _TUPLE, _REDUCE = b"\x80\x02", b".", b"(", b"t", b"R"
_EMPTY_DICT, _SET_ITEM, _SET_ITEMS, _EMPTY_TUPLE, _PERSISTENT = b"}", b"s", b"u", b")", b"Q"


def plan(tensors: list[Tensor], about: Callable[[list[str]], About], shard_size: int) -> list[PlannedFile]:
    arrays = arrays_of(tensors)
    wrapper = about([tensor.name for tensor in tensors]).wrapper
    small = {"data.pkl": b"".join(_pickle(arrays, wrapper)), "byteorder": b"little", "version": b"3\n"}
    records = {name: f"{_FOLDER}data/{number}" for number, name in enumerate(arrays)}
    plain = {f"{_FOLDER}{name}": data for name, data in small.items()}
    archive = Archive.of(
        {name: len(data) for name, data in plain.items()}
        | {records[name]: array.nbytes for name, array in arrays.items()}
    )

    def frame(checksums: Mapping[str, int]) -> list[tuple[int, bytes]]:
        found = {name: zlib.crc32(data) for name, data in plain.items()}
        found |= {records[name]: checksum for name, checksum in checksums.items() if name in records}
        return [*archive.frame(found), *((archive.places[name], data) for name, data in plain.items())]

    return [PlannedFile("", archive.size, {name: archive.places[record] for name, record in records.items()}, frame)]


def _pickle(arrays: Mapping[str, Array], wrapper: str | None) -> Iterator[bytes]:
    """An OrderedDict of tensors, or a dict that has it under the key ``wrapper``."""
    yield _PROTOCOL
    if wrapper is not None:
        yield _EMPTY_DICT + _plain(wrapper)
    yield _global("collections.OrderedDict") + _EMPTY_TUPLE + _REDUCE
    yield _MARK
    for number, (name, array) in enumerate(arrays.items()):
        yield _plain(name) + _tensor(str(number), array)
    yield _SET_ITEMS
    if wrapper is not None:
        yield _SET_ITEM
    yield _STOP


def _tensor(key: str, array: Array) -> bytes:
    """A call of the function that makes a tensor out of a storage, as torch's own tensors ask for."""
    name, storage = _TORCH[array.dtype]
    if storage:
        function, kind, count, dtype = "_rebuild_tensor_v2", f"torch.{storage}", math.prod(array.shape), b""
    else:
        function, kind, count = "_rebuild_tensor_v3", "torch.storage.UntypedStorage", array.nbytes
        dtype = _global(f"torch.{name}")
    reference = _MARK + _plain("storage") + _global(kind) + _plain(key) + _plain("cpu") + _plain(count) + _TUPLE
    hooks = _global("collections.OrderedDict") + _EMPTY_TUPLE + _REDUCE
    layout = _plain(0) + _plain(array.shape) + _plain(_strides(array.shape)) + _plain(False)
    arguments = _MARK + reference + _PERSISTENT + layout + hooks + dtype + _TUPLE
    return _global(f"torch._utils.{function}") + arguments + _REDUCE


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Those of a contiguous tensor, in elements, as torch has them where an extent is 0."""
    return tuple(math.prod(max(n, 1) for n in shape[axis:]) for axis in range(1, len(shape) + 1))


def _plain(value: str | int | bool | tuple[int, ...]) -> bytes:
    """``value`` as part of a pickle."""
    return pickle.dumps(value, 2).removeprefix(_PROTOCOL).removesuffix(_STOP)


def _global(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()
