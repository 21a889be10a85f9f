"""Models in half precision: what is stored in it and what is not, and that onnxruntime finds the numbers again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import graph, normal, run, sparse
from onnx import TensorProto, numpy_helper

from sift_cli.core.half import HALVES, Storage
from sift_cli.errors import ExportError
from sift_cli.export.dense import plain
from sift_cli.export.half import rounded, with_weights
from sift_cli.export.pruned import sparsified
from sift_cli.export.pruned.source import Source

TEXT = """(float[n, 3, 8, 8] x, int64[n, k] ids, float[5, 7] default) =>
    (float[n, 9] y, float[n, k, 20] z, float[k, d, n, 4] l, float[n, 7] o, float[n] s, float[4, 4] constant) {
    convolved = Conv <kernel_shape = [3, 3]> (x, cw, cb)
    flat = Flatten (convolved)
    hidden = Gemm <transB = 1> (flat, gw, gb)
    product = MatMul (hidden, mw)
    sum = Add (product, mb)
    back = Transpose <perm = [1, 0]> (tw)
    y = MatMul (sum, back)
    s = MatMul (sum, scores)
    named = Gather (wte, ids)
    placed = Gather (wpe, ids)
    words = Add (named, placed)
    transposed = Transpose <perm = [1, 0]> (wte)
    normalised = LayerNormalization <axis = -1> (words, gamma, beta)
    z = MatMul (normalised, transposed)
    steps = Transpose <perm = [1, 0, 2]> (words)
    states = LSTM <hidden_size = 4> (steps, lw, lr)
    l = MatMul (states, constant)
    other = MatMul (hidden, default)
    o = Add (other, table)
}"""
#: Weights of a convolution, a Gemm, a MatMul, and one that is transposed; a table of words that is the head, too, and
#: one of places; an LSTM's.
WEIGHTS = {
    "cw": normal(4, 3, 3, 3), "gw": normal(5, 144), "mw": normal(5, 7), "tw": normal(9, 7),
    "wte": normal(20, 6), "wpe": normal(20, 6, seed=1), "lw": normal(1, 16, 6), "lr": normal(1, 16, 4),
}  # fmt: skip
#: Biases and norms; a vector; what a caller may replace; what a caller gets; a matrix that no layer multiplies with.
OTHERS = {
    "cb": normal(4), "gb": normal(5), "mb": normal(7), "gamma": normal(6), "beta": normal(6), "scores": normal(7),
    "default": normal(5, 7, seed=3), "constant": normal(4, 4), "table": normal(2, 7),
}  # fmt: skip
FEED = {"x": normal(2, 3, 8, 8), "ids": np.random.default_rng(0).integers(0, 20, (2, 3))}
TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def dense(opset: int = 17) -> onnx.ModelProto:
    return graph(TEXT, WEIGHTS | OTHERS, opset=opset)


def astype(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.astype(HALVES[dtype]).astype(np.float32)


@pytest.mark.parametrize("dtype", TYPES)
def test_weights_are_stored_in_half_precision_and_nothing_else(dtype: Storage) -> None:
    model = dense()
    before = model.SerializeToString()
    half = with_weights(model, dtype)
    onnx.checker.check_model(half, full_check=True)
    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert kinds == dict.fromkeys(WEIGHTS, TYPES[dtype]) | dict.fromkeys(OTHERS, TensorProto.FLOAT)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in half.graph.initializer}
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(stored[name].astype(np.float32), astype(array, dtype))
    assert [node.op_type for node in half.graph.node].count("Cast") == len(WEIGHTS)
    assert model.SerializeToString() == before
    assert with_weights(model, "fp32") is model


@pytest.mark.parametrize("dtype", TYPES)
def test_it_computes_what_rounded_weights_do_to_the_bit(dtype: Storage) -> None:
    want = run(graph(TEXT, {name: astype(array, dtype) for name, array in WEIGHTS.items()} | OTHERS, opset=17), FEED)
    exact = run(dense(), FEED)
    for model in (with_weights(dense(), dtype), rounded(dense(), dtype)):
        got = run(model, FEED)
        assert [array.tobytes() for array in got] == [array.tobytes() for array in want]
        assert not np.array_equal(got[0], exact[0])


def casts_left(path: Path) -> int:
    return [node.op_type for node in onnx.load(path).graph.node].count("Cast")


LOAD = """
import sys, onnxruntime
options = onnxruntime.SessionOptions()
options.optimized_model_filepath, options.log_severity_level = sys.argv[2], 3
onnxruntime.InferenceSession(sys.argv[1], options)
print(onnxruntime.__version__)
"""


@pytest.mark.parametrize("dtype", TYPES)
def test_onnxruntime_folds_every_cast_at_load(tmp_path: Path, dtype: Storage) -> None:
    onnx.save(with_weights(dense(), dtype), tmp_path / "half.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "loaded.onnx"), 3
    onnxruntime.InferenceSession(tmp_path / "half.onnx", options)
    assert casts_left(tmp_path / "half.onnx") == len(WEIGHTS)
    assert casts_left(tmp_path / "loaded.onnx") == 0


def test_the_oldest_onnxruntime_folds_them_too(tmp_path: Path, oldest_onnxruntime: str) -> None:
    for dtype in TYPES:
        onnx.save(with_weights(dense(), dtype), tmp_path / "half.onnx")  # type: ignore[arg-type]
        command = [oldest_onnxruntime, "-c", LOAD, "half.onnx", "loaded.onnx"]
        done = subprocess.run(command, cwd=tmp_path, check=True, timeout=120, capture_output=True, text=True)
        assert done.stdout.startswith("1.17.")
        assert casts_left(tmp_path / "loaded.onnx") == 0


LINEAR = "(float[n, 40] x) => (float[n, 60] y) { y = MatMul (x, w) }"


def pruned(weight: np.ndarray, opset: int = 13) -> onnx.ModelProto:
    return sparsified(Source(graph(LINEAR, {"w": weight}, opset=opset), ({},)), Path("pruned.onnx"), least=0.1)[0]


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_values_of_an_operator(native: bool, dtype: Storage, library: str | None) -> None:
    if native and library is None:
        pytest.skip("there is no library")
    registered = library if native else None
    weight, feed = sparse(40, 60), {"x": normal(3, 40)}
    half = with_weights(pruned(weight), dtype)
    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert kinds == {"w.values": TYPES[dtype], "w.bitmask": TensorProto.UINT8, "w.bias": TensorProto.FLOAT}
    assert [node.op_type for node in half.graph.node] == ["SparseLinear"]
    want = run(pruned(astype(weight, dtype)), feed, registered)[0]
    assert run(half, feed, registered)[0].tobytes() == want.tobytes()


def test_a_kept_value_that_rounds_to_0_stays_kept() -> None:
    weight = sparse(40, 60)
    weight[0] = 1e-9
    model = pruned(weight)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in with_weights(model, "fp16").graph.initializer}
    (bitmask,) = (numpy_helper.to_array(one) for one in model.graph.initializer if one.name == "w.bitmask")
    np.testing.assert_array_equal(stored["w.bitmask"], bitmask)
    assert stored["w.values"].shape == (np.count_nonzero(weight),)
    assert np.count_nonzero(stored["w.values"] == 0) == 60


def test_a_dense_copy_of_it_is_in_float32() -> None:
    half = with_weights(pruned(sparse(40, 60)), "bf16")
    feed = {"x": normal(3, 40)}
    copy = plain(half)
    assert {tensor.data_type for tensor in copy.graph.initializer} == {TensorProto.FLOAT}
    assert run(copy, feed)[0].tobytes() == run(half, feed)[0].tobytes()


def test_a_name_that_is_taken() -> None:
    model = graph("(float[n, 4] x) => (float[n, 4] y) { y = MatMul (x, w) }", {"w": normal(4, 4)})
    model.graph.node[0].output[0] = model.graph.output[0].name = "w.float32"
    half = with_weights(model, "fp16")
    onnx.checker.check_model(half, full_check=True)
    assert half.graph.output == model.graph.output
    feed = {"x": normal(2, 4)}
    assert run(half, feed)[0].tobytes() == run(rounded(model, "fp16"), feed)[0].tobytes()


def test_a_subgraph_that_reads_a_weight() -> None:
    text = """(float[n, 4] x, bool c) => (float[n, 4] y) {
        y = If (c) <then_branch = one () => (float[n, 4] a) { a = MatMul (x, w) },
                    else_branch = other () => (float[n, 4] b) { b = Identity (x) }>
    }"""
    half = with_weights(graph(text, {"w": normal(4, 4)}), "fp16")
    feed = {"x": normal(2, 4), "c": np.array(True)}
    assert [tensor.data_type for tensor in half.graph.initializer] == [TensorProto.FLOAT16]
    assert run(half, feed)[0].tobytes() == run(graph(text, {"w": astype(normal(4, 4), "fp16")}), feed)[0].tobytes()


@pytest.mark.parametrize("weight", ["w", "w.values"])
def test_a_weight_out_of_range_is_refused_by_its_name(weight: str) -> None:
    array = sparse(40, 60)
    array[0, 0] = 1e5
    model = pruned(array) if weight == "w.values" else graph(LINEAR, {"w": array})
    for make in (with_weights, rounded):
        with pytest.raises(ExportError, match=f"^'{weight}' has a weight of 100000, and fp16 ends at 65504$") as caught:
            make(model, "fp16")
        assert "--dtype bf16" in (caught.value.hint or "")
    assert with_weights(model, "bf16")


def test_bf16_needs_an_opset_that_casts_it() -> None:
    with pytest.raises(ExportError, match="bf16 needs opset 13, and the model has 12") as caught:
        with_weights(pruned(sparse(40, 60), opset=12), "bf16")
    assert "--dtype fp16" in (caught.value.hint or "")
    feed, half = {"x": normal(3, 40)}, with_weights(pruned(sparse(40, 60), opset=12), "fp16")
    assert run(half, feed)[0].tobytes() == run(pruned(astype(sparse(40, 60), "fp16"), opset=12), feed)[0].tobytes()
