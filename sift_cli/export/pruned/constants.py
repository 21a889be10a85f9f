"""Constant operands: the initializer behind a value, and what the operators between the two make of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

#: Operators that arrange the elements of their first input anew. Anything else in between (a DequantizeLinear above
#: all) makes of a constant what onnxruntime has to see.
ARRANGING = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})

#: Where the ``meta`` of an initializer has the :class:`~sift_cli.core.masks.Mask` that the source stores.
MASK = "sift.mask"


class Constant(NamedTuple):
    """An operand that never changes.

    Attributes:
        root: The initializer it comes from, or a Constant node's output.
        array: Its value as the operator sees it.
        mask: What of it is kept, bool, where the source stores that.
    """

    root: ir.Value
    array: np.ndarray
    mask: np.ndarray | None = None

    @property
    def kept(self) -> np.ndarray:
        """bool, of the shape of the array: what the mask keeps, or else what is not 0."""
        return self.array != 0 if self.mask is None else self.mask


def constant(value: ir.Value | None, opset: int) -> Constant | None:
    """The constant behind ``value``, or None where it may vary, or is computed and not only arranged.

    An initializer that is also an input of the graph is a default that a caller may replace, and no constant.
    """
    if value is None or value.is_graph_input():
        return None
    if value.is_initializer() and value.const_value is not None:
        mask = value.meta.get(MASK)
        return Constant(value, value.const_value.numpy(), None if mask is None else mask.to_bool())
    node = value.producer()
    if node is None or node.domain or len(node.outputs) != 1:
        return None
    if node.op_type == "Constant":
        return Constant(value, _evaluated(node, [], opset))
    if node.op_type not in ARRANGING:
        return None
    operands = [constant(operand, opset) for operand in node.inputs]
    root, *others = operands
    if root is None or None in others:
        return None
    how = [one.array for one in others if one is not None]
    mask = None if root.mask is None else _evaluated(node, [root.mask, *how], opset).astype(np.bool_)
    return Constant(root.root, _evaluated(node, [root.array, *how], opset), mask)


def _evaluated(node: ir.Node, operands: list[np.ndarray], opset: int) -> np.ndarray:
    proto = ir.to_proto(node)
    names = [f"{number}" for number in range(len(operands))]
    proto.input[:] = names
    inputs, outputs = ([onnx.ValueInfoProto(name=name) for name in some] for some in (names, proto.output))
    graph = onnx.helper.make_graph([proto], "one", inputs, outputs)
    (result,) = ReferenceEvaluator(graph, {"": opset}).run(None, dict(zip(names, operands, strict=True)))
    return np.asarray(result)
