"""Elementwise operators that fvcore passes over in silence: they are listed, except where they compute a size.

A trace records the arithmetic on sizes (``height // patch``) as operators on tensors without axes.
"""

from __future__ import annotations

from sift_cli.flops.handles._values import LISTED, Handle, Product, Values, rank_and_sizes

_NAMES = """
    __and__ __or__ abs add add_ bitwise_not ceil clamp clamp_ div div_ eq exp floor floor_divide ge gt le log
    logical_and logical_not lt masked_fill masked_fill_ max maximum min minimum mul mul_ ne neg nonzero pow
    reciprocal relu relu_ remainder round rsub sqrt sub sub_ true_divide
"""


def _elementwise(inputs: Values, outputs: Values) -> list[Product] | None:
    return [] if rank_and_sizes(outputs[0]) == () else LISTED


HANDLES: dict[str, Handle] = {f"aten::{name}": _elementwise for name in _NAMES.split()}
