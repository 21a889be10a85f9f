"""Constant weights of an ONNX graph: where they come from, and how many of their elements are not zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sift_cli.core.operators import DENSE_WEIGHT, DOMAIN
from sift_cli.flops.onnx_graph import Graph, attribute, weight_shape

# Operators whose output has the elements of their first input.
_SAME_ELEMENTS = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


@dataclass(frozen=True)
class Weight:
    """A constant operand: the tensor it comes from, its elements, and those that are not zero, or are stored."""

    name: str
    numel: int
    nonzero: int


class Weights:
    """Looks up constant operands; a tensor is read when it is first asked for, and only counted."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._dense = {tensor.name: tensor for tensor in graph.model.graph.initializer}
        self._sparse = {tensor.values.name: tensor for tensor in graph.model.graph.sparse_initializer}
        for node in graph.model.graph.node:
            if node.op_type == "Constant":
                for name, table in (("value", self._dense), ("sparse_value", self._sparse)):
                    if (tensor := attribute(node, name)) is not None:
                        table[node.output[0]] = tensor
        self._made_by = {name: node for node in graph.model.graph.node for name in node.output}
        self._seen: dict[tuple[str, float], Weight] = {}

    def find(self, name: str, zero_point: str = "") -> Weight | None:
        """The weight behind the value ``name``, or None where it is not a constant.

        Args:
            name: An operand of a product.
            zero_point: The value that stands for zero in a quantised weight, if there is one.

        Raises:
            Malformed: Its data cannot be read.
        """
        while (node := self._made_by.get(name)) is not None and node.op_type != "Constant":
            if (node.domain, node.op_type) == (DOMAIN, DENSE_WEIGHT):
                shape, values = weight_shape(node), self._dense.get(node.input[1])
                if values is None:
                    return None
                return Weight(values.name.removesuffix(".values"), math.prod(shape), math.prod(values.dims))
            if node.op_type == "DequantizeLinear":
                zero_point = node.input[2] if len(node.input) > 2 else ""
            elif node.op_type not in _SAME_ELEMENTS:
                return None
            name = node.input[0]
        zero = self._scalar(zero_point)
        if zero is None or (name not in self._dense and name not in self._sparse):
            return None
        if (name, zero) not in self._seen:
            self._seen[name, zero] = self._count(name, zero)
        return self._seen[name, zero]

    def _count(self, name: str, zero: float) -> Weight:
        if (sparse := self._sparse.get(name)) is not None:
            numel, values = math.prod(sparse.dims), self._graph.read(sparse.values)
            # Its zeros are stored, as those of a mask are; but what is not stored is 0, and not any other zero point.
            return Weight(name, numel, numel - int(np.count_nonzero(values == zero)) if zero else values.size)
        values = self._graph.read(self._dense[name])
        return Weight(name, values.size, int(np.count_nonzero(values != zero if zero else values)))

    def _scalar(self, name: str) -> float | None:
        """A zero point that is the same for all elements; 0 without one, None where there are several."""
        if not name:
            return 0.0
        tensor = self._dense.get(name)
        values = np.unique(self._graph.read(tensor)) if tensor is not None else np.empty(0)
        return float(values[0]) if values.size == 1 else None
