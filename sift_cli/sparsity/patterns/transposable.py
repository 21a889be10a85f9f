"""``2:8T``: in every 8×8 tile of the matrix (outputs, K), exactly 2 weights of each row and 2 of each column are kept.

So the weight is 2:8 along K, and its transpose, with which the backward pass multiplies, is 2:8 along the outputs
(Hubara et al., NeurIPS 2021). Tiles lie in the matrix of :class:`Gemm`. The released code of that paper instead takes
64 consecutive weights of one output for a tile, which says nothing about the transpose, and asks each of them for 32
kept weights, which only 4:8 has.

A tile of a×b < M×M at the right or lower edge keeps ⌊abN/M⌋ weights, at most ⌈bN/M⌉ in a row and ⌈aN/M⌉ in a column:
what a whole tile keeps, for its size, and never a larger share than N/M.

By magnitude the choice is the best one there is, from :func:`_tiles.best`; at random it is :func:`_tiles.greedy` on
random keys, as the heaviest of random choices is not more random.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from sift_cli.sparsity.patterns import _tiles
from sift_cli.sparsity.patterns._base import Gemm, Pattern

SYNTAX = ("2:8T",)
_SYNTAX = re.compile(r"([1-9]\d?):([1-9]\d?)T")


class Transposable(Pattern):
    """N of M both ways.

    Attributes:
        keep: N.
        group: M.
    """

    def __init__(self, keep: int, group: int) -> None:
        self.keep, self.group = keep, group
        self.name = f"{keep}:{group}T"
        self.density = Fraction(keep, group)

    def feasible(self, gemm: Gemm) -> range:
        if min(gemm.rows, gemm.columns) < self.group:
            return range(0)
        down, right = divmod(gemm.rows, self.group), divmod(gemm.columns, self.group)
        count = sum(
            tiles_down * tiles_right * self.bounds(a, b).total
            for tiles_down, a in ((down[0], self.group), (1, down[1]))
            for tiles_right, b in ((right[0], self.group), (1, right[1]))
        )
        return range(count, count + 1)

    def bounds(self, height: int, width: int) -> _tiles.Bounds:
        """What a tile of ``height`` × ``width`` keeps."""
        return _tiles.Bounds(
            -(-width * self.keep // self.group),
            -(-height * self.keep // self.group),
            height * width * self.keep // self.group,
        )

    def violations(self, gemm: Gemm, kept: np.ndarray) -> int:
        broken = 0
        for tiles in self._tiles(gemm.matrix(kept)):
            bounds = self.bounds(*tiles.shape[1::2])
            sound = (
                (tiles.sum(axis=3) <= bounds.row).all(axis=1)
                & (tiles.sum(axis=1) <= bounds.column).all(axis=2)
                & (tiles.sum(axis=(1, 3)) == bounds.total)
            )
            broken += int(np.count_nonzero(~sound))
        return broken

    def _choose(self, gemm: Gemm, costs: np.ndarray, nonzero: int) -> np.ndarray:
        random = costs.dtype.kind == "u"
        kept = np.zeros((gemm.rows, gemm.columns), np.bool_)
        for into, tiles in zip(self._tiles(kept), self._tiles(gemm.matrix(costs)), strict=True):
            down, height, right, width = tiles.shape
            flat = tiles.transpose(0, 2, 1, 3).reshape(-1, height, width)
            choice = (_tiles.greedy if random else _tiles.best)(_gains(flat), self.bounds(height, width))
            into[:] = choice.reshape(down, right, height, width).transpose(0, 2, 1, 3)
        return gemm.tensor(kept)

    def _tiles(self, matrix: np.ndarray) -> Iterator[np.ndarray]:
        """Views (tile row, row in it, tile column, column in it): the whole tiles and those of each edge."""
        down, right = (size - size % self.group for size in matrix.shape)
        for rows in (matrix[:down], matrix[down:]):
            for part in (rows[:, :right], rows[:, right:]):
                if part.size:
                    height, width = (min(self.group, size) for size in part.shape)
                    yield part.reshape(part.shape[0] // height, height, part.shape[1] // width, width)


def _gains(costs: np.ndarray) -> np.ndarray:
    """Costs of (tiles, a, b) as integers, the lowest cost the highest gain."""
    limit = 2**_tiles.GAIN_BITS - 1
    if costs.dtype.kind == "u":
        return limit - (costs >> np.uint64(64 - _tiles.GAIN_BITS)).astype(np.int64)
    magnitudes = -costs.astype(np.float64)
    largest = magnitudes.max(axis=(1, 2), keepdims=True)
    return np.rint(magnitudes / np.where(largest, largest, 1) * limit).astype(np.int64)


def parse(text: str) -> Pattern | None:
    written = _SYNTAX.fullmatch(text)
    if written and int(written[1]) < int(written[2]):
        return Transposable(int(written[1]), int(written[2]))
    return None
