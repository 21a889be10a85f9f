"""What behind a layer only scales and shifts its outputs: BatchNormalization, Add, Sub and Mul of a constant, and what
does nothing at inference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sift_cli.export.pruned._layer import Layer
from sift_cli.export.pruned.constants import constant


@dataclass(frozen=True)
class Affine:
    """``scale · y + shift`` for each output channel, in float64, and the nodes that compute it."""

    scale: np.ndarray
    shift: np.ndarray
    nodes: tuple[ir.Node, ...]


def behind(layer: Layer, opset: int, *, scaling: bool) -> Affine:
    """The longest run of such nodes behind ``layer``, each the only one that reads the one before.

    Args:
        layer: The layer.
        opset: Version of the standard operators.
        scaling: Whether scales count, too. A weight that several layers share would no longer be shared.
    """
    channels = len(layer.weight)
    scale, shift, nodes = np.ones(channels), np.zeros(channels), [layer.node]
    if layer.added is None:
        for node in _run(layer.node):
            step = _step(node, nodes[-1].outputs[0], layer, opset)
            if step is None or not (scaling or np.all(step[0] == 1)):
                break
            scale, shift = scale * step[0], shift * step[0] + step[1]
            nodes.append(node)
    return Affine(scale, shift, tuple(nodes[1:]))


def _run(node: ir.Node) -> Iterator[ir.Node]:
    """The only reader of the node's output, the only one of that one's, and so on."""
    while True:
        uses = list(node.outputs[0].uses())
        if len(uses) != 1 or node.outputs[0].is_graph_output():
            return
        node = uses[0].node
        yield node


def _step(node: ir.Node, value: ir.Value, layer: Layer, opset: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and shift of one node that reads ``value``, or None where it is anything else."""
    if node.domain or node.graph is not layer.node.graph:
        return None
    if any(extra.uses() or extra.is_graph_output() for extra in node.outputs[1:]):
        return None
    channels, zeros, ones = len(layer.weight), np.zeros(len(layer.weight)), np.ones(len(layer.weight))
    if node.op_type == "BatchNormalization":
        operands = [constant(operand, opset) for operand in node.inputs[1:5]]
        rows = [one.array.astype(np.float64) for one in operands if one is not None and one.array.shape == (channels,)]
        over_channels = layer.op == "Conv" or layer.node.op_type == "Gemm"
        trains = len(node.outputs) > 1 or node.attributes.get_int("training_mode", 0) == 1
        if len(rows) != 4 or not over_channels or trains:
            return None
        gamma, beta, mean, variance = rows
        scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        return scale, beta - mean * scale
    if node.op_type == "Identity" or (node.op_type == "Dropout" and not _trains(node, opset)):
        return ones, zeros
    if node.op_type not in ("Add", "Sub", "Mul") or (node.op_type == "Sub" and node.inputs[0] is not value):
        return None
    other = constant(node.inputs[1] if node.inputs[0] is value else node.inputs[0], opset)
    if other is None or other.array.dtype != np.float32 or (row := _row(other.array, layer)) is None:
        return None
    if node.op_type == "Mul":
        return row, zeros
    return ones, row if node.op_type == "Add" else -row


def _trains(dropout: ir.Node, opset: int) -> bool:
    if len(dropout.inputs) < 3 or dropout.inputs[2] is None:
        return False
    mode = constant(dropout.inputs[2], opset)
    return mode is None or bool(mode.array.any())


def _row(array: np.ndarray, layer: Layer) -> np.ndarray | None:
    """One number a channel, or None where ``array`` does not broadcast so to the layer's output."""
    channels = len(layer.weight)
    spatial = 0 if layer.op == "Linear" else 2 - len(layer.axes)
    # A MatMul's input may be a vector, and a constant of more axes than the output makes that one larger.
    rank = 1 if layer.node.op_type == "MatMul" else spatial + 2
    along = (channels, *(1,) * spatial)
    if array.ndim > rank or array.size not in (1, channels) or (array.size > 1 and array.shape[-len(along) :] != along):
        return None
    return np.broadcast_to(array.reshape(-1).astype(np.float64), channels)
