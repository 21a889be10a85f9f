"""Gemm or MatMul with a masked weight, as it is or transposed → sift.SparseLinear.

Seen before the optimizer, which would fold the transpose into a weight without a name.
"""

from __future__ import annotations

import onnx_ir as ir

from sift_cli.core.masks import Mask
from sift_cli.core.operators import DOMAIN
from sift_cli.export.lowering._sparse import sparse_inputs

AFTER_OPTIMIZER = False


def weight_of(node: ir.Node) -> ir.Value | None:
    """The initializer with the node's weight, or None where the node is not this pattern."""
    if node.domain or node.op_type not in ("Gemm", "MatMul"):
        return None
    weight = node.inputs[1]
    if node.op_type == "Gemm":
        scale = (node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0))
        return weight if node.attributes.get_int("transA", 0) == 0 and scale == (1.0, 1.0) else None
    transpose = weight.producer() if weight is not None else None
    if transpose is not None:
        weight = transpose.inputs[0] if transpose.op_type == "Transpose" else None
    return weight if weight is not None and weight.shape is not None and len(weight.shape) == 2 else None


def lower(graph: ir.Graph, node: ir.Node, weight: ir.Value, mask: Mask) -> ir.Node:
    """The operator that takes the place of ``node``."""
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    # The operator's weight is (outputs, inputs); transformers' Conv1D has (inputs, outputs).
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    outputs_first = transposed or weight is not node.inputs[1]
    inputs = [node.inputs[0], *sparse_inputs(graph, weight, bias, mask, transpose=not outputs_first)]
    shape = mask.shape if outputs_first else mask.shape[::-1]
    return ir.node("SparseLinear", inputs, {"weight_shape": shape}, domain=DOMAIN, name=node.name)
