"""Activations in an ONNX graph: one standard operator, or several that compute the same together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from sift_cli.core.operators import ACTIVATIONS
from sift_cli.export.sparse_node import constant, only_user

#: The operators that frameworks write an activation with. They are analytic: two expressions of them that agree on
#: :data:`_POINTS` are one function, whatever the order of their operands.
_SCALAR: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add,
    "Div": np.divide,
    "Erf": np.vectorize(math.erf, otypes=[np.float64]),
    "Exp": np.exp,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Pow": np.power,
    "Reciprocal": np.reciprocal,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Tanh": np.tanh,
}
_WRITTEN_OUT = ("Silu", "Gelu", "GeluTanh")
_MOST_NODES = 12
_POINTS = np.concatenate([np.linspace(-8, 8, 129), [-1000.0, -100.0, -16.0, 16.0, 100.0, 1000.0]])
#: Two functions of x may differ by this much of 1 and of x, as constants (√2) are in float32. The two kinds of GELU
#: are 5e-4 apart.
_CLOSE = 1e-6


class Found(NamedTuple):
    """An activation.

    Attributes:
        name: A key of :data:`~sift_cli.core.operators.ACTIVATIONS`.
        attributes: Its attributes.
        nodes: The nodes that compute it; the last one's output is the result.
    """

    name: str
    attributes: dict[str, float]
    nodes: list[ir.Node]


def activation_of(value: ir.Value) -> Found | None:
    """The activation that alone reads ``value``, an output of a node; None where there is none."""
    user = only_user(value)
    if user is not None and (found := _standard(user)):
        return found
    for nodes in _expressions(value):
        y = _evaluated(nodes, value)
        for name in _WRITTEN_OUT:
            if np.all(np.abs(y - ACTIVATIONS[name].meaning(_POINTS)) <= _CLOSE * np.maximum(1, np.abs(_POINTS))):
                return Found(name, {}, nodes)
    return None


def _standard(node: ir.Node) -> Found | None:
    attributes = node.attributes
    if node.op_type == "Relu":
        return Found("Relu", {}, [node])
    if node.op_type == "LeakyRelu":
        return Found("LeakyRelu", {"alpha": attributes.get_float("alpha", 0.01)}, [node])
    if node.op_type == "Gelu":
        return Found("GeluTanh" if attributes.get_string("approximate", "none") == "tanh" else "Gelu", {}, [node])
    if node.op_type == "Clip":
        low, high = _limit(node, 1, "min"), _limit(node, 2, "max")
        return Found("Clip", {"min": low, "max": high}, [node]) if low is not None and high is not None else None
    return None


def _limit(node: ir.Node, at: int, name: str) -> float | None:
    """A limit of a Clip, or None where it varies: up to opset 10 an attribute, then an input, and without either the
    largest number there is."""
    if len(node.inputs) > at and node.inputs[at] is not None:
        return _number(node.inputs[at])
    return node.attributes.get_float(name, float(getattr(np.finfo(np.float32), name)))


def _expressions(value: ir.Value) -> Iterator[list[ir.Node]]:
    """Runs of nodes that compute from ``value`` and constant numbers one value that is seen outside of them."""
    nodes: list[ir.Node] = []
    inside = [value]
    while len(nodes) < _MOST_NODES:
        users = (use.node for known in inside for use in known.uses())
        node = next((user for user in users if user not in nodes and _is_scalar(user, inside)), None)
        if node is None:
            return
        nodes.append(node)
        inside.append(node.outputs[0])
        seen = [v for v in inside if v.is_graph_output() or any(use.node not in nodes for use in v.uses())]
        if len(seen) == 1 and seen[0] is inside[-1]:
            yield list(nodes)


def _is_scalar(node: ir.Node, inside: list[ir.Value]) -> bool:
    producer = inside[0].producer()
    return (
        not node.domain
        and node.op_type in _SCALAR
        and producer is not None
        and node.graph is producer.graph
        and all(given in inside or _number(given) is not None for given in node.inputs)
    )


def _number(value: ir.Value | None) -> float | None:
    """A constant that is one number and gives no axes to what it is combined with."""
    tensor = constant(value)
    return float(tensor.numpy().item()) if tensor is not None and tensor.size == 1 and len(tensor.shape) < 2 else None


def _evaluated(nodes: list[ir.Node], value: ir.Value) -> np.ndarray:
    known: dict[ir.Value | None, np.ndarray] = {value: _POINTS}
    with np.errstate(all="ignore"):
        for node in nodes:
            operands = [known[given] if given in known else _number(given) for given in node.inputs]
            known[node.outputs[0]] = _SCALAR[node.op_type](*operands)
    return known[nodes[-1].outputs[0]]
