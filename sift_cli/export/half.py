"""An ONNX model with its weights in half precision: operators compute in float32, as before, of rounded weights.

The values of sift's operators are float16 or bfloat16 themselves. Behind the dense weight of any other layer comes a
Cast to float32, which onnxruntime folds when it loads the model.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from sift_cli.core.half import Storage, is_matrix, stored_as
from sift_cli.core.operators import DENSE_WEIGHT, DOMAIN
from sift_cli.core.tensors import DTYPE_NAMES
from sift_cli.errors import ExportError
from sift_cli.export.graph_weights import graphs
from sift_cli.export.pruned.constants import ARRANGING
from sift_cli.export.pruned.source import opset_of
from sift_cli.export.sparse_node import BITMASK, VALUES
from sift_cli.export.values import names_in, unused

#: Which inputs of an operator are weights.
_WEIGHTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gather": (0,),
    "Gemm": (0, 1),
    "GRU": (1, 2),
    "LSTM": (1, 2),
    "MatMul": (0, 1),
    "RNN": (1, 2),
}
#: The first opset that casts bfloat16.
_BF16_OPSET = 13


def with_weights(model: onnx.ModelProto, dtype: Storage) -> onnx.ModelProto:
    """``model``, which stays as it is, with its weights stored as ``dtype``; itself for "fp32".

    Raises:
        ExportError: A weight is beyond the range of ``dtype``, the model's opset lacks bfloat16, or it has a sparse
            initializer, which onnx_ir has not.
    """
    if dtype == "fp32":
        return model
    for stored in (stored for graph in graphs(model) for stored in graph.sparse_initializer):
        kind = DTYPE_NAMES[onnx.helper.tensor_dtype_to_np_dtype(stored.values.data_type)]
        raise ExportError(
            f"the model has {stored.values.name!r} as a sparse_initializer, which stays {kind}",
            hint="leave out --dtype, or make its weights dense: sift convert MODEL.onnx DENSE.onnx --to dense",
        )
    opset = opset_of(model)
    if dtype == "bf16" and opset < _BF16_OPSET:
        raise ExportError(f"bf16 needs opset {_BF16_OPSET}, and the model has {opset}", hint="use fp16: --dtype fp16")
    work = ir.from_proto(model)
    graph = work.graph
    taken = names_in(graph)
    for value in _weights(graph):
        half = ir.Tensor(_halved(value, dtype), name=value.name)
        uses = tuple(value.uses())
        value.const_value, value.type = half, ir.TensorType(half.dtype)
        if _is_values(value):
            continue
        name = unused(f"{value.name}.float32", taken)
        taken.add(name)
        cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=name)
        cast.outputs[0].name = name
        graph.insert_before(graph[0], cast)
        for use in uses:
            use.node.replace_input_with(use.idx, cast.outputs[0])
    return ir.to_proto(work)


def rounded(model: onnx.ModelProto, dtype: Storage) -> onnx.ModelProto:
    """``model`` in float32 with the numbers that :func:`with_weights` stores in half precision.

    Raises:
        ExportError: As there.
    """
    work = ir.from_proto(model)
    for value in _weights(work.graph):
        value.const_value = ir.Tensor(_halved(value, dtype).astype(np.float32), name=value.name)
    return ir.to_proto(work)


def _halved(value: ir.Value, dtype: Storage) -> np.ndarray:
    assert value.const_value is not None
    return stored_as(value.name or "", value.const_value.numpy(), dtype)


def _weights(graph: ir.Graph) -> list[ir.Value]:
    """Initializers that are weights in float32. One that a caller may replace, or reads, stays of its type."""
    return [
        value
        for value in graph.initializers.values()
        if value.const_value is not None
        and value.const_value.dtype == ir.DataType.FLOAT
        and not value.is_graph_input()
        and not value.is_graph_output()
        and (_is_values(value) or (is_matrix(value.const_value.shape.numpy()) and _is_weight(value)))
    ]


def _is_values(value: ir.Value) -> bool:
    places = ((use.idx, use.node) for use in value.uses() if use.node.domain == DOMAIN)
    return any(at == (VALUES - BITMASK if node.op_type == DENSE_WEIGHT else VALUES) for at, node in places)


def _is_weight(value: ir.Value) -> bool:
    """Whether a layer reads ``value`` as its weight, as it is or arranged anew."""
    return any(
        not use.node.domain
        and (
            use.idx in _WEIGHTS.get(use.node.op_type, ())
            or (use.node.op_type in ARRANGING and use.idx == 0 and _is_weight(use.node.outputs[0]))
        )
        for use in value.uses()
    )
