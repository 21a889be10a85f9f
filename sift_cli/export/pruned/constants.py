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


class Constant(NamedTuple):
    """An operand that never changes.

    Attributes:
        root: The initializer it comes from, or a Constant node's output.
        array: Its value as the operator sees it.
    """

    root: ir.Value
    array: np.ndarray


def constant(value: ir.Value | None, opset: int) -> Constant | None:
    """The constant behind ``value``, or None where it may vary, or is computed and not only arranged.

    An initializer that is also an input of the graph is a default that a caller may replace, and no constant.
    """
    if value is None or value.is_graph_input():
        return None
    if value.is_initializer() and value.const_value is not None:
        return Constant(value, value.const_value.numpy())
    node = value.producer()
    if node is None or node.domain or len(node.outputs) != 1:
        return None
    if node.op_type == "Constant":
        return Constant(value, _evaluated(node, [], opset))
    if node.op_type not in ARRANGING:
        return None
    operands = [constant(operand, opset) for operand in node.inputs]
    if operands[0] is None or None in operands:
        return None
    return Constant(operands[0].root, _evaluated(node, [one.array for one in operands if one is not None], opset))


def _evaluated(node: ir.Node, operands: list[np.ndarray], opset: int) -> np.ndarray:
    proto = ir.to_proto(node)
    names = [f"{number}" for number in range(len(operands))]
    proto.input[:] = names
    inputs, outputs = ([onnx.ValueInfoProto(name=name) for name in some] for some in (names, proto.output))
    graph = onnx.helper.make_graph([proto], "one", inputs, outputs)
    (result,) = ReferenceEvaluator(graph, {"": opset}).run(None, dict(zip(names, operands, strict=True)))
    return np.asarray(result)
