"""Write sift's artifact: a safetensors file in which masked tensors are the kept values and where these belong.

``docs/sparse-formats.md`` is the format's definition. Every reader of safetensors opens the file; the parts of a sparse
tensor are plain arrays beside the dense ones.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sift_cli.checkpoint import safetensors_header, sparse_metadata
from sift_cli.checkpoint.sparse_metadata import SparseEntry
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPE_NAMES
from sift_cli.errors import ExportError
from sift_cli.sparsity import formats


def write(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    masks: Mapping[str, Mask],
    metadata: Mapping[str, str],
    *,
    sparse_format: str | None = None,
) -> None:
    """Write ``tensors`` to exactly ``path``; the same arguments make the same bytes in every process.

    Args:
        tensors: Dense arrays by name. Those with a mask are 0 wherever it does not keep them.
        masks: Masks by tensor name.
        metadata: Further strings to store. ``format``, ``sift.version`` and ``sift.sparse`` are this function's keys.
        sparse_format: Plug-in of :mod:`sift_cli.sparsity.formats` to store masked tensors in; by default the smallest
            for each.

    Raises:
        ExportError: A name is needed twice, a mask has no tensor, does not fit it or would lose a value, a dtype or a
            metadata value cannot be stored.
    """
    orphans = sorted(set(masks) - set(tensors))
    if orphans:
        raise ExportError(f"there is a mask for {orphans[0]!r}, but no such tensor")
    arrays = {name: np.asarray(array) for name, array in tensors.items() if name not in masks}
    entries: dict[str, SparseEntry] = {}
    for name, mask in masks.items():
        array = np.asarray(tensors[name])
        try:
            chosen = sparse_format or formats.smallest(mask)
            parts = formats.encode(chosen, array, mask)
        except ValueError as error:
            raise ExportError(f"cannot store {name!r} under its mask: {error}") from None
        entries[name] = SparseEntry(
            chosen, mask.shape, DTYPE_NAMES.get(array.dtype, ""), mask.nonzero, mask.rule, mask.seed
        )
        for part, value in parts.items():
            stored = f"{name}.{part}"
            if stored in arrays or stored in tensors:
                raise ExportError(f"the {part} of the sparse tensor {name!r} needs the name {stored!r}, which is taken")
            arrays[stored] = value
    for text in (*arrays, *metadata, *metadata.values()):
        _check_text(text)
    try:
        header, order = safetensors_header.write(arrays, {**metadata, "format": "pt", **sparse_metadata.dumps(entries)})
    except ValueError as error:
        raise ExportError(f"cannot write {path}: {error}") from None
    with open(path, "wb") as file:
        file.write(header)
        for name in order:
            file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)


def add_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Add strings to the metadata of a file that :func:`write` made. The tensors' bytes are copied as they are."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header[safetensors_header.METADATA] = dict(sorted({**header[safetensors_header.METADATA], **metadata}.items()))
        longer = path.with_name(f"{path.name}.longer")
        try:
            with open(longer, "wb") as copy:
                copy.write(safetensors_header.dumps(header))
                shutil.copyfileobj(file, copy, 2**20)
            os.replace(longer, path)
        finally:
            longer.unlink(missing_ok=True)


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise ExportError(f"names and metadata are strings, and {str(text)[:60]!r} is none")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ExportError(f"{text[:60]!a} is not Unicode text") from None
