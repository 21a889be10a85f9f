"""A model without sift's operators: their weights dense, 0 where nothing is kept, behind standard operators.

It computes what the fallback functions in the file compute, to the bit, and asks nothing of whoever reads it: no domain
of sift's, no decoding at load. It is as large as the dense model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper

from sift_cli.core.operators import DENSE_WEIGHT, DOMAIN
from sift_cli.errors import ExportError
from sift_cli.export.arranging import forget
from sift_cli.export.graph_weights import names, store, subgraphs
from sift_cli.export.values import unused
from sift_cli.sparsity.formats import bitmask

#: What the fallback functions call the weight that they decode.
_WEIGHT = "weight"
#: Which inputs of an operator are its bitmask and its values.
_PARTS = slice(1, 3)


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` in standard operators with dense weights.

    Args:
        model: Any model, its data inside; left as it is. In subgraphs only weights are stored sparse.

    Raises:
        ExportError: A sift operator has no fallback function in the model, or a weight that does not decode; or the
            result is more than one file can hold.
    """
    result = standard(model)
    graph, taken = result.graph, names(result)
    for inner in subgraphs(graph.node):
        store(Path("the model"), inner, "dense", taken, least=0)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    parts: set[str] = set()
    weights: dict[str, np.ndarray] = {}
    for node in [node for node in graph.node if node.domain == DOMAIN]:
        weights[node.output[0]] = _decode(node, stored)
        parts.update(node.input)
        graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name in parts]:
        graph.initializer.remove(tensor)
    weights = _transposed(graph, weights)
    size = sum(array.nbytes for array in weights.values()) + result.ByteSize()
    if size >= 2**31:
        raise ExportError(f"the model takes {size:,} bytes dense, and one ONNX file holds 2 GB at the most")
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    imports = [opset for opset in result.opset_import if opset.domain != DOMAIN]
    del result.opset_import[:]
    result.opset_import.extend(imports)
    return result


def standard(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` in standard operators, and DenseWeight, without its function, for each weight that is stored sparse.

    Args:
        model: As in :func:`plain`.

    Raises:
        ExportError: A sift operator has no fallback function in the model, or not the inputs of one.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    forget(result)
    graph = result.graph
    functions = {function.name: function for function in result.functions if function.domain == DOMAIN}
    if DENSE_WEIGHT in functions:
        result.functions.remove(functions.pop(DENSE_WEIGHT))
    taken = {tensor.name for tensor in graph.initializer} | {name for node in graph.node for name in node.output}
    decoding: dict[tuple[object, ...], onnx.NodeProto] = {}
    for node in graph.node:
        if node.domain != DOMAIN or node.op_type == DENSE_WEIGHT:
            continue
        if node.op_type not in functions:
            raise ExportError(f"{node.op_type} {node.name!r} has no fallback function in the model")
        parts, shape = node.input[_PARTS], _weight_shape(node)
        if len(parts) != 2:
            raise ExportError(f"the weight of {node.op_type} {node.name!r} does not decode: it has no values")
        key = (*parts, shape)
        if key not in decoding:
            name = unused(parts[1].removesuffix(".values"), taken, ".dense")
            taken.add(name)
            decoding[key] = helper.make_node(DENSE_WEIGHT, parts, [name], domain=DOMAIN, weight_shape=shape)
        node.input[_PARTS] = decoding[key].output
    for node in reversed(decoding.values()):
        graph.node.insert(0, node)
    for function in functions.values():
        _take_weight(function)
    if not functions:
        return result
    return inliner.inline_selected_functions(result, [(DOMAIN, name) for name in functions])


def _weight_shape(node: onnx.NodeProto) -> tuple[int, ...]:
    return next((tuple(item.ints) for item in node.attribute if item.name == "weight_shape"), ())


def _decode(node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto]) -> np.ndarray:
    try:
        bits, values = (numpy_helper.to_array(stored[name]) for name in node.input)
        parts = {"bitmask": bits, "values": values.astype(np.float32)}
        return bitmask.decode(parts, _weight_shape(node), np.dtype(np.float32))
    except KeyError as error:
        raise ExportError(f"{node.op_type} {node.name!r} reads {error}, which is no constant of the model") from None
    except ValueError as error:
        raise ExportError(f"the weight of {node.op_type} {node.name!r} does not decode: {error}") from None


def _take_weight(function: onnx.FunctionProto) -> None:
    """Make the weight an input of ``function`` in place of the bitmask and the values that it decodes."""
    if not any(_WEIGHT in node.output for node in function.node):
        raise ExportError(f"the fallback function of {function.name} is none that sift writes")
    function.input[_PARTS] = [_WEIGHT]
    read = set(function.output)
    for index in reversed(range(len(function.node))):
        node = function.node[index]
        if _WEIGHT in node.output or not read.intersection(node.output):
            del function.node[index]
        else:
            read.update(node.input)


def _transposed(graph: onnx.GraphProto, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The ``weights`` as ``graph`` reads them, which loses the nodes that transpose one."""
    arrays, instead = dict(weights), {}
    first: dict[tuple[object, ...], str] = {}
    for node in [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        (permutation,) = (tuple(item.ints) for item in node.attribute)
        name = first.setdefault((node.input[0], permutation), node.output[0])
        if name == node.output[0]:
            arrays[name] = np.ascontiguousarray(weights[node.input[0]].transpose(permutation))
        instead[node.output[0]] = name
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [instead.get(name, name) for name in node.input]
    read = {name for node in graph.node for name in node.input}
    return {name: array for name, array in arrays.items() if name in read}
