"""The certificate of a pruned model: it holds for a right file, a wrong one never appears, and each refusal is one
sentence with its exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import graph, normal, run, sparse
from typer.testing import Result

from sift_cli import api
from sift_cli.checkpoint import open_checkpoint
from sift_cli.errors import VerificationFailed
from sift_cli.export import pruned
from sift_cli.export.pruned.affine import Affine
from sift_cli.export.pruned.placing import Places
from sift_cli.verify import pruned_onnx
from sift_cli.verify.outputs import difference

W, V = sparse(40, 60), sparse(60, 30, seed=1)
TEXT = (
    "(float[batch, 40] x) => (float[batch, 30] y) { h = MatMul (x, w) r = Relu (h) s = MatMul (r, v) y = Softmax (s) }"
)
#: MACs of one row on weights that are not 0.
MACS = int(np.count_nonzero(W) + np.count_nonzero(V))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(graph(TEXT, {"w": W, "v": V}), tmp_path / "pruned.onnx")
    return tmp_path / "pruned.onnx"


def test_what_is_written(source: Path) -> None:
    output = source.parent / "fast.onnx"
    written = api.export(source, output, min_sparsity=0.3)
    assert written.certificate.held
    claims = {(claim.name, claim.counter): claim for claim in written.certificate.claims}
    assert claims["mask_cardinality", "bitmask"].after == MACS
    assert claims["sparse_macs", "onnx"].after == MACS
    assert claims["io_shapes", "onnxruntime without sift"].after == [[[1, 30]], [[3, 30]]]
    assert api.flops(output).sparse == api.flops(source).sparse == MACS
    with open_checkpoint(output) as file:
        assert np.array_equal(file.mask("v").to_bool(), V.T != 0)
        assert json.loads(file.metadata["sift.certificate"]) == written.certificate.to_json()
        about = json.loads(file.metadata["sift.provenance"])
    assert about["source"] == "pruned.onnx"
    x = {"x": normal(5, 40)}
    assert np.abs(run(onnx.load(output), x)[0] - run(onnx.load(source), x, optimized=False)[0]).max() < 1e-6


def test_the_same_bytes_every_time(source: Path) -> None:
    files = [source.parent / name for name in ("a.onnx", "b.onnx")]
    for file in files:
        api.export(source, file, min_sparsity=0.3)
    assert files[0].read_bytes() == files[1].read_bytes()


def _values_moved(layer: object, opset: int, *, scaling: bool) -> Affine:
    ones = np.ones(len(layer.weight))  # type: ignore[attr-defined]
    return Affine(ones, np.where(np.arange(len(ones)) == 3, 0.01, 0), ())


def test_a_wrong_bias_is_found(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruned, "behind", _values_moved)
    with pytest.raises(VerificationFailed, match="same_function does not hold by onnxruntime without sift"):
        api.export(source, source.parent / "fast.onnx", min_sparsity=0.3)
    assert [path.name for path in source.parent.iterdir()] == ["pruned.onnx"]


def test_a_wrong_layer_behind_a_softmax_that_shows_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = TEXT.replace("y = Softmax (s)", "t = Mul (s, z) y = Softmax (t)")
    onnx.save(graph(flat, {"w": W, "v": V, "z": np.float32([[0.0]])}), tmp_path / "pruned.onnx")
    monkeypatch.setattr(pruned, "behind", _values_moved)
    with pytest.raises(VerificationFailed, match="same_layers does not hold") as caught:
        api.export(tmp_path / "pruned.onnx", tmp_path / "fast.onnx", min_sparsity=0.3)
    assert {claim.name for claim in caught.value.certificate.broken} == {"same_layers"}


def test_a_mask_that_keeps_too_much_is_found(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = Places.put

    def fuller(self: Places, layer: object, affine: Affine) -> str:
        layer.kept[0] = True  # type: ignore[attr-defined]
        return put(self, layer, affine)  # type: ignore[arg-type]

    monkeypatch.setattr(Places, "put", fuller)
    with pytest.raises(VerificationFailed) as caught:
        api.export(source, source.parent / "fast.onnx", min_sparsity=0.3)
    assert {claim.name for claim in caught.value.certificate.broken} == {"mask_cardinality", "sparse_macs"}


def test_labels_may_differ_where_two_are_as_good() -> None:
    one, other = np.zeros(20_000, np.int64), np.zeros(20_000, np.int64)
    other[0] = 1
    assert difference([[one]], [[other]]) == 1 / 20_000
    assert difference([[one[:1]]], [[other[:1]]]) == 1
    assert difference([[one[:1]]], [[other]]) == np.inf
    assert difference([[np.float32([np.nan])]], [[np.float32([1])]]) == np.inf
    assert difference([[np.float32([8, 3])]], [[np.float32([8, 4])]]) == 1 / 8


@pytest.mark.parametrize(
    ("error", "rounding", "held"), [(9e-5, 0, True), (3e-4, 1e-4, True), (3e-4, 5e-5, False), (0.02, 0.02, False)]
)
def test_a_model_that_turns_roundings_into_more_is_held_to_those(error: float, rounding: float, held: bool) -> None:
    exact, other, rounded = ([[np.array([1.0, 1.0 - part])]] for part in (0, error, rounding))
    assert pruned_onnx._same("same_function", exact, other, lambda: rounded, "").held is held


REFUSED = {
    "nothing sparse": ((), r"the sparsest weight, 'w' of \[60, 40\], has 9\.\d% zeros and not 30\.0%$", 7),
    "an input shape": (
        ("--input", "2x41"),
        "the model does not run on random inputs: .* index: 1 Got: 41 Expected: 40",
        7,
    ),
    "an opset": (("--opset", "18"), "is an ONNX graph, which keeps its opset and architecture", 7),
    "a sparsity": (("--min-sparsity", "1.5"), "min-sparsity", 2),
    "more zeros": (("--min-sparsity", "0.8"), r"has \d\d\.\d% zeros and not 80\.0%$", 7),
    "a format": (("--format", "safetensors"), "is an ONNX graph, from which no torch model can be made", 4),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal(name: str, sift: Callable[..., Result]) -> None:
    options, sentence, code = REFUSED[name]
    zeros = 0.1 if name == "nothing sparse" else 0.7
    onnx.save(graph(TEXT, {"w": sparse(40, 60, zeros=zeros), "v": sparse(60, 30, zeros=0.05)}), "pruned.onnx")
    result = sift("export", "pruned.onnx", "-o", "fast.onnx", *options)
    assert result.exit_code == code
    first, *_ = result.stderr.splitlines()
    assert re.search(sentence, first), first
    assert not Path("fast.onnx").exists()
