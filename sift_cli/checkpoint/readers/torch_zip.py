"""``torch.save`` since 1.6: a zip file with a pickle and one record a storage. Read without torch, lazily."""

from __future__ import annotations

import io
import struct
from pathlib import Path

from sift_cli.checkpoint import _pickle, _zip, torch_objects
from sift_cli.checkpoint._bytes import ByteFile, Window, most_items, opened
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.errors import CheckpointError, Malformed, UnsafePickle


def sniff(head: bytes, path: Path) -> bool:
    # A zip without a readable directory is, as a rule, a download of a .pt file that stopped half-way.
    return _zip.kind(head, path) in ("torch", "broken")


def open(path: Path) -> Checkpoint:
    with opened(path) as file:
        if _zip.cut_off(file) and (needs := _tensor_bytes(file)) > file.size:
            why = f"it is cut off at byte {file.size}, and its tensors alone take {needs}"
            raise Malformed(path, "its end", f"{why}: {needs - file.size} or more are missing", hint=_zip.AGAIN)
        archive = _zip.Archive(file)
        root = _zip.root(path, archive.names, "data.pkl")
        try:
            pickle = _pickle.load(io.BytesIO(archive.read(f"{root}data.pkl")), most_items(file.size))
            torch_objects.storages(pickle.persistent)
        except ValueError as error:
            raise Malformed(path, f"record '{root}data.pkl'", str(error)) from None
        if unsafe := torch_objects.unsafe(pickle.globals):
            raise UnsafePickle(path, unsafe)
        if f"{root}byteorder" in archive.names and archive.read(f"{root}byteorder") != b"little":
            raise CheckpointError(f"{path} was written on a big-endian machine, which sift does not read")
        return torch_objects.checkpoint(
            file, "torch_zip", pickle.value, lambda storage: archive.place(f"{root}data/{storage.key}")
        )


def _tensor_bytes(file: ByteFile) -> int:
    """Bytes of the tensors of a file that is cut off, by the pickle at its beginning; 0 if that is cut too."""
    try:
        header = file.read(0, 30, "its first record").tobytes()
        stream = Window(file)
        stream.seek(30 + sum(struct.unpack("<HH", header[26:])))
        pickle = _pickle.load(stream, most_items(file.size))
        storages = torch_objects.storages(pickle.persistent)
    except (Malformed, ValueError):
        return 0
    return sum(one.count * (one.dtype.itemsize if one.dtype else 1) for one in storages.values())
