"""``2:4``: of every 4 weights in a row along K, exactly 2 are kept.

Groups start anew with each output and are consecutive along K (see :class:`Gemm` for its order). A last group of
r < M weights keeps ⌊rN/M⌋ of them, as if it were padded with dropped ones: a row of K weights keeps ⌊KN/M⌋, and a
tensor never more than N/M of its weights. N is what is kept, which the literature has both ways.
"""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np

from sift_cli.sparsity.patterns._base import Gemm, Pattern

SYNTAX = ("2:4", "1:8")
_SYNTAX = re.compile(r"([1-9]\d?):([1-9]\d?)")


class OfConsecutive(Pattern):
    """N of M.

    Attributes:
        keep: N.
        group: M.
    """

    def __init__(self, keep: int, group: int) -> None:
        self.keep, self.group = keep, group
        self.name = f"{keep}:{group}"
        self.density = Fraction(keep, group)

    def feasible(self, gemm: Gemm) -> range:
        if gemm.columns < self.group or not gemm.rows:
            return range(0)
        count = gemm.rows * (gemm.columns * self.keep // self.group)
        return range(count, count + 1)

    def violations(self, gemm: Gemm, kept: np.ndarray) -> int:
        return sum(
            int(np.count_nonzero(groups.sum(axis=2) != count)) for groups, count in self._groups(gemm.matrix(kept))
        )

    def _choose(self, gemm: Gemm, costs: np.ndarray, nonzero: int) -> np.ndarray:
        kept = np.zeros((gemm.rows, gemm.columns), np.bool_)
        for into, (groups, count) in zip(self._groups(kept), self._groups(gemm.matrix(costs)), strict=True):
            order = np.argsort(groups, axis=2, kind="stable")
            np.put_along_axis(into[0], order[:, :, :count], True, axis=2)
        return gemm.tensor(kept)

    def _groups(self, matrix: np.ndarray) -> list[tuple[np.ndarray, int]]:
        """Groups as (row, group, position) and how many each keeps: the whole groups, and the short ones at the end."""
        rows, columns = matrix.shape
        whole = columns - columns % self.group
        rest = columns - whole
        return [
            (matrix[:, :whole].reshape(rows, -1, self.group), self.keep),
            (matrix[:, whole:].reshape(rows, 1, rest), rest * self.keep // self.group),
        ]


def parse(text: str) -> Pattern | None:
    written = _SYNTAX.fullmatch(text)
    if written and int(written[1]) < int(written[2]):
        return OfConsecutive(int(written[1]), int(written[2]))
    return None
