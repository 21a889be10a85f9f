"""An ONNX file from any tool, whole and in a version that sift's fallback functions can be written in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import numpy_helper, version_converter

from sift_cli.checkpoint.readers.onnx import external_data, of_graph, parse, spec_of
from sift_cli.core.masks import Mask
from sift_cli.core.operators import DOMAIN
from sift_cli.errors import ExportError
from sift_cli.export.graph_weights import graphs, lift_constants, subgraphs

#: onnxruntime reads a function's body in the opset of the model, whatever the function says of itself, and the bodies
#: need ``Constant <value_ints>``.
OLDEST_OPSET = 12
#: The first IR version with functions in a model.
OLDEST_IR = 8
#: Up to this IR version every initializer is listed among the graph's inputs too, and is constant all the same.
_LISTED = 3


@dataclass(frozen=True)
class Source:
    """A model whose weights are all dense, and what it stored of masks.

    Attributes:
        model: The model.
        masks: For each of its :func:`~sift_cli.export.graph_weights.graphs` those of the weights that were sparse
            initializers, by name. What was stored is kept, zeros too.
    """

    model: onnx.ModelProto
    masks: tuple[Mapping[str, Mask], ...]


def read(path: Path) -> Source:
    """The model at ``path`` with all of its data inside, as it is but for these: sparse initializers are dense,
    initializers are no inputs where that means nothing, and an opset before 12 is converted to 12.

    Raises:
        CheckpointError: It cannot be read, or keeps data outside its own folder.
        ExportError: It has sift's operators already, a sparse tensor that is no weight, or an opset that cannot be
            converted.
    """
    model = whole(path)
    if any(node.domain == DOMAIN for node in model.graph.node):
        raise ExportError(
            f"{path} has sift's operators already",
            hint=f"for standard ones with the same masks: sift convert {path} coo.onnx --to coo",
        )
    masks = tuple(_made_dense(path, graph) for graph in graphs(model))
    for node in _nodes(model):
        if any(item.HasField("sparse_tensor") for item in node.attribute):
            raise ExportError(
                f"{path} has the sparse tensor {node.output[0]!r} as an output or in a function",
                hint="give sift export a model that has a dense one there",
            )
    model.ir_version = max(model.ir_version, OLDEST_IR)
    return Source(model if opset_of(model) >= OLDEST_OPSET else _converted(model, path), masks)


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


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators in ``model``."""
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)


def _made_dense(path: Path, graph: onnx.GraphProto) -> dict[str, Mask]:
    """Make the sparse initializers of ``graph`` dense, in place, and say what each kept."""
    lift_constants(graph, dense=False)
    if not graph.sparse_initializer:
        return {}
    file, masks = of_graph(path, graph), {}
    for stored in graph.sparse_initializer:
        name = stored.values.name
        graph.initializer.append(numpy_helper.from_array(file.read(name), name))
        if (mask := file.mask(name)) is not None:
            masks[name] = mask
    del graph.sparse_initializer[:]
    return masks


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
    for graph in (*graphs(model), *_graphs_of_functions(model)):
        yield from graph.initializer
        for stored in graph.sparse_initializer:
            yield from (stored.values, stored.indices)
    for attribute in (attribute for node in _nodes(model) for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        yield from attribute.tensors


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of the graph, its subgraphs and the functions."""
    for graph in (*graphs(model), *_graphs_of_functions(model)):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _graphs_of_functions(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    return subgraphs(node for function in model.functions for node in function.node)
