"""What all drop-in layers have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Replacement(nn.Module, ABC):
    """A layer in the place of a dense one.

    Its ``weight`` is None: code that only asks whether there is one goes on, and code that would compute with the dense
    weight behind the layer's back (``nn.MultiheadAttention``) fails and does not take a part for the whole.
    """

    weight: None = None

    @classmethod
    @abstractmethod
    def from_dense(cls, original: nn.Module, **arguments: int | str) -> Replacement:
        """A layer with the shapes and the geometry of ``original``, on the meta device."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """(D_out, D_in): the matrix that the layer multiplies with where it has no σ."""


def matrix_of(part: nn.Module) -> Tensor:
    """(outputs, everything else) of one product's weight, detached."""
    return part.get_parameter("weight").detach().flatten(1)


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """U (rank, D_in) and V (D_out, rank) with V·U the best approximation to ``matrix`` (D_out, D_in) of this rank.

    Each gets the square root of the singular values, so that neither is the larger. Beyond the rank of the matrix the
    rows of U and columns of V are 0.
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root, kept = values[:rank].sqrt(), min(rank, len(values))
    u, v = matrix.new_zeros(rank, matrix.shape[1]), matrix.new_zeros(matrix.shape[0], rank)
    u[:kept] = root[:, None] * right[:kept]
    v[:, :kept] = left[:, :kept] * root
    return u, v
