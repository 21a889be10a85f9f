"""An ONNX model whose weights are stored otherwise holds the same bits, and onnxruntime computes the same bits.

The oracles are a decoder of the three forms that is written down here, onnx's checker, and stock onnxruntime.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from graphs import graph, normal, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sift_cli.conversion.graph import check_same, rewritten
from sift_cli.errors import CheckpointError, ExportError, Malformed, VerificationFailed
from sift_cli.export import fallback
from sift_cli.export.graph_weights import Form
from sift_cli.export.pruned import sparsified
from sift_cli.export.pruned.source import read

RNG = np.random.default_rng(0)
FORMS: tuple[Form, ...] = ("sift", "coo", "dense")
ROWS = "(float[N, 64] x) => (float[N, 48] y)"
FEED = {"x": normal(3, 64)}
Weights = dict[str, tuple[np.ndarray, np.ndarray | None]]


def pruned(*shape: int, zeros: float = 0.9, dtype: Any = np.float32) -> np.ndarray:
    """Weights with −0.0 and a NaN among those that are no zeros."""
    kept = RNG.random(shape) >= zeros
    weight = np.where(kept, RNG.standard_normal(shape) * 4, 0).astype(dtype)
    first, second = np.argwhere(kept)[:2]
    if np.dtype(dtype).kind not in "iu":
        weight[tuple(first)], weight[tuple(second)] = -0.0, 0.25
    return weight


W = pruned(64, 48)
KEPT = W.view(np.uint32) != 0


def decoded(model: onnx.ModelProto | onnx.GraphProto) -> Weights:
    """Arrays and masks of one graph, one element after the other, as the forms are written down."""
    graph = model.graph if isinstance(model, onnx.ModelProto) else model
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found: Weights = {}
    for node in graph.node:
        if node.op_type == "DenseWeight":
            bits, values = (stored[name] for name in node.input)
            (shape,) = (tuple(item.ints) for item in node.attribute)
            array, kept, at = np.zeros(shape, values.dtype), np.zeros(shape, bool), 0
            for i in range(array.size):
                if bits[i // 8] >> i % 8 & 1:
                    array.flat[i], kept.flat[i], at = values[at], True, at + 1
            assert at == len(values)
            found[node.input[0].removesuffix(".bitmask")] = array, kept
    for sparse in graph.sparse_initializer:
        values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        array, kept = np.zeros(tuple(sparse.dims), values.dtype), np.zeros(tuple(sparse.dims), bool)
        assert indices.dtype == np.int64
        assert indices.shape == values.shape
        assert np.all(np.diff(indices) > 0)
        for i, value in zip(indices, values, strict=True):
            array.flat[i], kept.flat[i] = value, True
        found[sparse.values.name] = array, kept
    parts = {name for node in graph.node if node.op_type == "DenseWeight" for name in node.input}
    return found | {name: (array, None) for name, array in stored.items() if name not in parts}


def same(got: Weights, wanted: Weights, *, masks: bool = True) -> bool:
    def bits(weights: Weights) -> dict[str, tuple[object, ...]]:
        return {
            name: (array.dtype, array.shape, array.tobytes(), kept.tobytes() if masks and kept is not None else None)
            for name, (array, kept) in weights.items()
        }

    return bits(got) == bits(wanted)


@pytest.fixture
def rewrite(tmp_path: Path) -> Callable[..., onnx.ModelProto]:
    """Write a model, rewrite it, check that by sift's own means, by onnx's checker and by onnxruntime's outputs."""

    def do(
        model: onnx.ModelProto, to: Any, feed: Mapping[str, np.ndarray] | None = FEED, **options: Any
    ) -> onnx.ModelProto:
        before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
        before.write_bytes(model.SerializeToString())
        result = rewritten(before, to, **options)
        after.write_bytes(result.SerializeToString())
        assert check_same(before, after, to, dtype=options.get("dtype")) is None
        onnx.checker.check_model(after)
        if feed is not None and "dtype" not in options:
            for a, b in zip(run(model, feed), run(result, feed), strict=True):
                assert a.tobytes() == b.tobytes()
        assert not re.search(r"tmp|before", str(result.metadata_props))
        return result

    return do


def product(weight: np.ndarray = W, **other: Any) -> onnx.ModelProto:
    return graph(f"{ROWS} {{ y = MatMul (x, w) }}", {"w": weight}, opset=18, **other)


@pytest.mark.parametrize("first", FORMS)
@pytest.mark.parametrize("second", FORMS)
def test_every_form_to_every_form(rewrite: Callable[..., onnx.ModelProto], first: str, second: str) -> None:
    model = product()
    model.metadata_props.add(key="made by", value="someone")
    once = rewrite(model, first)
    twice = rewrite(once, second)
    assert same(decoded(once), {"w": (W, None if first == "dense" else KEPT)})
    assert same(decoded(twice), {"w": (W, None if second == "dense" else KEPT)})
    if second == "dense":
        assert twice.graph == model.graph
    assert [(item.key, item.value) for item in twice.metadata_props] == [("made by", "someone")]
    assert {item.domain for item in twice.opset_import} == ({"", "sift"} if second == "sift" else {""})
    assert len(twice.functions) == (second == "sift")


@pytest.mark.parametrize("zeros", [0.5, 0.75, 0.9, 0.95])
def test_sizes_are_those_of_the_formulas(rewrite: Callable[..., onnx.ModelProto], zeros: float) -> None:
    """Of a large weight, what is around its arrays is below 1 %."""
    weight = RNG.standard_normal((576, 512)).astype(np.float32)
    weight.flat[RNG.permutation(weight.size)[: round(zeros * weight.size)]] = 0
    model = graph("(float[N, 576] x) => (float[N, 512] y) { y = MatMul (x, w) }", {"w": weight}, opset=18)
    n, m = weight.size, int(np.count_nonzero(weight))
    wanted = {"sift": n / 8 + 4 * m, "coo": min(12 * m, 4 * n), "dense": 4 * n}
    for to, size in wanted.items():
        assert size <= rewrite(model, to, None).ByteSize() <= 1.02 * size + 2048


def test_masks_stay_masks_with_their_zeros(rewrite: Callable[..., onnx.ModelProto]) -> None:
    """Also where a sparse initializer is larger than the dense weight."""
    kept = RNG.random(W.shape) < 0.6
    weight = np.where(kept & (RNG.random(W.shape) < 0.5), normal(*W.shape), 0)
    positions = np.flatnonzero(kept)
    model = product()
    del model.graph.initializer[:]
    values = numpy_helper.from_array(weight.flat[positions], "w")
    # Not the checker's form: coordinates of the axes, and in disorder.
    order = RNG.permutation(len(positions))
    values = numpy_helper.from_array(weight.flat[positions[order]], "w")
    axes = numpy_helper.from_array(np.stack(np.unravel_index(positions[order], W.shape), 1).astype(np.int32), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, axes, W.shape))
    coo, bitmask = rewrite(model, "coo"), rewrite(model, "sift")
    assert same(decoded(coo), {"w": (weight, kept)})
    assert same(decoded(bitmask), {"w": (weight, kept)})
    assert same(decoded(rewrite(bitmask, "coo")), {"w": (weight, kept)})
    assert same(decoded(rewrite(coo, "sift")), {"w": (weight, kept)})
    assert same(decoded(rewrite(model, "dense")), {"w": (weight, None)})


def test_what_would_not_be_smaller_stays_as_it_is(rewrite: Callable[..., onnx.ModelProto]) -> None:
    dense = pruned(64, 48, zeros=0.02)
    for weight in (dense, pruned(8, 8), np.zeros(30000, np.float32)):
        model = graph(f"{ROWS} {{ z = MatMul (x, v) y = Identity (z) }}", {"v": W[:, :48], "w": weight}, opset=18)
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(dense, "v"))
        assert rewrite(model, "sift", None).SerializeToString() == model.SerializeToString()
        assert rewrite(model, "dense", None).SerializeToString() == model.SerializeToString()
    assert not rewrite(product(pruned(64, 48, zeros=0.6)), "coo").graph.sparse_initializer  # 12 · 0.4 > 4
    share = 1 - np.count_nonzero(KEPT) / KEPT.size
    assert not rewrite(product(), "sift", least=share + 0.001).functions
    assert rewrite(product(), "sift", least=share).functions


HALVES = {
    "float16 alone": (
        np.float16,
        TensorProto.FLOAT16,
        "c = Cast <to = 10> (x) d = MatMul (c, w) y = Cast <to = 1> (d)",
    ),
    "float16, cast": (np.float16, TensorProto.FLOAT16, "v = Cast <to = 1> (w) y = MatMul (x, v)"),
    "float16, both": (
        np.float16,
        TensorProto.FLOAT16,
        "v = Cast <to = 1> (w) d = MatMul (x, v) s = ReduceMax (w) t = Cast <to = 1> (s) y = Add (d, t)",
    ),
    "bfloat16": (ml_dtypes.bfloat16, TensorProto.BFLOAT16, "v = Cast <to = 1> (w) y = MatMul (x, v)"),
    "two casts": (
        np.float16,
        TensorProto.FLOAT16,
        "v = Cast <to = 1> (w) a = MatMul (x, v) u = Cast <to = 1> (w) b = MatMul (x, u) y = Sub (a, b)",
    ),
    "int8": (
        np.int8,
        TensorProto.INT8,
        "s = Constant <value_float = 0.01> () v = DequantizeLinear (w, s) y = MatMul (x, v)",
    ),
    "uint8": (np.uint8, TensorProto.UINT8, "v = Cast <to = 1> (w) y = MatMul (x, v)"),
}


@pytest.mark.parametrize("case", HALVES)
def test_types_that_float32_holds(rewrite: Callable[..., onnx.ModelProto], case: str) -> None:
    dtype, kind, body = HALVES[case]
    weight = pruned(64, 80, dtype=np.float32).clip(-99, 99)
    weight = (np.abs(weight) if dtype == np.uint8 else weight).astype(dtype)
    kept = weight.view(f"u{weight.itemsize}") != 0
    model = graph(f"(float[N, 64] x) => (float[N, 80] y) {{ {body} }}", {"w": weight}, opset=18, ir=9)
    assert model.graph.initializer[0].data_type == kind
    sparse = rewrite(model, "sift")
    assert same(decoded(sparse), {"w": (weight, kept)})
    assert all("w" not in node.input for node in sparse.graph.node) == (
        case in ("float16, cast", "bfloat16", "uint8", "two casts")
    )
    for to in FORMS:
        assert same(decoded(rewrite(sparse, to)), {"w": (weight, None if to == "dense" else kept)})
    assert same(decoded(rewrite(rewrite(model, "coo"), "sift")), {"w": (weight, kept)})


def test_a_double_stays_dense_or_a_sparse_initializer(rewrite: Callable[..., onnx.ModelProto]) -> None:
    weight = pruned(64, 48, dtype=np.float64)
    body = "c = Cast <to = 11> (x) d = MatMul (c, w) y = Cast <to = 1> (d)"
    model = graph(f"{ROWS} {{ {body} }}", {"w": weight}, opset=18)
    assert rewrite(model, "sift").SerializeToString() == model.SerializeToString()
    coo = rewrite(model, "coo")
    assert same(decoded(coo), {"w": (weight, weight.view(np.uint64) != 0)})
    assert rewrite(coo, "sift").SerializeToString() == coo.SerializeToString()


def test_a_weight_that_many_read_is_stored_once(rewrite: Callable[..., onnx.ModelProto]) -> None:
    body = "a = MatMul (x, w) t = Transpose (w) b = MatMul (a, t) y = MatMul (b, w)"
    model = graph(f"{ROWS} {{ {body} }}", {"w": W}, opset=18)
    sparse = rewrite(model, "sift")
    assert [node.op_type for node in sparse.graph.node].count("DenseWeight") == 1
    assert len(sparse.graph.initializer) == 2
    assert len(rewrite(model, "coo").graph.sparse_initializer) == 1


def test_a_weight_of_several_functions_and_names(rewrite: Callable[..., onnx.ModelProto]) -> None:
    """Two nodes decode one weight, under names that are not its own, and one of them is cast down again."""
    sparse = rewrite(product(W.astype(np.float16).astype(np.float32)), "sift")
    half = numpy_helper.from_array(numpy_helper.to_array(sparse.graph.initializer[1]).astype(np.float16), "w.values")
    sparse.graph.initializer[1].CopyFrom(half)
    (decoding, matmul) = sparse.graph.node
    second = onnx.NodeProto()
    second.CopyFrom(decoding)
    decoding.output[0], second.output[0], matmul.input[1], matmul.output[0] = "u", "v", "u", "a"
    down = helper.make_node("Cast", ["v"], ["h"], to=TensorProto.FLOAT16)
    up = helper.make_node("Cast", ["h"], ["f"], to=TensorProto.FLOAT)
    end = [helper.make_node("MatMul", ["x", "f"], ["b"]), helper.make_node("Add", ["a", "b"], ["y"])]
    del sparse.graph.node[:]
    sparse.graph.node.extend([decoding, second, matmul, down, up, *end])
    for to in ("coo", "dense"):
        found = decoded(rewrite(sparse, to))
        assert list(found) == ["w"]
        assert found["w"][0].tobytes() == W.astype(np.float16).tobytes()


def branches(*weights: np.ndarray) -> onnx.ModelProto:
    """If c then x · w else x · w, two weights of one name; the outer one is read inside."""
    bodies = [
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "o"], ["z"])],
            "body",
            [],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, [None, 48])],
            [numpy_helper.from_array(weight, "w")],
        )
        for weight in weights
    ]
    node = helper.make_node("If", ["c"], ["y"], then_branch=bodies[0], else_branch=bodies[1])
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 48])]
    graph = helper.make_graph([node], "g", inputs, outputs, [numpy_helper.from_array(W, "o")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize("first", ["sift", "coo"])
@pytest.mark.parametrize("taken", [True, False])
def test_subgraphs(rewrite: Callable[..., onnx.ModelProto], first: str, taken: bool) -> None:
    one, other = pruned(64, 48), pruned(64, 48)
    model = branches(one, other)
    feed = {"x": normal(64, 64), "c": np.array(taken)}
    sparse = rewrite(model, first, feed)
    for step, masked in (
        (sparse, True),
        (rewrite(sparse, "sift", feed), True),
        (rewrite(sparse, "dense", feed), False),
    ):
        (node,) = (node for node in step.graph.node if node.op_type == "If")
        inner = {item.name: decoded(item.g) for item in node.attribute}
        for name, weight in {"then_branch": one, "else_branch": other}.items():
            assert same(inner[name], {"w": (weight, weight.view(np.uint32) != 0 if masked else None)})
        assert same(decoded(step), {"o": (W, KEPT if masked else None)})
    assert rewrite(sparse, "dense", feed).graph == model.graph


def test_constants_are_weights_too(rewrite: Callable[..., onnx.ModelProto]) -> None:
    model = product()
    del model.graph.initializer[:]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(W, "any")))
    for to in FORMS:
        assert same(decoded(rewrite(model, to)), {"w": (W, None if to == "dense" else KEPT)})
    model.graph.node[0].CopyFrom(helper.make_node("Constant", [], ["w"], sparse_value=sparse_tensor(W)))
    for to in FORMS:
        assert same(decoded(rewrite(model, to)), {"w": (W, None if to == "dense" else KEPT)})


def sparse_tensor(weight: np.ndarray, name: str = "") -> onnx.SparseTensorProto:
    positions = np.flatnonzero(weight.view(np.uint32))
    values = numpy_helper.from_array(weight.flat[positions], name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(positions), weight.shape)


def test_what_a_caller_may_replace_or_reads_stays_dense(rewrite: Callable[..., onnx.ModelProto]) -> None:
    default, output = product(), product()
    default.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, W.shape))
    output.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, W.shape))
    for model in (default, output):
        for to in FORMS:
            assert rewrite(model, to).SerializeToString() == model.SerializeToString()


def test_before_ir_version_4_every_initializer_is_an_input(rewrite: Callable[..., onnx.ModelProto]) -> None:
    model = graph(f"{ROWS} {{ y = MatMul (x, w) }}", {"w": W}, opset=12, ir=3)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, W.shape))
    for to, version in {"sift": 8, "coo": 6, "dense": 4}.items():
        result = rewrite(model, to)
        assert result.ir_version == version
        assert [value.name for value in result.graph.input] == ["x"]
        assert result.opset_import[0].version == 12


def test_data_in_another_file_comes_in_and_only_from_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(product(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    for to in FORMS:
        assert same(decoded(rewritten(path, to)), {"w": (W, None if to == "dense" else KEPT)})
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../w.bin"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(Malformed, match="not inside the model's folder"):
        rewritten(path, "sift")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sparse operators with activations and a sum in them, two of them with one weight."""
    path = tmp_path_factory.mktemp("exported") / "s.onnx"
    weights = {"k": normal(6, 6, 3, 3), "v": normal(7, 6), "b": normal(6)}
    for weight in (weights["k"], weights["v"]):
        weight[normal(*weight.shape, seed=1) < 0.7] = 0
    same = "<pads = [1, 1, 1, 1]>"
    body = f"""
        a = Conv {same} (x, k, b) c = Relu (a) d = Conv {same} (c, k) e = Add (d, x) f = Relu (e)
        g = GlobalAveragePool (f) h = Flatten (g) y = Gemm <transB = 1> (h, v)
    """
    text = f"(float[2, 6, 8, 9] x) => (float[2, 7] y) {{ {body} }}"
    path.write_bytes(graph(text, weights, opset=18).SerializeToString())
    path.write_bytes(sparsified(read(path), path, least=0.3)[0].SerializeToString())
    return path


@pytest.mark.parametrize("to", FORMS)
def test_sparse_operators_become_standard_ones(exported: Path, tmp_path: Path, to: Any) -> None:
    source, out = onnx.load(exported), tmp_path / "out.onnx"
    sparse = [node for node in source.graph.node if node.domain == "sift"]
    assert [node.op_type for node in sparse] == ["SparseConvRelu", "SparseConvAddRelu", "SparseLinear"]
    result = rewritten(exported, to)
    out.write_bytes(result.SerializeToString())
    assert check_same(exported, out, to) is None
    assert any(node.domain for node in result.graph.node) == (to == "sift")
    found, stored = decoded(result), {one.name: numpy_helper.to_array(one) for one in source.graph.initializer}
    for node in () if to == "sift" else sparse:
        array, kept = found[node.input[1].removesuffix(".bitmask")]
        bits = np.unpackbits(stored[node.input[1]], count=array.size, bitorder="little").astype(bool)
        assert array.reshape(-1)[bits].tobytes() == stored[node.input[2]].tobytes()
        assert not array.reshape(-1)[~bits].any()
        assert kept is None if to == "dense" else kept is not None and np.array_equal(kept.reshape(-1), bits)


@pytest.mark.parametrize("to", FORMS)
@pytest.mark.parametrize("first", ["dense", "coo"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision(rewrite: Callable[..., onnx.ModelProto], to: str, first: str, dtype: Any) -> None:
    weight = pruned(64, 80)
    model = graph("(float[N, 64] x) => (float[N, 80] y) { y = MatMul (x, w) }", {"w": weight}, opset=18)
    result = rewrite(rewrite(model, first), to, dtype=dtype)
    rounded = weight.astype(np.float16 if dtype == "fp16" else ml_dtypes.bfloat16)
    array, kept = decoded(result)["w"]
    assert (array.dtype, array.tobytes()) == (rounded.dtype, rounded.tobytes())
    if to == "sift" or first == "coo" != to:
        assert kept is None if to == "dense" else kept is not None and (kept == (weight.view(np.uint32) != 0)).all()
    exact = graph("(float[N, 64] x) => (float[N, 80] y) { y = MatMul (x, w) }", {"w": rounded.astype(np.float32)})
    assert run(result, FEED)[0].tobytes() == run(exact, FEED)[0].tobytes()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_bits_of_any_weight_come_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16, np.int8]))
    shape = tuple(data.draw(st.lists(st.integers(1, 40), min_size=2, max_size=4)))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    size = int(np.prod(shape))
    bits = random.integers(0, 256, size * np.dtype(dtype).itemsize, np.uint8).view(dtype)
    bits[random.random(size) < data.draw(st.floats(0, 1))] = 0
    weight = bits.reshape(shape)
    to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    output = helper.make_tensor_value_info("y", to, shape)
    model = graph("() => (float y) { y = Identity (w) }", {"w": weight}, opset=18, ir=9)
    model.graph.output[0].CopyFrom(output)
    folder = tmp_path_factory.mktemp("any")
    for first in FORMS:
        path = folder / f"{first}.onnx"
        source = folder / "source.onnx"
        source.write_bytes(model.SerializeToString())
        path.write_bytes(rewritten(source, first).SerializeToString())
        for second in FORMS:
            again = decoded(rewritten(path, second))["w"]
            assert again[0].tobytes() == weight.tobytes()
            assert (
                second == "dense" or again[1] is None or (again[1] == (weight.view(f"u{weight.itemsize}") != 0)).all()
            )


def taken() -> onnx.ModelProto:
    model = graph(
        f"{ROWS} {{ z = MatMul (x, w) w.values = Relu (z) y = Relu (w.values) }}".replace("w.values", "v"), {}
    )
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["w.values" if name == "v" else name for name in names]
    model.graph.sparse_initializer.append(sparse_tensor(W, "w"))
    return model


def reader() -> onnx.ModelProto:
    parts = {"w.bitmask": np.packbits(KEPT.reshape(-1), bitorder="little"), "w.values": W[KEPT]}
    model = graph(f"{ROWS} {{ y = MatMul (x, w) }}", parts, opset=18)
    decoding = helper.make_node("DenseWeight", list(parts), ["w"], domain="sift", weight_shape=W.shape)
    model.graph.node.insert(0, decoding)
    model.graph.node.append(helper.make_node("ReduceSum", ["w.values"], ["sum"]))
    model.functions.extend(fallback.functions(["DenseWeight"], 18))
    model.opset_import.append(helper.make_opsetid("sift", 1))
    return model


def large() -> onnx.ModelProto:
    model = product()
    for number in range(10):
        sparse = model.graph.sparse_initializer.add()
        sparse.CopyFrom(sparse_tensor(W, f"v{number}"))
        sparse.dims[:] = [6000, 10000]
    return model


def double() -> onnx.ModelProto:
    model = graph(f"{ROWS} {{ c = Cast <to = 11> (x) d = MatMul (c, w) y = Cast <to = 1> (d) }}", {}, opset=18)
    weight = pruned(64, 48, dtype=np.float64)
    positions = np.flatnonzero(weight)
    values = numpy_helper.from_array(weight.flat[positions], "w")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(positions), W.shape)
    )
    return model


def halves() -> onnx.ModelProto:
    return graph(f"{ROWS} {{ v = Cast <to = 1> (w) y = MatMul (x, v) }}", {"w": W.astype(np.float16)})


REFUSED: dict[str, tuple[onnx.ModelProto, Form, dict[str, Any], str]] = {
    "an opset before functions": (graph(f"{ROWS} {{ y = MatMul (x, w) }}", {"w": W}, opset=11), "sift", {}, "opset 11"),
    "a name that is taken": (taken(), "sift", {}, "has 'w' under a mask, and a value named 'w.values' besides"),
    "another reader of a mask": (reader(), "coo", {}, "cannot be stored as a sparse initializer"),
    "too large when it is dense": (large(), "dense", {}, "takes 2,4.* bytes dense"),
    "wider than it is": (halves(), "sift", {"dtype": "fp32"}, "'w' of .* is F16 already"),
    "beyond the range": (product(W * 1e6), "coo", {"dtype": "fp16"}, "fp16 ends at 65504"),
    "half of a double": (double(), "coo", {"dtype": "fp16"}, "which stays F64"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path: Path, case: str) -> None:
    model, to, options, says = REFUSED[case]
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=says):
        rewritten(path, to, **options)


def test_a_name_that_is_taken_leaves_a_weight_without_a_mask_dense(rewrite: Callable[..., onnx.ModelProto]) -> None:
    model = taken()
    del model.graph.sparse_initializer[:]
    model.graph.initializer.append(numpy_helper.from_array(W, "w"))
    assert rewrite(model, "sift").SerializeToString() == model.SerializeToString()


def change(model: onnx.ModelProto, name: str, at: int, to: Any) -> None:
    (tensor,) = (one for one in model.graph.initializer if one.name == name)
    array = numpy_helper.to_array(tensor).copy()
    array.flat[at] = to
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def one_value(model: onnx.ModelProto) -> None:
    change(model, "w.values", 0, 0.0)  # it is −0.0


def one_bit(model: onnx.ModelProto) -> None:
    """Moves a kept zero: the weight is the same, its mask another."""
    sparse = model.graph.sparse_initializer[0]
    positions = numpy_helper.to_array(sparse.indices).copy()
    free = next(i for i in range(positions[-1]) if i not in positions)
    values = numpy_helper.to_array(sparse.values)
    order = np.argsort(moved := np.append(positions, free))
    sparse.indices.CopyFrom(numpy_helper.from_array(moved[order], ""))
    sparse.values.CopyFrom(numpy_helper.from_array(np.append(values, np.float32(0))[order], "w"))


def another_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Neg", ["y2"], ["y"]))
    next(node for node in model.graph.node if node.op_type == "MatMul").output[0] = "y2"


def no_input(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["nothing"], ["z"]))


def another_name(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(W, "w2"))


@pytest.mark.parametrize(
    ("broken", "to", "says"),
    [
        (one_value, "sift", "'w' of .* is not what is read back"),
        (one_bit, "coo", "the mask of 'w' of .* is not what is read back"),
        (another_operator, "sift", "computes something else"),
        (no_input, "sift", "onnx refuses"),
        (another_name, "dense", "'w2' is a tensor in only one"),
    ],
)
def test_a_file_that_is_not_the_same_is_found_out(
    tmp_path: Path,
    rewrite: Callable[..., onnx.ModelProto],
    broken: Callable[[onnx.ModelProto], None],
    to: Any,
    says: str,
) -> None:
    model = rewrite(product(), "coo")
    result = rewrite(model, to)
    broken(result)
    before, after = tmp_path / "a.onnx", tmp_path / "b.onnx"
    before.write_bytes(model.SerializeToString())
    after.write_bytes(result.SerializeToString())
    with pytest.raises(VerificationFailed, match=says):
        check_same(before, after, to)


def test_inputs_that_nobody_can_guess_are_said(tmp_path: Path) -> None:
    model = graph("(string[N] s, float[N, 64] x) => (float[N, 48] y) { y = MatMul (x, w) }", {"w": W}, opset=18)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "b.onnx").write_bytes(rewritten(tmp_path / "a.onnx", "sift").SerializeToString())
    assert "no random values for input 's'" in (check_same(tmp_path / "a.onnx", tmp_path / "b.onnx", "sift") or "")


def test_a_damaged_weight_is_refused(tmp_path: Path) -> None:
    model = product()
    model.graph.sparse_initializer.append(sparse_tensor(W, "v"))
    indices = numpy_helper.to_array(model.graph.sparse_initializer[0].indices).copy()
    indices[-1] = W.size
    model.graph.sparse_initializer[0].indices.CopyFrom(numpy_helper.from_array(indices))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    for to in FORMS:
        with pytest.raises(CheckpointError, match="'v'"):
            rewritten(tmp_path / "m.onnx", to)
