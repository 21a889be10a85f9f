"""Bipartite graphs whose singular values are known in closed form, as matrices of zeros and ones."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def points(dimension: int, q: int) -> list[tuple[int, ...]]:
    """Points of PG(dimension, q), q prime: vectors whose first nonzero entry is 1."""
    vectors = itertools.product(range(q), repeat=dimension + 1)
    return [v for v in vectors if next((x for x in v if x), 0) == 1]


def projective_plane(q: int) -> Matrix:
    """Points × lines of PG(2, q): (q+1)-regular, N Nᵀ = q I + J, so σ₁ = q + 1 and all others are √q. q = 2 is the
    Heawood graph."""
    all_points = np.array(points(2, q))
    return ((all_points @ all_points.T) % q == 0).astype(np.float64)


def affine_plane(q: int) -> Matrix:
    """Lines × points of AG(2, q): q points on each of q² + q lines, q + 1 lines through each of q² points;
    Nᵀ N = q I + J, so σ₁ = √(q² + q) and the next is √q."""
    plane = projective_plane(q)
    finite = plane[0] == 0  # without the points of one line, and without that line
    return plane[1:, finite]


def symplectic_quadrangle(q: int) -> Matrix:
    """Points × lines of the generalized quadrangle W(3, q): (q+1)-regular on (q+1)(q²+1) points, σ₁ = q + 1,
    σ₂ = √(2q)."""
    where = {p: i for i, p in enumerate(points(3, q))}
    lines = set()
    for a, b in itertools.combinations(where, 2):
        if (a[0] * b[1] - a[1] * b[0] + a[2] * b[3] - a[3] * b[2]) % q == 0:
            sums = (tuple((x + k * y) % q for x, y in zip(a, b, strict=True)) for k in range(q))
            on_line = [b, *(next(p for p in _multiples(s, q) if p in where) for s in sums)]
            lines.add(frozenset(where[p] for p in on_line))
    matrix = np.zeros((len(where), len(lines)))
    for column, line in enumerate(sorted(map(sorted, lines))):
        matrix[line, column] = 1
    return matrix


def _multiples(vector: tuple[int, ...], q: int) -> list[tuple[int, ...]]:
    return [tuple(k * x % q for x in vector) for k in range(1, q)]


def cycle(n: int) -> Matrix:
    """C_2n: σ = 2 |cos(πk/n)|, k = 0 … n − 1."""
    return np.eye(n) + np.roll(np.eye(n), 1, axis=1)


def union(*parts: Matrix) -> Matrix:
    """Disjoint union: the singular values of all parts together."""
    whole = np.zeros(tuple(np.sum([part.shape for part in parts], axis=0)))
    row = column = 0
    for part in parts:
        whole[row : row + part.shape[0], column : column + part.shape[1]] = part
        row, column = row + part.shape[0], column + part.shape[1]
    return whole
