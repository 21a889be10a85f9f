"""compressed_tensors_24: sparse-24-bitmask of compressed-tensors up to 0.14, see :mod:`._compressed_tensors`.

Two of every four weights in a row are kept. A weight with any other mask is stored dense, without it.
"""

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
    if stem is None or not _two_of_four(mask):
        return None
    count, columns = spec.shape
    found = {
        f"{stem}.shape": Array("I64", (2, 1)),
        f"{stem}.compressed": Array(spec.dtype, (count, columns // 2)),
        f"{stem}.bitmask": Array("U8", (count, -(-columns // 8))),
    }
    return Encoded(spec, found, mask.nonzero, mask.rule, mask.seed)


def _two_of_four(mask: Mask) -> bool:
    columns = mask.shape[1]
    return columns % 4 == 0 and all(
        (np.count_nonzero(some.reshape(-1, 4), axis=1) == 2).all() for some in rows(mask, columns)
    )


def encode(encoded: Encoded, values: np.ndarray, mask: Mask) -> Iterator[tuple[str, np.ndarray]]:
    shape, compressed, bitmask = encoded.parts
    yield shape, np.array(mask.shape, np.int64)
    for some in rows(mask, mask.shape[1]):
        yield bitmask, _compressed_tensors.packed(some)
    for piece in kept(values, mask):
        yield compressed, piece


def about(encoded: Mapping[str, Encoded]) -> About:
    return About()


def config(config: dict[str, Any], encoded: Mapping[str, Encoded]) -> dict[str, Any]:
    return _compressed_tensors.config(config, encoded, "sparse-24-bitmask", "2:4")
