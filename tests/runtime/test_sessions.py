"""Opening sessions: what is refused and how it is said, what is reported, and where the library is looked for."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from sift_cli import runtime
from sift_cli.errors import Malformed, RuntimeUnavailable, Unreadable
from sift_cli.runtime import KernelReport, available_isas, kernels, library_path, random_inputs, session

Node = Callable[..., bytes]
ONE = {"bitmask": np.array([0b11], np.uint8), "values": np.array([2.0, 3.0], np.float32)}  # y = 2 a + 3 b


def linear(one_node: Node, name: str = "layer") -> bytes:
    return one_node("SparseLinear", ONE, weight_shape=(1, 2), name=name)


def plain(*, op: str = "Relu", domain: str = "", reads: str = "X", opset: int = 17, ir: int = 8) -> bytes:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("X", "Y")]
    graph = helper.make_graph([helper.make_node(op, [reads], ["Y"], domain=domain)], "g", info[:1], info[1:])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("else", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=ir).SerializeToString())


def test_a_session_reports_which_kernel_each_node_ran(one_node: Node) -> None:
    x = {"X": np.ones((1, 2), np.float32)}
    first, second = session(linear(one_node, 'a "quoted"\\name\n')), session(linear(one_node, "β"))
    assert kernels(first) == (KernelReport('a "quoted"\\name\n', "SparseLinear", None, None, 0),)
    assert second.run(None, x)[0].tolist() == [[5.0]]
    second.run(None, x)
    assert kernels(second) == (KernelReport("β", "SparseLinear", "linear_columns", available_isas()[0], 2),)
    assert kernels(first)[0].runs == 0


def test_a_name_that_is_no_text_is_reported_all_the_same(one_node: Node) -> None:
    opened = session(linear(one_node, "AAAA").replace(b"AAAA", b"a\xff\xfez"))
    assert [report.node for report in kernels(opened)] == ["a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}z"]


def test_nodes_are_reported_in_order_and_by_session(one_node: Node) -> None:
    model = ModelProto.FromString(linear(one_node))
    node = model.graph.node[0]
    node.output[0] = "wide"
    last = model.graph.node.add()
    last.CopyFrom(node)
    last.name, last.input[0], last.output[0] = "last", "Z", "Y"
    model.graph.node.insert(1, helper.make_node("Concat", ["wide", "wide"], ["Z"], axis=-1))
    opened = session(model.SerializeToString())
    assert opened.run(None, {"X": np.array([[1, 1]], np.float32)})[0].tolist() == [[25.0]]
    assert [(k.node, k.runs) for k in kernels(opened)] == [("layer", 1), ("last", 1)]
    assert len(kernels(session(linear(one_node)))) == 1


def test_a_session_without_the_library_reports_no_kernels(library: str) -> None:
    opened = session(plain(), library=False)
    opened.run(None, {"X": np.ones((1, 2), np.float32)})
    assert kernels(opened) == ()


def test_a_model_from_a_path_is_the_model_from_its_bytes(one_node: Node, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(linear(one_node))
    for source in (path, str(path), path.read_bytes()):
        assert session(source, threads=1).run(None, {"X": np.ones((1, 2), np.float32)})[0].tolist() == [[5.0]]


def test_given_options_are_used(library: str) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    used = session(plain(), threads=3, options=options).get_session_options()
    assert used.intra_op_num_threads == 3
    assert used.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


def test_the_same_options_open_several_sessions(one_node: Node) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    for _ in range(3):
        opened = session(linear(one_node), options=options)
        assert opened.run(None, {"X": np.ones((1, 2), np.float32)})[0].tolist() == [[5.0]]
        assert kernels(opened)[0].runs == 1


def test_options_that_have_the_library_already_are_refused(one_node: Node) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(library_path())
    with pytest.raises(RuntimeUnavailable, match="the session options have sift's library already"):
        session(linear(one_node), options=options)


@pytest.mark.parametrize(
    ("model", "error", "why"),
    [
        (b"", Malformed, "No graph was found"),
        (b"not a model", Malformed, "protobuf parsing failed"),
        (plain()[:-9], Malformed, "protobuf parsing failed"),
        (plain(reads="Z"), Malformed, "Node input 'Z' is not a graph input"),
        (plain(reads="ZZ").replace(b"ZZ", b"\xff\xfe"), Malformed, "a name in it is not UTF-8"),
        (plain(op="Nonsense"), Malformed, "No Op registered for Nonsense"),
        (plain(op="Op", domain="else"), RuntimeUnavailable, "else:Op is an op that onnxruntime does not know"),
        (plain(ir=99), RuntimeUnavailable, "Unsupported model IR version: 99"),
        (plain(opset=99), RuntimeUnavailable, "too old for the model"),
    ],
    ids=["empty", "text", "truncated", "dangling", "no UTF-8", "unknown op", "unknown domain", "IR version", "opset"],
)
def test_a_broken_model_is_one_sentence(
    library: str, tmp_path: Path, model: bytes, error: type[Exception], why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(model)
    for source in (model, path):
        with pytest.raises(error, match=f"(?i){why}") as caught:
            session(source)
        message = str(caught.value)
        assert not any(noise in message for noise in ("\n", "::", ".cc", "ONNXRuntimeError"))
        assert message.count(str(path)) == (error is Malformed and source is path)
    assert capfd.readouterr() == ("", "")


def test_a_sparse_model_without_the_library_says_what_is_missing(one_node: Node) -> None:
    with pytest.raises(RuntimeUnavailable, match="sift:SparseLinear is an op that onnxruntime does not know") as caught:
        session(linear(one_node), library=False)
    assert "native library" in str(caught.value.hint)


@pytest.mark.parametrize("path", ["absent.onnx", "."])
def test_an_unreadable_file(library: str, tmp_path: Path, path: str) -> None:
    with pytest.raises(Unreadable, match=r"No such file|Is a directory"):
        session(tmp_path / path)


@pytest.mark.parametrize("version", ["1.16.3", "0.5.0", "1.9.0"])
def test_an_old_onnxruntime_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    old = types.ModuleType("onnxruntime")
    old.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime", old)
    with pytest.raises(RuntimeUnavailable, match=f"onnxruntime {version} is too old"):
        session(b"")


def test_a_missing_onnxruntime_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeUnavailable, match="onnxruntime cannot be imported"):
        session(b"")


def test_the_environment_names_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = tmp_path / "lib.so"
    named.write_bytes(b"")
    monkeypatch.setenv("SIFT_LIBRARY", str(named))
    assert library_path() == str(named.resolve())
    with pytest.raises(RuntimeUnavailable, match="is not a library of sift that this machine can load"):
        session(b"")
    monkeypatch.setenv("SIFT_LIBRARY", str(tmp_path / "absent.so"))
    with pytest.raises(RuntimeUnavailable, match=r"SIFT_LIBRARY names .*absent\.so, which is not a file"):
        library_path()


def test_the_installed_library_is_beside_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sift_cli.runtime import library as module

    monkeypatch.delenv("SIFT_LIBRARY", raising=False)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "library.py"))
    with pytest.raises(RuntimeUnavailable, match="is not installed beside") as caught:
        library_path()
    assert "SIFT_LIBRARY" in str(caught.value.hint)
    (tmp_path / module._FILE_NAME).write_bytes(b"")
    assert library_path() == str((tmp_path / module._FILE_NAME).resolve())


def test_random_inputs_are_a_function_of_names_and_seed(library: str) -> None:
    opened = session(plain())
    values = random_inputs(opened, batch=1000, seed=7)["X"]
    assert values.shape == (1000, 2)
    assert values.dtype == np.float32
    assert abs(values.mean()) < 0.1
    assert abs(values.std() - 1) < 0.1
    np.testing.assert_array_equal(values, random_inputs(opened, batch=1000, seed=7)["X"])
    assert not np.array_equal(values, random_inputs(opened, batch=1000, seed=8)["X"])
    assert random_inputs(opened)["X"].shape == (1, 2)


def test_random_inputs_of_integers_are_zero(library: str) -> None:
    info = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length", 3]) for name in ("X", "Y")]
    graph = helper.make_graph([helper.make_node("Identity", ["X"], ["Y"])], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    values = random_inputs(session(model.SerializeToString()), batch=4)["X"]
    assert values.dtype == np.int64
    assert values.tolist() == np.zeros((4, 1, 3)).tolist()


def test_importing_the_package_imports_no_framework() -> None:
    code = "import sys, sift_cli.runtime.sessions; print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout == "[]\n"


def test_every_exported_name_exists() -> None:
    assert [name for name in runtime.__all__ if not hasattr(runtime, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = runtime.nonsense
