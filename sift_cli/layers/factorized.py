"""Sparse Factorized: ψ(x) = V σ(U x); U has the geometry of the dense layer and ``rank`` outputs, V works on each
position alone."""

from __future__ import annotations

from torch import Tensor, nn

from sift_cli.errors import PlanError
from sift_cli.layers import _dense
from sift_cli.layers._base import Replacement, matrix_of
from sift_cli.layers._sigma import IDENTITY, sigma


class Layer(Replacement):
    """V has the bias of the dense layer; U has one where an activation follows it at once."""

    def __init__(self, u: nn.Module, v: nn.Module, sigma: nn.Module) -> None:
        super().__init__()
        self.u, self.sigma, self.v = u, sigma, v

    @classmethod
    def from_dense(cls, original: nn.Module, *, rank: int, norm: int, activation: str) -> Layer:  # type: ignore[override]
        if rank < 1:
            raise PlanError("a factorized layer cannot have rank 0")
        biased = _dense.bias_of(original) is not None
        return cls(
            _dense.like(original, rank, bias=biased and not norm and activation != IDENTITY),
            _dense.pointwise(original, rank, bias=biased),
            sigma(original, rank, norm, activation),
        )

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.v(self.sigma(self.u(input)))
        return output

    def matrix(self) -> Tensor:
        return matrix_of(self.v) @ matrix_of(self.u)
