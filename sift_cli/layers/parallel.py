"""Sparse Parallel: ψ(x) = Σ_j σ(θ_j x), k branches of the shape of the dense layer."""

from __future__ import annotations

import functools
import operator

from torch import Tensor, nn

from sift_cli.errors import PlanError
from sift_cli.layers import _dense
from sift_cli.layers._base import Replacement, matrix_of
from sift_cli.layers._sigma import IDENTITY, sigma

#: 1/(1−s) at a sparsity of 99.9 %; a file could ask for any number.
MAX_BRANCHES = 1000


class Layer(Replacement):
    """Where the dense layer has a bias, each branch with an activation of its own has one; without an activation one is
    as good as many, and a BatchNorm has its own."""

    def __init__(self, branches: list[nn.Module], sigmas: list[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.sigmas = nn.ModuleList(sigmas)

    @classmethod
    def from_dense(cls, original: nn.Module, *, branches: int, norm: int, activation: str) -> Layer:  # type: ignore[override]
        if not 1 <= branches <= MAX_BRANCHES:
            raise PlanError(f"a parallel layer cannot have {branches} branches", hint=f"at most {MAX_BRANCHES}")
        outputs = _dense.sizes_of(original)[1]
        biased = _dense.bias_of(original) is not None and not norm
        each_biased = biased and activation != IDENTITY
        return cls(
            [_dense.like(original, outputs, bias=each_biased or (biased and j == 0)) for j in range(branches)],
            [sigma(original, outputs, norm, activation) for _ in range(branches)],
        )

    def forward(self, input: Tensor) -> Tensor:
        outputs = [sigma(branch(input)) for branch, sigma in zip(self.branches, self.sigmas, strict=True)]
        return functools.reduce(operator.add, outputs)

    def matrix(self) -> Tensor:
        return functools.reduce(operator.add, map(matrix_of, self.branches))
