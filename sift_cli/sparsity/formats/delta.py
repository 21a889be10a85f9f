"""delta: one byte a kept weight says how many are skipped before it. Smaller than a bitmask from 87.5 % sparsity on.

::

    delta   uint8[nonzero + escapes]   0 … 254: skip so many elements and keep the next one; 255: skip 255 and go on
    values  dtype[nonzero]             the kept elements in row-major order

A tensor of n elements of b bytes takes (b + 1)·nonzero bytes, 0.0625 of the dense size for fp32 at 95 % sparsity, and
one more for each 255 elements in a row that are skipped. A random mask of density p has nonzero·q / (1 − q) such runs,
where q = (1 − p)²⁵⁵: one in 500,000 kept weights at 95 %, 8 in 100 at 99 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from sift_cli.core.masks import Mask
from sift_cli.core.tensors import as_bits
from sift_cli.sparsity.formats import VALUES, Part, SparseParts
from sift_cli.sparsity.formats._values import parted

SINCE = 2
_INDEX = "delta"
_ESCAPE = 255
#: Bytes that are decoded at once: their positions take 512 KiB, and stay in the cache.
_CHUNK = 2**16


def layout(shape: tuple[int, ...], dtype: np.dtype, nonzero: int) -> dict[str, Part]:
    numel = math.prod(shape)
    most = nonzero + (numel - nonzero) // _ESCAPE
    return {
        _INDEX: Part(np.dtype(np.uint8), range(max(nonzero, numel // _ESCAPE), most + 1)),
        VALUES: Part(dtype, range(nonzero, nonzero + 1)),
    }


def index(mask: Mask) -> Iterator[np.ndarray]:
    done = 0  # elements that are skipped or kept
    for start, kept in mask.runs():
        at = np.flatnonzero(kept)
        at += start
        escapes, skipped = np.divmod(np.diff(at, prepend=done - 1) - 1, _ESCAPE)
        some = np.full(at.size + escapes.sum(), _ESCAPE, np.uint8)
        some[np.arange(at.size) + np.cumsum(escapes)] = skipped
        yield some
        done = int(at[-1]) + 1 if at.size else done
    yield np.full((mask.numel - done) // _ESCAPE, _ESCAPE, np.uint8)


def decode(parts: SparseParts, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    index, values = parted(parts, _INDEX, dtype)
    _check(index, math.prod(shape), values.size)
    dense = np.zeros(math.prod(shape), dtype)
    into, bits = as_bits(dense), as_bits(values)
    done = 0
    for kept in _positions(index):
        into[kept] = bits[done : done + kept.size]
        done += kept.size
    return dense.reshape(shape)


def mask(index: np.ndarray, shape: tuple[int, ...], nonzero: int) -> Mask:
    _check(index, math.prod(shape), nonzero)
    dense = np.zeros(math.prod(shape), np.bool_)
    for kept in _positions(index):
        dense[kept] = True
    return Mask.from_bool(dense.reshape(shape))


def _check(index: np.ndarray, numel: int, nonzero: int) -> None:
    if index.dtype != np.uint8 or index.ndim != 1:
        raise ValueError(f"the deltas are {index.dtype} {list(index.shape)} and no vector of bytes, which delta needs")
    kept = index.size - np.count_nonzero(index == _ESCAPE)
    if kept != nonzero:
        raise ValueError(f"the deltas keep {kept} weights, and there are {nonzero} values")
    end = int(index.sum(dtype=np.int64)) + kept
    if not 0 <= numel - end < _ESCAPE:
        raise ValueError(f"the deltas lead to element {end} of {numel}, and fewer than {_ESCAPE} may be left")


def _positions(index: np.ndarray) -> Iterator[np.ndarray]:
    """Row-major positions of the kept elements, some at a time."""
    end = 0
    for start in range(0, index.size, _CHUNK):
        some = index[start : start + _CHUNK]
        keeps = some != _ESCAPE
        ends = np.cumsum(some + keeps, dtype=np.int64)  # 254 + 1 and 255 + 0: no sum overflows
        ends += end - 1
        end = int(ends[-1]) + 1
        yield ends[keeps]
