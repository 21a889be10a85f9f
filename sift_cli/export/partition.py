"""Which convolutions are sparse, decided for all of a model together.

Onnxruntime's convolutions have a form of tensors among themselves, sift's have another, and to go from one to the other
takes as long as a small convolution. So the cheapest choice is that of a minimum cut between the dense side and the
other one: an edge's capacity is what it costs that its ends are on different sides.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import networkx
import onnx

from sift_cli.export.arranging import readings
from sift_cli.export.sparse_node import X
from sift_cli.export.worth import FEW, REORDERING, Candidate, arranging_costs, dense_cost, sparse_cost

#: The sides: tensors as onnxruntime's convolutions have them among themselves, and all else.
_DENSE, _PLAIN = "dense", "plain"
#: What onnxruntime computes on either side; sums only of terms that are all of the same size.
_EITHER = {
    "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid",
    "LeakyRelu", "MaxPool", "Mul", "Relu", "Sigmoid", "Sum", "Tanh",
}  # fmt: skip
_SUMS = {"Add", "Mul", "Sum"}
_STANDARD = ("", "ai.onnx")

Shapes = Mapping[str, tuple[int, ...] | None]
Vertex = str | tuple[str, str]


@dataclass(frozen=True)
class Choice:
    """A convolution that may be sparse.

    Attributes:
        weight: Name of its weight; convolutions of one weight have one fate.
        dense: Nanoseconds as a dense one, between others of its kind.
        sparse: Nanoseconds as a sparse one, between others of its kind.
        reading: How many more where its input does not come arranged.
        writing: How many more where its output cannot stay arranged.
    """

    weight: str
    dense: float
    sparse: float
    reading: float = 0
    writing: float = 0

    @classmethod
    def estimated(cls, weight: str, layer: Candidate) -> Choice:
        """By what is known of it before it runs."""
        return cls(weight, dense_cost(layer), sparse_cost(layer), *arranging_costs(layer))


def cheapest_dense(model: onnx.ModelProto, choices: Mapping[str, Choice], shapes: Shapes) -> set[str]:
    """Weights of the convolutions that had better be dense.

    Args:
        model: All of its layers are sparse that could be.
        choices: The convolutions to choose for, by output.
        shapes: Of the model's values; to convert one of an unknown size costs nothing.
    """
    if not choices:
        return set()
    graph = networkx.DiGraph()
    graph.add_nodes_from((_DENSE, _PLAIN))
    arranged = {name for name, reading in readings(model).items() if max(reading.strides) == 1}
    sides = _sides(model, choices, shapes)
    for node in model.graph.node:
        if (choice := choices.get(node.output[0])) is not None:
            x, y = node.input[X], node.output[0]
            _pay(graph, sides[y], _PLAIN, choice.dense)
            _pay(graph, _DENSE, sides[y], choice.sparse)
            _pay(graph, sides[x] if x in arranged else _DENSE, sides[y], choice.reading)
            _pay(graph, ("dense", y) if y in arranged else _DENSE, sides[y], choice.writing)
    for name, readers in _readers(model, sides, shapes).items():
        # In the other form once for all readers that need it.
        shape = shapes.get(name)
        cost = REORDERING * _elements(shape)
        image = shape is not None and sides[name] == _PLAIN and shape[1] < FEW
        _pay(graph, sides[name], ("plain", name), cost)
        _pay(graph, ("dense", name), sides[name], 0 if image else cost)
        for reader in readers:
            _pay(graph, ("plain", name), reader, math.inf)
            _pay(graph, reader, ("dense", name), math.inf)
    _, (dense, _) = networkx.minimum_cut(graph, _DENSE, _PLAIN)
    return {choice.weight for choice in choices.values() if ("weight", choice.weight) in dense}


def _sides(model: onnx.ModelProto, choices: Mapping[str, Choice], shapes: Shapes) -> dict[str, Vertex]:
    """On which side a value is computed: one of the two, or a vertex for which the cut finds it."""
    sides: dict[str, Vertex] = {value.name: _PLAIN for value in model.graph.input}
    for node in model.graph.node:
        shape = shapes.get(node.output[0])
        side: Vertex = _PLAIN
        if (choice := choices.get(node.output[0])) is not None:
            side = ("weight", choice.weight)
        elif node.domain in _STANDARD and node.op_type == "Conv" and shape is not None and len(shape) == 4:
            side = _DENSE
        elif node.domain in _STANDARD and node.op_type in _EITHER and shape is not None and len(shape) == 4:
            terms = [shapes.get(name) for name in node.input] if node.op_type in _SUMS else []
            side = ("node", node.output[0]) if all(term == shape for term in terms) else _PLAIN
        sides.update(dict.fromkeys(node.output, side))
    return sides


def _readers(model: onnx.ModelProto, sides: Mapping[str, Vertex], shapes: Shapes) -> dict[str, set[Vertex]]:
    """On which sides the images among the model's values are read."""
    readers: dict[str, set[Vertex]] = defaultdict(set)
    for node in model.graph.node:
        for name in node.input:
            readers[name].add(sides[node.output[0]])
    for value in model.graph.output:
        readers[value.name].add(_PLAIN)
    return {name: of for name, of in readers.items() if name in sides and len(shapes.get(name) or ()) == 4}


def _elements(shape: tuple[int, ...] | None) -> int:
    return 0 if shape is None else math.prod(shape)


def _pay(graph: networkx.DiGraph, here: Vertex, there: Vertex, cost: float) -> None:
    """``cost`` more, in whole nanoseconds, where ``here`` is on the dense side and ``there`` on the other."""
    before = graph.edges[here, there]["capacity"] if graph.has_edge(here, there) else 0
    graph.add_edge(here, there, capacity=before + (cost if math.isinf(cost) else round(cost)))
