"""Tuning: what is decided about layers whose times are known, and that a tuned file is as right as any other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import graph, sparse
from typer.testing import Result

from sift_cli import api
from sift_cli.errors import ExportError, RuntimeUnavailable
from sift_cli.runtime import kernels, library_path, session
from sift_cli.runtime.bench import Measured, Spread
from sift_cli.runtime.library import cpu
from sift_cli.runtime.peers import OnnxRuntime
from sift_cli.verify import tuning
from sift_cli.verify.tuning import GAIN

Times = Callable[[str, tuple[int, ...]], float]


@pytest.fixture(autouse=True)
def library() -> str:
    try:
        return library_path()
    except RuntimeUnavailable as error:
        pytest.skip(error.message)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Times], None]:
    """Makes peers take a time that depends on their name ("usual", "dense", a plan) and the shape of their input."""

    def set_to(times: Times) -> None:
        def took(peer: OnnxRuntime) -> float:
            return times(peer.name, list(peer._feed.values())[-1].shape)  # behind a residual comes X

        def compare(peers: Sequence[OnnxRuntime], *, seconds: float) -> tuple[list[Measured], int]:
            assert [peer.name for peer in peers[:2]] == ["usual", "dense"]
            assert all(peer.outputs[0].shape == peers[0].outputs[0].shape for peer in peers)
            assert all(np.abs(peer.outputs[0] - peers[0].outputs[0]).max() < 1e-4 for peer in peers)

            def spread(value: float) -> Spread:
                return Spread(value, value, value)

            first = took(peers[0])
            return [
                Measured(p.name, "", 1, None, spread(took(p)), None if p is peers[0] else spread(took(p) / first), 1)
                for p in peers
            ], 1

        monkeypatch.setattr(tuning, "compare", compare)
        monkeypatch.setattr(tuning, "_least_seconds", took)

    return set_to


W, V = sparse(40, 60), sparse(60, 30, seed=1)
TEXT = "(float[batch, 40] x) => (float[batch, 30] y) { h = MatMul (x, w) r = Relu (h) y = MatMul (r, v) }"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(graph(TEXT, {"w": W, "v": V}), tmp_path / "pruned.onnx")
    return tmp_path / "pruned.onnx"


def wide_is(dense: float, plan: float) -> Times:
    """Times of layers with 40 inputs; all others are as fast in any way."""

    def times(name: str, shape: tuple[int, ...]) -> float:
        if shape[-1] != 40:
            return 1.0
        return {"usual": 1.0, "dense": dense}.get(name, plan)

    return times


def operators(path: Path) -> dict[str, str | None]:
    """The plan of each of sift's operators."""
    return {
        node.op_type: next((item.s.decode() for item in node.attribute if item.name == "plan"), None)
        for node in onnx.load(path).graph.node
        if node.domain == "sift"
    }


def test_a_faster_plan_is_stored(source: Path, clock: Callable[[Times], None]) -> None:
    clock(wide_is(dense=2, plan=GAIN - 0.01))
    written = api.export(source, source.parent / "fast.onnx", tune=True)
    found = operators(written.path)
    assert found["SparseLinear"] is None
    plan = found["SparseLinearRelu"]
    assert plan is not None
    processor, sizes, kernel, *numbers = plan.split()
    assert (processor, sizes) == (cpu(), "1")
    assert {layer.decision for layer in written.tuned} == {"as usual", " ".join([kernel, *numbers])}
    opened = session(written.path)
    opened.run(None, {"x": np.ones((1, 40), np.float32)})
    assert next(report.kernel for report in kernels(opened) if report.op == "SparseLinearRelu") == kernel
    assert written.certificate.held


def test_one_that_is_hardly_faster_is_not(source: Path, clock: Callable[[Times], None]) -> None:
    clock(wide_is(dense=2, plan=GAIN + 0.01))
    written = api.export(source, source.parent / "fast.onnx", tune=True)
    assert operators(written.path) == {"SparseLinear": None, "SparseLinearRelu": None}
    assert {layer.decision for layer in written.tuned} == {"as usual"}


@pytest.mark.parametrize(("dense", "plan", "stays"), [(0.9, 1.0, True), (0.9, 0.8, False), (1.0, 1.0, False)])
def test_a_pruned_layer_that_is_faster_dense_stays_as_it_is(
    source: Path, clock: Callable[[Times], None], dense: float, plan: float, stays: bool
) -> None:
    clock(wide_is(dense=dense, plan=plan))
    written = api.export(source, source.parent / "fast.onnx", tune=True)
    assert operators(written.path).keys() == ({"SparseLinear"} if stays else {"SparseLinear", "SparseLinearRelu"})
    kept = {tensor.name: tensor for tensor in onnx.load(written.path).graph.initializer}
    assert ("w" in kept) is stays
    if stays:
        assert onnx.numpy_helper.to_array(kept["w"]).tobytes() == W.tobytes()
    assert sorted(layer.decision == "dense" for layer in written.tuned) == [False, stays]


def test_a_number_decides_alone_which_layers_are_sparse(source: Path, clock: Callable[[Times], None]) -> None:
    clock(lambda name, shape: 0.1 if name == "dense" else 1.0)
    with pytest.raises(ExportError, match=r"no layer of .* is worth a sparse operator"):
        api.export(source, source.parent / "fast.onnx", tune=True)
    written = api.export(source, source.parent / "fast.onnx", tune=True, min_sparsity=0.3)
    assert operators(written.path).keys() == {"SparseLinear", "SparseLinearRelu"}
    with pytest.raises(ExportError, match=r"not 90\.0%"):
        api.export(source, source.parent / "none.onnx", tune=True, min_sparsity=0.9)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tuned") / "w.safetensors"
    api.transform("nets:tiny_resnet", path, sparsity="3/4", input_shape=(1, 3, 8, 8))
    return path


def test_a_masked_layer_that_is_faster_dense_keeps_its_mask(
    artifact: Path, tmp_path: Path, clock: Callable[[Times], None]
) -> None:
    clock(lambda name, shape: 1.0 if name != "dense" else 0.5 if shape[1:] == (64, 4, 4) else 2.0)
    written = api.export(artifact, tmp_path / "t.onnx", arch="nets:tiny_resnet", tune=True, threads=1)
    assert written.certificate.held  # five masks bit for bit, and their MACs
    names = [node.op_type for node in onnx.load(written.path).graph.node if node.domain == "sift"]
    assert sorted(names) == ["DenseWeight", *["SparseConvAddRelu"] * 2, *["SparseConvRelu"] * 2]


def test_what_is_printed(source: Path, clock: Callable[[Times], None], sift: Callable[..., Result]) -> None:
    clock(wide_is(dense=0.25, plan=1.0))
    done = sift("export", source, "-o", "fast.onnx", "--tune", "--threads", "1")
    assert done.exit_code == 0, done.output
    assert re.search(
        r"SparseLinearRelu 60×40 on 1×40, \d\d\.\d% sparse +1 +250\.000 +1000\.000 +1000\.000 +dense", done.stdout
    )
    done = sift("export", source, "-o", "fast.onnx", "--tune", "--force", "--json")
    document = json.loads(done.stdout)
    assert [(layer["weights"], layer["decision"]) for layer in document["tuned"]] == [
        (["w"], "dense"),
        (["v"], "as usual"),
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("-o", "x.onnx", "--threads", "2"), "--threads is for --tune"),
        (("-o", "x.safetensors", "--tune"), "--min-sparsity and --tune are for --format onnx"),
    ],
)
def test_a_refusal(source: Path, sift: Callable[..., Result], options: tuple[str, ...], sentence: str) -> None:
    done = sift("export", source, *options)
    assert done.exit_code == 7
    assert sentence in done.stderr


def test_without_a_library_there_is_nothing_to_tune_for(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIFT_LIBRARY", str(source.parent / "none.so"))
    with pytest.raises(RuntimeUnavailable, match=r"none\.so"):
        api.export(source, source.parent / "fast.onnx", tune=True)
    assert [path.name for path in source.parent.iterdir()] == ["pruned.onnx"]
