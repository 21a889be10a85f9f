"""``block4x4``: blocks of 4 rows and 4 columns of the matrix (outputs, K), each kept or dropped whole.

Blocks start at the first row and column. What they leave over at the right and lower edge, fewer than 4 columns and
rows, is always kept: dropped, it would silence the last channels altogether. With e such weights a mask keeps
e + 16·b of them, b whole blocks.
"""

from __future__ import annotations

import re

import numpy as np

from sift_cli.sparsity.draw import lowest
from sift_cli.sparsity.patterns._base import Gemm, Pattern

SYNTAX = ("block4x4",)
_SYNTAX = re.compile(r"block:?([1-9]\d{0,3})x([1-9]\d{0,3})")


class Block(Pattern):
    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.name, self.step = f"block{height}x{width}", height * width

    def feasible(self, gemm: Gemm) -> range:
        whole = (gemm.rows // self.height) * (gemm.columns // self.width) * self.step
        return range(gemm.numel - whole, gemm.numel + 1, self.step) if whole else range(0)

    def violations(self, gemm: Gemm, kept: np.ndarray) -> int:
        matrix = gemm.matrix(kept)
        inside = self._blocks(matrix).sum(axis=(1, 3))
        partial = int(np.count_nonzero((inside != 0) & (inside != self.step)))
        dropped = int(np.count_nonzero(~matrix) - np.count_nonzero(~self._blocks(matrix)))
        return partial + dropped

    def _choose(self, gemm: Gemm, costs: np.ndarray, nonzero: int) -> np.ndarray:
        kept = np.ones((gemm.rows, gemm.columns), np.bool_)
        # Keys wrap around when they are added, which leaves them as random as they were.
        total = costs.dtype if costs.dtype.kind == "u" else np.float64
        by_block = self._blocks(gemm.matrix(costs)).sum(axis=(1, 3), dtype=total)
        blocks = (nonzero - self.feasible(gemm).start) // self.step
        self._blocks(kept)[:] = lowest(by_block, blocks)[:, None, :, None]
        return gemm.tensor(kept)

    def _blocks(self, matrix: np.ndarray) -> np.ndarray:
        """The whole blocks as a view (block row, row in it, block column, column in it)."""
        down, right = matrix.shape[0] // self.height, matrix.shape[1] // self.width
        whole = matrix[: down * self.height, : right * self.width]
        return whole.reshape(down, self.height, right, self.width)


def parse(text: str) -> Pattern | None:
    written = _SYNTAX.fullmatch(text)
    return Block(int(written[1]), int(written[2])) if written else None
