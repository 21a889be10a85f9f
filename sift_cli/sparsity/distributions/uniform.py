"""Every layer as dense as every other, as in Sparse-IFT's tables."""

from __future__ import annotations

from fractions import Fraction


def share(shape: tuple[int, ...]) -> Fraction:
    return Fraction(1)
