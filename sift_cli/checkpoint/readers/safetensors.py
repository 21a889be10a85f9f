"""safetensors: single files, and sift's artifact, whose sparse tensors appear under their own name and dense shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sift_cli.checkpoint import safetensors_header, sparse_metadata
from sift_cli.checkpoint._bytes import ByteFile, as_array, opened
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPES, TensorSpec
from sift_cli.errors import Malformed
from sift_cli.sparsity import formats


def sniff(head: bytes, path: Path) -> bool:
    # A header of 100 MB at most leaves the upper four bytes of its length 0. A damaged length is still safetensors,
    # unless it makes the file look like a zip or a pickle.
    plausible = head[4:8] == bytes(4) or not head.startswith((b"PK", b"\x80"))
    return head[8:9] == b"{" and plausible


def open(path: Path) -> Checkpoint:
    with opened(path) as file:
        return _Safetensors(file)


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
        for part, wanted in self._sparse[name].parts.items():
            stored = f"{name}.{part}"
            entry = self._entries.get(stored)
            if entry is None:
                raise Malformed(self.path, f"tensor {name!r}", f"its part {stored!r} is missing")
            if not wanted.fits(DTYPES[entry.dtype], entry.shape):
                found = f"{entry.dtype} {list(entry.shape)}"
                raise Malformed(self.path, f"tensor {stored!r}", f"it is {found} and not {wanted}")
            stored_names.append(stored)
        return stored_names

    def _sparse_spec(self, name: str) -> TensorSpec:
        sparse = self._sparse[name]
        stored = sum(self._entries[f"{name}.{part}"].nbytes for part in sparse.parts)
        return TensorSpec(name, sparse.shape, sparse.dtype, stored, sparse.format, sparse.nonzero)

    def _array(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        data = self._file.read(entry.offset, entry.nbytes, f"tensor {name!r}")
        try:
            return as_array(data, DTYPES[entry.dtype], entry.shape)
        except ValueError as error:
            raise Malformed(self.path, f"tensor {name!r}", str(error)) from None

    def _read(self, name: str) -> np.ndarray:
        sparse = self._sparse.get(name)
        if sparse is None:
            return self._array(name)
        parts = {part: self._array(f"{name}.{part}") for part in sparse.parts}
        try:
            return formats.get(sparse.format).decode(parts, sparse.shape, DTYPES[sparse.dtype])
        except ValueError as error:
            raise Malformed(self.path, f"tensor {name!r}", str(error)) from None

    def _mask(self, name: str) -> Mask | None:
        sparse = self._sparse.get(name)
        if sparse is None:
            return None
        index = self._array(f"{name}.{sparse.format}")
        try:
            mask = formats.get(sparse.format).mask(index, sparse.shape, sparse.nonzero)
        except ValueError as error:
            raise Malformed(self.path, f"tensor {name!r}", str(error)) from None
        return replace(mask, rule=sparse.rule, seed=sparse.seed)

    def close(self) -> None:
        self._file.close()
