"""``torch.save`` before 1.6: a run of pickles, then the storages one after another."""

from __future__ import annotations

from pathlib import Path

from sift_cli.checkpoint import _pickle, torch_objects
from sift_cli.checkpoint._bytes import ByteFile, Window, most_items, opened
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.torch_objects import StorageRef
from sift_cli.errors import CheckpointError, Malformed, UnsafePickle

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def sniff(head: bytes, path: Path) -> bool:
    return _MAGIC.to_bytes(10, "little") in head[:32]


def open(path: Path) -> Checkpoint:
    with opened(path) as file:
        stream, most = Window(file), most_items(file.size)
        magic, protocol, system, content, keys = (_load(path, stream, part, most) for part in _PARTS)
        if magic.value != _MAGIC or protocol.value != _PROTOCOL:
            raise Malformed(path, "its head", "it has another magic number or protocol")
        if unsafe := torch_objects.unsafe(content.globals):
            raise UnsafePickle(path, unsafe)
        if not isinstance(system.value, dict) or system.value.get("little_endian") is not True:
            raise CheckpointError(f"{path} was written on a big-endian machine, which sift does not read")
        places = _storages(file, stream.tell(), keys.value, content)

        def place(storage: StorageRef) -> tuple[int, int]:
            if storage.key not in places:
                raise ValueError(f"its storage {storage.key[:40]!r} is missing")
            return places[storage.key]

        return torch_objects.checkpoint(file, "torch_legacy", content.value, place)


_PARTS = ("its magic number", "its protocol", "its system information", "its pickle", "its list of storages")


def _load(path: Path, stream: Window, part: str, most: int) -> _pickle.Pickle:
    try:
        return _pickle.load(stream, most)
    except ValueError as error:
        raise Malformed(path, part, str(error)) from None


def _storages(file: ByteFile, start: int, keys: object, content: _pickle.Pickle) -> dict[str, tuple[int, int]]:
    """First byte and length of each storage. They follow the pickles in the order of ``keys``, each after its count."""
    at = "its list of storages"
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise Malformed(file.path, at, "it is not a list of names")
    try:
        storages = torch_objects.storages(content.persistent)
    except ValueError as error:
        raise Malformed(file.path, "its pickle", str(error)) from None
    sizes = {key: storage.dtype.itemsize if storage.dtype else 1 for key, storage in storages.items()}
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        if key not in sizes:
            raise Malformed(file.path, at, f"nothing refers to storage {key[:40]!r}")
        count = int.from_bytes(file.read(start, 8, f"storage {key!r}").tobytes(), "little")
        places[key] = (start + 8, count * sizes[key])
        start += 8 + count * sizes[key]
        if start > file.size:
            raise Malformed(file.path, f"storage {key!r}", f"it ends at byte {start} of a file of {file.size}")
    return places
