"""One file of ``numpy.savez``: a zip archive with a ``.npy`` file for each array, uncompressed."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from sift_cli.conversion.containers import PlannedFile, Tensor, _crc32, arrays_of
from sift_cli.conversion.containers._archive import Archive
from sift_cli.conversion.encodings import About, Array
from sift_cli.core.tensors import DTYPES
from sift_cli.errors import ExportError

SUFFIXES = (".npz",)
ENCODING = "csr"
CHECKSUMS = True


def plan(tensors: list[Tensor], about: Callable[[list[str]], About], shard_size: int) -> list[PlannedFile]:
    arrays = arrays_of(tensors)
    heads = {name: _head(name, array) for name, array in arrays.items()}
    members = {name: f"{name}.npy" for name in arrays}
    archive = Archive.of({members[name]: len(heads[name]) + array.nbytes for name, array in arrays.items()})
    starts = {name: archive.places[members[name]] for name in arrays}
    places = {name: start + len(heads[name]) for name, start in starts.items()}

    def frame(checksums: Mapping[str, int]) -> list[tuple[int, bytes]]:
        whole = {
            members[name]: _crc32.joined(zlib.crc32(heads[name]), checksums[name], array.nbytes)
            for name, array in arrays.items()
        }
        return [*archive.frame(whole), *((starts[name], head) for name, head in heads.items())]

    return [PlannedFile("", archive.size, places, frame)]


def _head(name: str, array: Array) -> bytes:
    """Header of a ``.npy`` file, whose length numpy makes a multiple of 64."""
    dtype = DTYPES[array.dtype]
    if dtype.isbuiltin != 1:
        raise ExportError(f"{name!r} is {dtype}, which a .npz file has no type for", hint="convert it: --dtype fp32")
    head = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(head, described)
    return head.getvalue()
