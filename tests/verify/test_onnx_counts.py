from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from sift_cli import api
from sift_cli.export import artifact
from sift_cli.export.onnx import to_onnx
from sift_cli.flops import count_onnx
from sift_cli.surgery import TransformedModel
from sift_cli.verify.onnx_counts import exported_macs


@pytest.fixture
def model(tmp_path: Path) -> TransformedModel:
    written = tmp_path / "w.safetensors"
    api.transform("nets:tiny_einsum", written, sparsity="3/4", match="layer", input_shape=(1, 8))
    return artifact.load(written, arch="nets:tiny_einsum")


def silence(model: TransformedModel) -> None:
    """Set one kept weight to 0."""
    weight, mask = model.module.get_parameter("inner.weight"), model.masks["inner.weight"].to_bool()
    with torch.no_grad():
        weight.view(-1)[int(mask.reshape(-1).argmax())] = 0.0


def counted(model: TransformedModel, graph: onnx.ModelProto) -> int:
    return sum(exported_macs(count_onnx(graph), model).values())


def test_a_kept_weight_of_zero_counts_in_a_layer_without_an_operator(model: TransformedModel) -> None:
    silence(model)
    graph = to_onnx(model.module, model.inputs, model.masks, {})
    assert not any(node.domain == "sift" and "inner" in "".join(node.input) for node in graph.graph.node)
    assert counted(model, graph) == model.plan.macs_after


def test_a_kept_weight_that_the_file_lost_is_missed(model: TransformedModel) -> None:
    whole = to_onnx(model.module, model.inputs, model.masks, {})
    assert counted(model, whole) == model.plan.macs_after
    other = artifact.densified(model)
    silence(TransformedModel(other.module, model.masks, model.plan, model.inputs))
    lossy = to_onnx(other.module, model.inputs, model.masks, {})
    with torch.no_grad():
        model.module.get_parameter("inner.weight").masked_fill_(
            torch.from_numpy(model.masks["inner.weight"].to_bool()), 1.0
        )
    assert counted(model, lossy) == model.plan.macs_after - 1
