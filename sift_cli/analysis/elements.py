"""How far the elements of two arrays are apart, a part of them at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Elements that are compared at a time. A multiple of 8, so that a part of a mask ends with a whole byte.
CHUNK = 2**20


@dataclass(frozen=True)
class Elements:
    """How far the elements of two tensors of one shape are apart.

    Attributes:
        differing: Elements of other bits: NaN is the same as NaN of the same bits, and 0 is not −0. Of two types,
            elements of another value, where all NaNs are one.
        largest: Largest |Δ| of those that are finite in both; None where there are none.
        nonfinite: Differing elements that are infinite or NaN in one of the two or in both.
    """

    differing: int = 0
    largest: float | None = None
    nonfinite: int = 0


def elements(before: np.ndarray, after: np.ndarray) -> Elements:
    """Compare two arrays of one axis, a part at a time."""
    differing = nonfinite = 0
    largest: float | None = None
    for at in range(0, before.size, CHUNK):
        first, second = before[at : at + CHUNK], after[at : at + CHUNK]
        other = _other_bits(first, second) if first.dtype == second.dtype else _other_values(first, second)
        count = int(np.count_nonzero(other))
        if not count:
            continue
        differing += count
        one, two = _wide(first[other]), _wide(second[other])
        finite = np.isfinite(one) & np.isfinite(two)
        nonfinite += count - int(np.count_nonzero(finite))
        if finite.any():
            with np.errstate(over="ignore"):  # of the largest numbers there are the difference is infinite
                largest = max(largest or 0.0, float(np.abs(one[finite] - two[finite]).max()))
    return Elements(differing, largest, nonfinite)


def _other_bits(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    width = first.dtype.itemsize
    word = np.dtype(f"u{min(width, 8)}")  # a complex number of 16 bytes is two words
    words = (np.ascontiguousarray(array).view(word).reshape(-1, max(width // 8, 1)) for array in (first, second))
    return np.not_equal(*words).any(axis=1)


def _other_values(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    one, two = _wide(first), _wide(second)
    return (one != two) & ~(np.isnan(one) & np.isnan(two))


def _wide(array: np.ndarray) -> np.ndarray:
    """Numbers as float64, or complex128: exact for all types but integers of 64 bits beyond 2⁵³."""
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
