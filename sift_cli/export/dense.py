"""A model without sift's operators: their weights dense, 0 where nothing is kept, behind standard operators.

It computes what the fallback functions in the file compute, to the bit, and asks nothing of whoever reads it: no domain
of sift's, no decoding at load. It is as large as the dense model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import inliner, numpy_helper

from sift_cli.core.operators import DENSE_WEIGHT, DOMAIN
from sift_cli.errors import ExportError
from sift_cli.export.values import unused
from sift_cli.sparsity.formats import bitmask

#: What the fallback functions call the weight that they decode.
_WEIGHT = "weight"
#: Which inputs of an operator, and of DenseWeight, are its bitmask and its values.
_PARTS, _PARTS_ALONE = slice(1, 3), slice(0, 2)


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` in standard operators with dense weights.

    Args:
        model: Any model, its data inside; left as it is. Subgraphs are not entered: sift writes no operator there.

    Raises:
        ExportError: A sift operator has no fallback function in the model, or a weight that does not decode; or the
            result is more than one file can hold.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    functions = {function.name: function for function in result.functions if function.domain == DOMAIN}
    if DENSE_WEIGHT in functions:
        result.functions.remove(functions.pop(DENSE_WEIGHT))
    stored = {tensor.name: tensor for tensor in graph.initializer}
    parts: set[str] = set()
    weights: dict[str, np.ndarray] = {}
    names: dict[tuple[object, ...], str] = {}
    for node in [node for node in graph.node if (node.domain, node.op_type) == (DOMAIN, DENSE_WEIGHT)]:
        weights[node.output[0]] = _decode(node, node.input[_PARTS_ALONE], stored)
        parts.update(node.input)
        graph.node.remove(node)
    for node in graph.node:
        if node.domain != DOMAIN:
            continue
        if node.op_type not in functions:
            raise ExportError(f"{node.op_type} {node.name!r} has no fallback function in the model")
        key = (*node.input[_PARTS], _weight_shape(node))
        if key not in names:
            weight = _decode(node, node.input[_PARTS], stored)
            taken = stored.keys() | weights.keys()
            names[key] = unused(node.input[_PARTS][1].removesuffix(".values"), taken, ".dense")
            weights[names[key]] = weight
        parts.update(node.input[_PARTS])
        node.input[_PARTS] = [names[key]]
    for function in functions.values():
        _take_weight(function)
    # The weights come in afterwards: the inliner copies all that is in a model, and takes no more than 2 GB.
    dense = [tensor for tensor in graph.initializer if tensor.name not in parts]
    del graph.initializer[:]
    graph.initializer.extend(dense)
    if functions:
        result = inliner.inline_selected_functions(result, [(DOMAIN, name) for name in functions])
    weights = _transposed(result.graph, weights)
    size = sum(array.nbytes for array in weights.values()) + result.ByteSize()
    if size >= 2**31:
        raise ExportError(f"the model takes {size:,} bytes dense, and one ONNX file holds 2 GB at the most")
    result.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    imports = [opset for opset in result.opset_import if opset.domain != DOMAIN]
    del result.opset_import[:]
    result.opset_import.extend(imports)
    return result


def _weight_shape(node: onnx.NodeProto) -> tuple[int, ...]:
    return next((tuple(item.ints) for item in node.attribute if item.name == "weight_shape"), ())


def _decode(node: onnx.NodeProto, named: Sequence[str], stored: Mapping[str, onnx.TensorProto]) -> np.ndarray:
    try:
        bits, values = (numpy_helper.to_array(stored[name]) for name in named)
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
