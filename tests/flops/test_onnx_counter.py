"""The ONNX counter on graphs written out by hand, whose MACs are worked out from their shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from sift_cli.core.counts import FlopReport
from sift_cli.errors import Malformed, ModelError, Unreadable
from sift_cli.flops import count_onnx, onnx_constants

HEAD = '<ir_version: 10, opset_import: ["" : 21, "sift" : 1, "com.microsoft" : 1, "local" : 1, "other" : 1]>'


def graph(text: str, functions: str = "", **initializers: np.ndarray) -> onnx.ModelProto:
    model = parse_model(f"{HEAD} {text} {functions}")
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in initializers.items())
    return model


def ones(*shape: int, zeros: int = 0, dtype: type = np.float32) -> np.ndarray:
    """Ones, the first ``zeros`` elements 0."""
    array = np.ones(shape, dtype)
    array.reshape(-1)[:zeros] = 0
    return array


def rows(report: FlopReport) -> list[tuple[str, int, int, str | None]]:
    return [(layer.op, layer.dense, layer.sparse, layer.weight) for layer in report.layers]


def uncounted(report: FlopReport) -> dict[str, int]:
    return {entry.op: entry.times for entry in report.uncounted}


CASES = {
    "conv, grouped and strided": (
        graph(
            "g (float[1,4,9,9] x) => (float[1,8,5,5] y) { y = Conv <strides=[2,2], pads=[1,1,1,1], group=2> (x, w) }",
            w=ones(8, 2, 3, 3, zeros=10),
        ),
        [("conv", 25 * 144, 25 * 134, "w")],
    ),
    "transposed conv": (
        graph(
            "g (float[2,6,2,2] x) => (float[2,4,5,5] y) { y = ConvTranspose <strides=[2,2], group=2> (x, w) }",
            w=ones(6, 2, 3, 3, zeros=8),
        ),
        [("conv", 8 * 108, 8 * 100, "w")],
    ),
    "gemm, both transposed": (
        graph(
            "g (float[3,2] x) => (float[2,4] y) { y = Gemm <transA=1, transB=1> (x, w, b) }",
            w=ones(4, 3, zeros=1),
            b=ones(4),
        ),
        [("linear", 24, 22, "w")],
    ),
    "matmul that broadcasts a weight": (
        graph("g (float[2,5,6,3] x) => (float[2,5,6,4] y) { y = MatMul (x, w) }", w=ones(5, 3, 4, zeros=6)),
        [("linear", 60 * 12, 12 * 54, "w")],
    ),
    "matmul of two activations": (
        graph("g (float[2,5,3] x) => (float[2,5,5] y) { t = Transpose <perm=[0,2,1]> (x) y = MatMul (x, t) }"),
        [("matmul", 150, 150, None)],
    ),
    "einsum with a weight": (
        graph(
            'g (float[2,5,3] x) => (float[2,4,5] y) { y = Einsum <equation="btc,cd->bdt"> (x, w) }',
            w=ones(3, 4, zeros=2),
        ),
        [("linear", 120, 100, "w")],
    ),
    "weight behind Transpose, Cast and Identity": (
        graph(
            "g (float[2,3] x) => (float[2,4] y) "
            "{ a = Transpose (w) b = Cast <to=1> (a) c = Identity (b) y = MatMul (x, c) }",
            w=ones(4, 3, zeros=5, dtype=np.float16),
        ),
        [("linear", 24, 14, "w")],
    ),
    "quantised weight, zero is 3": (
        graph(
            "g (float[2,3] x) => (float[2,4] y) { c = DequantizeLinear (w, s, z) y = MatMul (x, c) }",
            w=np.array([[3, 0, 3, 1], [3, 3, 3, 9], [1, 1, 1, 1]], np.uint8),
            s=np.array(0.5, np.float32),
            z=np.array(3, np.uint8),
        ),
        [("linear", 24, 14, "w")],
    ),
    "integer matmul with a zero point": (
        graph(
            "g (uint8[2,3] x) => (int32[2,4] y) { y = MatMulInteger (x, w, z, z) }",
            w=np.array([[3, 0, 3, 1], [3, 3, 3, 9], [1, 1, 1, 1]], np.uint8),
            z=np.array(3, np.uint8),
        ),
        [("linear", 24, 14, "w")],
    ),
    "weight in a Constant node": (
        graph(
            "g (float[2,3] x) => (float[2,1] y) { w = Constant <value = float[3,1] {1, 0, 2}> () y = MatMul (x, w) }"
        ),
        [("linear", 6, 4, "w")],
    ),
    "lstm": (
        graph(
            "g (float[5,2,3] x) => (float[5,1,2,4] y) { y = LSTM <hidden_size=4> (x, w, r) }",
            w=ones(1, 16, 3, zeros=8),
            r=ones(1, 16, 4),
        ),
        [("linear", 10 * 48, 10 * 40, "w"), ("linear", 10 * 64, 10 * 64, "r")],
    ),
    "fused conv and matmul of onnxruntime": (
        graph(
            'g (float[1,3,4,4] x) => (float[1,5,2,2] y) { a = com.microsoft.FusedConv <activation="Relu"> (x, w) '
            "b = com.microsoft.FusedMatMul <transA=1> (a, a) y = Conv (b, v) }",
            w=ones(7, 3, 3, 3),
            v=ones(5, 7, 1, 1),
        ),
        [
            ("conv", 4 * 189, 4 * 189, "w"),
            ("matmul", 7 * 2 * 2 * 2, 7 * 2 * 2 * 2, None),
            ("conv", 4 * 35, 4 * 35, "v"),
        ],
    ),
    "attention of onnxruntime": (
        graph(
            "g (float[2,5,6] x) => (float[2,5,3] y) "
            "{ a = com.microsoft.Attention <num_heads=2> (x, w, b) y = MatMul (a, v) }",
            w=ones(6, 12, zeros=2),
            b=ones(12),
            v=ones(4, 3),
        ),
        [("linear", 10 * 72, 10 * 70, "w"), ("attention", 2 * 2 * 25 * 4, 400, None), ("linear", 120, 120, "v")],
    ),
    "multi-head attention of onnxruntime": (
        graph(
            "g (float[1,5,6] q, float[1,7,6] k, float[1,7,8] v) => (float[1,5,1] y) "
            "{ a = com.microsoft.MultiHeadAttention <num_heads=2> (q, k, v) y = MatMul (a, w) }",
            w=ones(8, 1),
        ),
        [("attention", 5 * 7 * (6 + 8), 490, None), ("linear", 40, 40, "w")],
    ),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_operator(case: str) -> None:
    model, expected = CASES[case]
    report = count_onnx(model)
    assert rows(report) == expected
    assert uncounted(report).keys() <= {"DequantizeLinear"}
    assert report.counter == "onnx"


@pytest.mark.parametrize("folded", [False, True], ids=["four axes", "heads in the width"])
def test_attention_with_shared_heads_and_a_past(folded: bool) -> None:
    q, k, past = ("2,5,24", "2,6,12", "2,2,3,6") if folded else ("2,4,5,6", "2,2,6,6", "2,2,3,6")
    heads = "<q_num_heads=4, kv_num_heads=2>" if folded else ""
    text = f"""<ir_version: 11, opset_import: ["" : 23]>
        g (float[{q}] q, float[{k}] k, float[{k}] v, float[{past}] pk, float[{past}] pv) => (float y)
        {{ y = Attention {heads} (q, k, v, , pk, pv) }}"""
    model = parse_model(text)
    assert rows(count_onnx(model)) == [("attention", 2 * 4 * 5 * (6 + 3) * (6 + 6), 2 * 4 * 5 * 9 * 12, None)]


def test_the_standard_domain_by_its_other_name() -> None:
    model = graph("g (float[2,3] x) => (float[2,4] y) { a = ai.onnx.Relu (x) y = ai.onnx.MatMul (a, w) }", w=ones(3, 4))
    report = count_onnx(model)
    assert rows(report) == [("linear", 24, 24, "w")]
    assert uncounted(report) == {"Relu": 1}


def test_stale_shapes_are_not_believed() -> None:
    text = "g (float[3,5] x) => (float[1,4] y) <float[1,5] a> { a = Relu (x) y = MatMul (a, w) }"
    assert rows(count_onnx(graph(text, w=ones(5, 4)))) == [("linear", 60, 60, "w")]


def test_sparse_initializer() -> None:
    model = graph("g (float[2,3] x) => (float[2,4] y) { y = MatMul (x, w) }")
    values = numpy_helper.from_array(np.array([1, 0, 2], np.float32), "w")
    indices = numpy_helper.from_array(np.array([0, 4, 7], np.int64), "w_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3, 4]))
    assert rows(count_onnx(model)) == [("linear", 24, 6, "w")]  # its 0 is stored


def test_a_sparse_initializer_with_a_zero_point() -> None:
    """What is not stored is 0 and not 1, so it counts."""
    text = "g (float[1,3] x) => (float[1,4] y) { d = DequantizeLinear (w, s, z) y = MatMul (x, d) }"
    model = graph(text, s=np.float32(0.5), z=np.int8(1))
    values = numpy_helper.from_array(np.array([1, 0, 2, 1], np.int8), "w")
    indices = numpy_helper.from_array(np.array([0, 4, 7, 9], np.int64), "w_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3, 4]))
    assert rows(count_onnx(model)) == [("linear", 12, 10, "w")]


SIFT_CONV = """
    <domain: "sift", opset_import: ["" : 21]>
    SparseConv <weight_shape> (x, bitmask, values, bias) => (y) { y = Identity (x) }
"""


def test_sift_operators_count_the_values_they_store() -> None:
    """The functions of the same name are fallbacks and lie here on purpose: the operator's contract is what counts."""
    text = """g (float[batch,4,8,8] x) => (float[batch,10] y) {
        a = sift.SparseConv <weight_shape=[6,2,3,3], strides=[2,2], pads=[1,1,1,1], group=2> (x, m, cv, b)
        t = Transpose <perm=[0,2,3,1]> (a)
        z = sift.SparseLinear <weight_shape=[5,6]> (t, n, lv)
        f = Flatten (z)
        y = MatMul (f, w)
    }"""
    model = graph(
        text,
        SIFT_CONV,
        m=ones(14, dtype=np.uint8),
        cv=ones(11),
        b=ones(6),
        n=ones(4, dtype=np.uint8),
        lv=ones(7),
        w=ones(80, 10),
    )
    expected = [("conv", 16 * 108, 16 * 11, "cv"), ("linear", 16 * 30, 16 * 7, "lv"), ("linear", 800, 800, "w")]
    assert rows(count_onnx(model)) == expected
    assert rows(count_onnx(model, dims={"batch": 3})) == [(op, 3 * d, 3 * s, w) for op, d, s, w in expected]


#: What is in the name of an operator besides its layer, in standard operators.
EPILOGUES = {
    "": [],
    "Relu": ["Relu"],
    "Clip": ["Clip"],
    "LeakyRelu": ["LeakyRelu"],
    "Silu": ["Mul", "Sigmoid"],
    "Gelu": ["Gelu"],
    "GeluTanh": ["Gelu"],
}


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("end", EPILOGUES)
def test_what_a_sift_operator_took_in_is_uncounted_as_before(end: str, adds: bool) -> None:
    """Sums in a model cost the same, whoever adds them up and bends them."""
    name, r, s = ("Add", ", r", ", s") if adds else ("", "", "")
    conv = f"a = sift.SparseConv{name}{end} <weight_shape=[6,2,3,3], strides=[2,2], pads=[1,1,1,1], group=2>"
    linear = f"y = sift.SparseLinear{name}{end} <weight_shape=[5,6]>"
    model = graph(
        f"""g (float[batch,4,8,8] x, float[batch,6,4,4] r, float[batch,4,4,5] s) => (float[batch,4,4,5] y) {{
            {conv} (x, m, cv, b{r}) t = Transpose <perm=[0,2,3,1]> (a) {linear} (t, n, lv, c{s})
        }}""",
        m=ones(14, dtype=np.uint8),
        cv=ones(11),
        b=ones(6),
        n=ones(4, dtype=np.uint8),
        lv=ones(7),
        c=ones(5),
    )
    report = count_onnx(model)
    assert rows(report) == [("conv", 16 * 108, 16 * 11, "cv"), ("linear", 16 * 30, 16 * 7, "lv")]
    assert uncounted(report) == dict.fromkeys(EPILOGUES[end] + ["Add"] * adds, 2)


def test_a_stored_zero_counts_in_a_sift_operator() -> None:
    model = graph(
        "g (float[2,3] x) => (float[2,4] y) { y = sift.SparseLinear <weight_shape=[4,3]> (x, m, v) }",
        m=ones(2, dtype=np.uint8),
        v=np.zeros(5, np.float32),
    )
    assert rows(count_onnx(model)) == [("linear", 24, 10, "v")]


def test_a_dense_weight_that_is_stored_sparse_counts_by_its_values() -> None:
    model = graph(
        """g (float[batch,4,8,8] x) => (float[batch,4,4,5] y) {
            w = sift.DenseWeight <weight_shape=[6,2,3,3]> (m, cv)
            a = Conv <strides=[2,2], pads=[1,1,1,1], group=2> (x, w, b)
            t = Transpose <perm=[0,2,3,1]> (a)
            v = sift.DenseWeight <weight_shape=[5,6]> (n, lv)
            u = Transpose <perm=[1,0]> (v)
            y = MatMul (t, u)
        }""",
        m=ones(14, dtype=np.uint8),
        cv=np.zeros(11, np.float32),
        b=ones(6),
        n=ones(4, dtype=np.uint8),
        lv=ones(7),
    )
    report = count_onnx(model)
    assert rows(report) == [("conv", 16 * 108, 16 * 11, "cv"), ("linear", 16 * 30, 16 * 7, "lv")]
    assert uncounted(report) == {}


def test_a_dense_weight_of_what_is_no_constant_is_no_weight() -> None:
    text = """g (float[2,3] x, uint8[2] m, float[v] s) => (float[2,4] y) {
        w = sift.DenseWeight <weight_shape=[3,4]> (m, s)
        y = MatMul (x, w)
    }"""
    assert rows(count_onnx(graph(text), dims={"v": 5})) == [("matmul", 24, 24, None)]


def test_local_functions_are_counted_inside() -> None:
    functions = """
        <domain: "local", opset_import: ["" : 21]> twice (a, w) => (c) { b = MatMul (a, w) c = MatMul (b, w) }
    """
    model = graph("g (float[2,3] x) => (float[2,3] y) { y = local.twice (x, w) }", functions, w=ones(3, 3, zeros=4))
    assert rows(count_onnx(model)) == [("linear", 18, 10, "w")] * 2


def test_uncounted_operators_are_listed_with_their_domain() -> None:
    text = """g (float[2,3] x, bool c) => (float[2,3] y) {
        a = Relu (x) b = Relu (a) d = com.microsoft.Gelu (b) e = Reshape (d, s) f = other.Strange (e)
        y = If (c) <
            then_branch = t () => (float[2,3] p) { p = MatMul (x, w) },
            else_branch = u () => (float[2,3] q) { q = Relu (x) }
        >
    }"""
    model = graph(text, s=np.array([3, 2]), w=ones(3, 3))
    assert uncounted(count_onnx(model)) == {"Relu": 2, "com.microsoft.Gelu": 1, "other.Strange": 1, "If": 1}
    assert count_onnx(model).dense == 0


def test_an_unknown_shape_is_not_a_zero() -> None:
    model = graph("g (float[2,3] x) => (float y) { a = other.Strange (x) y = MatMul (a, w) }", w=ones(3, 4))
    assert uncounted(count_onnx(model)) == {"other.Strange": 1, "MatMul (unknown shape)": 1}


def test_symbolic_dimensions() -> None:
    model = graph("g (float[batch, length, 3] x) => (float[batch, length, 4] y) { y = MatMul (x, w) }", w=ones(3, 4))
    with pytest.raises(ModelError, match="dimension length") as caught:
        count_onnx(model)
    assert caught.value.hint == "give it a size: --dim length=128"
    assert count_onnx(model, dims={"length": 7}).dense == 7 * 12
    assert count_onnx(model, dims={"length": 7, "batch": 2}).dense == 14 * 12
    with pytest.raises(ModelError, match="no dimension 'lenght'"):
        count_onnx(model, dims={"lenght": 7})


def test_minus_one_is_an_open_dimension() -> None:
    model = graph("g (float[batch,3] x) => (float[batch,4] y) { y = MatMul (x, w) }", w=ones(3, 4, zeros=5))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert (count_onnx(model).dense, count_onnx(model).sparse) == (12, 7)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -1
    with pytest.raises(ModelError, match=r"axis 1 of input 'x'"):
        count_onnx(model)


def test_shapes_follow_arithmetic_on_sizes() -> None:
    """Exporters reshape by Shape, Gather and Concat when the batch is dynamic."""
    text = """g (float[batch, 2, 6] x) => (float[batch, 4] y) {
        shape = Shape (x) n = Gather <axis=0> (shape, zero) n1 = Unsqueeze (n, zero1) to = Concat <axis=0> (n1, rest)
        flat = Reshape (x, to) y = MatMul (flat, w)
    }"""
    sizes = {"zero": np.array(0), "zero1": np.array([0]), "rest": np.array([-1])}
    assert rows(count_onnx(graph(text, w=ones(12, 4), **sizes))) == [("linear", 48, 48, "w")]


def test_shapes_follow_arithmetic_on_shapes_found_before() -> None:
    """The size of a strided convolution's output is known when its shape is, and the next layer's after that."""
    layer = """s{0} = Shape (x{0}) n{0} = Gather <axis=0> (s{0}, two) m{0} = Mul (n{0}, n{0}) l{0} = Reshape (m{0}, one)
        to{0} = Concat <axis=0> (one, four, l{0}) f{0} = Reshape (x{0}, to{0}) z{0} = MatMul (w{0}, f{0})"""
    layers = (
        layer.format(0),
        "q = Reshape (z0, image) x1 = MaxPool <kernel_shape=[2,2], strides=[2,2]> (q)",
        layer.format(1),
    )
    sizes = {"two": np.array(2), "one": np.array([1]), "four": np.array([4]), "image": np.array([1, 4, 6, 6])}
    model = graph(
        f"g (float[1,4,6,6] x0) => (float[1,4,9] z1) {{ {' '.join(layers)} }}", w0=ones(4, 4), w1=ones(4, 4), **sizes
    )
    assert rows(count_onnx(model)) == [("linear", 576, 576, "w0"), ("linear", 144, 144, "w1")]


def test_no_table_of_positions_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes of a hostile file would ask for 13 GB."""
    done = []
    evaluator = onnx_constants.ReferenceEvaluator
    monkeypatch.setattr(
        onnx_constants, "ReferenceEvaluator", lambda m: done.append(m.graph.node[0].op_type) or evaluator(m)
    )
    text = """g (float[1,2] x) => (float[1,4] y) {
        row = Range (from, to, by) column = Unsqueeze (row, axis) table = Add (row, column) y = MatMul (x, w)
    }"""
    sizes = {"from": np.array(0), "to": np.array(40_000), "by": np.array(1), "axis": np.array([1])}
    assert count_onnx(graph(text, w=ones(2, 4), **sizes)).dense == 8
    assert done == ["Range", "Unsqueeze"]


def test_shapes_follow_the_factors_of_a_resize() -> None:
    text = """g (float[1,2,3,3] x) => (float[1,4,6,6] y) {
        large = Resize <mode="nearest"> (x, , factors) y = Conv (large, w)
    }"""
    model = graph(text, w=ones(4, 2, 1, 1), factors=np.array([1, 1, 2, 2], np.float32))
    assert rows(count_onnx(model)) == [("conv", 36 * 8, 36 * 8, "w")]


def test_shapes_that_contradict_each_other() -> None:
    with pytest.raises(ModelError, match="do not fit"):
        count_onnx(graph("g (float[2,5] x) => (float[2,4] y) { y = MatMul (x, w) }", w=ones(3, 4)))


@pytest.fixture
def external(tmp_path: Path) -> Path:
    model = graph("g (float[2,64] x) => (float[2,64] y) { y = MatMul (x, w) }", w=ones(64, 64, zeros=100))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_weights_in_another_file(external: Path) -> None:
    assert rows(count_onnx(external)) == [("linear", 2 * 4096, 2 * 3996, "w")]
    assert rows(count_onnx(str(external))) == [("linear", 2 * 4096, 2 * 3996, "w")]


def test_sizes_in_another_file(tmp_path: Path) -> None:
    text = "g (float[batch,2,6] x) => (float[batch,4] y) { a = Reshape (x, to) y = MatMul (a, w) }"
    model = graph(text, to=np.array([0, 12]), w=ones(12, 4))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    assert rows(count_onnx(tmp_path / "m.onnx")) == [("linear", 48, 48, "w")]


def test_weights_in_a_file_that_is_gone_or_short(external: Path) -> None:
    (external.parent / "weights.bin").write_bytes(b"\0" * 10)
    with pytest.raises(Malformed, match="'w'"):
        count_onnx(external)
    (external.parent / "weights.bin").unlink()
    with pytest.raises(Malformed, match="'w'"):
        count_onnx(external)


def test_files_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(Unreadable):
        count_onnx(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_bytes(b"\xff\xff not a model")
    with pytest.raises(Malformed):
        count_onnx(tmp_path / "text.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(Unreadable, match="it is empty"):
        count_onnx(tmp_path / "empty.onnx")


def test_a_sift_operator_without_its_shape() -> None:
    text = "g (float[2,3] x) => (float[2,4] y) { y = sift.SparseLinear (x, m, v) }"
    with pytest.raises(ModelError, match="weight_shape"):
        count_onnx(graph(text, m=ones(2, dtype=np.uint8), v=ones(5)))


def test_the_model_is_left_as_it_was() -> None:
    model = graph("g (float[batch,3] x) => (float[batch,4] y) { y = Gemm (x, w) }", w=ones(3, 4))
    before = model.SerializeToString(deterministic=True)
    count_onnx(model)
    assert model.SerializeToString(deterministic=True) == before
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
