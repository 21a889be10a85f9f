"""safetensors: single files, and sift's artifact, whose sparse tensors appear under their own name and dense shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sift_cli.checkpoint import safetensors_header, sparse_metadata
from sift_cli.checkpoint._bytes import ByteFile, as_array
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.safetensors_header import Entry
from sift_cli.checkpoint.sparse_metadata import SparseEntry
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPES, TensorSpec
from sift_cli.errors import CheckpointError, Malformed
from sift_cli.sparsity import formats


def sniff(head: bytes, path: Path) -> bool:
    # A header of 100 MB at most leaves the upper four bytes of its length 0. A damaged length is still safetensors,
    # unless it makes the file look like a zip or a pickle.
    plausible = head[4:8] == bytes(4) or not head.startswith((b"PK", b"\x80"))
    return head[8:9] == b"{" and plausible


def open(path: Path, *, allow_pickle: bool = False) -> Checkpoint:
    file = ByteFile(path)
    try:
        return _Safetensors(file)
    except CheckpointError:
        file.close()
        raise


class _Safetensors(Checkpoint):
    format = "safetensors"

    def __init__(self, file: ByteFile) -> None:
        self._file = file
        self.path = file.path
        self._entries, self.metadata = safetensors_header.read(file)
        try:
            self._sparse = sparse_metadata.parse(self.metadata)
        except ValueError as error:
            raise Malformed(self.path, "the header's metadata", str(error)) from None
        owner = {stored: name for name in self._sparse for stored in self._claim(name)}
        self.tensors = {}
        for stored, entry in self._entries.items():
            if stored not in owner:
                self.tensors[stored] = TensorSpec(stored, entry.shape, entry.dtype, entry.nbytes)
            elif owner[stored] not in self.tensors:
                self.tensors[owner[stored]] = self._sparse_spec(owner[stored])

    def _claim(self, name: str) -> list[str]:
        """Names in the file of the parts of ``name``, after checking that they are there as the metadata says."""
        if name in self._entries:
            raise Malformed(self.path, f"tensor {name!r}", "it is stored both dense and sparse")
        stored_names = []
        for dtype, shape, stored in self._sparse[name].parts(name).values():
            entry = self._entries.get(stored)
            if entry is None:
                raise Malformed(self.path, f"tensor {name!r}", f"its part {stored!r} is missing")
            if (entry.dtype, entry.shape) != (dtype, shape):
                found = f"{entry.dtype} {list(entry.shape)}"
                raise Malformed(self.path, f"tensor {stored!r}", f"it is {found} and not {dtype} {list(shape)}")
            stored_names.append(stored)
        return stored_names

    def _sparse_spec(self, name: str) -> TensorSpec:
        sparse = self._sparse[name]
        stored = sum(self._entries[part].nbytes for _, _, part in sparse.parts(name).values())
        return TensorSpec(name, sparse.shape, sparse.dtype, stored, sparse.format, sparse.nonzero)

    def _array(self, name: str, entry: Entry) -> np.ndarray:
        data = self._file.read(entry.offset, entry.nbytes, f"tensor {name!r}")
        try:
            return as_array(data, DTYPES[entry.dtype], entry.shape)
        except ValueError as error:
            raise Malformed(self.path, f"tensor {name!r}", str(error)) from None

    def _parts(self, name: str, sparse: SparseEntry) -> dict[str, np.ndarray]:
        named = {part: stored for part, (_, _, stored) in sparse.parts(name).items()}
        return {part: self._array(stored, self._entries[stored]) for part, stored in named.items()}

    def _read(self, name: str) -> np.ndarray:
        sparse = self._sparse.get(name)
        if sparse is None:
            return self._array(name, self._entries[name])
        try:
            return formats.get(sparse.format).decode(self._parts(name, sparse), sparse.shape, DTYPES[sparse.dtype])
        except ValueError as error:
            raise Malformed(self.path, f"tensor {name!r}", str(error)) from None

    def _mask(self, name: str) -> Mask | None:
        sparse = self._sparse.get(name)
        if sparse is None:
            return None
        try:
            mask = formats.get(sparse.format).mask(self._parts(name, sparse), sparse.shape)
        except ValueError as error:
            raise Malformed(self.path, f"tensor {name!r}", str(error)) from None
        return replace(mask, rule=sparse.rule, seed=sparse.seed)

    def close(self) -> None:
        self._file.close()
