"""Files of ``sift convert`` put together in memory from what containers and encodings plan."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sift_cli.conversion import containers, encodings
from sift_cli.conversion.containers import PlannedFile, Tensor
from sift_cli.conversion.encodings import Array
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPE_NAMES, TensorSpec

#: Values, and which of them are kept; None for a tensor without a mask.
Weights = Mapping[str, tuple[np.ndarray, np.ndarray | None]]


def write(path: Path, encoding: str, container: str, weights: Weights, *, shard_size: int = 200) -> None:
    """The file ``path``, or the folder, with its configuration and every tensor in a shard of its own."""
    how = encodings.get(encoding)
    encoded, arrays, tensors = {}, {}, []
    for name, (values, kept) in weights.items():
        spec = TensorSpec(name, values.shape, DTYPE_NAMES[values.dtype], values.nbytes)
        found = None if kept is None else how.parts(spec, Mask.from_bool(kept))
        if found is None:
            arrays[name] = [values]
            tensors.append(Tensor(name, {name: Array(spec.dtype, spec.shape)}, (name,)))
            continue
        encoded[name] = found
        for part, piece in how.encode(found, values, Mask.from_bool(kept)):
            arrays.setdefault(part, []).append(piece)
        tensors.append(Tensor(name, found.parts, tuple(found.parts)))
    data = {name: b"".join(piece.tobytes() for piece in pieces) for name, pieces in arrays.items()}
    for tensor in tensors:
        for part, array in tensor.arrays.items():
            assert len(data.setdefault(part, b"")) == array.nbytes, part
    files = containers.get(container).plan(tensors, lambda _: how.about(encoded), shard_size)
    for file in files:
        (path / file.name if file.name else path).write_bytes(filled(file, data))
    if container == "folder":
        (path / "config.json").write_text(json.dumps(how.config({"model_type": "llama"}, encoded)))


def filled(file: PlannedFile, data: Mapping[str, bytes]) -> bytes:
    """A planned file, every byte of which is said once."""
    sums = {name: zlib.crc32(data[name]) for name in file.places}
    ranges = sorted(
        [*file.frame(sums), *((at, data[name]) for name, at in file.places.items())], key=lambda one: one[0]
    )
    end = 0
    for at, some in ranges:
        assert at == end or not some, f"byte {end}"
        end += len(some)
    assert end == file.size
    return b"".join(some for _, some in ranges)
