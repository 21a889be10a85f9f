"""Conv with a masked 2-D kernel → sift.SparseConv. Seen after BatchNorm is folded, which scales rows and moves no
zero."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from sift_cli.core.masks import Mask
from sift_cli.core.operators import DOMAIN
from sift_cli.export.lowering._sparse import sparse_inputs

AFTER_OPTIMIZER = True


def weight_of(node: ir.Node) -> ir.Value | None:
    """The initializer with the node's weight, or None where the node is not this pattern."""
    if node.op_type != "Conv" or node.domain or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    weight = node.inputs[1]
    assert weight is not None
    return weight if weight.const_value is not None and len(weight.const_value.shape) == 4 else None


def lower(graph: ir.Graph, node: ir.Node, weight: ir.Value, mask: Mask) -> ir.Node:
    """The operator that takes the place of ``node``."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    attributes: dict[str, int | Sequence[int]] = {
        "weight_shape": mask.shape,
        "strides": node.attributes.get_ints("strides", (1, 1)),
        "pads": node.attributes.get_ints("pads", (0, 0, 0, 0)),
        "dilations": node.attributes.get_ints("dilations", (1, 1)),
        "group": node.attributes.get_int("group", 1),
    }
    inputs = [node.inputs[0], *sparse_inputs(graph, weight, bias, mask)]
    return ir.node("SparseConv", inputs, attributes, domain=DOMAIN, name=node.name)
