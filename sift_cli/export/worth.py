"""What layers cost as sparse operators, and dense."""

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

    @property
    def pixels(self) -> int:
        """Positions of a convolution; where nobody knows, many."""
        return 56 * 56 if self.positions is None else self.positions

    @property
    def read(self) -> int:
        """Elements of a convolution's input."""
        return self.shape[1] * self.group * self.pixels * math.prod(self.strides)

    @property
    def written(self) -> int:
        """Elements of a convolution's output."""
        return self.shape[0] * self.pixels


#: No share of zeros is enough; and half, as exactly as masks of small tensors can be half.
_NEVER, _HALF = math.inf, 0.49


def worth(layer: Candidate) -> bool:
    """Whether a matrix layer is better off as a sparse operator.

    By the share of zeros from which on it is faster sparse, as `benchmarks/runtime/layers.py --thresholds` finds it: by
    how often a weight is used once it was read, and by how much there is to do beside a call. Measured with AVX-512.
    """
    return layer.sparsity >= _least(layer)


def _least(layer: Candidate) -> float:
    weights, rows = math.prod(layer.shape), layer.positions or math.inf
    if weights < 2**14 or layer.shape[0] < 32:
        return _NEVER
    if weights < 2**17:
        return _NEVER if rows <= 8 else 0.75 if weights < 2**15 else 0.6
    if weights < 2**19:
        return 0.8 if rows <= 8 else 0.6
    return 0.65 if 4 < rows < 16 else _HALF  # one row, or a few, wait for memory; many share what they load


# Nanoseconds with AVX-512, one thread, fitted to 480 convolutions within ten models (ResNet, MobileNet, RegNet,
# DenseNet, GoogLeNet at batch 1, all their layers sparse and then dense), of which four of five are within a third
# (dense ones a sixth), and to the 204 by themselves of `benchmarks/runtime/layers.py --thresholds`, of which all but 11
# are decided as they were measured. Only ratios matter.

_LANES = 16
#: Elements from which on they come from beyond the L2 cache.
_BEYOND = 2**19
#: Dense convolutions have a form of tensors among themselves; to bring an element into it, or from it. They read an
#: image of so few channels as it is.
REORDERING, FEW = 0.25, 16


def dense_cost(layer: Candidate) -> float:
    """Of a convolution in onnxruntime, between others of its kind, in nanoseconds."""
    weights = math.prod(layer.shape)
    multiplied = 0 if layer.shape[1] == 1 else 0.0114 * weights * layer.pixels  # depthwise ones wait for memory
    return multiplied + 0.18 * layer.written + 0.23 * max(layer.read + layer.written + weights - _BEYOND, 0)


def sparse_cost(layer: Candidate) -> float:
    """Of a convolution in sift, between others of its kind, in nanoseconds."""
    if layer.pixels < _LANES:  # a kernel's taps beyond the image's edge are multiplied too
        return math.inf
    vectors = math.ceil(layer.pixels / _LANES)
    shared = 1 - 0.55 * (1 - layer.sparsity)  # the more weights are kept, the more of them share what they load
    multiplied = 0.37 * shared * vectors * layer.kept
    beyond = max(layer.read + layer.written - _BEYOND, 0)
    return 3000 + multiplied + 0.26 * layer.kept + 6.4 * vectors * layer.shape[0] + 0.38 * beyond


def arranging_costs(layer: Candidate) -> tuple[float, float]:
    """Of a sparse convolution's input, and of its output, that are not between others of its kind, in nanoseconds."""
    if layer.shape[1:] == (layer.shape[1], 1, 1) and layer.group == 1 and max(layer.strides) == 1:
        return 0, 0  # pixels stay where they are
    columns = 7 if layer.pixels >= 28**2 else 2 if layer.pixels >= 14**2 else 1  # of a row, in one lane
    return 0.38 * max(layer.strides) * layer.read / columns, 1.5 * layer.written / columns


def reordering_cost(layer: Candidate) -> float:
    """Of a dense convolution's input and output that are not between others of its kind, in nanoseconds."""
    return REORDERING * (layer.written + (layer.read if layer.shape[1] * layer.group >= FEW else 0))
