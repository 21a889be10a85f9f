"""The certificate of a file in half precision: its error is the one that rounding makes, and a file of other numbers
than the rounded ones never appears."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from graphs import graph, sparse
from onnx import numpy_helper

import sift_cli
from sift_cli import api, runtime
from sift_cli.checkpoint import open_checkpoint
from sift_cli.core.certificate import Certificate, Claim
from sift_cli.core.half import HALVES, Storage
from sift_cli.errors import ExportError, VerificationFailed
from sift_cli.export import artifact
from sift_cli.export.half import with_weights
from sift_cli.verify import onnx_export, pruned_onnx
from sift_cli.verify.feeds import feeds

TEXT = """(float[batch, 40] x) => (float[batch, 30] y) {
    a = MatMul (x, stem) b = Relu (a) c = MatMul (b, w) d = Relu (c) e = MatMul (d, v) y = Softmax (e)
}"""
WEIGHTS = {
    "stem": sparse(40, 50, zeros=0) / 8, "w": sparse(50, 60, zeros=0.8) / 4, "v": sparse(60, 30, zeros=0.8, seed=1) / 4
}  # fmt: skip
ARCH, SHAPE = "nets:tiny_resnet", (1, 3, 8, 8)


def forward(x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    stem, w, v = (array.astype(np.float64) for array in weights.values())
    e = np.maximum(np.maximum(x @ stem, 0) @ w, 0) @ v
    powers = np.exp(e - e.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def by_name(certificate: Certificate, name: str) -> list[Claim]:
    return [claim for claim in certificate.claims if claim.name == name]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(graph(TEXT, WEIGHTS), tmp_path / "pruned.onnx")
    return tmp_path / "pruned.onnx"


@pytest.mark.parametrize("dtype", HALVES)
def test_the_error_is_that_of_rounding_the_weights(source: Path, dtype: Storage) -> None:
    written = api.export(source, source.parent / "half.onnx", dtype=dtype, min_sparsity="0.5")
    rounded = {name: array.astype(HALVES[dtype]) for name, array in WEIGHTS.items()}
    errors = []
    for feed in feeds(runtime.session(source, library=False)):
        exact = forward(feed["x"], WEIGHTS)
        errors.append(np.abs(forward(feed["x"], rounded) - exact).max() / exact.max())
    (claim,) = by_name(written.certificate, "rounding")
    assert claim.after == pytest.approx(max(errors), rel=1e-2)
    assert claim.held


def test_what_is_said_of_which_file(source: Path) -> None:
    output = source.parent / "half.onnx"
    written = api.export(source, output, dtype="fp16", min_sparsity="0.5")
    said = [(claim.name, claim.counter.endswith(", in float32")) for claim in written.certificate.claims]
    ways = said.count(("same_function", False))
    assert 1 <= ways == said.count(("same_function", True))
    assert ("mask_cardinality", False) in said
    assert ("mask_cardinality", True) in said
    kept = int(np.count_nonzero(WEIGHTS["w"]) + np.count_nonzero(WEIGHTS["v"]))
    assert {claim.after for claim in by_name(written.certificate, "mask_cardinality")} == {kept}
    with open_checkpoint(output) as file:
        assert json.loads(file.metadata["sift.certificate"]) == written.certificate.to_json()
        assert {name: file.tensors[name].dtype for name in WEIGHTS} == dict.fromkeys(WEIGHTS, "F16")
        np.testing.assert_array_equal(file.read("w"), WEIGHTS["w"].T.astype(np.float16))
        np.testing.assert_array_equal(file.mask("v").to_bool(), WEIGHTS["v"].T != 0)
    assert api.flops(output).sparse == api.flops(source).sparse


def test_a_weight_that_rounds_to_0_still_counts(tmp_path: Path) -> None:
    weights = {name: array.copy() for name, array in WEIGHTS.items()}
    weights["w"][0], weights["stem"][0] = 1e-9, 1e-9
    onnx.save(graph(TEXT, weights), tmp_path / "pruned.onnx")
    written = api.export(tmp_path / "pruned.onnx", tmp_path / "half.onnx", dtype="fp16", min_sparsity="0.5")
    kept = int(np.count_nonzero(weights["w"]) + np.count_nonzero(weights["v"]))
    assert {claim.after for claim in by_name(written.certificate, "mask_cardinality")} == {kept}
    with open_checkpoint(tmp_path / "half.onnx") as file:
        assert not file.read("w")[:, 0].any()
        assert file.mask("w").to_bool()[:, 0].all()


def changed(model: onnx.ModelProto, name: str, array: np.ndarray) -> onnx.ModelProto:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(array, name))
    return model


def stored(model: onnx.ModelProto, name: str) -> np.ndarray:
    (array,) = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == name)
    return array.copy()


@pytest.mark.parametrize("name", ["stem", "w.values"])
def test_numbers_that_were_not_rounded_but_cut_off_are_found(
    source: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def cut_off(model: onnx.ModelProto, dtype: Storage) -> onnx.ModelProto:
        upper = stored(model, name).view(np.uint32) >> 16
        return changed(with_weights(model, dtype), name, upper.astype(np.uint16).view(HALVES["bf16"]))

    monkeypatch.setattr(pruned_onnx, "with_weights", cut_off)
    with pytest.raises(VerificationFailed) as caught:
        api.export(source, source.parent / "half.onnx", dtype="bf16", min_sparsity="0.5")
    assert {claim.name for claim in caught.value.certificate.broken} >= {"same_function"}
    assert all("float32" not in claim.counter for claim in caught.value.certificate.broken)
    assert [path.name for path in source.parent.iterdir()] == ["pruned.onnx"]


def test_a_mask_that_moved_is_found(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(model: onnx.ModelProto, dtype: Storage) -> onnx.ModelProto:
        half = with_weights(model, dtype)
        return changed(half, "w.bitmask", np.roll(stored(half, "w.bitmask"), 1))

    monkeypatch.setattr(pruned_onnx, "with_weights", moved)
    with pytest.raises(VerificationFailed) as caught:
        api.export(source, source.parent / "half.onnx", dtype="fp16", min_sparsity="0.5")
    assert {one.name for one in caught.value.certificate.broken} == {"mask_cardinality", "same_function", "same_layers"}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wide") / "w.safetensors"
    api.transform(ARCH, path, sparsity="3/4", input_shape=SHAPE)
    return path


def test_a_transformed_model_as_onnx(wide: Path, tmp_path: Path) -> None:
    output, exact = tmp_path / "half.onnx", tmp_path / "exact.onnx"
    written = api.export(wide, output, arch=ARCH, dtype="bf16")
    api.export(wide, exact, arch=ARCH)
    assert written.certificate.held
    with open_checkpoint(output) as file, open_checkpoint(exact) as reference:
        assert file.tensors.keys() == reference.tensors.keys()
        for name, spec in file.tensors.items():
            narrow = HALVES["bf16"] if name.endswith(".weight") else reference.read(name).dtype
            assert file.read(name).tobytes() == reference.read(name).astype(narrow).tobytes(), spec
        assert json.loads(file.metadata["sift.certificate"]) == written.certificate.to_json()
    assert api.flops(output).sparse == api.flops(exact).sparse


def test_an_error_behind_a_norm_of_zeros_is_found(wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a block whose last norm is 0, before a head that is 0, no output shows anything."""
    model = artifact.load(wide, arch=ARCH)
    with torch.no_grad():
        model.module.get_parameter("layer1.bn2.weight").zero_()
        model.module.get_parameter("fc.weight").zero_()
    artifact.save(model, tmp_path / "hidden.safetensors")

    def doubled(exact: onnx.ModelProto, dtype: Storage) -> onnx.ModelProto:
        half = with_weights(exact, dtype)
        (name,) = (one.name for one in half.graph.initializer if one.name == "layer1.conv1.weight.values")
        return changed(half, name, stored(half, name) * np.float16(2))

    monkeypatch.setattr(onnx_export, "with_weights", doubled)
    with pytest.raises(VerificationFailed) as caught:
        api.export(tmp_path / "hidden.safetensors", tmp_path / "half.onnx", arch=ARCH, dtype="fp16")
    assert {claim.name for claim in caught.value.certificate.broken} == {"same_layers"}


@pytest.mark.parametrize("dtype", HALVES)
def test_a_transformed_model_as_safetensors(wide: Path, tmp_path: Path, dtype: Storage) -> None:
    output = tmp_path / "half.safetensors"
    written = api.export(wide, output, arch=ARCH, dtype=dtype)
    exact, read = sift_cli.load(wide, arch=ARCH), sift_cli.load(output, arch=ARCH)
    narrow = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    for name, tensor in exact.state_dict().items():
        got = read.state_dict()[name]
        assert got.dtype is tensor.dtype
        want = tensor.to(narrow).to(tensor.dtype) if tensor.dim() > 1 else tensor
        assert torch.equal(got, want), name
    masks = sift_cli.masks(exact)
    assert sift_cli.masks(read).keys() == masks.keys()
    assert all(torch.equal(mask, masks[name]) for name, mask in sift_cli.masks(read).items())
    with open_checkpoint(output) as file:
        halves = {name for name, spec in file.tensors.items() if spec.dtype == {"fp16": "F16", "bf16": "BF16"}[dtype]}
    assert halves == {name for name, tensor in exact.state_dict().items() if tensor.dim() > 1}
    inputs = artifact.load(wide, arch=ARCH).inputs
    with torch.no_grad():
        before, after = exact(*inputs), read(*inputs)
    (claim,) = by_name(written.certificate, "rounding")
    assert claim.after == pytest.approx(float((after - before).abs().max() / before.abs().max()), rel=1e-6)
    assert claim.after > 0
    dense = api.densify(output, tmp_path / "dense.safetensors", arch=ARCH)
    assert dense.certificate.held


def test_a_file_that_was_not_rounded_to_what_it_says_is_found(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "rounded", lambda model, dtype: model)
    with pytest.raises(VerificationFailed) as caught:
        api.export(wide, tmp_path / "half.safetensors", arch=ARCH, dtype="bf16")
    assert {claim.name for claim in caught.value.certificate.broken} == {"roundtrip"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_a_weight_out_of_range_leaves_no_file(wide: Path, tmp_path: Path, suffix: str) -> None:
    model = artifact.load(wide, arch=ARCH)
    with torch.no_grad():
        model.module.get_parameter("fc.weight")[0, 0] = 1e5
    artifact.save(model, tmp_path / "large.safetensors")
    with pytest.raises(ExportError, match=r"^'fc.weight' has a weight of 100000, and fp16 ends at 65504$"):
        api.export(tmp_path / "large.safetensors", tmp_path / f"half{suffix}", arch=ARCH, dtype="fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["large.safetensors"]
