"""Sparse tensors that list where their elements are, as those of PyTorch and ONNX do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from sift_cli.core.masks import Mask

#: A tensor may be so many times larger than its file before that is taken for an attack (sift's own formats stay below
#: it), or have 64 MB.
_EXPANSION, _SMALL = 1024, 2**26
#: Why a tensor is refused that PyTorch takes, in coordinates alone, for the sum of both values.
TWICE = "it has an element twice"


def check_size(dense_bytes: int, file_bytes: int) -> None:
    """Refuse a tensor whose size is out of proportion to its file.

    Raises:
        ValueError: It is.
    """
    if dense_bytes > max(_SMALL, _EXPANSION * file_bytes):
        raise ValueError(f"it would take {dense_bytes:,} bytes, out of a file of {file_bytes:,}")


def linear(coordinates: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Row-major positions of the elements at ``coordinates``, integers of the shape ``[len(shape), count]``.

    Raises:
        ValueError: A coordinate is outside of ``shape``.
    """
    check(coordinates, shape)
    positions = np.zeros(coordinates.shape[1], np.int64)
    for extent, along in zip(shape, coordinates, strict=True):
        positions = positions * extent + along
    return positions


def check(coordinates: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse ``coordinates``, integers of the shape ``[len(shape), count]``, outside of ``shape``.

    Raises:
        ValueError: There are some.
    """
    for axis, (extent, along) in enumerate(zip(shape, coordinates, strict=True)):
        if along.size and (along.min() < 0 or along.max() >= extent):
            raise ValueError(f"it has elements from {along.min()} to {along.max()} of axis {axis}, which has {extent}")


def mask(positions: Iterable[np.ndarray], shape: tuple[int, ...]) -> Mask:
    """The mask that keeps the elements at row-major ``positions``, given in pieces, which lie inside of ``shape``.

    Raises:
        ValueError: One is there twice (:data:`TWICE`).
    """
    kept, count = np.zeros(math.prod(shape), np.bool_), 0
    for some in positions:
        kept[some] = True
        count += some.size
    if np.count_nonzero(kept) != count:
        raise ValueError(TWICE)
    return Mask.from_bool(kept.reshape(shape))


def dense(values: np.ndarray, positions: Iterable[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The tensor with ``values`` at row-major ``positions``, given in pieces, and 0 elsewhere.

    Raises:
        ValueError: One is there twice (:data:`TWICE`).
    """
    result, flat = np.zeros(math.prod(shape), values.dtype), values.reshape(-1)

    def put() -> Iterator[np.ndarray]:
        done = 0
        for some in positions:
            result[some] = flat[done : done + some.size]
            done += some.size
            yield some

    mask(put(), shape)
    return result.reshape(shape)
