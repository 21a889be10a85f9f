"""Masks and the weights that they keep, in pieces that take little memory beside a tensor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sift_cli.core.masks import Mask

#: Elements of a piece, if a few rows have no more.
_PIECE = 2**18


def kept(values: np.ndarray, mask: Mask) -> Iterator[np.ndarray]:
    """The elements of ``values`` that ``mask`` keeps, in row-major order."""
    flat = np.ascontiguousarray(values).reshape(-1)
    for start, some in mask.runs():
        yield flat[start : start + some.size].compress(some)


def rows(mask: Mask, columns: int) -> Iterator[np.ndarray]:
    """``mask``, which is not empty, as a matrix of bools with so many columns: ``[some rows, columns]``, in turn."""
    count = mask.numel // columns
    step = max(_PIECE // columns // 8, 1) * 8  # eight rows are whole bytes of the mask
    for first in range(0, count, step):
        some = min(step, count - first)
        bits = mask.bits[first * columns // 8 :]
        yield np.unpackbits(bits, count=some * columns, bitorder="little").view(np.bool_).reshape(some, columns)
