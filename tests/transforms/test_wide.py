from __future__ import annotations

import importlib.util
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import nets
import pytest
import torch
from torch import nn

from sift_cli import api, surgery
from sift_cli.core.plan import FillTensor, SetAttribute, TransformPlan
from sift_cli.errors import Infeasible, PlanError
from sift_cli.models import LoadedModel
from sift_cli.transforms import TransformOptions, decide


def wide(model: LoadedModel, sparsity: str = "3/4", **options: Any) -> TransformPlan:
    return decide("wide", model, TransformOptions(Fraction(sparsity), **options))


# Total MACs, widths of the four stages and the solved sparsity, from the specification's table (5 digits).
ORACLES = [
    ("torchvision:resnet18", "0.5", 1_814_073_344, 90, ".50868"),
    ("torchvision:resnet18", "0.75", 1_814_073_344, 128, ".76748"),
    ("torchvision:resnet18", "0.9", 1_814_073_344, 202, ".91475"),
    ("torchvision:resnet34", "0.5", 3_663_761_408, 90, ".50119"),
    ("torchvision:resnet34", "0.75", 3_663_761_408, 128, ".75836"),
    ("torchvision:resnet34", "0.9", 3_663_761_408, 202, ".90685"),
    ("builtin:cifar_resnet18", "0.5", 555_468_800, 90, ".49500"),
    ("builtin:cifar_resnet18", "0.75", 555_468_800, 128, ".75082"),
    ("builtin:cifar_resnet18", "0.9", 555_468_800, 202, ".90033"),
]


@pytest.mark.parametrize(("architecture", "sparsity", "macs", "width", "solved"), ORACLES)
def test_the_papers_resnets(architecture: str, sparsity: str, macs: int, width: int, solved: str) -> None:
    if architecture.startswith("torchvision") and importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs torchvision")
    plan = api.plan(architecture, sparsity=sparsity)
    cheapest = min(layer.positions for layer in plan.sparse_layers)
    assert plan.macs_before == macs
    assert macs - cheapest < plan.macs_after <= macs
    assert f"{plan.solved_sparsity:.5f}".removeprefix("0") == solved
    sizes = {layer.name: layer.numel_after for layer in plan.layers}
    assert sizes["layer1.0.conv1"] == width * width * 9
    assert sizes["layer4.1.conv2"] == (8 * width) ** 2 * 9
    assert {layer.name for layer in plan.layers if layer.role != "sparse"} == {"conv1", "fc"}


def test_macs_of_a_net_that_knows_them(tiny: Callable[..., LoadedModel]) -> None:
    plan = wide(tiny())
    assert {layer.name: layer.macs_before for layer in plan.layers} == nets.TinyResNet.MACS
    # k = 2: the stem and the head double, the other layers share what is left of the budget, 16 MACs a weight at 4×4 …
    dense = 2 * nets.TinyResNet.MACS["conv1"] + 2 * nets.TinyResNet.MACS["fc"]
    sparse = sum(layer.macs_after for layer in plan.sparse_layers)
    assert 0 <= sum(nets.TinyResNet.MACS.values()) - dense - sparse < 16


def test_match_layer_keeps_each_layers_nonzeros(tiny: Callable[..., LoadedModel]) -> None:
    plan = wide(tiny(), match="layer")
    assert all(layer.nonzero_after == layer.numel_before for layer in plan.sparse_layers)
    assert {layer.name for layer in plan.sparse_layers} == set(nets.TinyResNet.MACS) - {"conv1", "fc"}
    overhead = nets.TinyResNet.MACS["conv1"] + nets.TinyResNet.MACS["fc"]
    assert plan.macs_after - plan.macs_before == overhead
    assert any(f"conv1 +{nets.TinyResNet.MACS['conv1']:,}" in note for note in plan.notes)


def test_depthwise_layers_have_their_own_rule(tiny: Callable[..., LoadedModel]) -> None:
    plan = wide(tiny("tiny_mobilenet"), "15/16", match="layer")
    (depthwise,) = (layer for layer in plan.layers if layer.role == "depthwise")
    # k = 4: four times the channels, so iso-FLOP at density 1/4, not 1/16.
    assert (depthwise.numel_before, depthwise.numel_after, depthwise.nonzero_after) == (144, 576, 144)
    assert SetAttribute("depthwise", "groups", 16, 64) in plan.edits


def test_attributes_follow_their_tensors(tiny: Callable[..., LoadedModel]) -> None:
    model = tiny("tiny_mobilenet")
    new, _ = surgery.apply(model.module, wide(model))
    for child in new.modules():
        if isinstance(child, nn.Conv2d):
            assert tuple(child.weight.shape[:2]) == (child.out_channels, child.in_channels // child.groups)
        elif isinstance(child, nn.Linear):
            assert tuple(child.weight.shape) == (child.out_features, child.in_features)
        elif isinstance(child, nn.BatchNorm2d):
            assert child.num_features == len(child.weight)


def test_scratch_is_the_models_own_initialisation_at_the_new_widths(tiny: Callable[..., LoadedModel]) -> None:
    plan = wide(tiny())
    fills = {e.tensor: (e.distribution, e.a, e.b) for e in plan.edits if isinstance(e, FillTensor)}
    # PyTorch's own: uniform within 1/√inputs, here of 64 channels of 3×3, and of the 64 inputs of the head.
    assert fills["layer2.conv2.weight"] == ("uniform", pytest.approx(-1 / 24), pytest.approx(1 / 24))
    assert fills["fc.bias"] == ("uniform", pytest.approx(-1 / 8), pytest.approx(1 / 8))
    # Norms as the factory draws them; their statistics as before training, which no constructor is asked for.
    assert fills["layer1.bn2.weight"] == ("uniform", 0.5, 1.5)
    assert fills["layer1.bn2.bias"] == ("normal", 0.0, 0.3)
    assert fills["layer1.bn2.running_mean"] == ("constant", 0.0, 0.0)
    assert fills["layer1.bn2.running_var"] == ("constant", 1.0, 0.0)
    new, _ = surgery.apply(tiny().module, plan)
    assert fills.keys() >= {name for name, _ in new.named_parameters()}


def test_scratch_of_the_papers_resnet() -> None:
    fills = {e.tensor: e for e in api.plan("builtin:cifar_resnet18", sparsity="3/4").edits if isinstance(e, FillTensor)}
    # He's normal by fan out: 1024 channels of 3×3. The last norm of a block starts at 1, as in the dense model.
    assert fills["layer4.1.conv2.weight"].b == pytest.approx((2 / (1024 * 9)) ** 0.5, rel=1e-12)
    assert fills["layer4.1.bn2.weight"].a == 1


@pytest.mark.parametrize("match", ["model", "layer"])
@pytest.mark.parametrize("net", ["tiny_resnet", "tiny_mobilenet", "tiny_plain"])
def test_preserve_computes_the_same_function_in_train_and_eval_mode(
    net: str, match: str, tiny: Callable[..., LoadedModel]
) -> None:
    model = tiny(net)
    new, _ = surgery.apply(model.module, wide(model, init="preserve", match=match))
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for training in (False, True):
        with torch.no_grad():
            old_out = model.module.double().train(training)(x)
            new_out = new.double().train(training)(x)
        assert float((old_out - new_out).abs().max() / old_out.abs().max()) < 1e-12


@pytest.mark.parametrize("net", ["tiny_resnet", "tiny_mobilenet", "tiny_plain"])
def test_preserve_gives_new_channels_a_gradient(net: str, tiny: Callable[..., LoadedModel]) -> None:
    """Dynamic sparse training grows where the dense gradient is large: there has to be one from new channels to old
    ones."""
    model = tiny(net)
    plan = wide(model, init="preserve")
    new, masks = surgery.apply(model.module, plan)
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    new.train()(x).square().sum().backward()
    old = {name: parameter.shape for name, parameter in model.module.named_parameters()}
    for name in masks:
        weight = new.get_parameter(name)
        if weight.shape[1] == old[name][1]:
            continue  # no new input channels
        from_new = weight.grad[: old[name][0], old[name][1] :].reshape(old[name][0], -1)  # type: ignore[index]
        assert from_new.abs().sum(0).count_nonzero() == from_new.shape[1], name


def test_only_and_keep(tiny: Callable[..., LoadedModel]) -> None:
    plan = wide(tiny(), match="layer", only=("layer2.*",), keep=("*.shortcut.0",))
    assert {layer.name for layer in plan.sparse_layers} == {"layer2.conv1", "layer2.conv2"}
    assert {layer.name: layer.role for layer in plan.layers}["layer1.conv1"] == "kept"
    with_stem = wide(tiny(), only=("*",))
    assert {layer.name for layer in with_stem.sparse_layers} == set(nets.TinyResNet.MACS)


def test_a_glob_that_matches_nothing_is_refused(tiny: Callable[..., LoadedModel]) -> None:
    with pytest.raises(PlanError, match=r"no layer matches 'laier\*'"):
        wide(tiny(), keep=("laier*",))


def test_too_many_dense_layers_are_infeasible(tiny: Callable[..., LoadedModel]) -> None:
    with pytest.raises(Infeasible, match=r"wide is not feasible on the model"):
        wide(tiny(), "15/16", keep=("layer1.*",))


def test_a_literal_width_is_refused_with_its_line(tiny: Callable[..., LoadedModel]) -> None:
    with pytest.raises(PlanError, match=r"fixed by a literal at nets.py:\d+ in forward") as caught:
        wide(tiny("tiny_literal"))
    assert "flatten" in str(caught.value.hint)


def test_concatenations_scale_but_are_not_preserved(tiny: Callable[..., LoadedModel]) -> None:
    plan = wide(tiny("tiny_concat"))
    assert plan.macs_after <= plan.macs_before
    with pytest.raises(PlanError, match="concatenate or split"):
        wide(tiny("tiny_concat"), init="preserve")


def test_two_processes_write_the_same_bytes(tmp_path: Any) -> None:
    import hashlib
    import subprocess
    import sys

    code = (
        "import sys; from sift_cli import api;"
        "api.transform('nets:tiny_resnet', sys.argv[1], input_shape=(1, 3, 8, 8), sparsity='3/4', seed=5)"
    )
    digests = set()
    for hash_seed in ("1", "2"):
        output = tmp_path / f"{hash_seed}.safetensors"
        environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": hash_seed, "HOME": str(tmp_path)}
        subprocess.run([sys.executable, "-c", code, str(output)], env=environment, check=True)
        digests.add(hashlib.sha256(output.read_bytes()).hexdigest())
    assert len(digests) == 1
