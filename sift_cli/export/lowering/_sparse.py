"""A masked weight as the two initializers that sift's operators take."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sift_cli.core.masks import Mask
from sift_cli.export.values import add_initializer
from sift_cli.sparsity.formats import encode


def sparse_inputs(
    graph: ir.Graph, weight: ir.Value, bias: ir.Value | None, mask: Mask, *, transpose: bool = False
) -> list[ir.Value]:
    """``bitmask``, ``values`` and ``bias`` of the initializer ``weight``, registered in the graph beside it;
    ``transpose`` those of its transpose.

    A missing bias becomes zeros: onnxruntime inlines a function more surely when none of its inputs is left out.
    """
    assert weight.name is not None
    assert weight.const_value is not None
    dense = np.asarray(weight.const_value.numpy())
    if transpose:
        dense, mask = np.ascontiguousarray(dense.T), Mask.from_bool(mask.to_bool().T)
    parts = encode("bitmask", dense, mask)
    return [
        _constant(graph, f"{weight.name}.bitmask", parts["bitmask"]),
        _constant(graph, f"{weight.name}.values", parts["values"]),
        bias if bias is not None else _constant(graph, f"{weight.name}.bias", np.zeros(mask.shape[0], np.float32)),
    ]


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    shared = graph.initializers.get(name)  # where several nodes share a weight
    return add_initializer(graph, name, array) if shared is None else shared
