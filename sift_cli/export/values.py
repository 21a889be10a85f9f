"""New values in a graph: names that nothing has yet, and constants."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir


def names_in(graph: ir.Graph) -> set[str | None]:
    """The names of all values of ``graph``, and of what the nodes of its subgraphs compute."""
    inner = {value.name for node in graph.all_nodes() for value in node.outputs}
    return {value.name for value in graph.inputs} | graph.initializers.keys() | inner


def unused(name: str, taken: Collection[str | None], more: str = "+") -> str:
    """``name``, with as much ``more`` behind it as it takes not to be ``taken``."""
    while name in taken:
        name += more
    return name


def add_initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """``array`` as an initializer of this unused name."""
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value
