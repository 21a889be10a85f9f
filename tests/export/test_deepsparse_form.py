"""The form of a model that DeepSparse reads: opset 17 at the most, fixed shapes, and the same numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sift_cli.errors import ExportError
from sift_cli.export.deepsparse import for_deepsparse
from sift_cli.runtime import session

X = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32) * 3


def model(nodes: list[onnx.NodeProto], stored: dict[str, Any] | None = None, opset: int = 20) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (stored or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def rewritten(*arguments: Any) -> onnx.ModelProto:
    older = for_deepsparse(model(*arguments), {"x": X.shape})
    assert [(opset.domain, opset.version) for opset in older.opset_import] == [("", 17)]
    assert older.ir_version == 8
    assert not older.functions
    return older


def run(file: onnx.ModelProto) -> np.ndarray:
    """As it is written: onnxruntime knows what a Gelu looks like, and puts its own in the place of a wrong one too."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return session(file.SerializeToString(), library=False, options=options).run(None, {"x": X})[0]


def ops(file: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in file.graph.node}


def close(got: np.ndarray, exact: np.ndarray) -> bool:
    """Within eight roundings of the largest value."""
    return bool(np.abs(got - exact).max() <= 8 * np.finfo(np.float32).eps * np.abs(exact).max())


def test_shapes_are_fixed() -> None:
    older = rewritten([helper.make_node("Relu", ["x"], ["y"])])
    assert [dim.dim_value for dim in older.graph.input[0].type.tensor_type.shape.dim] == [3, 4, 6]


@pytest.mark.parametrize("keep", [0, 1])
def test_axes_of_a_mean_become_an_attribute(keep: int) -> None:
    mean = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=keep, noop_with_empty_axes=0)
    older = rewritten([mean], {"axes": np.array([-1, 1])})
    assert len(older.graph.node[0].input) == 1
    assert close(run(older), X.astype(np.float64).mean(axis=(1, 2), keepdims=bool(keep)))


def test_a_mean_over_all_axes() -> None:
    assert close(
        run(rewritten([helper.make_node("ReduceMean", ["x"], ["y"])])), X.astype(np.float64).mean(keepdims=True)
    )


def test_axes_of_a_sum_stay_an_input() -> None:
    older = rewritten([helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)], {"axes": np.array([2])})
    assert close(run(older), X.astype(np.float64).sum(axis=2))


def test_a_split_into_equal_parts_needs_no_number() -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b", "c"], axis=2, num_outputs=3),
        helper.make_node("Sub", ["c", "a"], ["y"]),
    ]
    np.testing.assert_array_equal(run(rewritten(nodes)), X[..., 4:] - X[..., :2])


def test_a_cast_does_not_saturate() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT32, saturate=1),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    np.testing.assert_array_equal(run(rewritten(nodes)), np.trunc(X))


@pytest.mark.parametrize("epsilon", [1e-5, 0.5])
def test_a_layer_normalization_is_spelled_out(epsilon: float) -> None:
    scale, bias = np.linspace(-1, 2, 6, dtype=np.float32), np.linspace(3, 1, 6, dtype=np.float32)
    given = {} if epsilon == 1e-5 else {"epsilon": epsilon}
    nodes = [helper.make_node("LayerNormalization", ["x", "s", "b"], ["y"], axis=-1, **given)]
    older = rewritten(nodes, {"s": scale, "b": bias})
    assert "LayerNormalization" not in ops(older)
    x = X.astype(np.float64)
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    assert close(run(older), normal * scale + bias)


def test_a_layer_normalization_over_more_axes_stays() -> None:
    nodes = [helper.make_node("LayerNormalization", ["x", "s", "s"], ["y"], axis=1)]
    assert ops(rewritten(nodes, {"s": np.ones((4, 6), np.float32)})) == {"LayerNormalization"}


@pytest.mark.parametrize("approximate", [None, "none", "tanh"])
def test_a_gelu_is_spelled_out(approximate: str | None) -> None:
    given = {} if approximate is None else {"approximate": approximate}
    older = rewritten([helper.make_node("Gelu", ["x"], ["y"], **given)])
    x = X.astype(np.float64)
    if approximate == "tanh":
        exact = x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    else:
        exact = x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    assert "Gelu" not in ops(older)
    assert np.all(np.abs(run(older) - exact) <= 4 * np.finfo(np.float32).eps * np.abs(x))


def test_an_older_model_keeps_its_opset() -> None:
    mean = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1])
    older = for_deepsparse(model([mean], opset=13), {"x": X.shape})
    assert older.opset_import[0].version == 13
    assert close(run(older), X.astype(np.float64).mean(axis=1, keepdims=True))


def test_an_operator_without_an_older_form_is_refused() -> None:
    nodes = [helper.make_node("GroupNormalization", ["x", "s", "s"], ["y"], num_groups=2)]
    with pytest.raises(
        ExportError, match=r"no form for DeepSparse: GroupNormalization .* is of an opset after 17"
    ) as caught:
        for_deepsparse(model(nodes, {"s": np.ones(4, np.float32)}, opset=21), {"x": X.shape})
    assert "deepsparse:" in str(caught.value.hint)
