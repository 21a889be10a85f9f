"""An ONNX file from any tool, whole and in a version that sift's fallback functions can be written in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import version_converter

from sift_cli.checkpoint.readers.onnx import external_data, parse, spec_of
from sift_cli.core.operators import DOMAIN
from sift_cli.errors import ExportError

#: onnxruntime reads a function's body in the opset of the model, whatever the function says of itself, and the bodies
#: need ``Constant <value_ints>``.
OLDEST_OPSET = 12
#: The first IR version with functions in a model.
OLDEST_IR = 8
#: Up to this IR version every initializer is listed among the graph's inputs too, and is constant all the same.
_LISTED = 3


def read(path: Path) -> onnx.ModelProto:
    """The model at ``path`` with all of its data inside, as it is but for these: initializers are no inputs where
    that means nothing, and an opset before 12 is converted to 12.

    Raises:
        CheckpointError: It cannot be read, or keeps data outside its own folder.
        ExportError: It has sift's operators already, or its opset cannot be converted.
    """
    model = whole(path)
    if any(node.domain == DOMAIN for node in model.graph.node):
        raise ExportError(
            f"{path} has sift's operators already", hint=f"for standard ones: sift convert {path} dense.onnx --to dense"
        )
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise ExportError(
            f"{path} stores {name[:80]!r} as a sparse_initializer, and sift export takes dense weights",
            hint=f"make it dense: sift convert {path} dense.onnx --to dense",
        )
    model.ir_version = max(model.ir_version, OLDEST_IR)
    return model if opset_of(model) >= OLDEST_OPSET else _converted(model, path)


def whole(path: Path) -> onnx.ModelProto:
    """The model at ``path`` with all of its data inside; initializers are no inputs where that means nothing.

    Raises:
        CheckpointError: It cannot be read, or keeps data outside its own folder.
    """
    model = parse(path)
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            data = external_data(path, tensor, spec_of(path, tensor).stored_bytes)
            tensor.raw_data = data.tobytes()
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    if model.ir_version <= _LISTED:
        stored = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in stored]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = _LISTED + 1
    return model


def subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """The graphs in the attributes of ``nodes``, and those in their nodes."""
    for node in nodes:
        for attribute in node.attribute:
            for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield graph
                yield from subgraphs(graph.node)


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators in ``model``."""
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)


def _converted(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    try:
        return version_converter.convert_version(model, OLDEST_OPSET)
    except Exception as error:  # the converter's own exceptions share no base with those of the parts it calls
        why = str(error).strip().splitlines()[-1].rpartition(" failed: ")[2]  # what is in front is C++
        raise ExportError(
            f"{path} has opset {opset_of(model)}, and onnx cannot convert it to {OLDEST_OPSET}: {why}",
            hint=f"export it again with opset {OLDEST_OPSET} or newer",
        ) from None


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the graph, its subgraphs and the functions."""
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    graphs = [model.graph, *(graph for nodes in bodies for graph in subgraphs(nodes))]
    for graph in graphs:
        yield from graph.initializer
        for stored in graph.sparse_initializer:
            yield from (stored.values, stored.indices)
    for nodes in (*bodies, *(graph.node for graph in graphs[1:])):
        for attribute in (attribute for node in nodes for attribute in node.attribute):
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            yield from attribute.tensors
