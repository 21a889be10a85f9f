"""Sparse formats: one tensor and its mask as a few named, typed arrays that any reader can open.

A format is a module in this folder; :class:`Format` is what it has to offer. The formats are written down for readers
in ``docs/sparse-formats.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

import numpy as np

from sift_cli.core.masks import Mask
from sift_cli.registry import discover, names

#: The arrays of one tensor, by their name within it ("bitmask", "values").
SparseParts = Mapping[str, np.ndarray]


class Format(Protocol):
    """What every module of this package implements.

    A decoder trusts nothing: parts come from files, and whatever contradicts itself raises ``ValueError``.
    """

    @staticmethod
    def layout(shape: tuple[int, ...], dtype: np.dtype, nonzero: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Dtype and shape of every part, known before any is read."""

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
    def mask(parts: SparseParts, shape: tuple[int, ...]) -> Mask:
        """The mask alone.

        Raises:
            ValueError: The parts contradict each other or the shape.
        """


def get(name: str) -> Format:
    """The format ``name``.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in names(__name__):
        raise ValueError(f"unknown sparse format {name[:40]!r} (known: {', '.join(names(__name__))})")
    return cast(Format, discover(__name__)[name])
