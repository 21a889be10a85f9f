"""Sizes that an ONNX graph computes from the shape of its inputs, worked out once the inputs have sizes.

Shape inference can follow some of them itself, but takes any small constant for sizes, and then finds XLNet's table
of 256 positions times 1,024 frequencies to be of the wrong rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

_OPERATORS = """
    Add Cast Concat Constant Div Gather Identity Max Min Mod Mul Neg Range Reshape Slice Squeeze Sub Unsqueeze
"""
_ARITHMETIC = frozenset(_OPERATORS.split())
#: Numbers of a result, and the product of those of its operands, since two long rows make a large table; sizes are
#: few, positions are as many as tokens.
_MOST = 2**16


def folded(
    nodes: Iterable[onnx.NodeProto],
    shapes: Mapping[str, tuple[int, ...]],
    initializers: Iterable[onnx.TensorProto],
    opset: int,
) -> Iterator[onnx.NodeProto]:
    """``nodes`` with a constant in the place of each that computes one from ``shapes`` of inputs and from constants."""
    known: dict[str, Any] = {tensor.name: numpy_helper.to_array(tensor) for tensor in initializers}
    for node in nodes:
        value = _value(node, shapes, known, opset)
        if value is None:
            yield node
        else:
            known[node.output[0]] = value
            yield helper.make_node("Constant", [], node.output, value=numpy_helper.from_array(value))


def _value(
    node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, Any], opset: int
) -> np.ndarray | None:
    if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return None
    if node.op_type == "Shape" and node.input[0] in shapes:
        limits = {item.name: item.i for item in node.attribute}
        return np.array(shapes[node.input[0]][limits.get("start", 0) : limits.get("end")], np.int64)
    if node.op_type == "Size" and node.input[0] in shapes:
        return np.array(math.prod(shapes[node.input[0]]), np.int64)
    if node.op_type not in _ARITHMETIC or not all(name in known or not name for name in node.input):
        return None
    if math.prod(max(1, known[name].size) for name in node.input if name) > _MOST:
        return None
    if node.op_type == "Range":
        start, limit, step = (int(known[name]) for name in node.input)
        if not step or abs(limit - start) > _MOST * abs(step):
            return None
    model = helper.make_model(
        helper.make_graph(
            [node],
            "one",
            [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(known[name].dtype), None)
             for name in dict.fromkeys(filter(None, node.input))],
            [onnx.ValueInfoProto(name=node.output[0])],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
    )  # fmt: skip
    try:
        (value,) = ReferenceEvaluator(model).run(None, {name: known[name] for name in node.input if name})
    except Exception:  # the reference raises whatever numpy does; the node stays then
        return None
    return value if isinstance(value, np.ndarray) and value.size <= _MOST and value.dtype.kind in "ib" else None
