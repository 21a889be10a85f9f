"""A model without sift's operators computes, to the bit, what its fallback functions compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sift_cli.core.operators import OPERATORS
from sift_cli.errors import ExportError
from sift_cli.export import fallback
from sift_cli.export.dense import plain
from sift_cli.runtime import session

RNG = np.random.default_rng(0)
SHAPES = {"Conv": ((2, 6, 7, 8), (8, 3, 3, 2)), "Linear": ((2, 5, 12), (7, 12))}
ATTRIBUTES: dict[str, Any] = {
    "strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2), "group": 2, "min": -0.5, "max": 0.75, "alpha": 0.125,
}  # fmt: skip


def weight_of(layer: str) -> tuple[np.ndarray, np.ndarray]:
    kept = RNG.random(SHAPES[layer][1]) < 0.4
    weight = np.where(kept, RNG.standard_normal(kept.shape), 0).astype(np.float32)
    weight[tuple(np.argwhere(kept)[0])] = -0.0
    return weight, kept


def parts(weight: np.ndarray, kept: np.ndarray, name: str = "w") -> list[onnx.TensorProto]:
    bits = np.packbits(kept.reshape(-1), bitorder="little")
    return [
        numpy_helper.from_array(bits, f"{name}.bitmask"),
        numpy_helper.from_array(weight[kept], f"{name}.values"),
        numpy_helper.from_array(np.linspace(-1, 1, len(weight), dtype=np.float32), f"{name}.bias"),
    ]


def node(name: str, x: str, y: str, residual: str = "r", weight: str = "w") -> onnx.NodeProto:
    operator = OPERATORS[name]
    inputs = [x, f"{weight}.bitmask", f"{weight}.values", f"{weight}.bias", *[residual] * operator.adds]
    given = {key: ATTRIBUTES[key] for key in operator.attributes if key != "weight_shape"}
    return helper.make_node(
        name, inputs, [y], domain="sift", name=f"node {y}", weight_shape=SHAPES[operator.layer][1], **given
    )


def model(
    nodes: list[onnx.NodeProto], stored: list[onnx.TensorProto], *, opset: int = 20, functions: bool = True
) -> onnx.ModelProto:
    """A model that reads "x", and "r" where a node does, and returns what its last node makes."""
    reads = [name for name in ("x", "r") if any(name in one.input for one in nodes)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in reads],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        stored,
    )
    names = {one.op_type for one in nodes if one.domain == "sift"}
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("sift", 1)],
        functions=fallback.functions(names, opset) if functions else [],
        ir_version=9,
    )


def run(file: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    return session(file.SerializeToString(), library=False).run(None, feed)[0]


def same(one: onnx.ModelProto, other: onnx.ModelProto) -> None:
    feed = {"x": RNG.standard_normal((3, 12)).astype(np.float32)}
    assert run(one, feed).tobytes() == run(other, feed).tobytes()


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_becomes_its_fallback(name: str) -> None:
    operator = OPERATORS[name]
    weight, kept = weight_of(operator.layer)
    sparse = model([node(name, "x", "y")], parts(weight, kept))
    before = sparse.SerializeToString()
    dense = plain(sparse)
    assert sparse.SerializeToString() == before
    assert {opset.domain for opset in dense.opset_import} == {""}
    assert not dense.functions
    assert not any(one.domain for one in dense.graph.node)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in dense.graph.initializer}
    want = weight if operator.layer == "Conv" else weight.T  # as a MatMul reads it
    assert [array.shape for array in stored.values() if array.size == weight.size] == [want.shape]
    assert any(array.tobytes() == want.tobytes() for array in stored.values())
    assert not any(array.dtype == np.uint8 for array in stored.values())

    x = RNG.standard_normal(SHAPES[operator.layer][0]).astype(np.float32)
    x.reshape(-1)[:3] = np.inf, np.nan, -0.0
    feed = {"x": x}
    if operator.adds:
        bare = model([node(f"Sparse{operator.layer}", "x", "y")], parts(weight, kept))
        feed["r"] = RNG.standard_normal(run(bare, feed).shape).astype(np.float32)
    assert run(dense, feed).tobytes() == run(sparse, feed).tobytes()


@pytest.mark.parametrize("opset", [12, 13, 17, 18, 23])
def test_the_opset_stays(opset: int) -> None:
    sparse = model([node("SparseLinear", "x", "y")], parts(*weight_of("Linear")), opset=opset)
    dense = plain(sparse)
    assert [item.version for item in dense.opset_import] == [opset]
    same(dense, sparse)


def test_a_weight_that_two_nodes_share_is_stored_once() -> None:
    nodes = [
        node("SparseLinear", "x", "a"),
        node("SparseLinearRelu", "x", "b"),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    sparse = model(nodes, parts(*weight_of("Linear")))
    dense = plain(sparse)
    assert [list(tensor.dims) for tensor in dense.graph.initializer if len(tensor.dims) == 2] == [[12, 7]]
    same(dense, sparse)


def test_a_name_that_is_taken_is_left_alone() -> None:
    weight, kept = weight_of("Linear")
    taken = numpy_helper.from_array(np.float32([3]), "w")
    nodes = [node("SparseLinear", "x", "a"), helper.make_node("Mul", ["a", "w"], ["y"])]
    sparse = model(nodes, [*parts(weight, kept), taken])
    same(plain(sparse), sparse)


def test_a_model_without_sparse_operators_stays() -> None:
    dense = model([helper.make_node("Relu", ["x"], ["y"])], [])
    del dense.opset_import[1:]
    assert plain(dense).SerializeToString() == dense.SerializeToString()


def test_what_is_broken_is_refused() -> None:
    weight, kept = weight_of("Linear")
    stored, nodes = parts(weight, kept), [node("SparseLinear", "x", "y")]
    with pytest.raises(ExportError, match="SparseLinear 'node y' has no fallback function"):
        plain(model(nodes, stored, functions=False))
    with pytest.raises(ExportError, match=r"'w\.values', which is no constant of the model"):
        plain(model(nodes, [stored[0], stored[2]]))
    with pytest.raises(ExportError, match="does not decode: the bitmask keeps"):
        plain(model(nodes, [stored[0], numpy_helper.from_array(weight[kept][1:], "w.values")]))
    short = node("SparseLinear", "x", "y")
    del short.input[2:]
    with pytest.raises(ExportError, match="does not decode"):
        plain(model([short], stored))
    other = model(nodes, stored)
    for inner in other.functions[0].node:
        inner.output[:] = [f"{name}_2" for name in inner.output]
    with pytest.raises(ExportError, match="function of SparseLinear is none that sift writes"):
        plain(other)


def test_a_weight_that_is_dense_at_run_time_is_one_in_the_file() -> None:
    weight, kept = weight_of("Linear")
    decoding = helper.make_node(
        "DenseWeight", ["w.bitmask", "w.values"], ["w"], domain="sift", name="w", weight_shape=weight.shape
    )
    nodes = [decoding, helper.make_node("Gemm", ["x", "w", "w.bias"], ["y"], transB=1)]
    sparse = model(nodes, parts(weight, kept))
    dense = plain(sparse)
    assert [one.op_type for one in dense.graph.node] == ["Gemm"]
    assert {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in dense.graph.initializer} == {
        "w": weight.tobytes(),
        "w.bias": numpy_helper.to_array(parts(weight, kept)[2]).tobytes(),
    }
    assert not dense.functions
    same(dense, sparse)
