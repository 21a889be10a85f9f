"""Where the time goes: the profiler's events as a table, and which node of the file a profiled one is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from sift_cli.runtime import available_isas
from sift_cli.runtime.layers import NodeTime, _origin, profile, tabulate


def events(*runs: list[tuple[str, str, int]]) -> list[dict[str, Any]]:
    """What the profiler writes of ``runs``, each a list of (node, op, microseconds)."""
    found: list[dict[str, Any]] = [{"cat": "Session", "name": "model_loading_uri", "ts": 0, "dur": 9}]
    now = 10
    for run in runs:
        begin = now
        for name, op, spent in run:
            args = {"op_name": op}
            found.append({"cat": "Node", "name": f"{name}_fence_before", "ts": now, "dur": 5, "args": args})
            found.append({"cat": "Node", "name": f"{name}_kernel_time", "ts": now, "dur": spent, "args": args})
            now += spent
        found.append({"cat": "Session", "name": "model_run", "ts": begin, "dur": now - begin})
        now += 1
    return found


def itself(name: str, op: str, profiled: set[str]) -> str | None:
    return None if op == "Reorder" else name


def test_times_are_medians_over_the_last_runs() -> None:
    body = [("body", "Add", 1), ("body", "Add", 3)]
    found = events(
        [("conv", "SparseConv", 999), ("body", "Add", 999)],
        [("conv", "SparseConv", 10), *body, ("r1", "Reorder", 1), ("r2", "Reorder", 3)],
        [("conv", "SparseConv", 30), *body, ("r1", "Reorder", 5), ("r2", "Reorder", 3)],
    )
    table = tabulate(found, 2, {"conv": "rows/avx2"}, itself, {"conv": (40_000, 10_000)})
    conv, looped, made = table
    assert (conv.name, conv.op, conv.kernel, conv.dense, conv.sparse) == (
        "conv", "SparseConv", "rows/avx2", 40_000, 10_000
    )  # fmt: skip
    assert conv.seconds == pytest.approx(20e-6, rel=1e-12)
    assert looped.seconds == pytest.approx(4e-6, rel=1e-12)  # two runs of 2 µs in each run of the model
    assert (made.name, made.op) == ("(onnxruntime)", "Reorder")
    assert made.seconds == pytest.approx(6e-6, rel=1e-12)
    assert [node.share for node in table] == pytest.approx([20 / 30, 4 / 30, 6 / 30], rel=1e-12)
    assert conv.useful_gflops == pytest.approx(1.0, rel=1e-12)  # 20,000 operations in 20 µs
    assert conv.dense_equivalent_gflops == pytest.approx(4.0, rel=1e-12)
    assert looped.useful_gflops is None
    assert looped.to_json()["macs"] is None


def test_a_profiled_node_is_found_in_the_file() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first"),
        helper.make_node("Relu", ["c"], ["r"], name="activation"),
        helper.make_node("Conv", ["r", "w"], ["d"], name="second"),
        helper.make_node("Add", ["r", "d"], ["s"], name="residual"),
        helper.make_node("MatMul", ["s", "v"], ["m"], name="product"),
        helper.make_node("Gelu", ["m"], ["y"]),
    ]
    origin = _origin(helper.make_graph(nodes, "g", [], []))
    seen = {"r_nchwc", "s_nchwc", "ReorderOutput"}
    assert origin("first", "Conv", seen) == "first"
    assert origin("fused first", "Conv", seen) == "first"
    assert origin("product/MatMulScaleFusion/", "FusedMatMul", seen) == "product"
    assert origin("product/MatMulAddFusion", "Gemm", seen) == "product"
    assert origin("r_nchwc", "Conv", seen) == "first"  # through the activation, which it took in
    assert origin("s_nchwc", "Conv", seen) == "second"  # through the addition, and not on through "r"
    assert origin("s_nchwc", "Conv", seen | {"residual"}) is None
    assert origin("ReorderOutput", "ReorderOutput", seen) is None
    assert origin("y", "Gelu", seen) == "y"


def linear(one_node: Callable[..., bytes], path: Path, batch: str | int | None) -> Path:
    """2 inputs to 3 outputs, of which 4 weights are kept."""
    kept = {"bitmask": np.array([0b110011], np.uint8), "values": np.ones(4, np.float32)}
    model = ModelProto.FromString(one_node("SparseLinear", kept, weight_shape=(3, 2)))
    for value, width in ((model.graph.input[0], 2), (model.graph.output[0], 3)):
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [batch, width]))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("batch", ["n", 5, None])
def test_a_model_is_profiled_at_the_size_of_its_inputs(
    one_node: Callable[..., bytes], tmp_path: Path, batch: str | int | None
) -> None:
    path = linear(one_node, tmp_path / "m.onnx", batch)
    (node,) = profile(path, {"X": np.ones((5, 2), np.float32)}, threads=1, seconds=0)
    assert isinstance(node, NodeTime)
    assert (node.name, node.op, node.share) == ("layer", "SparseLinear", 1.0)
    assert node.kernel is not None
    assert node.kernel.endswith(f"/{available_isas()[0]}")
    # 3 × 2 weights for each of 5 rows; where the size has no name, nobody can say it to the counter.
    assert (node.dense, node.sparse) == ((30, 20) if batch else (None, None))
    assert list(tmp_path.iterdir()) == [path]
