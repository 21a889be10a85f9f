"""Sparse formats: one tensor and its mask as two named, typed vectors that any reader can open.

One vector, the index, says which elements are kept and has the name of its format; the other, ``values``, holds them in
row-major order. A format is a module in this folder; :class:`Format` is what it has to offer. The formats are written
down for readers in ``docs/sparse-formats.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPE_NAMES
from sift_cli.registry import discover, names

#: The arrays of one tensor, by their name within it ("bitmask", "values").
SparseParts = Mapping[str, np.ndarray]
VALUES = "values"


@dataclass(frozen=True)
class Part:
    """What is known of one part before it is read: it is a vector.

    Attributes:
        dtype: Of its elements.
        lengths: How many elements it may have.
    """

    dtype: np.dtype
    lengths: range

    def fits(self, dtype: np.dtype, shape: tuple[int, ...]) -> bool:
        return dtype == self.dtype and len(shape) == 1 and shape[0] in self.lengths

    def __str__(self) -> str:
        first, last = self.lengths[0], self.lengths[-1]
        return f"{DTYPE_NAMES[self.dtype]} [{first if first == last else f'{first} to {last}'}]"


class Format(Protocol):
    """What every module of this package implements.

    A decoder trusts nothing: parts come from files, and whatever contradicts itself raises ``ValueError``.
    """

    #: The version of ``docs/sparse-formats.md`` that the format came with.
    SINCE: int

    @staticmethod
    def layout(shape: tuple[int, ...], dtype: np.dtype, nonzero: int) -> dict[str, Part]:
        """Every part by name, known before any is read."""

    @staticmethod
    def encode(array: np.ndarray, mask: Mask) -> dict[str, np.ndarray]:
        """The parts of ``array`` under ``mask``.

        Raises:
            ValueError: The shapes differ, or a masked position holds something other than 0 that would be lost.
        """

    @staticmethod
    def decode(parts: SparseParts, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The dense tensor; masked positions are +0, kept ones have the bits they were encoded with.

        Raises:
            ValueError: The parts contradict each other, the shape or the dtype.
        """

    @staticmethod
    def mask(index: np.ndarray, shape: tuple[int, ...], nonzero: int) -> Mask:
        """The mask alone, for which the values need not be read.

        Args:
            nonzero: Number of values.

        Raises:
            ValueError: The index contradicts itself, the shape or ``nonzero``.
        """


def get(name: str) -> Format:
    """The format ``name``.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in names(__name__):
        raise ValueError(f"unknown sparse format {name[:40]!r} (known: {', '.join(names(__name__))})")
    return cast(Format, discover(__name__)[name])


def smallest(array: np.ndarray, mask: Mask) -> tuple[str, dict[str, np.ndarray]]:
    """Name and parts of the format that takes the fewest bytes; of equals the oldest, which most readers know.

    Raises:
        ValueError: See :meth:`Format.encode`.
    """
    bounds = sorted(
        (get(name).layout(mask.shape, array.dtype, mask.nonzero)[name].lengths[0], get(name).SINCE, name)
        for name in names(__name__)
    )
    best: tuple[tuple[int, int], str, dict[str, np.ndarray]] | None = None
    for least, since, name in bounds:
        if best is None or (least, since) < best[0]:
            parts = get(name).encode(array, mask)
            size = (parts[name].size, since)
            best = (size, name, parts) if best is None or size < best[0] else best
    assert best is not None
    return best[1:]
