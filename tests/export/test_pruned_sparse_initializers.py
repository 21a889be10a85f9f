"""Weights that a pruned graph stores as sparse initializers: every position that is stored is kept, zeros too, and what
no sparse layer reads keeps its mask.

The oracles are a twin of the model with dense weights, the source itself in stock onnxruntime, and masks that are taken
apart here bit by bit.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import onnx
import pytest
from graphs import attributes, graph, normal, run, sparse
from onnx import TensorProto, helper, numpy_helper

from sift_cli import api
from sift_cli.errors import ExportError, Malformed, VerificationFailed
from sift_cli.export.dense import plain
from sift_cli.export.pruned import sparsified
from sift_cli.export.pruned.constants import Constant
from sift_cli.export.pruned.source import read

FORMS = ("positions", "coordinates", "coordinates in disorder")
ROWS = "(float[N, 7] x) => (float[N, 9] y)"
FEED = {"x": normal(3, 7)}


class Stored(NamedTuple):
    """A weight, and the positions of it that are stored: some of them have a 0."""

    dense: np.ndarray
    kept: np.ndarray

    @classmethod
    def of(cls, *shape: int, dtype: Any = np.float32, seed: int = 0) -> Stored:
        dense = sparse(*shape, seed=seed)
        kept = dense != 0
        zeros = np.flatnonzero(~kept)[::5]
        kept.flat[zeros] = True
        assert len(zeros)
        return cls((dense * (8 if np.dtype(dtype).kind == "i" else 1)).astype(dtype), kept)

    def proto(self, name: str = "", form: str = "positions") -> onnx.SparseTensorProto:
        positions = np.flatnonzero(self.kept)
        if "disorder" in form:
            positions = np.random.default_rng(0).permutation(positions)
        axes = np.stack(np.unravel_index(positions, self.kept.shape), axis=1)
        values = numpy_helper.from_array(self.dense.reshape(-1)[positions], name)
        indices = numpy_helper.from_array(positions if form == "positions" else axes, f"{name}.indices")
        return helper.make_sparse_tensor(values, indices, self.kept.shape)


W = Stored.of(7, 9)
KERNEL = Stored.of(6, 4, 3, 3)


def model(
    text: str, weights: Mapping[str, Stored], form: str = "positions", **other: Any
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A graph with these weights as sparse initializers, and its twin with dense ones."""
    opset = other.pop("opset", 13)
    source = graph(text, other, opset=opset)
    source.graph.sparse_initializer.extend(weight.proto(name, form) for name, weight in weights.items())
    return source, graph(text, {**other, **{name: weight.dense for name, weight in weights.items()}}, opset=opset)


def converted(source: onnx.ModelProto, folder: Path, least: float = 0.3) -> onnx.ModelProto:
    path = folder / "pruned.onnx"
    path.write_bytes(source.SerializeToString())
    return sparsified(read(path), path, least=least)[0]


def masks(graph: onnx.GraphProto) -> dict[str, Stored]:
    """What the nodes of a graph read under masks, by the name of the weight."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        for bitmask in (name for name in node.input if name.endswith(".bitmask")):
            name, (*shape,) = bitmask.removesuffix(".bitmask"), attributes(node)["weight_shape"]
            bits = np.unpackbits(stored[bitmask], count=int(np.prod(shape)), bitorder="little").astype(bool)
            dense = np.zeros(bits.shape, stored[f"{name}.values"].dtype)
            dense[bits] = stored[f"{name}.values"]
            found[name] = Stored(dense.reshape(shape), bits.reshape(shape))
    return found


def same(got: Stored, dense: np.ndarray, kept: np.ndarray) -> bool:
    return (got.dense.dtype, got.dense.tobytes()) == (dense.dtype, dense.tobytes()) and np.array_equal(got.kept, kept)


def close(got: onnx.ModelProto, sources: tuple[onnx.ModelProto, ...], feed: Mapping[str, np.ndarray] = FEED) -> bool:
    """Without onnxruntime's optimizations, one of which is to quantise what a layer with quantised weights reads."""
    return all(
        np.abs(a - b).max() <= 1e-5 * max(1, np.abs(b).max())
        for source in sources
        for a, b in zip(*(run(one, feed, optimized=False) for one in (got, source)), strict=True)
    )


class Case(NamedTuple):
    """A layer whose weight ``w`` is a sparse initializer.

    Attributes:
        text: Its graph.
        w: The weight as it is stored.
        layout: As which the sparse operator has it, or its mask.
        x: Shape of an example.
        scale: What the weight is multiplied by.
    """

    text: str
    w: Stored
    layout: Callable[[np.ndarray], np.ndarray]
    x: tuple[int, ...] = (3, 7)
    scale: float = 1


IMAGES = "(float[N, 4, 7, 9] x) => (float[N, 6, P, Q] y)"
CASES = {
    "conv": Case(f"{IMAGES} {{ y = Conv (x, w) }}", KERNEL, lambda w: w, (2, 4, 7, 9)),
    "conv, norm": Case(
        f"{IMAGES} {{ c = Conv (x, w) y = BatchNormalization <epsilon = 0.0> (c, ga, be, be, va) }}",
        KERNEL, lambda w: w, (2, 4, 7, 9), scale=1.5,
    ),
    "conv behind a transpose": Case(
        f"{IMAGES} {{ t = Transpose <perm = [3, 2, 0, 1]> (w) y = Conv (x, t) }}",
        Stored.of(3, 3, 4, 6), lambda w: w.transpose(3, 2, 0, 1), (2, 4, 7, 9),
    ),
    "sound": Case(
        "(float[N, 4, L] x) => (float[N, 6, P] y) { y = Conv (x, w) }",
        Stored.of(6, 4, 5), lambda w: w[:, :, None], (2, 4, 23),
    ),
    "gemm": Case(f"{ROWS} {{ y = Gemm <transB = 1> (x, w) }}", Stored.of(9, 7), lambda w: w),
    "gemm, inputs first, scaled": Case(f"{ROWS} {{ y = Gemm <alpha = 0.5> (x, w) }}", W, lambda w: w.T, scale=0.5),
    "matmul": Case(f"{ROWS} {{ y = MatMul (x, w) }}", W, lambda w: w.T),
    "nothing is stored": Case(
        f"{ROWS} {{ y = MatMul (x, w) }}", Stored(np.zeros((7, 9), np.float32), np.zeros((7, 9), bool)), lambda w: w.T
    ),
    "bfloat16": Case(
        f"{ROWS} {{ u = Cast <to = 1> (w) y = MatMul (x, u) }}",
        Stored.of(7, 9, dtype=ml_dtypes.bfloat16), lambda w: w.T,
    ),
    "matmul behind what arranges it": Case(
        f"{ROWS} {{ r = Reshape (w, s) u = Cast <to = 1> (r) y = MatMul (x, u) }}",
        Stored.of(3, 21, dtype=np.float16), lambda w: w.reshape(7, 9).T,
    ),
}  # fmt: skip
OTHER = {"ga": np.full(6, 3, np.float32), "be": np.zeros(6, np.float32), "va": np.full(6, 4, np.float32)}
OTHER["s"] = np.array([7, 9])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_a_layer(name: str, form: str, tmp_path: Path, library: str | None) -> None:
    case = CASES[name]
    source, twin = model(case.text, {"w": case.w}, form, **OTHER)
    result = converted(source, tmp_path, least=0.0)
    assert not result.graph.sparse_initializer
    assert sum(node.domain == "sift" for node in result.graph.node) == 1
    dense, kept = map(case.layout, case.w)
    assert same(masks(result.graph)["w"], dense.astype(np.float32) * np.float32(case.scale), kept)
    feed = {"x": normal(*case.x, seed=7)}
    assert close(result, (source, twin), feed)
    if library is not None:
        assert np.abs(run(result, feed, library)[0] - run(twin, feed)[0]).max() < 1e-5


def test_what_no_sparse_layer_reads_keeps_its_mask(tmp_path: Path) -> None:
    """An embedding, a half, a quantised and a double weight, a vector, and one that nobody reads."""
    weights = {
        "w": W, "e": Stored.of(5, 7, seed=1), "h": Stored.of(7, 9, dtype=np.float16), "v": Stored.of(9, seed=2),
        "q": Stored.of(7, 9, dtype=np.int8), "d": Stored.of(7, 9, dtype=np.float64, seed=3), "u": Stored.of(4, 6),
    }  # fmt: skip
    text = """(float[N, 7] x, int64[N] i) => (float[N, 9] y) {
        g = Gather (e, i) a = Add (x, g) o = MatMul (a, w)
        xh = Cast <to = 10> (x) mh = MatMul (xh, h) oh = Cast <to = 1> (mh)
        wq = DequantizeLinear (q, z) oq = MatMul (x, wq)
        xd = Cast <to = 11> (x) md = MatMul (xd, d) od = Cast <to = 1> (md)
        s = Sum (o, oh, oq, od) y = Mul (s, v)
    }"""
    source, twin = model(text, weights, "coordinates", z=np.float32(0.1))
    result = converted(source, tmp_path)
    onnx.checker.check_model(result)
    got = masks(result.graph)
    assert got.keys() == weights.keys() - {"d"}
    for name in got:
        dense, kept = weights[name]
        assert same(got[name], *((dense.T, kept.T) if name == "w" else (dense, kept)))
    (double,) = result.graph.sparse_initializer
    assert double == weights["d"].proto("d")
    assert not {tensor.name for tensor in result.graph.initializer} & weights.keys()
    assert close(result, (source, twin), {**FEED, "i": np.array([0, 4, 2])})


def test_a_bias_is_dense(tmp_path: Path) -> None:
    text = f"{ROWS} {{ y = Gemm (x, w, b) }}"
    source, twin = model(text, {"w": W, "b": Stored.of(9)})
    result = converted(source, tmp_path)
    assert {tensor.name for tensor in result.graph.initializer} == {"w.bitmask", "w.values", "b"}
    assert close(result, (source, twin))


def test_one_weight_of_a_sparse_and_another_layer(tmp_path: Path) -> None:
    """An embedding that is the head, too: its layer has a sparse copy, and the table keeps its mask."""
    text = "(int64[N] x) => (float[N, 7] y) { h = Gather (w, x) t = Transpose (w) s = MatMul (h, t) y = Relu (s) }"
    source, twin = model(text, {"w": W})
    result = converted(source, tmp_path)
    got = masks(result.graph)
    assert got.keys() == {"w", "w.sparse"}
    assert same(got["w"], *W)
    assert same(got["w.sparse"], *W)
    assert close(result, (source, twin), {"x": np.array([0, 6, 3])})


BRANCHES = """(float[N, 7] x, bool c) => (float[N, 9] y) { o = MatMul (x, w)
    y = If (c) <then_branch = g () => (float[A, B] p) { r = MatMul (x, v) p = Add (r, o) },
                else_branch = h () => (float[A, B] q) { s = MatMul (x, v) q = Sub (s, o) }> }"""


def branches(opset: int = 13) -> tuple[onnx.ModelProto, onnx.ModelProto, dict[str, Stored]]:
    """A model with two weights of one name, one in each branch, its twin, and the two."""
    inner = {"then_branch": Stored.of(7, 9, seed=1), "else_branch": Stored.of(7, 9, seed=2)}
    source, twin = model(BRANCHES, {"w": W}, opset=opset)
    for item in source.graph.node[1].attribute:
        item.g.sparse_initializer.append(inner[item.name].proto("v", "coordinates"))
    for item in twin.graph.node[1].attribute:
        item.g.initializer.append(numpy_helper.from_array(inner[item.name].dense, "v"))
    return source, twin, inner


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("taken", [True, False])
def test_weights_of_subgraphs_keep_their_masks(opset: int, taken: bool, tmp_path: Path) -> None:
    """In an opset that is converted, and in one that is not."""
    source, twin, inner = branches(opset)
    result = converted(source, tmp_path)
    assert same(masks(result.graph)["w"], W.dense.T, W.kept.T)
    (branch,) = (node for node in result.graph.node if node.op_type == "If")
    for item in branch.attribute:
        assert same(masks(item.g)["v"], *inner[item.name])
    assert close(result, (source, twin), {**FEED, "c": np.array(taken)})


@pytest.mark.parametrize("opset", [8, 11, 12, 18, 21])
def test_an_opset(opset: int, tmp_path: Path) -> None:
    added = Stored.of(3, 7, seed=1)
    source, twin = model(f"{ROWS} {{ h = Add (x, v) y = MatMul (h, w) }}", {"w": W, "v": added}, opset=opset)
    result = converted(source, tmp_path)
    assert result.opset_import[0].version == max(opset, 12)
    got = masks(result.graph)
    assert same(got["w"], W.dense.T, W.kept.T)
    assert same(got["v"], *added)
    assert close(result, (source, twin))


def test_a_constant_is_a_weight_too(tmp_path: Path) -> None:
    text = f"{ROWS} {{ h = MatMul (x, w) g = Mul (h, k) y = Add (g, v) }}"
    source, twin = model(text, {})
    weights = {"w": W, "v": Stored.of(3, 9, seed=1)}
    for name, weight in weights.items():
        source.graph.node.insert(0, helper.make_node("Constant", [], [name], sparse_value=weight.proto()))
        twin.graph.initializer.append(numpy_helper.from_array(weight.dense, name))
    dense = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(normal(3, 9)))
    for one in (source, twin):
        one.graph.node.insert(0, dense)
    result = converted(source, tmp_path)
    assert [node.output for node in result.graph.node if node.op_type == "Constant"] == [["k"]]
    got = masks(result.graph)
    assert same(got["w"], W.dense.T, W.kept.T)
    assert same(got["v"], *weights["v"])
    assert close(result, (source, twin))


def test_what_a_caller_may_replace_stays_a_sparse_initializer(tmp_path: Path) -> None:
    default = Stored.of(7, 9, seed=1)
    source, twin = model(f"{ROWS} {{ h = MatMul (x, w) g = MatMul (x, v) y = Add (h, g) }}", {"w": W, "v": default})
    for one in (source, twin):
        one.graph.input.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, [7, 9]))
    result = converted(source, tmp_path)
    assert list(result.graph.sparse_initializer) == [default.proto("v")]
    for feed in (FEED, {**FEED, "v": normal(7, 9)}):
        assert close(result, (source, twin), feed)


def external(folder: Path, location: str) -> Path:
    """A model with the values and the indices of its weight in a file that it says is at ``location``."""
    source, _ = model(f"{ROWS} {{ y = MatMul (x, w) }}", {"w": W}, "coordinates")
    stored, offset = source.graph.sparse_initializer[0], 0
    (folder / "w.bin").write_bytes(stored.values.raw_data + stored.indices.raw_data)
    for tensor in (stored.values, stored.indices):
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        offset += length
    (folder / "pruned.onnx").write_bytes(source.SerializeToString())
    return folder / "pruned.onnx"


def test_data_in_another_file_comes_in(tmp_path: Path) -> None:
    path = external(tmp_path, "w.bin")
    result, _ = sparsified(read(path), path, least=0.3)
    (tmp_path / "w.bin").unlink()
    assert same(masks(result.graph)["w"], W.dense.T, W.kept.T)
    assert np.abs(run(result, FEED)[0] - FEED["x"] @ W.dense).max() < 1e-5


def test_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(Malformed, match="not inside the model's folder"):
        read(external(tmp_path / "in", "../w.bin"))


def written(folder: Path, text: str, weights: Mapping[str, Stored]) -> Path:
    (folder / "pruned.onnx").write_bytes(model(text, weights)[0].SerializeToString())
    return folder / "pruned.onnx"


def test_the_certificate_counts_what_is_stored(tmp_path: Path) -> None:
    path = written(tmp_path, f"{ROWS} {{ h = MatMul (x, w) y = Add (h, v) }}", {"w": W, "v": Stored.of(3, 9)})
    stored = int(W.kept.sum())
    assert stored > np.count_nonzero(W.dense)
    done = api.export(path, tmp_path / "fast.onnx", min_sparsity=0.3, input_shape=(3, 7))
    claims = {claim.name: (claim.before, claim.after) for claim in done.certificate.claims}
    assert claims["mask_cardinality"] == (stored, stored)
    assert claims["sparse_macs"] == (3 * stored, 3 * stored)


def test_a_mask_of_nonzeros_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, f"{ROWS} {{ y = MatMul (x, w) }}", {"w": W})
    monkeypatch.setattr(Constant, "kept", property(lambda found: found.array != 0))
    with pytest.raises(VerificationFailed) as caught:
        api.export(path, tmp_path / "fast.onnx", min_sparsity=0.3)
    assert {claim.name for claim in caught.value.certificate.broken} == {"mask_cardinality", "sparse_macs"}


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision(dtype: Any, tmp_path: Path) -> None:
    weights = {"w": W, "v": Stored.of(3, 7, seed=1)}
    path = written(tmp_path, f"{ROWS} {{ h = Add (x, v) y = MatMul (h, w) }}", weights)
    api.export(path, tmp_path / "fast.onnx", min_sparsity=0.3, dtype=dtype, input_shape=(3, 7))
    got = masks(onnx.load(tmp_path / "fast.onnx").graph)
    half = np.float16 if dtype == "fp16" else ml_dtypes.bfloat16
    assert same(got["w"], W.dense.T.astype(half), W.kept.T)
    assert same(got["v"], weights["v"].dense.astype(half), weights["v"].kept)


def test_a_double_has_no_half(tmp_path: Path) -> None:
    text = f"{ROWS} {{ m = MatMul (x, w) d = Cast <to = 11> (m) e = Add (d, v) y = Cast <to = 1> (e) }}"
    path = written(tmp_path, text, {"w": W, "v": Stored.of(3, 9, dtype=np.float64)})
    with pytest.raises(ExportError, match=r"^the model has 'v' as a sparse_initializer, which stays F64$"):
        api.export(path, tmp_path / "fast.onnx", min_sparsity=0.3, dtype="fp16", input_shape=(3, 7))
    assert not (tmp_path / "fast.onnx").exists()


def test_branches_that_have_decoding_functions_already(tmp_path: Path) -> None:
    """As `sift convert` writes them; the functions are there once."""
    source, twin, inner = branches()
    result = converted(source, tmp_path)
    for node in twin.graph.node:
        if node.op_type == "If":
            node.CopyFrom(next(one for one in result.graph.node if one.op_type == "If"))
    twin.functions.extend(function for function in result.functions if function.name == "DenseWeight")
    twin.opset_import.add(domain="sift", version=1)
    again = converted(twin, tmp_path)
    assert [function.name for function in again.functions] == ["DenseWeight", "SparseLinear"]
    assert close(again, (source,), {**FEED, "c": np.array(True)})
    (branch,) = (node for node in again.graph.node if node.op_type == "If")
    assert all(same(masks(item.g)["v"], *inner[item.name]) for item in branch.attribute)


def test_standard_operators_again(tmp_path: Path) -> None:
    """What DeepSparse is given: nothing of sift's is left, in branches either."""
    source, twin, _ = branches()
    result = plain(converted(source, tmp_path))
    graphs = [result.graph, *(item.g for node in result.graph.node for item in node.attribute if item.HasField("g"))]
    assert {node.domain for one in graphs for node in one.node} == {""}
    assert [one.domain for one in result.opset_import] == [""]
    for taken in (True, False):
        assert close(result, (source, twin), {**FEED, "c": np.array(taken)})


@pytest.mark.parametrize("form", ["positions", "coordinates"])
def test_run_and_bench_take_them(form: str, tmp_path: Path, library: str | None) -> None:
    if library is None:
        pytest.skip("sift run and sift bench need the library")
    path = tmp_path / "pruned.onnx"
    path.write_bytes(model(f"{ROWS} {{ y = MatMul (x, w) }}", {"w": W}, form)[0].SerializeToString())
    np.save(tmp_path / "x.npy", FEED["x"])
    inputs = [str(tmp_path / "x.npy")]
    assert np.abs(api.run(path, inputs=inputs).outputs["y"] - FEED["x"] @ W.dense).max() < 1e-5
    (comparison,) = api.bench(path, vs=["dense"], inputs=inputs, seconds=0.01, layers=True).comparisons
    assert comparison.peers[1].difference == 0
    assert comparison.nodes is not None
    assert "MatMul" in {node.op for node in comparison.nodes}


DAMAGED = {
    "a position beyond the end": ([0, 5, 63], "elements from 0 to 63 of axis 0, which has 63"),
    "a position twice": ([4, 4, 5], "an element twice"),
}


@pytest.mark.parametrize("where", ["graph", "branch"])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_one_is_refused(name: str, where: str, tmp_path: Path) -> None:
    positions, says = DAMAGED[name]
    source, *_ = branches()
    holder = source.graph if where == "graph" else source.graph.node[1].attribute[1].g
    damaged = Stored(W.dense, np.arange(63).reshape(7, 9) < 3).proto("z")
    damaged.indices.CopyFrom(numpy_helper.from_array(np.array(positions), "z.indices"))
    holder.sparse_initializer.append(damaged)
    with pytest.raises(Malformed, match=says):
        converted(source, tmp_path)


def constant(weight: Stored) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["v"], sparse_value=weight.proto())


def test_a_sparse_output_is_refused(tmp_path: Path) -> None:
    source, _ = model(f"{ROWS} {{ y = MatMul (x, w) }}", {"w": W})
    source.graph.node.append(constant(W))
    source.graph.output.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, [7, 9]))
    with pytest.raises(ExportError, match=r"has the sparse tensor 'v' as an output or in a function$"):
        converted(source, tmp_path)


def test_a_sparse_tensor_in_a_function_is_refused(tmp_path: Path) -> None:
    source, _ = model(f"{ROWS} {{ h = f.Product (x) g = MatMul (x, w) y = Add (h, g) }}", {"w": W})
    product = [constant(W), helper.make_node("MatMul", ["a", "v"], ["b"])]
    source.functions.append(helper.make_function("f", "Product", ["a"], ["b"], product, [helper.make_opsetid("", 13)]))
    source.opset_import.add(domain="f", version=1)
    with pytest.raises(ExportError, match=r"has the sparse tensor 'v' as an output or in a function$"):
        converted(source, tmp_path)


def test_the_oldest_onnxruntime(oldest_onnxruntime: str, tmp_path: Path) -> None:
    """In its interpreter, without the library: weights in branches, and one that stays a sparse initializer."""
    source, _, _ = branches()
    text = f"{ROWS} {{ m = MatMul (x, w) d = Cast <to = 11> (m) e = Add (d, v) y = Cast <to = 1> (e) }}"
    double, _ = model(text, {"w": W, "v": Stored.of(3, 9, dtype=np.float64)})
    np.save(tmp_path / "x.npy", FEED["x"])
    for name, one, feed in (("branches", source, {**FEED, "c": np.array(True)}), ("double", double, FEED)):
        (tmp_path / f"{name}.onnx").write_bytes(converted(one, tmp_path).SerializeToString())
        np.save(tmp_path / f"{name}.npy", run(one, feed, optimized=False)[0])
    code = """
import numpy as np, onnxruntime
for name, more in (("branches", {"c": np.array(True)}), ("double", {})):
    session = onnxruntime.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"])
    y, = session.run(None, {"x": np.load("x.npy"), **more})
    print(name, np.abs(y - np.load(f"{name}.npy")).max())
"""
    done = subprocess.run([oldest_onnxruntime, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    errors = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}
    assert errors.keys() == {"branches", "double"}
    assert max(errors.values()) < 1e-5
