"""Sparsity as an exact number. ``float32(0.8) * 1000`` keeps 199 weights of 1000 and not 200; a fraction keeps 200."""

from __future__ import annotations

import re
from fractions import Fraction

from sift_cli.errors import PlanError

#: Characters of a sparsity; a share of exact integers has no more.
_LONGEST = 200


def parse_sparsity(text: str | float | Fraction) -> Fraction:
    """Read a sparsity in [0, 1) exactly as it is written: "0.9", "9/10", "90%".

    Raises:
        PlanError: It is not a number, or not in [0, 1).
    """
    written = repr(text) if isinstance(text, float) else str(text)
    written = written.strip()
    if len(written) > _LONGEST or re.search(r"e[+-]?\d{4}", written, re.IGNORECASE):  # a power of ten to write out
        raise PlanError(f"sparsity {written!r:.40} has too many digits", hint="write it as 0.9, 9/10 or 90%")
    try:
        value = Fraction(written[:-1]) / 100 if written.endswith("%") else Fraction(written)
    except (ValueError, ZeroDivisionError):
        raise PlanError(f"sparsity {written!r} is not a number", hint="write it as 0.9, 9/10 or 90%") from None
    if not 0 <= value < 1:
        raise PlanError(
            f"sparsity {written} is outside [0, 1)", hint="0 keeps every weight, 0.9 keeps one weight in ten"
        )
    return value
