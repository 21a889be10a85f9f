"""Which layers are better off as sparse operators."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Candidate:
    """A layer that could be sparse, before it runs.

    Attributes:
        op: What it is.
        shape: Shape of its weight: ``(M, C / group, kH, kW)`` or ``(N, K)``.
        kept: How many elements of the weight are kept.
        group: Groups of a convolution.
        strides: Of a convolution.
        positions: Pixels of a convolution's outputs, or rows of a matrix layer's input, in a run of the model; None
            where nobody knows.
    """

    op: Literal["Conv", "Linear"]
    shape: tuple[int, ...]
    kept: int
    group: int = 1
    strides: tuple[int, ...] = (1, 1)
    positions: int | None = None

    @property
    def sparsity(self) -> float:
        """Share of weights that are not kept."""
        return 1 - self.kept / math.prod(self.shape)


#: No share of zeros is enough; and half, as exactly as masks of small tensors can be half.
_NEVER, _HALF = math.inf, 0.49


def worth(layer: Candidate, least: float | None = None) -> bool:
    """Whether a layer is better off as a sparse operator.

    Args:
        layer: The layer.
        least: Share of zeros that the user asks for, which then decides alone.
    """
    if least is None:
        least = _of_matrix(layer) if layer.op == "Linear" else _of_convolution(layer)
    return layer.sparsity >= least


# The share of zeros from which on a layer is faster sparse, as `benchmarks/runtime/layers.py --thresholds` finds it: by
# how often a weight is used once it was read, and by how much there is to do beside a call. Measured with AVX-512.


def _of_matrix(layer: Candidate) -> float:
    weights, rows = math.prod(layer.shape), layer.positions or math.inf
    if weights < 2**14 or layer.shape[0] < 32:
        return _NEVER
    if weights < 2**17:
        return _NEVER if rows <= 8 else 0.75 if weights < 2**15 else 0.6
    if weights < 2**19:
        return 0.8 if rows <= 8 else 0.6
    return 0.65 if 4 < rows < 16 else _HALF  # one row, or a few, wait for memory; many share what they load


def _of_convolution(layer: Candidate) -> float:
    weights, pixels = math.prod(layer.shape), layer.positions or math.inf
    pointwise = layer.shape[2:] == (1, 1)
    if pointwise and layer.group == 1 and max(layer.strides) == 1:  # pixels stay where they are
        return _NEVER if pixels < 16 else 0.65 if pixels < 64 else _HALF
    if weights // layer.shape[0] < 32 or (layer.group > 1 and layer.shape[1] < 32):
        return _NEVER  # to rearrange the inputs takes longer than to multiply them
    if pixels < 64:
        return _NEVER if pixels < 16 else 0.75 if weights < 2**17 else 0.65 if pixels < 32 else _HALF
    if pointwise:
        return 0.8 if weights < 2**14 else _HALF
    return _HALF if layer.group == 1 else 0.6
