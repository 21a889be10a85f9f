"""A layer as a bipartite graph, and how far that is from a Ramanujan graph.

The inputs of a layer are the left nodes, its outputs the right nodes, its kept weights the edges. ``docs/analysis.md``
has the formulas with their sources.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sift_cli.analysis.spectrum import two_largest

#: Below this mean degree on either side a graph has no Ramanujan bound. Of degree 2 it is a union of cycles, of degree
#: 1 of edges, and there are no expanders among those.
LEAST_DEGREE = 3


@dataclass(frozen=True)
class Graph:
    """What is measured on one graph; nodes without an edge are no part of it.

    Attributes:
        left, right: Nodes with an edge.
        edges: Kept weights.
        singular: σ₁ and σ₂ of the biadjacency matrix of zeros and ones; None where a side has fewer than two nodes.
        weighted: σ₁ and σ₂ of the same matrix with the weights' absolute values in it.
    """

    left: int
    right: int
    edges: int
    singular: tuple[float, float] | None
    weighted: tuple[float, float] | None

    @property
    def left_degree(self) -> float:
        """Mean number of edges at a left node, 0 without edges."""
        return self.edges / self.left if self.left else 0.0

    @property
    def right_degree(self) -> float:
        """Mean number of edges at a right node, 0 without edges."""
        return self.edges / self.right if self.right else 0.0

    @property
    def bound(self) -> float | None:
        """√(d_left − 1) + √(d_right − 1), which σ₂ does not exceed in a biregular Ramanujan graph; None where a mean
        degree is below :data:`LEAST_DEGREE`."""
        if min(self.left_degree, self.right_degree) < LEAST_DEGREE:
            return None
        return math.sqrt(self.left_degree - 1) + math.sqrt(self.right_degree - 1)

    @property
    def ramanujan_gap(self) -> float | None:
        """Δr, the bound minus σ₂; None without a bound."""
        bound = self.bound
        return None if bound is None or self.singular is None else bound - self.singular[1]

    @property
    def relative_gap(self) -> float | None:
        """Δr as a share of the bound."""
        bound, gap = self.bound, self.ramanujan_gap
        return None if bound is None or gap is None else gap / bound

    @property
    def weighted_gap(self) -> float | None:
        """λ, σ₁ − σ₂ of the absolute weights, in the unit of the weights; None where there is no σ₂."""
        return None if self.weighted is None else self.weighted[0] - self.weighted[1]


def graph_of(kept: np.ndarray, weights: np.ndarray) -> Graph:
    """Measure a layer.

    Args:
        kept: Mask as bools, (outputs, inputs); of a convolution (C_out, C_in·k_h·k_w).
        weights: As many weights in float64, finite where they are kept; others do not count.
    """
    outputs, inputs = kept.any(axis=1), kept.any(axis=0)
    right, left = int(outputs.sum()), int(inputs.sum())
    singular = weighted = None
    if min(left, right) > 1:
        place = np.ix_(outputs, inputs)
        kept = kept[place]
        singular = two_largest(kept.astype(np.float64))
        weighted = two_largest(np.where(kept, np.abs(weights[place]), 0.0))
    return Graph(left, right, int(np.count_nonzero(kept)), singular, weighted)


def subgraphs_of(kept: np.ndarray, weights: np.ndarray) -> Iterator[Graph]:
    """The subgraphs K_d that the iterative means are taken over, by rising d.

    K_d has the left nodes of degree exactly d, and all their neighbours. One without a Ramanujan bound is left out; one
    with it has at least three nodes on both sides.

    Args:
        kept, weights: See :func:`graph_of`.
    """
    degrees = np.count_nonzero(kept, axis=0)
    for degree in np.unique(degrees):
        some = degrees == degree
        part = graph_of(kept[:, some], weights[:, some])
        if part.bound is not None:
            yield part
