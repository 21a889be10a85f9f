"""Masks: which weights of a tensor exist.

A mask is kept as packed bits (one bit a weight) and not derived from the values, because a kept weight may well be 0
and a training step may make it nonzero again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

#: Elements of a piece of a mask: a few of them stay in the cache, and it is a multiple of 8.
_RUN = 2**20


@dataclass(frozen=True)
class Mask:
    """The kept positions of one tensor.

    Attributes:
        shape: Shape of the tensor.
        bits: ``ceil(numel / 8)`` bytes; element ``i`` of the tensor in row-major order is bit ``i % 8`` (least
            significant first) of byte ``i // 8``; unused bits of the last byte are 0.
        rule: How the positions were chosen ("random", "block", "file", …).
        seed: Seed of that choice, or None where there was no chance in it.
    """

    shape: tuple[int, ...]
    bits: np.ndarray = field(repr=False)
    rule: str = "random"
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.bits.dtype != np.uint8 or self.bits.shape != (-(-self.numel // 8),):
            raise ValueError(f"a mask of shape {self.shape} needs {-(-self.numel // 8)} bytes, not {self.bits.shape}")

    @classmethod
    def from_bool(cls, kept: np.ndarray, *, rule: str = "file", seed: int | None = None) -> Mask:
        return cls(tuple(kept.shape), np.packbits(kept.reshape(-1), bitorder="little"), rule, seed)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nonzero(self) -> int:
        """Number of kept positions, counted from the bits."""
        return int(np.bitwise_count(self.bits).sum(dtype=np.int64))

    @property
    def density(self) -> float:
        return self.nonzero / self.numel if self.numel else 0.0

    @property
    def digest(self) -> str:
        """SHA-256 of the bits, in hexadecimal."""
        return hashlib.sha256(self.bits.tobytes()).hexdigest()

    def to_bool(self) -> np.ndarray:
        """The mask as a bool array of the tensor's shape."""
        return np.unpackbits(self.bits, count=self.numel, bitorder="little").view(np.bool_).reshape(self.shape)

    def runs(self) -> Iterator[tuple[int, np.ndarray]]:
        """:meth:`to_bool` flat and in pieces: the first element of each, and whether it and those after it are kept."""
        for start in range(0, self.numel, _RUN):
            count = min(_RUN, self.numel - start)
            bits = self.bits[start // 8 : (start + count + 7) // 8]
            yield start, np.unpackbits(bits, count=count, bitorder="little").view(np.bool_)


class MaskSet(Mapping[str, Mask]):
    """Masks by tensor name, in a fixed order."""

    def __init__(self, masks: Mapping[str, Mask] | None = None) -> None:
        self._masks = dict(masks or {})

    def __getitem__(self, name: str) -> Mask:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    @property
    def nonzero(self) -> int:
        return sum(mask.nonzero for mask in self.values())

    @property
    def numel(self) -> int:
        return sum(mask.numel for mask in self.values())
