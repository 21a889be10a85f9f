"""Counting an ONNX graph from the shapes of its values and the zeros of its constants. torch is not needed."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import onnx

from sift_cli.core.counts import FlopReport, LayerCount, uncounted_from
from sift_cli.core.operators import DENSE_WEIGHT, DOMAIN, OPERATORS, operator_of
from sift_cli.core.plan import METADATA_KEY, TransformPlan
from sift_cli.errors import Malformed
from sift_cli.flops import onnx_graph
from sift_cli.flops.contraction import attention_macs, einsum_products, matmul_macs
from sift_cli.flops.onnx_graph import MICROSOFT, Graph, attribute
from sift_cli.flops.onnx_weights import Weights

_FREE_OPERATORS = """
    Cast CastLike Compress Concat Constant ConstantOfShape DepthToSpace Dropout Expand EyeLike Flatten Gather
    GatherElements GatherND Identity OneHot Pad Range Reshape ReverseSequence ScatterElements ScatterND Shape
    Size Slice SpaceToDepth Split SplitToSequence Squeeze Tile Transpose Trilu Unsqueeze Where
"""


_FREE = frozenset(_FREE_OPERATORS.split()) | {f"{DOMAIN}.{DENSE_WEIGHT}"}


class _Unknown(Exception):
    """Shape inference did not find a shape that a formula needs."""


class _Product(NamedTuple):
    """MACs of a node on one operand.

    Attributes:
        op: Kind of operator, as in :class:`LayerCount`.
        dense: MACs, every weight counted.
        operands: Inputs that may be a constant weight, with the zero point of each ("" for none).
        kept: Kept elements and all elements, where the node itself says so.
    """

    op: str
    dense: int
    operands: tuple[tuple[str, str], ...] = ()
    kept: tuple[int, int] | None = None


def count_onnx(source: onnx.ModelProto | str | Path, *, dims: Mapping[str, int] | None = None) -> FlopReport:
    """MACs of one run of an ONNX model, by node, in the graph's order.

    A weight that sift stores sparse counts by the number of its values, any other constant weight by its nonzero
    elements.
    In a model that sift transformed only those weights can be sparse that its plan masked: the others are whole, also
    where a value is 0.
    Subgraphs (``If``, ``Loop``) are not entered: they are listed as uncounted, like every operator that computes
    anything else, also where a sift operator has taken it in.

    Args:
        source: A model, or the path of one; data in other files is found beside it and read one tensor at a time.
        dims: Sizes of symbolic dimensions by name. The first dimension of an input is a batch of 1 unless named here.

    Raises:
        Unreadable, Malformed: The file, or a weight of it, cannot be read.
        ModelError: A dimension has no size, or shapes contradict each other.
    """
    graph = onnx_graph.read(source, dims or {})
    weights, masked = Weights(graph), _masked(graph)
    layers: list[LayerCount] = []
    uncounted: Counter[str] = Counter()
    for node in graph.model.graph.node:
        domain = onnx_graph.domain(node.domain)
        if operator := operator_of(domain, node.op_type):
            uncounted.update(operator.epilogue)
        formula = _FORMULAS.get((domain, node.op_type))
        if formula is None:
            name = f"{domain}.{node.op_type}" if domain else node.op_type
            if name not in _FREE:
                uncounted[name] += 1
            continue
        try:
            products = list(formula(node, graph))
        except _Unknown:
            uncounted[f"{node.op_type} (unknown shape)"] += 1
            continue
        counted = [_layer(node, product, weights, masked) for product in products if product.dense]
        if not counted:
            uncounted[node.op_type] += 1
        layers += counted
    return FlopReport(tuple(layers), uncounted_from(uncounted), "onnx")


def _masked(graph: Graph) -> Collection[str] | None:
    """Names of the weights that the model's transform masked; None for a model that has no plan in it."""
    plan = next((item.value for item in graph.model.metadata_props if item.key == METADATA_KEY), None)
    if plan is None:
        return None
    try:
        return TransformPlan.from_json(json.loads(plan)).masked
    except (ValueError, RecursionError) as error:
        raise Malformed(graph.name, f"its property {METADATA_KEY}", str(error)) from None


def _layer(node: onnx.NodeProto, product: _Product, weights: Weights, masked: Collection[str] | None) -> LayerCount:
    name = node.name or node.output[0]
    if product.kept is not None:
        kept, numel = product.kept
        weight = product.operands[0][0].removesuffix(".values")
        return LayerCount(name, product.op, product.dense, product.dense // numel * kept, weight)
    for operand, zero_point in product.operands:
        found = weights.find(operand, zero_point)
        if found is not None and product.dense % found.numel == 0:
            op = "linear" if product.op == "matmul" else product.op
            if masked is not None and found.name not in masked:
                return LayerCount(name, op, product.dense, product.dense, found.name)
            return LayerCount(name, op, product.dense, product.dense // found.numel * found.nonzero, found.name)
    return LayerCount(name, product.op, product.dense, product.dense)


def _shape(graph: Graph, name: str) -> tuple[int, ...]:
    shape = graph.shape(name)
    if shape is None:
        raise _Unknown
    return shape


_Formula = Callable[[onnx.NodeProto, Graph], Iterator[_Product]]


def _conv(weight: int = 1, zero_point: int | None = None) -> _Formula:
    def formula(node: onnx.NodeProto, graph: Graph) -> Iterator[_Product]:
        batch, _, *spatial = _shape(graph, node.output[0])
        kernel = _shape(graph, node.input[weight])
        yield _Product("conv", batch * math.prod(spatial) * math.prod(kernel), (_operand(node, weight, zero_point),))

    return formula


def _conv_transpose(node: onnx.NodeProto, graph: Graph) -> Iterator[_Product]:
    batch, _, *spatial = _shape(graph, node.input[0])
    macs = batch * math.prod(spatial) * math.prod(_shape(graph, node.input[1]))
    yield _Product("conv", macs, (_operand(node, 1),))


def _sparse_conv(node: onnx.NodeProto, graph: Graph) -> Iterator[_Product]:
    batch, _, *spatial = _shape(graph, node.output[0])
    yield _stored(node, graph, "conv", batch * math.prod(spatial))


def _sparse_linear(node: onnx.NodeProto, graph: Graph) -> Iterator[_Product]:
    yield _stored(node, graph, "linear", math.prod(_shape(graph, node.input[0])[:-1]))


def _stored(node: onnx.NodeProto, graph: Graph, op: str, positions: int) -> _Product:
    numel = math.prod(onnx_graph.weight_shape(node))
    values = math.prod(_shape(graph, node.input[2]))
    return _Product(op, positions * numel, ((node.input[2], ""),), (values, numel))


def _gemm(node: onnx.NodeProto, graph: Graph) -> Iterator[_Product]:
    width = _shape(graph, node.input[0])[0 if attribute(node, "transA", 0) else 1]
    macs = math.prod(_shape(graph, node.output[0])) * width
    yield _Product("matmul", macs, (_operand(node, 0), _operand(node, 1)))


def _matmul(left: int = 0, right: int = 1, zero_points: tuple[int, int] | None = None) -> _Formula:
    def formula(node: onnx.NodeProto, graph: Graph) -> Iterator[_Product]:
        a, b = _shape(graph, node.input[left]), _shape(graph, node.input[right])
        zeros = zero_points or (None, None)
        yield _Product("matmul", matmul_macs(a, b), (_operand(node, left, zeros[0]), _operand(node, right, zeros[1])))

    return formula


def _fused_matmul(node: onnx.NodeProto, graph: Graph) -> Iterator[_Product]:
    a = _shape(graph, node.input[0])
    width = a[-2] if attribute(node, "transA", 0) else a[-1]
    macs = math.prod(_shape(graph, node.output[0])) * width
    yield _Product("matmul", macs, (_operand(node, 0), _operand(node, 1)))


def _einsum(node: onnx.NodeProto, graph: Graph) -> Iterator[_Product]:
    shapes = [_shape(graph, name) for name in node.input]
    for macs, whole in einsum_products(attribute(node, "equation"), shapes):
        yield _Product("matmul", macs, tuple(_operand(node, at) for at in whole))


def _recurrent(node: onnx.NodeProto, graph: Graph) -> Iterator[_Product]:
    steps = math.prod(_shape(graph, node.input[0])[:-1])
    for at in (1, 2):
        yield _Product("matmul", steps * math.prod(_shape(graph, node.input[at])), (_operand(node, at),))


def _attention(node: onnx.NodeProto, graph: Graph) -> Iterator[_Product]:
    """The standard operator (opset 23): [batch, heads, length, width], or heads folded into the width."""
    query, key, value = (_shape(graph, name) for name in node.input[:3])
    if len(query) == 3:
        heads, shared = attribute(node, "q_num_heads"), attribute(node, "kv_num_heads")
        query = (query[0], heads, query[1], query[2] // heads)
        key = (key[0], shared, key[1], key[2] // shared)
        value = (value[0], shared, value[1], value[2] // shared)
    past = node.input[4] if len(node.input) > 4 else ""
    if past:
        key = (*key[:2], key[2] + _shape(graph, past)[2], key[3])
    yield _Product("attention", attention_macs(query, key, value))


def _attention_with_weights(node: onnx.NodeProto, graph: Graph) -> Iterator[_Product]:
    """onnxruntime's operator: one projection to queries, keys and values, and the attention on them."""
    batch, length, width = _shape(graph, node.input[0])
    _, projected = _shape(graph, node.input[1])
    if (len(node.input) > 4 and node.input[4]) or attribute(node, "qkv_hidden_sizes"):
        raise _Unknown
    yield _Product("matmul", batch * length * width * projected, (_operand(node, 1),))
    hidden = (batch, length, projected // 3)
    yield _Product("attention", attention_macs(hidden, hidden, hidden))


def _multi_head_attention(node: onnx.NodeProto, graph: Graph) -> Iterator[_Product]:
    names = [*node.input, "", "", "", "", "", "", "", ""]
    if not names[1] or not names[2] or names[6] or names[7]:
        raise _Unknown
    query, key, value = (_shape(graph, name) for name in names[:3])
    if not len(query) == len(key) == len(value) == 3:
        raise _Unknown
    yield _Product("attention", attention_macs(query, key, value))


def _operand(node: onnx.NodeProto, at: int, zero_point: int | None = None) -> tuple[str, str]:
    has_zero = zero_point is not None and len(node.input) > zero_point
    return node.input[at], node.input[zero_point] if has_zero and zero_point is not None else ""


_FORMULAS: dict[tuple[str, str], _Formula] = {
    ("", "Conv"): _conv(),
    ("", "ConvInteger"): _conv(1, 3),
    ("", "QLinearConv"): _conv(3, 5),
    ("", "ConvTranspose"): _conv_transpose,
    ("", "Gemm"): _gemm,
    ("", "MatMul"): _matmul(),
    ("", "MatMulInteger"): _matmul(0, 1, (2, 3)),
    ("", "QLinearMatMul"): _matmul(0, 3, (2, 5)),
    ("", "Einsum"): _einsum,
    ("", "Attention"): _attention,
    **{("", op): _recurrent for op in ("LSTM", "GRU", "RNN")},
    **{
        (DOMAIN, name): _sparse_conv if operator.layer == "Conv" else _sparse_linear
        for name, operator in OPERATORS.items()
    },
    (MICROSOFT, "FusedConv"): _conv(),
    (MICROSOFT, "FusedGemm"): _gemm,
    (MICROSOFT, "FusedMatMul"): _fused_matmul,
    (MICROSOFT, "Attention"): _attention_with_weights,
    (MICROSOFT, "MultiHeadAttention"): _multi_head_attention,
}
