"""Δr, λ and their iterative means, on graphs where all of them have a closed form."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
import pytest
from incidence import affine_plane, cycle, projective_plane, symplectic_quadrangle, union

from sift_cli.analysis import LayerAnalysis
from sift_cli.analysis.graph import Graph, graph_of, subgraphs_of

EXACT = 1e-13


def graph(matrix: np.ndarray) -> Graph:
    return graph_of(matrix != 0, matrix)


def layer(matrix: np.ndarray) -> LayerAnalysis:
    kept = matrix != 0
    return LayerAnalysis("layer", matrix.shape, graph_of(kept, matrix), tuple(subgraphs_of(kept, matrix)))


@pytest.mark.parametrize(
    ("matrix", "right", "left", "bound", "second"),
    [
        (projective_plane(2), 3, 3, 2 * sqrt(2), sqrt(2)),
        (projective_plane(5), 6, 6, 2 * sqrt(5), sqrt(5)),
        (symplectic_quadrangle(3), 4, 4, 2 * sqrt(3), sqrt(6)),
        (affine_plane(5), 5, 6, sqrt(4) + sqrt(5), sqrt(5)),
        (np.ones((5, 9)), 9, 5, sqrt(8) + sqrt(4), 0),
        (union(projective_plane(3), projective_plane(3)), 4, 4, 2 * sqrt(3), 4),
    ],
)
def test_ramanujan_gap(matrix: np.ndarray, right: int, left: int, bound: float, second: float) -> None:
    """Of a biregular graph the bound minus the second singular value: negative where the graph is in two parts."""
    measured = graph(matrix)
    assert (measured.right, measured.left) == matrix.shape
    assert (measured.right_degree, measured.left_degree) == (right, left)
    assert measured.bound == pytest.approx(bound, rel=EXACT)
    assert measured.ramanujan_gap == pytest.approx(bound - second, rel=EXACT)
    assert measured.relative_gap == pytest.approx(1 - second / bound, rel=EXACT)


def test_degrees_of_an_irregular_graph_are_means() -> None:
    measured = graph(union(np.ones((4, 3)), np.ones((3, 5))))
    assert (measured.edges, measured.left, measured.right) == (27, 8, 7)
    assert measured.bound == pytest.approx(sqrt(27 / 8 - 1) + sqrt(27 / 7 - 1), rel=EXACT)
    assert measured.singular == (pytest.approx(sqrt(15), rel=EXACT), pytest.approx(sqrt(12), rel=EXACT))
    assert measured.ramanujan_gap == pytest.approx(sqrt(27 / 8 - 1) + sqrt(27 / 7 - 1) - sqrt(12), rel=1e-12)


def test_nodes_without_edges_do_not_count() -> None:
    whole = np.zeros((9, 11))
    whole[np.ix_([0, 2, 3, 4, 6, 7, 8], [1, 2, 3, 5, 6, 9, 10])] = projective_plane(2)
    assert graph(whole) == graph(projective_plane(2))


@pytest.mark.parametrize(
    ("matrix", "singular", "bound"),
    [
        (cycle(8), True, False),
        (np.ones((1, 12)), False, False),
        (np.ones((12, 1)), False, False),
        (np.ones((2, 12)), True, False),
        (np.ones((3, 3)), True, True),
        (np.eye(7), True, False),
        (np.zeros((5, 5)), False, False),
    ],
)
def test_what_is_undefined_is_none(matrix: np.ndarray, singular: bool, bound: bool) -> None:
    measured = graph(matrix)
    assert (measured.singular is not None, measured.weighted_gap is not None) == (singular, singular)
    assert [value is not None for value in (measured.bound, measured.ramanujan_gap, measured.relative_gap)] == [
        bound
    ] * 3


def test_an_edge_less_takes_the_bound() -> None:
    """The Heawood graph has degree 3 exactly, and without an edge less than that in the mean."""
    less = projective_plane(2)
    less[tuple(np.argwhere(less)[0])] = 0
    assert graph(less).left_degree == pytest.approx(20 / 7, rel=EXACT)
    assert graph(less).bound is None
    assert graph(less).weighted_gap is not None


def test_weighted_gap() -> None:
    plane = projective_plane(3)
    signs = np.where(np.arange(169).reshape(13, 13) % 2, 0.25, -0.25)
    assert graph(signs * plane).weighted_gap == pytest.approx((4 - sqrt(3)) / 4, rel=EXACT)
    assert graph(signs * plane).singular == graph(plane).singular
    assert graph(np.diag([2.0, -9.0, 5.0])).weighted_gap == pytest.approx(4, rel=EXACT)
    rows, columns = np.arange(1.0, 8), np.arange(-3.5, 9)
    assert graph(np.outer(rows, columns)).weighted_gap == pytest.approx(
        sqrt((rows @ rows) * (columns @ columns)), rel=EXACT
    )


def test_a_kept_weight_may_be_zero() -> None:
    plane = projective_plane(2)
    measured = graph_of(plane != 0, np.zeros((7, 7)))
    assert measured.ramanujan_gap == pytest.approx(sqrt(2), rel=EXACT)
    assert measured.weighted == (0, 0)
    assert measured.weighted_gap == 0


def test_what_the_mask_does_not_keep_does_not_count() -> None:
    kept = projective_plane(2) != 0
    assert graph_of(kept, np.where(kept, 1, np.nan)) == graph(projective_plane(2))


@pytest.mark.parametrize("matrix", [projective_plane(2), affine_plane(5), np.ones((6, 4))])
def test_a_left_regular_graph_is_its_own_only_subgraph(matrix: np.ndarray) -> None:
    measured = layer(0.5 * matrix)
    assert measured.subgraphs == (measured.graph,)
    assert (measured.imdb, measured.imsg) == (measured.graph.ramanujan_gap, measured.graph.weighted_gap)
    assert measured.relative_imdb == measured.graph.relative_gap


def test_iterative_means() -> None:
    """Left degrees 4 (a plane) and 13 (all outputs), and some that are no subgraphs: 5 for want of left nodes, 2 for
    want of a bound, 6 for want of degree on the right."""
    matrix = np.zeros((13, 29))
    matrix[:, :13] = 2 * projective_plane(3)
    matrix[:, 13:18] = 3
    matrix[:5, 18:20] = 1
    matrix[:2, 20:26] = 1
    for column, rows in zip(range(26, 29), (range(6), range(4, 10), range(7, 13)), strict=True):
        matrix[rows, column] = 1
    measured = layer(matrix)
    assert [(part.left, part.right, part.edges) for part in measured.subgraphs] == [(13, 13, 52), (5, 13, 65)]
    assert measured.imdb == pytest.approx((sqrt(3) + sqrt(12) + sqrt(4)) / 2, rel=EXACT)
    assert measured.relative_imdb == pytest.approx((1 / 2 + 1) / 2, rel=EXACT)
    assert measured.imsg == pytest.approx((2 * (4 - sqrt(3)) + 3 * sqrt(65)) / 2, rel=EXACT)


def test_subgraphs_take_the_side_of_the_inputs() -> None:
    """Complete blocks of 4 inputs × 3 outputs and 5 × 4; from the outputs' side these have 4 and 5 neighbours."""
    blocks = union(np.ones((3, 4)), np.ones((4, 5)))
    assert layer(blocks).imdb == pytest.approx((sqrt(2) + sqrt(3) + sqrt(3) + sqrt(4)) / 2, rel=EXACT)
    shared = np.zeros((8, 9))
    shared[:, :5] = projective_plane(2)[[*range(7), 0]][:, :5]
    shared[:3, 5:] = 1
    assert layer(shared).imdb != layer(shared.T).imdb


@pytest.mark.parametrize("metric", [lambda x: x.imdb, lambda x: x.relative_imdb, lambda x: x.imsg])
def test_without_subgraphs_there_is_no_mean(metric: Callable[[LayerAnalysis], float | None]) -> None:
    assert metric(layer(cycle(9))) is None


def test_as_the_eigenvalues_of_the_adjacency_matrix() -> None:
    """By the definition of the sources: of the 2n eigenvalues by absolute value the third, and the degrees by node."""
    draw = np.random.default_rng(3)
    matrix = np.where(draw.random((30, 70)) < 0.25, draw.standard_normal((30, 70)), 0)
    measured = graph(matrix)

    def eigenvalues(biadjacency: np.ndarray) -> np.ndarray:
        adjacency = np.block([[np.zeros((70, 70)), biadjacency.T], [biadjacency, np.zeros((30, 30))]])
        return np.sort(np.abs(np.linalg.eigvalsh(adjacency)))[::-1]

    edges = (matrix != 0).astype(float)
    bound = sqrt(edges.sum(axis=0).mean() - 1) + sqrt(edges.sum(axis=1).mean() - 1)
    assert measured.ramanujan_gap == pytest.approx(bound - eigenvalues(edges)[2], rel=1e-11)
    weighted = eigenvalues(np.abs(matrix))
    assert measured.weighted_gap == pytest.approx(weighted[0] - weighted[2], rel=1e-11)
