"""A layer of the source in the one form that sift's operators have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir


class StaysDense(Exception):
    """Why a Conv, Gemm or MatMul cannot become sparse, in words that follow its name."""


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer with a constant weight.

    Attributes:
        op: What it is.
        node: Its node in the source.
        root: What its weight comes from: an initializer, or the output of a Constant node.
        weight: float32 ``(M, C / group, kH, kW)`` or ``(N, K)``.
        kept: bool, of the same shape: what the source keeps of its weight.
        bias: float32 ``(M,)``, or None.
        attributes: Of SparseConv, but for ``weight_shape``.
        axes: Axes to insert into the input, and to take out of the output again.
        added: A value to add to the output that is no bias, or None.
    """

    op: Literal["Conv", "Linear"]
    node: ir.Node
    root: ir.Value
    weight: np.ndarray = field(repr=False)
    kept: np.ndarray = field(repr=False)
    bias: np.ndarray | None = field(repr=False)
    attributes: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    axes: tuple[int, ...] = ()
    added: ir.Value | None = None

    @property
    def sparsity(self) -> float:
        """Share of weights that are not kept."""
        return 1 - np.count_nonzero(self.kept) / self.kept.size


def float32(array: np.ndarray | None) -> np.ndarray:
    """``array``, if sift's operators can hold it.

    Raises:
        StaysDense: It varies, is not float32, or has no elements.
    """
    if array is None:
        raise StaysDense("does not have a constant weight")
    if array.dtype != np.float32:
        raise StaysDense(f"has a weight of type {array.dtype}, and sift's operators are float32")
    if not array.size:
        raise StaysDense("has a weight without elements")
    return array
