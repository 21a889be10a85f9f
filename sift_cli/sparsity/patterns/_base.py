"""What a pattern has to offer, and the matrix that patterns are defined on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from sift_cli.core.masks import Mask
from sift_cli.sparsity.draw import random_keys


@dataclass(frozen=True)
class Gemm:
    """A weight as the matrix (outputs, K) of the product it takes part in.

    K is the contraction axis. For a convolution it is (kernel…, inputs), inputs innermost: the order in which kernels
    for NHWC activations walk it, so that a group of neighbours along K lies along input channels and not across the
    taps of the filter. Where the number of inputs is not a multiple of the group, a group goes over into the next tap.

    Attributes:
        shape: Shape of the weight: (outputs, inputs, kernel…), or with the outputs elsewhere.
        output_axis: Which axis counts outputs: 0, or 1 for transformers' Conv1D and transposed convolutions.
    """

    shape: tuple[int, ...]
    output_axis: int = 0

    @property
    def rows(self) -> int:
        return self.shape[self.output_axis]

    @property
    def columns(self) -> int:
        return math.prod(self._others)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def matrix(self, tensor: np.ndarray) -> np.ndarray:
        """``tensor`` as (rows, columns); a view where strides allow it."""
        return self._inputs_last(tensor).reshape(self.rows, self.columns)

    def tensor(self, matrix: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`matrix`."""
        inputs, kernel = self._others[:1], self._others[1:]
        permuted = matrix.reshape(self.rows, *kernel, *inputs)
        outputs_first = np.moveaxis(permuted, -1, 1) if inputs else permuted
        return np.ascontiguousarray(np.moveaxis(outputs_first, 0, self.output_axis))

    @property
    def outputs_first(self) -> tuple[int, ...]:
        """(outputs, inputs, kernel…)."""
        return (self.rows, *self._others)

    @property
    def _others(self) -> tuple[int, ...]:
        return self.shape[: self.output_axis] + self.shape[self.output_axis + 1 :]

    def _inputs_last(self, tensor: np.ndarray) -> np.ndarray:
        outputs_first = np.moveaxis(tensor, self.output_axis, 0)
        return np.moveaxis(outputs_first, 1, -1) if tensor.ndim > 1 else outputs_first


class Pattern(ABC):
    """Where in a weight's matrix kept weights may lie.

    Attributes:
        name: The pattern as it is written on the command line: "2:4".
        density: Share of the weights it keeps, or None where any share can be asked for.
        step: Weights from one number that a mask can keep to the next.
    """

    name: str
    density: Fraction | None = None
    step: int = 1

    @abstractmethod
    def feasible(self, gemm: Gemm) -> range:
        """Every number of weights that a mask of this pattern can keep; empty where the matrix is too small for it."""

    @abstractmethod
    def violations(self, gemm: Gemm, kept: np.ndarray) -> int:
        """Number of groups, tiles or blocks in which the bool tensor ``kept`` breaks the pattern."""

    @abstractmethod
    def _choose(self, gemm: Gemm, costs: np.ndarray, nonzero: int) -> np.ndarray:
        """The bool tensor that keeps ``nonzero`` weights, by lowest cost; equal costs by position."""

    def draw(self, gemm: Gemm, nonzero: int, *, seed: int, name: str) -> Mask:
        """A random mask, a function of ``seed`` and the tensor's ``name``.

        An exact count, because a coin per weight (as in the official code) misses the FLOP budget by chance.

        Raises:
            ValueError: ``nonzero`` is not :meth:`feasible`.
        """
        self._require(gemm, nonzero)
        kept = self._choose(gemm, random_keys(gemm.shape, seed=seed, name=name), nonzero)
        return Mask.from_bool(kept, rule="random", seed=seed)

    def select(self, gemm: Gemm, weights: np.ndarray, nonzero: int) -> Mask:
        """The mask that keeps the most magnitude Σ|w|; a weight that is NaN counts as 0.

        Raises:
            ValueError: ``nonzero`` is not :meth:`feasible`.
        """
        self._require(gemm, nonzero)
        magnitudes = np.abs(weights.astype(np.float64 if weights.dtype.itemsize > 4 else np.float32))
        costs = -np.where(np.isnan(magnitudes), 0, np.minimum(magnitudes, np.finfo(magnitudes.dtype).max))
        return Mask.from_bool(self._choose(gemm, costs, nonzero), rule="topk")

    def _require(self, gemm: Gemm, nonzero: int) -> None:
        feasible = self.feasible(gemm)
        if nonzero not in feasible:
            raise ValueError(f"a {self.name} mask of shape {gemm.shape} cannot keep {nonzero} weights")
