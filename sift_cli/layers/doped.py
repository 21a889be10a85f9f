"""Sparse Doped: ψ(x) = V (U x) + σ(θ x), a dense low-rank product beside a sparse one of the dense layer's shape."""

from __future__ import annotations

from torch import Tensor, nn

from sift_cli.errors import PlanError
from sift_cli.layers import _dense
from sift_cli.layers._base import Replacement, matrix_of
from sift_cli.layers._sigma import IDENTITY, sigma


class Layer(Replacement):
    """V has the bias of the dense layer; θ has one where an activation follows it at once."""

    def __init__(self, u: nn.Module, v: nn.Module, theta: nn.Module, sigma: nn.Module) -> None:
        super().__init__()
        self.u, self.v, self.theta, self.sigma = u, v, theta, sigma

    @classmethod
    def from_dense(cls, original: nn.Module, *, rank: int, norm: int, activation: str) -> Layer:  # type: ignore[override]
        if rank < 1:
            raise PlanError("a doped layer cannot have rank 0")
        outputs = _dense.sizes_of(original)[1]
        biased = _dense.bias_of(original) is not None
        return cls(
            _dense.like(original, rank, bias=False),
            _dense.pointwise(original, rank, bias=biased),
            _dense.like(original, outputs, bias=biased and not norm and activation != IDENTITY),
            sigma(original, outputs, norm, activation),
        )

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.v(self.u(input)) + self.sigma(self.theta(input))
        return output

    def matrix(self) -> Tensor:
        return matrix_of(self.v) @ matrix_of(self.u) + matrix_of(self.theta)
