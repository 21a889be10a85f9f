"""Sparse formats: one tensor and its mask as two named, typed vectors that any reader can open.

One vector, the index, says which elements are kept and has the name of its format; the other, ``values``, holds them in
row-major order. A format is a module in this folder; :class:`Format` is what it has to offer. The formats are written
down for readers in ``docs/sparse-formats.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPE_NAMES, as_bits
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
    def index(mask: Mask) -> Iterator[np.ndarray]:
        """The index of ``mask``, piece by piece."""

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


def pieces(name: str, array: np.ndarray, mask: Mask) -> Iterator[tuple[str, np.ndarray]]:
    """The parts of ``array`` under ``mask`` in the format ``name``: the elements that each part goes on with, in turn.

    It takes little memory beside the array.

    Raises:
        ValueError: The shapes differ, or a masked position holds something other than 0 that would be lost.
    """
    if array.shape != mask.shape:
        raise ValueError(f"a mask of shape {mask.shape} is not for a tensor of shape {array.shape}")
    for piece in get(name).index(mask):
        yield name, piece
    flat = np.ascontiguousarray(array).reshape(-1)
    lost = 0
    for start, kept in mask.runs():
        some = flat[start : start + kept.size]
        bits = as_bits(some)
        values = bits.compress(kept)  # four times as fast as indexing by bools
        if np.count_nonzero(bits) != np.count_nonzero(values):  # of −0, which is not lost, too
            with np.errstate(invalid="ignore"):  # a NaN of bfloat16 is as good as any other number here
                lost += int(np.count_nonzero(some) - np.count_nonzero(values.view(some.dtype)))
        yield VALUES, values.view(flat.dtype)
    if lost:
        raise ValueError(f"{lost} masked weights are not 0")


def encode(name: str, array: np.ndarray, mask: Mask) -> dict[str, np.ndarray]:
    """:func:`pieces`, whole parts by their names."""
    parts: dict[str, list[np.ndarray]] = {name: [], VALUES: []}
    for part, piece in pieces(name, array, mask):
        parts[part].append(piece)
    empty = {name: np.empty(0, np.uint8), VALUES: np.empty(0, array.dtype)}
    return {part: np.concatenate([empty[part], *found]) for part, found in parts.items()}


def smallest(mask: Mask) -> str:
    """The format whose index of ``mask`` takes the fewest bytes; of equals the oldest, which most readers know.

    The values are the same in all of them.
    """
    bounds = sorted(
        (get(name).layout(mask.shape, np.dtype(np.uint8), mask.nonzero)[name].lengths[0], get(name).SINCE, name)
        for name in names(__name__)
    )
    best: tuple[int, int, str] | None = None
    for least, since, name in bounds:
        if best is None or (least, since) < best[:2]:
            found = index_size(name, mask), since, name
            best = found if best is None else min(best, found)
    assert best is not None
    return best[2]


def index_size(name: str, mask: Mask) -> int:
    """Bytes of the index of ``mask`` in the format ``name``."""
    return sum(piece.size for piece in get(name).index(mask))
