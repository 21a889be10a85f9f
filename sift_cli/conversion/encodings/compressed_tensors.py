"""compressed_tensors: sparse-bitmask of compressed-tensors up to 0.14, see :mod:`._compressed_tensors`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sift_cli.conversion.encodings import About, Array, Encoded, _compressed_tensors
from sift_cli.conversion.encodings._pieces import kept, rows
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import TensorSpec

CONTAINERS = ("safetensors", "folder")
OF_ZEROS = True
IN_NAN = False


def parts(spec: TensorSpec, mask: Mask) -> Encoded | None:
    stem = _compressed_tensors.stem(spec)
    if stem is None:
        return None
    count, columns = spec.shape
    found = {
        f"{stem}.shape": Array("I64", (2,)),
        f"{stem}.compressed": Array(spec.dtype, (mask.nonzero,)),
        f"{stem}.bitmask": Array("U8", (count, -(-columns // 8))),
        f"{stem}.row_offsets": Array("I64", (count,)),
    }
    return Encoded(spec, found, mask.nonzero, mask.rule, mask.seed)


def encode(encoded: Encoded, values: np.ndarray, mask: Mask) -> Iterator[tuple[str, np.ndarray]]:
    shape, compressed, bitmask, row_offsets = encoded.parts
    yield shape, np.array(mask.shape, np.int64)
    done = 0
    for some in rows(mask, mask.shape[1]):
        counts = np.count_nonzero(some, axis=1)
        yield bitmask, _compressed_tensors.packed(some)
        yield row_offsets, done + np.cumsum(counts) - counts
        done += counts.sum()
    for piece in kept(values, mask):
        yield compressed, piece


def about(encoded: Mapping[str, Encoded]) -> About:
    return About()


def config(config: dict[str, Any], encoded: Mapping[str, Encoded]) -> dict[str, Any]:
    return _compressed_tensors.config(config, encoded, "sparse-bitmask", "unstructured")
