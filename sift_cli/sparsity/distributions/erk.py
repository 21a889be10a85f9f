"""Erdős-Rényi with the kernel: density in proportion to the sum of all sizes of a weight over their product.

Source: Evci et al., "Rigging the Lottery", ICML 2020; with its scale of 1.
"""

from __future__ import annotations

import math
from fractions import Fraction


def share(shape: tuple[int, ...]) -> Fraction:
    return Fraction(sum(shape), math.prod(shape))
