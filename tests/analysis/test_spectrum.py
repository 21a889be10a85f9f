"""The two largest singular values, where they are known."""

from __future__ import annotations

from math import cos, pi, sqrt

import numpy as np
import pytest
from incidence import affine_plane, cycle, projective_plane, symplectic_quadrangle, union

from sift_cli.analysis.spectrum import two_largest

EXACT = 1e-13


@pytest.mark.parametrize(
    ("matrix", "first", "second"),
    [
        (projective_plane(2), 3, sqrt(2)),
        (projective_plane(3), 4, sqrt(3)),
        (projective_plane(7), 8, sqrt(7)),
        (affine_plane(3), sqrt(12), sqrt(3)),
        (affine_plane(5), sqrt(30), sqrt(5)),
        (symplectic_quadrangle(2), 3, 2),
        (symplectic_quadrangle(3), 4, sqrt(6)),
        (cycle(3), 2, 2 * cos(pi / 3)),
        (cycle(50), 2, 2 * cos(pi / 50)),
        (union(np.ones((3, 3)), np.ones((3, 3))), 3, 3),
        (union(np.ones((2, 8)), np.ones((5, 3)), projective_plane(2)), 4, sqrt(15)),
        (np.diag([2.0, 7.0, 5.0, 7.0]), 7, 7),
        (np.kron(projective_plane(7), np.ones((20, 50))), 8 * sqrt(1000), sqrt(7000)),
    ],
    ids=lambda value: "x".join(map(str, value.shape)) if isinstance(value, np.ndarray) else None,
)
def test_closed_forms(matrix: np.ndarray, first: float, second: float) -> None:
    for one in (matrix, matrix.T, np.ascontiguousarray(matrix.T)):
        assert two_largest(one) == (pytest.approx(first, rel=EXACT), pytest.approx(second, rel=EXACT))


@pytest.mark.parametrize("shape", [(2, 2), (3, 40), (400, 900)])
def test_complete_graphs_have_no_second_one(shape: tuple[int, int]) -> None:
    first, second = two_largest(np.ones(shape))
    assert first == pytest.approx(sqrt(shape[0] * shape[1]), rel=EXACT)
    assert second <= 1e-14 * first


def test_rank_one() -> None:
    rows, columns = np.arange(1.0, 31), np.arange(5.0, 205)
    first, second = two_largest(np.outer(rows, columns))
    assert first == pytest.approx(sqrt((rows @ rows) * (columns @ columns)), rel=EXACT)
    assert second <= 1e-14 * first


@pytest.mark.parametrize("share", [1e-2, 1e-4, 1e-6, 1e-8])
def test_a_second_one_that_is_much_smaller(share: float) -> None:
    """Two reflections hide diag(1, share, share / 2, 0, …); the matrix itself is rounded to 1e-16."""
    diagonal = np.zeros((60, 90))
    diagonal[range(3), range(3)] = 1, share, share / 2
    first, second = two_largest(_reflection(60) @ diagonal @ _reflection(90))
    assert first == pytest.approx(1, rel=1e-14)
    assert second == pytest.approx(share, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_any_scale(scale: float) -> None:
    first, second = two_largest(scale * projective_plane(3))
    assert (first / scale, second / scale) == (pytest.approx(4, rel=EXACT), pytest.approx(sqrt(3), rel=EXACT))


def test_zeros() -> None:
    assert two_largest(np.zeros((4, 6))) == (0, 0)


@pytest.mark.parametrize("shape", [(40, 300), (300, 40), (257, 258)])
def test_as_lapack_by_another_way(shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    matrix = np.where(draw.random(shape) < 0.1, np.abs(draw.standard_normal(shape)), 0)
    assert two_largest(matrix) == pytest.approx(tuple(np.linalg.svd(matrix, compute_uv=False)[:2]), rel=EXACT)


def _reflection(size: int) -> np.ndarray:
    normal = np.cos(np.arange(size))
    return np.eye(size) - 2 * np.outer(normal, normal) / (normal @ normal)
