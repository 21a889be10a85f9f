"""Gemm, or MatMul behind a Transpose, with a masked weight → sift.SparseLinear.

Seen before the optimizer, which would fold the transpose into a weight without a name.
"""

from __future__ import annotations

import onnx_ir as ir

from sift_cli.core.masks import Mask
from sift_cli.export.lowering._sparse import DOMAIN, sparse_inputs

AFTER_OPTIMIZER = False


def weight_of(node: ir.Node) -> ir.Value | None:
    """The initializer with the node's weight of shape (outputs, inputs), or None where the node is not this pattern."""
    if node.domain:
        return None
    weight = node.inputs[1] if node.op_type in ("Gemm", "MatMul") else None
    if node.op_type == "Gemm":
        plain = (node.attributes.get_int("transA", 0), node.attributes.get_int("transB", 0)) == (0, 1)
        scale = (node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0))
        return weight if plain and scale == (1.0, 1.0) else None
    transpose = weight.producer() if weight is not None else None
    if transpose is None or transpose.op_type != "Transpose":
        return None
    source = transpose.inputs[0]
    return source if source is not None and source.shape is not None and len(source.shape) == 2 else None


def lower(graph: ir.Graph, node: ir.Node, weight: ir.Value, mask: Mask) -> ir.Node:
    """The operator that takes the place of ``node``."""
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    inputs = [node.inputs[0], *sparse_inputs(graph, weight, bias, mask)]
    return ir.node("SparseLinear", inputs, {"weight_shape": mask.shape}, domain=DOMAIN, name=node.name)
