"""What a pruned graph keeps: what is no sparse layer, shared weights, its version, and data in other files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import graph, normal, run, sparse
from onnx import TensorProto, helper, numpy_helper

from sift_cli.errors import ExportError, Malformed
from sift_cli.export.pruned import sparsified
from sift_cli.export.pruned.source import read

W = sparse(7, 9)
FEED = {"x": normal(3, 7)}


def converted(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    path = folder / "pruned.onnx"
    onnx.save(model, path)
    return sparsified(read(path), path, least=0.3)[0]


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def close(got: onnx.ModelProto, source: onnx.ModelProto, feed: dict[str, np.ndarray] = FEED) -> bool:
    pairs = zip(run(got, feed), run(source, feed, optimized=False), strict=True)
    return all(np.abs(a - b).max() <= 1e-5 * np.abs(b).max() for a, b in pairs)


STAYS = {
    "half precision": ("q = Cast <to = 10> (x) r = MatMul (q, v) s = Cast <to = 1> (r)", W.astype(np.float16)),
    "double": ("q = Cast <to = 11> (x) r = MatMul (q, v) s = Cast <to = 1> (r)", W.astype(np.float64)),
    "quantised": (
        "z = Constant <value_float = 0.1> () r = DequantizeLinear (v, z) s = MatMul (x, r)",
        np.clip(W * 10, -99, 99).astype(np.int8),
    ),
    "on the left": ("t = Transpose (x) r = MatMul (v, t) s = Transpose (r)", np.ascontiguousarray(W.T)),
    "transposed input": ("t = Transpose (x) s = Gemm <transA = 1> (t, v)", W),
    "times nothing": ("s = Gemm <alpha = 0.0> (x, v)", W),
    "a scaled sum that varies": ("m = MatMul (x, w) s = Gemm <beta = 0.5> (x, v, m)", W),
    "a stack of matrices": ("s = MatMul (x, v)", W[None]),
    "computed": ("r = Mul (v, v) s = MatMul (x, r)", W),
    "three axes": (
        "i = Constant <value_ints = [-1, 7, 1, 1, 1]> () j = Reshape (x, i) r = Conv (j, v)"
        " k = Constant <value_ints = [-1, 9]> () s = Reshape (r, k)",
        W.T.reshape(9, 7, 1, 1, 1),
    ),
    "open size": (
        "i = Constant <value_ints = [1, 1, 3, -1]> () j = Reshape (x, i)"
        ' r = Conv <auto_pad = "SAME_UPPER", strides = [1, 2]> (j, v) s = ReduceSum <keepdims = 0> (r)',
        sparse(1, 1, 2, 2),
    ),
    "a bias that varies": (
        "i = Constant <value_ints = [-1, 7, 1, 1]> () j = Reshape (x, i) k = Constant <value_ints = [-1, 9]> ()"
        " a = Constant <value_ints = [0]> () m = MatMul (x, w) b = ReduceSum <keepdims = 0> (m, a)"
        " r = Conv (j, v, b) s = Reshape (r, k)",
        W.T.reshape(9, 7, 1, 1),
    ),
    "in a branch": (
        "c = Constant <value = bool {1}> () s = If (c) <then_branch = g () => (float[A, B] p) { p = MatMul (x, v) },"
        " else_branch = h () => (float[A, B] q) { q = MatMul (x, w) }>",
        W,
    ),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_stays_dense_stays_as_it_is(name: str, tmp_path: Path) -> None:
    body, v = STAYS[name]
    source = graph(
        f"(float[N, 7] x) => (float[A, B] y) {{ {body} o = MatMul (x, w) y = Add (s, o) }}", {"v": v, "w": W}
    )
    result = converted(source, tmp_path)
    assert any(node.domain == "sift" for node in result.graph.node)
    assert np.array_equal(initializers(result)["v"], v)
    others = [node for node in source.graph.node if node.output[0] not in ("m", "o", "y")]
    assert [node for node in result.graph.node if node in others] == others
    assert close(result, source)


def test_everything_else_is_kept_to_the_byte(tmp_path: Path) -> None:
    source = graph(
        "(float[N, 7] x) => (float[N, 9] y)"
        " { h = Relu (x) r = MatMul (h, w) t = f.Twice (r) y = Tanh (t) n = Neg (h) }",
        {"w": W},
    )
    twice = [helper.make_node("Add", ["a", "a"], ["b"])]
    source.functions.append(helper.make_function("f", "Twice", ["a"], ["b"], twice, [helper.make_opsetid("", 13)]))
    source.opset_import.add(domain="f", version=1)
    source.graph.node[2].doc_string, source.graph.doc_string, source.doc_string = "why", "what", "who"
    source.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["N", 7]))
    source.graph.initializer.append(numpy_helper.from_array(normal(3), "unused"))
    source.producer_name, source.model_version = "a tool", 7
    helper.set_model_props(source, {"labels": "cat, dog"})
    expected = onnx.ModelProto()
    expected.CopyFrom(source)
    result = converted(source, tmp_path)
    for model in (expected, result):  # the one layer, its weight and its operator apart
        for name in ("node", "initializer"):
            items = [item for item in getattr(model.graph, name) if not _of_the_layer(item)]
            del getattr(model.graph, name)[:]
            getattr(model.graph, name).extend(items)
        del model.opset_import[:], model.functions[1:]
    assert result.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


def _of_the_layer(item: onnx.NodeProto | TensorProto) -> bool:
    return item.output[0] == "r" if isinstance(item, onnx.NodeProto) else item.name.split(".")[0] == "w"


def test_a_weight_of_two_layers_is_stored_once(tmp_path: Path) -> None:
    source = graph(
        "(float[N, 7] x) => (float[N, 9] y) { h = Transpose (w) a = MatMul (x, w) s = Relu (x)"
        " b = Gemm <transB = 1> (s, h, c) d = Relu (a) e = Gemm (x, w, f) g = MatMul (s, w) y = Sum (d, b, e, g) }",
        {"w": W, "c": normal(9), "f": normal(9, seed=1)},
    )
    result = converted(source, tmp_path)
    stored = initializers(result)
    assert stored.keys() == {"w.bitmask", "w.values", "w.bias", "c", "f"}
    assert stored["w.values"].size == np.count_nonzero(W)
    assert close(result, source)


def test_the_two_sides_of_a_matrix_are_two_weights(tmp_path: Path) -> None:
    square = sparse(7, 7)
    source = graph(
        "(float[N, 7] x) => (float[N, 7] y) { h = Transpose (w) a = MatMul (x, w) b = Tanh (a) y = MatMul (b, h) }",
        {"w": square},
    )
    result = converted(source, tmp_path)
    assert initializers(result).keys() == {f"{w}.{part}" for w in ("w", "w+") for part in ("bitmask", "values", "bias")}
    assert close(result, source)


def test_a_norm_does_not_part_layers_that_share_a_weight(tmp_path: Path) -> None:
    scales = {name: np.abs(normal(7, seed=seed)) for seed, name in enumerate(("ga", "be", "me", "va"))}
    source = graph(
        "(float[N, 7, H] x) => (float[N, 7, H] y) { a = Conv (x, w) b = BatchNormalization (a, ga, be, me, va)"
        " c = Conv (b, w) y = BatchNormalization (c, be, ga, me, va) }",
        {"w": sparse(7, 7, 1), **scales},
    )
    result = converted(source, tmp_path)
    assert ops(result).count("BatchNormalization") == 2
    assert [name for name in initializers(result) if name.endswith(".values")] == ["w.values"]
    assert close(result, source, {"x": normal(2, 7, 5)})


def test_an_embedding_that_is_a_head_too_stays_dense_beside_it(tmp_path: Path) -> None:
    source = graph(
        "(int64[N, L] x) => (float[N, L, 7] y) { h = Gather (w, x) t = Transpose (w) s = MatMul (h, t) y = Relu (s) }",
        {"w": W},
    )
    result = converted(source, tmp_path)
    assert np.array_equal(initializers(result)["w"], W)
    assert {"w.sparse.bitmask", "w.sparse.values"} < initializers(result).keys()
    assert close(result, source, {"x": np.array([[0, 6, 3]])})


def test_names_that_are_taken_are_not_taken_again(tmp_path: Path) -> None:
    source = graph(
        "(float[N, 7] x) => (float[N, 9] y) { q = MatMul (x, w) r = Tanh (q) s = Add (r, v) y = Mul (s, u) }",
        {"w": W, "v": normal(9), "u": normal(9, seed=1)},
    )
    for node in source.graph.node:
        for names in (node.input, node.output):
            names[:] = [{"v": "w.bias", "u": "w.bitmask", "r": "val_0"}.get(name, name) for name in names]
    source.graph.initializer[1].name, source.graph.initializer[2].name = "w.bias", "w.bitmask"
    assert close(converted(source, tmp_path), source)


def test_a_weight_that_a_caller_may_replace_is_no_constant(tmp_path: Path) -> None:
    source = graph("(float[N, 7] x, float[7, 9] w) => (float[N, 9] y) { y = MatMul (x, w) }", {"w": W})
    with pytest.raises(ExportError, match="1 that does not have a constant weight"):
        converted(source, tmp_path)


def test_before_ir_version_4_every_initializer_is_an_input(tmp_path: Path) -> None:
    source = graph(
        "(float[N, 7] x, float[7, 9] w, float[9] b) => (float[N, 9] y) { s = MatMul (x, w) y = Add (s, b) }",
        {"w": W, "b": normal(9)}, ir=3, opset=8,
    )  # fmt: skip
    result = converted(source, tmp_path)
    assert [value.name for value in result.graph.input] == ["x"]
    assert close(result, source)


OPSETS = (8, 11, 13, 17, 18, 21)


def versioned(opset: int) -> onnx.ModelProto:
    """A model of operators that changed from one opset to another."""
    steps = (
        "d = Dropout (m) q = Unsqueeze (d, a)"
        if opset >= 13
        else "d = Dropout <ratio = 0.5> (m) q = Unsqueeze <axes = [0]> (d)"
    )
    text = (
        "(float[N, 4, 5, 7] x) => (float[M, N, 6, 3, 9] y) { c = Conv (x, w, b)"
        f" m = BatchNormalization (c, g, b, b, g) {steps} s = MatMul (q, v) y = Softmax <axis = 4> (s) }}"
    )
    weights = {"w": sparse(6, 4, 3, 3), "b": normal(6), "g": np.abs(normal(6)), "v": sparse(5, 9), "a": np.array([0])}
    return graph(text, weights, opset=opset, ir=8 if opset < 21 else 10)


@pytest.mark.parametrize("opset", OPSETS)
def test_an_opset(opset: int, tmp_path: Path) -> None:
    source = versioned(opset)
    result = converted(source, tmp_path)
    assert {item.domain: item.version for item in result.opset_import} == {"": max(opset, 12), "sift": 1}
    assert result.ir_version == source.ir_version
    assert ops(result).count("BatchNormalization") == 0
    assert close(result, source, {"x": normal(2, 4, 5, 7)})


def test_the_oldest_onnxruntime(oldest_onnxruntime: str, tmp_path: Path) -> None:
    """Each opset that it can load, in its interpreter, without the library."""
    x = normal(2, 4, 5, 7)
    np.save(tmp_path / "x.npy", x)
    for opset in (8, 11, 13, 17, 18):
        source = versioned(opset)
        (tmp_path / f"{opset}.onnx").write_bytes(converted(source, tmp_path).SerializeToString())
        np.save(tmp_path / f"{opset}.npy", run(source, {"x": x}, optimized=False)[0])
    code = """
import numpy as np, onnxruntime
for opset in (8, 11, 13, 17, 18):
    session = onnxruntime.InferenceSession(f"{opset}.onnx", providers=["CPUExecutionProvider"])
    y, = session.run(None, {"x": np.load("x.npy")})
    print(opset, np.abs(y - np.load(f"{opset}.npy")).max())
"""
    done = subprocess.run([oldest_onnxruntime, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert {line.split()[0]: float(line.split()[1]) < 1e-6 for line in done.stdout.splitlines()} == dict.fromkeys(
        ("8", "11", "13", "17", "18"), True
    )


def test_an_opset_that_cannot_be_converted(tmp_path: Path) -> None:
    source = graph(
        "(float[1, 4, 5, 7] x) => (float[1, 6, A, B] y)"
        " { c = Conv (x, w) y = BatchNormalization <is_test = 0> (c, b, b, b, b) }",
        {"w": sparse(6, 4, 3, 3), "b": normal(6)}, opset=6,
    )  # fmt: skip
    sentence = "has opset 6, and onnx cannot convert it to 12: Attribute is_test must not have value 0$"
    with pytest.raises(ExportError, match=sentence) as caught:
        converted(source, tmp_path)
    assert caught.value.hint == "export it again with opset 12 or newer"


def external(folder: Path, location: str) -> Path:
    """A model with all its data, a constant of a branch too, in a file beside it that it says is at ``location``."""
    source = graph(
        "(float[N, 7] x) => (float[A, B] y) { c = Constant <value = bool {1}> () r = MatMul (x, w) s = Identity (r)"
        " y = If (c) <then_branch = g () => (float[A, B] p) { p = Add (s, k) },"
        " else_branch = h () => (float[A, B] q) { q = Sub (s, s) }> }",
        {"w": W},
    )
    branch = next(node for node in source.graph.node if node.op_type == "If").attribute[0].g
    branch.initializer.append(numpy_helper.from_array(normal(9), "k"))
    (folder / "w.bin").write_bytes(W.tobytes() + normal(9).tobytes())
    for tensor, offset in ((source.graph.initializer[0], 0), (branch.initializer[0], W.nbytes)):
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
    path = folder / "pruned.onnx"
    path.write_bytes(source.SerializeToString())
    return path


def test_data_in_another_file_comes_in(tmp_path: Path) -> None:
    path = external(tmp_path, "w.bin")
    result, _ = sparsified(read(path), path, least=0.3)
    (tmp_path / "w.bin").unlink()
    x = normal(3, 7)
    assert np.abs(run(result, {"x": x})[0] - (x @ W + normal(9))).max() < 1e-5


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "sub/../../w.bin", "w.bin/../../w.bin"])
@pytest.mark.parametrize("where", ["graph", "branch"])
def test_data_outside_the_folder_is_refused(location: str, where: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = external(tmp_path / "in", "w.bin")
    (tmp_path / "w.bin").write_bytes((tmp_path / "in" / "w.bin").read_bytes())
    model = onnx.load(path, load_external_data=False)
    (branch,) = (node.attribute[0].g for node in model.graph.node if node.op_type == "If")
    tensor = (model.graph if where == "graph" else branch).initializer[0]
    tensor.external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(Malformed, match="not inside the model's folder"):
        read(path)


def test_data_behind_a_link_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path, "link.bin")
    (tmp_path / "link.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(Malformed, match="is a link"):
        read(path)


def test_data_that_is_short_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path, "w.bin")
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    with pytest.raises(Malformed, match="'k'"):
        read(path)


def test_a_model_that_is_sparse_already_is_refused(tmp_path: Path) -> None:
    source = graph("(float[N, 7] x) => (float[N, 9] y) { y = MatMul (x, w) }", {"w": W})
    with pytest.raises(ExportError, match="has sift's operators already"):
        converted(converted(source, tmp_path), tmp_path)
