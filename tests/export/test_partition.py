"""Which convolutions are dense: the cheapest choice for a whole graph, by trying all of them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping

import onnx
import pytest
from onnx import TensorProto, helper

from sift_cli.export.arranging import readings
from sift_cli.export.partition import Choice, cheapest_dense
from sift_cli.export.worth import REORDERING

Shape = tuple[int, ...]
WINDOW = {"pads": [0] * 4, "dilations": [1, 1]}


def conv(
    x: str, y: str, *, weight: str = "", stride: int = 1, residual: str = "", sparse: bool = True
) -> onnx.NodeProto:
    weight = weight or f"{y}.w"
    if not sparse:
        return helper.make_node("Conv", [x, weight], [y])
    more = [residual] if residual else []
    return helper.make_node(
        "SparseConvAdd" if residual else "SparseConv", [x, f"{weight}.bitmask", f"{weight}.values", "b", *more], [y],
        domain="sift", weight_shape=[4, 4, 1, 1], strides=[stride] * 2, group=1, **WINDOW,
    )  # fmt: skip


def model(nodes: list[onnx.NodeProto], *outputs: str) -> onnx.ModelProto:
    def image(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

    return helper.make_model(helper.make_graph(nodes, "g", [image("x")], [image(name) for name in outputs]))


def cost(
    made: onnx.ModelProto, choices: Mapping[str, Choice], shapes: Mapping[str, Shape], dense: Mapping[str, bool]
) -> float:
    """What a graph costs whose nodes, by their output, are on the dense side or are not."""
    total, arranged = 0.0, {name for name, reading in readings(made).items() if reading.strides == (1, 1)}
    readers: dict[str, list[bool]] = {}
    for node in made.graph.node:
        here, x = dense[node.output[0]], node.input[0]
        for name in node.input:
            readers.setdefault(name, []).append(here)
        if choice := choices.get(node.output[0]):
            total += choice.dense if here else choice.sparse
            if not here and (x not in arranged or dense[x]):
                total += choice.reading
            if not here and (node.output[0] not in arranged or any(dense[y] for y in reading(made, node.output[0]))):
                total += choice.writing
    for value in made.graph.output:
        readers.setdefault(value.name, []).append(False)
    for name, sides in readers.items():
        if name in shapes:
            made_dense = dense.get(name, False)
            free = name == "x" and shapes[name][1] < 16
            if any(side != made_dense for side in sides) and not (free and not made_dense):
                total += round(REORDERING * size(shapes[name]))
    return total


def reading(made: onnx.ModelProto, name: str) -> list[str]:
    return [node.output[0] for node in made.graph.node if name in node.input]


def size(shape: Shape) -> int:
    return shape[0] * shape[1] * shape[2] * shape[3]


NETS: dict[str, tuple[list[onnx.NodeProto], tuple[str, ...], set[str]]] = {
    # nodes, outputs, and those that may be on either side
    "one": ([conv("x", "a")], ("a",), set()),
    "chain": ([conv("x", "a"), conv("a", "b"), conv("b", "c"), conv("c", "d")], ("d",), set()),
    "a dense one between": ([conv("x", "a"), conv("a", "b", sparse=False), conv("b", "c")], ("c",), set()),
    "strides": (
        [conv("x", "a"), conv("a", "b", stride=2), conv("b", "c"), conv("a", "d", stride=2)], ("c", "d"), set()
    ),
    "residuals": (
        [conv("x", "a"), conv("a", "b"), conv("b", "c", residual="a"), conv("c", "d"), conv("d", "e", residual="c")],
        ("e",), set(),
    ),
    "one weight": ([conv("x", "a", weight="w"), conv("a", "b"), conv("b", "c", weight="w")], ("c",), set()),
    "either side": (
        [
            conv("x", "a"), helper.make_node("MaxPool", ["a"], ["p"], kernel_shape=[1, 1]), conv("p", "b"),
            conv("p", "c", sparse=False), helper.make_node("Add", ["b", "c"], ["s"]), conv("s", "d"),
            helper.make_node("Concat", ["d", "s"], ["t"], axis=1),
        ],
        ("t", "c"), {"p", "s", "t"},
    ),
    "neither": (
        [conv("x", "a"), helper.make_node("Softmax", ["a"], ["m"]), helper.make_node("Mul", ["m", "b"], ["z"]),
         conv("z", "c"), conv("c", "d")],
        ("d",), set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("net", NETS)
def test_the_choice_is_the_cheapest_of_all(net: str, seed: int) -> None:
    nodes, outputs, free = NETS[net]
    made, rng = model(nodes, *outputs), random.Random(f"{net} {seed}")
    names = {"x", *(node.output[0] for node in nodes)}
    shapes = {name: (1, rng.choice((3, 16, 40)), rng.randint(1, 9), rng.randint(1, 9)) for name in sorted(names)}
    shapes["x"] = (1, rng.choice((3, 16)), 20, 20)  # an image of few channels, or something larger
    for node in nodes:  # a sum of tensors of one size, and one that is not
        if node.op_type == "Add":
            shapes[node.input[0]] = shapes[node.input[1]] = shapes[node.output[0]]
    weights = {node.output[0]: node.input[1].removesuffix(".bitmask") for node in nodes if node.domain == "sift"}
    choices = {y: Choice(w, *(rng.randint(0, most) for most in (900, 900, 300, 300))) for y, w in weights.items()}

    def total(dense: Mapping[str, bool]) -> float:
        """With what may be on either side where that is the cheapest."""
        fixed = {node.output[0]: node.op_type == "Conv" for node in nodes}
        fixed |= {y: dense[w] for y, w in weights.items()}
        return min(
            cost(made, choices, shapes, fixed | dict(zip(sorted(free), sides, strict=True)))
            for sides in itertools.product((False, True), repeat=len(free))
        )

    each = sorted(set(weights.values()))
    best = min(
        total(dict(zip(each, sides, strict=True))) for sides in itertools.product((False, True), repeat=len(each))
    )
    found = cheapest_dense(made, choices, shapes)
    assert total({name: name in found for name in each}) == best


def test_of_unknown_sizes_only_the_layers_count() -> None:
    made = model([conv("x", "a"), conv("a", "b")], "b")
    choices = {"a": Choice("v", 2, 1), "b": Choice("w", 1, 2)}
    assert cheapest_dense(made, choices, {}) == {"w"}
    assert cheapest_dense(made, {}, {}) == set()
