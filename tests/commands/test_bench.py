"""``sift bench``: what it prints and what it refuses. No time is asserted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import Result

from sift_cli.errors import RuntimeUnavailable
from sift_cli.runtime import available_isas, library_path
from sift_cli.runtime.remote import ENVIRONMENT

Sift = Callable[..., Result]
#: A DeepSparse that answers zeros.
FAKE = """
import onnx, numpy
from onnx import numpy_helper
__version__ = "9.9"
class Engine:
    fraction_of_supported_ops = 1.0
    def __init__(self, model, batch_size=1, num_cores=None):
        graph = onnx.load(model).graph
        assert {node.domain for node in graph.node} == {""}
        (weight,) = [numpy_helper.to_array(one) for one in graph.initializer if len(one.dims) == 2]
        assert [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [batch_size, weight.shape[0]]
        self.width = weight.shape[1]
    def run(self, inputs, val_inp=True):
        return [numpy.zeros((len(inputs[0]), self.width), numpy.float32)]
"""


@pytest.fixture(autouse=True)
def library() -> None:
    try:
        library_path()
    except RuntimeUnavailable as error:
        pytest.skip(f"{error.message}; {error.hint}")


def write(path: Path, width: int = 4, outputs: int = 3, batch: str | int = "batch", *, sparse: bool = True) -> Path:
    """A linear layer without a bias, half of it kept; sparse, or dense."""
    from sift_cli.export import fallback

    weight = np.ones((outputs, width), np.float32)
    weight.reshape(-1)[::2] = 0
    kept = weight != 0
    if sparse:
        stored = {
            "w.bitmask": np.packbits(kept.reshape(-1), bitorder="little"),
            "w.values": weight[kept],
            "w.bias": np.zeros(outputs, np.float32),
        }
        node = helper.make_node(
            "SparseLinear", ["x", *stored], ["y"], domain="sift", name="layer", weight_shape=weight.shape
        )
    else:
        stored = {"w": np.ascontiguousarray(weight.T)}
        node = helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, outputs])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("sift", 1)],
        functions=fallback.functions({"SparseLinear"}, 18) if sparse else [],
        ir_version=9,
    )
    onnx.save(model, path)
    return path


def bench(sift: Sift, *arguments: object) -> dict:
    done = sift("bench", *arguments, "--seconds", "0", "--json")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_the_document(sift: Sift, tmp_path: Path) -> None:
    write(tmp_path / "m.onnx")
    write(tmp_path / "other.onnx", width=6, sparse=False)
    peers = ("--vs", "dense", "--vs", "other.onnx")
    report = bench(sift, "m.onnx", *peers, "--threads", 1, "--threads", 2, "--batch", 5, "--layers")
    assert report.keys() == {"schema", "model", "batch", "machine", "comparisons"}
    assert (report["schema"], report["model"], report["batch"]) == ("sift.bench/1", "m.onnx", 5)
    machine = report["machine"]
    assert machine.keys() == {"cpu", "cores", "isas", "forced_isa", "peak_gflops"}
    assert machine["isas"] == list(available_isas())
    assert machine["cores"] >= 1
    assert machine["cpu"]
    assert [one["threads"] for one in report["comparisons"]] == [1, 2]
    for comparison in report["comparisons"]:
        assert comparison.keys() == {"threads", "rounds", "peers", "layers"}
        assert comparison["rounds"] == 5
        mine, dense, other = comparison["peers"]
        assert [peer["name"] for peer in (mine, dense, other)] == ["sift", "dense", "other.onnx"]
        assert [peer["engine"].startswith("sift, onnxruntime 1.") for peer in (mine, dense, other)] == [
            True,
            False,
            False,
        ]
        for peer in (mine, dense, other):
            assert peer.keys() == {
                "name", "engine", "samples", "difference", "seconds", "per_second", "ratio", "runs",
            }  # fmt: skip
            assert peer["samples"] == 5
            assert 0 < peer["seconds"]["p10"] <= peer["seconds"]["median"] <= peer["seconds"]["p90"]
            assert peer["per_second"] == 5 / peer["seconds"]["median"]
        assert mine["ratio"] is None
        assert dense["ratio"].keys() == {"median", "p10", "p90"}
        assert mine["difference"] is None
        assert dense["difference"] < 1e-6
        assert other["difference"] is None  # another model
        (layer,) = comparison["layers"]
        assert layer.keys() == {
            "name", "op", "kernel", "seconds", "share", "macs", "useful_gflops", "dense_equivalent_gflops",
        }  # fmt: skip
        assert (layer["name"], layer["op"], layer["macs"]) == ("layer", "SparseLinear", {"dense": 60, "sparse": 30})
        assert layer["useful_gflops"] == pytest.approx(60 / layer["seconds"] / 1e9, rel=1e-12)
        assert layer["dense_equivalent_gflops"] == pytest.approx(120 / layer["seconds"] / 1e9, rel=1e-12)


def test_every_session_has_the_threads_asked_for(sift: Sift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sift_cli import runtime
    from sift_cli.runtime import layers

    seen: list[tuple[str, int | None, bool]] = []
    real = runtime.session

    def watched(model: Path, *, threads: int | None = None, library: bool = True, **given: Any) -> Any:
        seen.append((Path(model).name, threads, library))
        return real(model, threads=threads, library=library, **given)

    monkeypatch.setattr(runtime, "session", watched)
    monkeypatch.setattr(layers, "session", watched)
    write(tmp_path / "m.onnx")
    write(tmp_path / "o.onnx")
    bench(sift, "m.onnx", "--vs", "dense", "--vs", "o.onnx", "--threads", 2, "--threads", 1, "--layers")
    each = [[("m.onnx", n, True), ("m.onnx", n, False), ("o.onnx", n, True), ("m.onnx", n, True)] for n in (2, 1)]
    assert seen[1:] == [*each[0], *each[1]]  # the first looks at the inputs


def test_layers_are_left_out_unless_asked_for(sift: Sift, tmp_path: Path) -> None:
    write(tmp_path / "m.onnx")
    report = bench(sift, "m.onnx")
    (comparison,) = report["comparisons"]
    assert comparison["layers"] is None
    assert comparison["threads"] is None
    assert report["machine"]["peak_gflops"] is None
    assert [peer["name"] for peer in comparison["peers"]] == ["sift"]


def test_the_shape_of_an_input_is_given(sift: Sift, tmp_path: Path) -> None:
    write(tmp_path / "m.onnx")
    assert bench(sift, "m.onnx", "--input", "7x4")["batch"] == 7
    assert bench(sift, "m.onnx", "--input", "x=6x4")["batch"] == 6
    np.save(tmp_path / "5x4.npy", np.zeros((2, 4), np.float32))
    (tmp_path / "5x4.npy").rename(tmp_path / "5x4")
    assert bench(sift, "m.onnx", "--input", "5x4")["batch"] == 2  # a file, if there is one


def test_a_given_input_is_what_every_peer_runs_on(sift: Sift, tmp_path: Path) -> None:
    write(tmp_path / "m.onnx")
    write(tmp_path / "same.onnx", sparse=False)
    np.save(tmp_path / "x.npy", np.zeros((7, 4), np.float32))
    report = bench(sift, "m.onnx", "--vs", "same.onnx", "--input", "x.npy")
    assert [peer["samples"] for peer in report["comparisons"][0]["peers"]] == [7, 7]
    assert report["batch"] == 7


def test_deepsparse_gets_a_dense_model(sift: Sift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "m.onnx")
    write(tmp_path / "other.onnx", width=8, sparse=False)
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "deepsparse.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    arguments = ("m.onnx", "--vs", "deepsparse", "--vs", "deepsparse:other.onnx", "--batch", 3)
    by_option = bench(sift, *arguments, "--peer-python", sys.executable)
    monkeypatch.setenv(ENVIRONMENT, sys.executable)
    for report in (by_option, bench(sift, *arguments)):
        _, same, other = report["comparisons"][0]["peers"]
        assert (same["name"], other["name"]) == ("deepsparse", "deepsparse:other.onnx")
        assert same["engine"] == "DeepSparse 9.9, 100% of the operators its own"
        assert same["difference"] == 1.0  # zeros, where something was expected
        assert other["difference"] is None
        assert (same["samples"], other["samples"]) == (3, 3)
        assert same["ratio"]["median"] > 0


def test_the_table(sift: Sift, tmp_path: Path) -> None:
    write(tmp_path / "m.onnx")
    done = sift("bench", "m.onnx", "--vs", "dense", "--threads", 1, "--seconds", 0, "--layers")
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["batch", "1,", "1", "thread,", "5", "rounds"] in lines
    assert [line[:2] for line in lines if line[:1] in (["sift"], ["dense"])] == [
        ["sift", "sift,"],
        ["dense", "onnxruntime"],
    ]
    (layer,) = [line for line in lines if line[:1] == ["layer"]]
    assert layer[1] == "SparseLinear"
    assert "100.0%" in layer
    assert f"({', '.join(available_isas())})" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("torchvision:resnet18",), 4, "torchvision:resnet18 is no ONNX file"),
        (("m.npy",), 3, "m.npy is not a checkpoint sift knows"),
        (("absent.onnx",), 3, "cannot read absent.onnx"),
        (("m.onnx", "--vs", "nobody"), 3, "cannot read nobody"),
        (("m.onnx", "--vs", ""), 2, "an argument is empty"),
        (("absent.pt",), 3, "cannot read absent.pt"),
        (("m.onnx", "--vs", "m.npy"), 3, "m.npy is not a checkpoint sift knows"),
        (("m.onnx", "--vs", "deepsparse"), 8, "DeepSparse runs in an interpreter of its own, and none is named"),
        (("m.onnx", "--vs", "deepsparse:nobody.onnx"), 3, "cannot read nobody.onnx"),
        (("m.onnx", "--input", "wide.npy"), 4, "input 'x' takes the shape ['batch', 4], and wide.npy has [2, 5]"),
        (("m.onnx", "--input", "2x5"), 4, "input 'x' takes the shape ['batch', 4], and 2x5 has [2, 5]"),
        (("m.onnx", "--input", "2x0"), 3, "cannot read 2x0"),
        (("m.onnx", "--input", "objects.npy"), 3, "objects.npy is damaged at its header: it is cut off"),
        (("m.onnx", "--input", "whole.npy"), 4, "sift does not run on these inputs"),
        (("one.onnx", "--batch", "2"), 4, "one.onnx takes a batch of 1 and no other"),
        (("m.onnx", "--vs", "one.onnx", "--batch", "2"), 4, "one.onnx takes a batch of 1, and m.onnx one of 2"),
        (("m.onnx", "--threads", "0"), 2, "--threads"),
        (("m.onnx", "--seconds", "-1"), 2, "--seconds"),
    ],
)
def test_refusals(
    sift: Sift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, says: str
) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    write(tmp_path / "m.onnx")
    write(tmp_path / "one.onnx", batch=1)
    np.save(tmp_path / "m.npy", np.zeros(3))
    np.save(tmp_path / "wide.npy", np.zeros((2, 5), np.float32))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "whole.npy", np.zeros((2, 4), np.int64))
    done = sift("bench", *arguments)
    assert done.exit_code == code, done.output
    assert says in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert "Traceback" not in done.output


def test_the_hint_says_what_to_type(sift: Sift, tmp_path: Path) -> None:
    done = sift("bench", "torchvision:resnet18")
    assert "sift export torchvision:resnet18 --format onnx -o model.onnx && sift bench model.onnx" in done.stderr


def test_deepsparse_itself(sift: Sift, tmp_path: Path) -> None:
    if not os.environ.get(ENVIRONMENT):
        pytest.skip(f"{ENVIRONMENT} names no interpreter with DeepSparse")
    write(tmp_path / "m.onnx", width=64, outputs=32)
    _, peer = bench(sift, "m.onnx", "--vs", "deepsparse", "--batch", 16, "--threads", 1)["comparisons"][0]["peers"]
    assert peer["engine"].startswith("DeepSparse 1.8")
    assert peer["difference"] < 1e-6
