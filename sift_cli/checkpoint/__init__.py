"""Bytes to named tensors: open any file with tensors in it, whatever it is called and whoever made it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from sift_cli.checkpoint._bytes import ByteFile
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.compressed_tensors import decompressed
from sift_cli.checkpoint.folder import open_folder
from sift_cli.checkpoint.live import open_live
from sift_cli.checkpoint.prefixes import common_prefixes, stripped
from sift_cli.checkpoint.readers import HEAD, Reader
from sift_cli.errors import CheckpointError, UnsafePickle
from sift_cli.registry import discover, names

__all__ = ["Checkpoint", "common_prefixes", "open_checkpoint", "sniff", "stripped"]

_READERS = "sift_cli.checkpoint.readers"

#: Files that are often handed over in place of a checkpoint, by their first bytes.
_LOOKALIKES = (
    (b"version https://git-lfs", "it is a Git LFS pointer and not the file itself", "git lfs pull"),
    (b"<", "it is a web page or XML, as a failed download leaves it", "download it again"),
    (
        b"\x89HDF",
        "it is HDF5, as Keras and Cerebras' PyTorch write it",
        "of Cerebras, save it by torch.save(cstorch.load(path), 'model.pt')",
    ),
    (b"GGUF", "it is a GGUF file of llama.cpp", None),
    (b"\x1f\x8b", "it is compressed with gzip", "gunzip it first"),
    (b"\x93NUMPY", "it is a NumPy array without a name", None),
    (
        b"\x80",
        "it is a bare pickle that torch.save did not write",
        "save its tensors with torch.save or as safetensors",
    ),
)


def open_checkpoint(path: str | Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Open a checkpoint of any kind that sift reads; what kind it is, its content decides.

    Args:
        path: A file, or a folder of transformers' with weights in one file or in shards.
        allow_pickle: Run a pickle that needs more than plain data. It can do whatever its maker wanted.

    Raises:
        Unreadable: Missing, a folder without weights, empty, or refused by the system.
        UnsafePickle: It is a pickle that runs code, and ``allow_pickle`` is False.
        Malformed: Its bytes contradict themselves.
        CheckpointError: It is nothing sift knows, or holds tensors that sift cannot.
    """
    path = Path(path)
    # unlike the method of Path, it takes a name that cannot be for no folder
    opened = (open_folder if os.path.isdir(path) else open_file)(path, allow_pickle=allow_pickle)
    try:
        return decompressed(opened)
    except CheckpointError:
        opened.close()
        raise


def open_file(path: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """:func:`open_checkpoint` for a file, whose tensors may have parts in other files."""
    format = sniff(path)
    try:
        return cast(Reader, discover(_READERS)[format]).open(path)
    except UnsafePickle:
        if not allow_pickle:
            raise
    return open_live(path, format)


def sniff(path: str | Path) -> str:
    """Name of the reader for a file, by its first bytes; nothing of it is decoded.

    Raises:
        Unreadable: Missing, a folder, empty, or refused by the system.
        CheckpointError: It is nothing sift knows.
    """
    path = Path(path)
    file = ByteFile(path)
    try:
        head = file.read(0, min(HEAD, file.size), "its head").tobytes()
    finally:
        file.close()
    for name, module in discover(_READERS).items():
        if cast(Reader, module).sniff(head, path):
            return name
    for magic, why, hint in _LOOKALIKES:
        if head.startswith(magic):
            raise CheckpointError(f"{path} is not a checkpoint sift knows: {why}", hint=hint)
    raise CheckpointError(
        f"{path} is not a checkpoint sift knows: its first bytes are {head[:8].hex(' ')}",
        hint=f"sift reads {', '.join(names(_READERS))}",
    )
