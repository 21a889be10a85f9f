"""Which layers become sparse."""

from __future__ import annotations

import math
from typing import Literal

#: Share of exact zeros from which on a layer is faster as a sparse operator than dense in onnxruntime; measured with
#: ``benchmarks/runtime/layers.py``. A 1×1 convolution has fewer multiplications to save for each input it rearranges.
MIN_SPARSITY, MIN_SPARSITY_1X1 = 0.5, 0.6
#: A weight with fewer elements costs nothing either way, and an operator of its own costs a call.
MIN_ELEMENTS = 1024
#: Of a grouped convolution: with fewer channels a group, as in a depthwise one, there is next to nothing to leave out.
MIN_GROUP_CHANNELS = 16


def worth(
    op: Literal["Conv", "Linear"], shape: tuple[int, ...], kept: int, *, group: int = 1, least: float | None = None
) -> bool:
    """Whether a layer is better off as a sparse operator.

    Args:
        op: What it is.
        shape: Shape of its weight: ``(M, C / group, kH, kW)`` or ``(N, K)``.
        kept: How many elements of the weight are not 0.
        group: Groups of a convolution.
        least: Share of zeros that the user asks for, which then decides alone.
    """
    elements = math.prod(shape)
    sparsity = 1 - kept / elements
    if least is not None:
        return sparsity >= least
    if elements < MIN_ELEMENTS or (group > 1 and shape[1] < MIN_GROUP_CHANNELS):
        return False
    return sparsity >= (MIN_SPARSITY_1X1 if op == "Conv" and shape[2:] == (1, 1) else MIN_SPARSITY)
