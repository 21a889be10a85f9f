from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sift_cli import api
from sift_cli.core.masks import Mask
from sift_cli.errors import VerificationFailed
from sift_cli.export.lowering import _sparse
from sift_cli.models import LoadedModel
from sift_cli.verify.probe import hidden_layers, lively

BRANCHES = ["layer1.conv1.weight", "layer1.conv2.weight", "layer2.conv1.weight", "layer2.conv2.weight"]
LAYERS = [*BRANCHES, "layer2.shortcut.0.weight"]


def test_a_zero_norm_hides_its_branch(tiny: Callable[..., LoadedModel]) -> None:
    model = tiny()
    for block in ("layer1", "layer2"):
        torch.nn.init.zeros_(model.module.get_parameter(f"{block}.bn2.weight"))
    assert hidden_layers(model.module, model.inputs, LAYERS) == BRANCHES
    copy = lively(model.module, model.inputs)
    assert hidden_layers(copy, model.inputs, LAYERS) == []
    assert all(torch.equal(copy.get_parameter(name), model.module.get_parameter(name)) for name in LAYERS)
    assert not model.module.get_parameter("layer1.bn2.weight").any()


def test_an_exporter_that_drops_a_weight_of_a_hidden_layer_is_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "w.safetensors"
    api.transform("nets:silent_resnet", source, sparsity="3/4", input_shape=(1, 3, 8, 8))
    real = _sparse.encode

    def lossy(name: str, array: object, mask: Mask) -> dict[str, object]:
        parts = real(name, array, mask)  # type: ignore[arg-type]
        if mask.shape == (32, 32, 3, 3):  # layer1's, behind a norm of 0
            parts["values"] = parts["values"].copy()
            parts["values"][: len(parts["values"]) // 2] = 0
        return parts

    monkeypatch.setattr(_sparse, "encode", lossy)
    with pytest.raises(VerificationFailed, match="norms at random"):
        api.export(source, tmp_path / "w.onnx", arch="nets:silent_resnet")
    assert not (tmp_path / "w.onnx").exists()
