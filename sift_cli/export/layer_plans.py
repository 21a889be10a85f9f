"""What becomes of each layer that could be sparse: a sparse operator, maybe with a plan for its kernel, or a dense one.

A model is first made with all of its layers sparse. Somebody looks at that and decides, and the layers that are to stay
dense get back the standard operators that they came from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from sift_cli.core.operators import DENSE_WEIGHT, DOMAIN, operator_of
from sift_cli.errors import SiftError
from sift_cli.export.partition import Choice, cheapest_dense
from sift_cli.export.sparse_node import BIAS, BITMASK, VALUES, SparseNode, X, constant
from sift_cli.export.values import names_in, unused
from sift_cli.export.worth import Candidate, worth
from sift_cli.flops import onnx_graph

PLAN = "plan"


@dataclass(frozen=True)
class LayerPlans:
    """A decision about the sparse layers of a model. A weight is either sparse or dense, wherever it is read.

    Attributes:
        dense: Names of the weights whose layers are not sparse.
        plans: What the attribute ``plan`` of a layer says, by the name of its weight.
    """

    dense: frozenset[str] = frozenset()
    plans: Mapping[str, str] = field(default_factory=dict)


#: Decides about a model in which all layers are sparse that could be.
Decide = Callable[[onnx.ModelProto], LayerPlans]


def by_estimate(least: float | None, dims: Mapping[str, int]) -> Decide:
    """Decide by what is known of a layer before it runs.

    Args:
        least: Share of zeros that the user asks for, which then decides alone.
        dims: Sizes of the model's symbolic dimensions, as far as they are known.
    """

    def decide(model: onnx.ModelProto) -> LayerPlans:
        shapes = known_shapes(model, dims)
        layers = {node.output[0]: (weight_name(node), layer) for node, layer in candidates(model, shapes)}
        if least is not None:
            return LayerPlans(frozenset(name for name, layer in layers.values() if layer.sparsity < least))
        matrices = [(name, worth(layer)) for name, layer in layers.values() if layer.op == "Linear"]
        dense = {name for name, _ in matrices} - {name for name, sparse in matrices if sparse}
        choices = {
            output: Choice.estimated(name, layer) for output, (name, layer) in layers.items() if layer.op == "Conv"
        }
        return LayerPlans(frozenset(dense | cheapest_dense(model, choices, shapes)))

    return decide


def candidates(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...] | None]
) -> Iterator[tuple[onnx.NodeProto, Candidate]]:
    """The sparse layers of ``model``."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        operator = operator_of(node.domain, node.op_type)
        if operator is None:
            continue
        shape = onnx_graph.weight_shape(node)
        rows = shapes.get(node.output[0]) if operator.layer == "Conv" else shapes.get(node.input[X])
        yield (
            node,
            Candidate(
                operator.layer, shape, math.prod(stored[node.input[VALUES]].dims),
                group=onnx_graph.attribute(node, "group", 1),
                strides=tuple(onnx_graph.attribute(node, "strides", (1, 1))),
                positions=positions(operator.layer, rows),
            ),
        )  # fmt: skip


def weight_name(node: onnx.NodeProto) -> str:
    """The name of a sparse layer's weight."""
    return node.input[BITMASK].removesuffix(".bitmask")


def known_shapes(model: onnx.ModelProto, dims: Mapping[str, int]) -> Mapping[str, tuple[int, ...] | None]:
    """Shapes of the values of ``model``, as far as they can be worked out. ``dims`` may name more than it has."""
    there = {dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim}
    try:
        return onnx_graph.read(model, {name: size for name, size in dims.items() if name in there}).shapes
    except SiftError:  # a size that nobody knows
        return {}


def positions(op: str, shape: tuple[int, ...] | None) -> int | None:
    """How often a weight is used: pixels of a convolution's output, or rows of a matrix layer's input, by its shape."""
    if shape is None:
        return None
    return math.prod(shape[:1] + shape[2:]) if op == "Conv" else math.prod(shape[:-1])


def keep_dense(model: ir.Model, names: frozenset[str]) -> None:
    """Give the layers with these weights back their standard operators, in place; they read the weight from a function
    that decodes it.

    Args:
        model: Its sparse layers have a bias, and nothing fused into them.
        names: Of weights.
    """
    made: dict[str, ir.Value] = {}
    for node in list(model.graph):
        sparse = SparseNode.of(node)
        if sparse is None or (name := sparse.weight_name) not in names:
            continue
        new: list[ir.Node] = []
        if name not in made:
            # An embedding may have the weight, too, dense and under its name.
            new.append(_decoding(sparse, unused(name, names_in(model.graph), ".dense")))
            made[name] = new[0].outputs[0]
        new += _convolution(sparse, made[name]) if sparse.operator.layer == "Conv" else _product(sparse, made[name])
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], new, node.outputs, new[-1].outputs)


def _decoding(sparse: SparseNode, name: str) -> ir.Node:
    shape = tuple(sparse.weight_shape)
    node = ir.node(DENSE_WEIGHT, sparse.node.inputs[BITMASK:BIAS], {"weight_shape": shape}, domain=DOMAIN, name=name)
    weight = node.outputs[0]
    weight.name, weight.shape, weight.type = name, ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
    return node


def _convolution(sparse: SparseNode, weight: ir.Value) -> list[ir.Node]:
    attributes = {**sparse.node.attributes}
    del attributes["weight_shape"]
    return [ir.node("Conv", [sparse.node.inputs[X], weight, *_bias(sparse)], attributes, name=sparse.node.name)]


def _product(sparse: SparseNode, weight: ir.Value) -> list[ir.Node]:
    x, name, bias = sparse.node.inputs[X], sparse.node.name, _bias(sparse)
    if x is not None and x.shape is not None and len(x.shape) == 2:
        return [ir.node("Gemm", [x, weight, *bias], {"transB": 1}, name=name)]
    transpose = ir.node("Transpose", [weight], {"perm": (1, 0)}, name=f"{name}/transpose")
    product = ir.node("MatMul", [x, transpose.outputs[0]], name=name)
    added = [ir.node("Add", [product.outputs[0], bias[0]], name=f"{name}/add")] if bias else []
    return [transpose, product, *added]


def _bias(sparse: SparseNode) -> list[ir.Value]:
    """Nothing where all of it is 0, as lowering gives one to a layer without."""
    bias = sparse.node.inputs[BIAS]
    known = constant(bias)
    assert bias is not None
    return [] if known is not None and not np.any(known.numpy()) else [bias]


def set_plans(model: ir.Model, plans: Mapping[str, str]) -> None:
    """Store each of ``plans`` with the layers of its weight."""
    for node in model.graph:
        sparse = SparseNode.of(node)
        if sparse is not None and sparse.weight_name in plans:
            node.attributes.add(ir.AttrString(PLAN, plans[sparse.weight_name]))
