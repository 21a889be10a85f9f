"""Gemm and MatMul with a constant matrix on the right → a layer."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sift_cli.export.pruned._layer import Layer, StaysDense, float32
from sift_cli.export.pruned.constants import constant


def layer(node: ir.Node, opset: int) -> Layer:
    """The layer that ``node`` is.

    Raises:
        StaysDense: Sift has no operator for it.
    """
    found = constant(node.inputs[1], opset)
    if found is None and constant(node.inputs[0], opset) is not None:
        raise StaysDense("has its weight on the left")
    matrix = float32(found.array if found else None)
    assert found is not None
    if matrix.ndim != 2:
        raise StaysDense(f"has a weight of {matrix.ndim} axes")
    if node.op_type == "MatMul":
        weight, kept = (np.ascontiguousarray(array.T) for array in (matrix, found.kept))
        return Layer("Linear", node, found.root, weight, kept, None)
    attributes = node.attributes
    alpha, beta = attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)
    if attributes.get_int("transA", 0):
        raise StaysDense("transposes its input")
    if not alpha:
        raise StaysDense("multiplies its weight by 0")
    weight, kept = matrix, found.kept
    if not attributes.get_int("transB", 0):
        weight, kept = (np.ascontiguousarray(array.T) for array in (weight, kept))
    bias, added = None, node.inputs[2] if len(node.inputs) > 2 else None
    if added is not None:
        given = constant(added, opset)
        if given is not None and given.array.dtype == np.float32 and _is_one_row(given.array, len(weight)):
            bias = np.broadcast_to(np.float32(beta) * given.array.reshape(-1), len(weight)).copy()
            added = None
        elif beta != 1:
            raise StaysDense("scales a sum that is no bias")
    return Layer("Linear", node, found.root, weight * np.float32(alpha), kept, bias, added=added)


def _is_one_row(array: np.ndarray, columns: int) -> bool:
    return array.ndim <= 2 and array.size in (1, columns) and array.shape[-1:] in ((), (array.size,))
