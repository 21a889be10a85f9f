"""The rows of a linear layer as they were before an exporter made a matrix of them.

It flattens a batch of sequences, multiplies, and takes the matrix apart again, so that a layer and what its result is
added to have different shapes.
"""

from __future__ import annotations

import onnx_ir as ir

from sift_cli.export.sparse_node import SparseNode, X, same, shape_of


def arranged_before(sparse: SparseNode) -> SparseNode | None:
    """The layer without the Reshape or Transpose of whole rows behind it: one that undoes a Reshape before the layer
    goes with it, another arranges the layer's input in the place of an output as wide."""
    behind = sparse.user
    if behind is None or sparse.operator.layer != "Linear" or sparse.operator.adds:
        return None
    outputs, width = sparse.weight_shape
    arranged = shape_of(behind.outputs[0])
    if not arranged or arranged[-1] != outputs:
        return None
    if behind.op_type == "Reshape":
        flat = sparse.node.inputs[X]
        before = flat.producer() if flat is not None else None
        if before is not None and (before.domain, before.op_type) == ("", "Reshape"):
            original = before.inputs[0]
            if same(shape_of(original), [*arranged[:-1], width]):
                return sparse.becomes(sparse.operator, [behind], {X: original})
    elif behind.op_type != "Transpose" or behind.attributes.get_ints("perm", (0,))[-1] != len(arranged) - 1:
        return None
    return _moved(sparse, behind) if outputs == width else None


def _moved(sparse: SparseNode, behind: ir.Node) -> SparseNode:
    result = behind.outputs[0]
    before = ir.node(behind.op_type, [sparse.node.inputs[X], *behind.inputs[1:]], behind.attributes)
    before.outputs[0].shape, before.outputs[0].type = result.shape, result.type
    return sparse.becomes(sparse.operator, [behind], {X: before.outputs[0]}, new=[before])
