"""Erdős-Rényi: density in proportion to (inputs + outputs) / (inputs · outputs), so that small layers are denser.

Source: Mocanu et al., Nature Communications 2018. A convolution counts its channels alone, not its kernel.
"""

from __future__ import annotations

import math
from fractions import Fraction


def share(shape: tuple[int, ...]) -> Fraction:
    return Fraction(sum(shape[:2]), math.prod(shape[:2]))
