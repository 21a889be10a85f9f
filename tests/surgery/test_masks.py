"""Masks go where their weights go, whatever a user builds from the parts of a masked model."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import nets
import pytest
import torch
from masks import random_mask
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from sift_cli.compat import import_timm, import_torchvision
from sift_cli.core.masks import Mask, MaskSet
from sift_cli.errors import ModelError
from sift_cli.flops import count_module
from sift_cli.surgery import apply_masks, attach_masks, masks_of, packed_masks_of, without_masks

Build = Callable[[nn.Module], nn.Module]


class Functional(nn.Module):
    """Uses a child's weight without calling the child, as the attention of a Swin transformer does."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.project.weight)


class Tied(nn.Module):
    """One parameter with two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight


def masked(module: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """``module`` with half of each matrix or kernel masked; and the masks, by name."""
    weights = {name: tuple(p.shape) for name, p in module.named_parameters() if p.dim() > 1}
    masks = {name: random_mask(shape, torch.Size(shape).numel() // 2, seed=1, name=name)
             for name, shape in weights.items()}  # fmt: skip
    attach_masks(module, MaskSet(masks))
    return module, {name: torch.from_numpy(mask.to_bool()) for name, mask in masks.items()}


def check(module: nn.Module, expected: dict[str, Tensor]) -> None:
    """``module`` has exactly the ``expected`` masks, and applying them zeroes those weights and leaves all others."""
    found = masks_of(module)
    assert found.keys() == expected.keys()
    assert found
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1.0)
    apply_masks(module)
    for name, parameter in module.named_parameters():
        wanted = expected.get(name, torch.ones(parameter.shape, dtype=torch.bool))
        assert torch.equal(parameter.detach().bool().cpu(), wanted), name
        assert name not in found or torch.equal(found[name].cpu(), wanted)


def through_torch_save(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def assigned(module: nn.Module) -> nn.Module:
    module.load_state_dict({name: tensor.clone() for name, tensor in module.state_dict().items()}, assign=True)
    return module


SAME_NAMES: dict[str, Build] = {
    "itself": lambda module: module,
    "train mode, frozen": lambda module: module.train().requires_grad_(False),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": through_torch_save,
    "load_state_dict(assign=True)": assigned,
    "double": lambda module: module.double(),
    "bfloat16": lambda module: module.bfloat16(),
    "emptied": lambda module: module.to("meta").to_empty(device="cpu"),
    "masks taken on meta": lambda module: (module.to("meta"), masks_of(module), module.to_empty(device="cpu"))[2],
    "fx": torch.fx.symbolic_trace,
    "copy of pickle of copy": lambda module: copy.deepcopy(pickle.loads(pickle.dumps(copy.deepcopy(module)))),
}


@pytest.mark.parametrize("way", SAME_NAMES)
def test_a_model_keeps_its_masks(way: str) -> None:
    module, expected = masked(nets.TinyResNet())
    check(SAME_NAMES[way](module), expected)


WRAPPED: dict[str, tuple[str, Build]] = {
    "DataParallel": ("module.", nn.DataParallel),
    "torch.compile": ("_orig_mod.", lambda module: torch.compile(module, backend="eager")),
    "moving average": ("module.", torch.optim.swa_utils.AveragedModel),
    "both": ("_orig_mod.module.", lambda module: torch.compile(nn.DataParallel(module), backend="eager")),
}


@pytest.mark.parametrize("way", WRAPPED)
def test_a_wrapper_has_the_masks_under_its_names(way: str) -> None:
    prefix, wrap = WRAPPED[way]
    module, expected = masked(nets.TinyResNet())
    check(wrap(module), {prefix + name: mask for name, mask in expected.items()})


def test_compiled_code_takes_a_masked_module() -> None:
    module, _ = masked(nets.TinyResNet().eval())
    x = torch.randn(2, 3, 8, 8)
    apply_masks(module)
    assert torch.equal(torch.compile(module, backend="eager", fullgraph=True)(x), module(x))


def test_a_masked_module_is_counted() -> None:
    module, _ = masked(nets.TinyResNet())
    report = count_module(module, (torch.zeros(1, 3, 8, 8),), counter="dispatch", nonzero={})
    assert {layer.name: layer.dense for layer in report.layers} == nets.TinyResNet.MACS


def test_parts_keep_their_masks() -> None:
    module, expected = masked(nets.TinyResNet())
    body = nn.Sequential(module.conv1, module.bn1, nn.ReLU(), nn.Sequential(module.layer1, module.layer2))
    new = {"conv1.": "0.", "layer1.": "3.0.", "layer2.": "3.1."}
    renamed = {new[old] + name.removeprefix(old): mask for name, mask in expected.items() for old in new
               if name.startswith(old)}  # fmt: skip
    assert len(renamed) == len(expected) - 1  # the head stayed behind
    check(body, renamed)


def test_torchvision_bodies_keep_their_masks() -> None:
    torchvision = import_torchvision()
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.feature_extraction import create_feature_extractor

    resnet = torchvision.models.resnet
    stages = {"layer1": "fine", "layer2": "coarse"}
    for extract in (IntermediateLayerGetter, create_feature_extractor):
        module, expected = masked(resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1]))
        body = extract(module, stages)
        check(body, {name: mask for name, mask in expected.items() if not name.startswith(("fc", "layer3", "layer4"))})


def test_timm_features_keep_their_masks() -> None:
    timm = import_timm()
    module, expected = masked(timm.create_model("test_resnet"))
    body = timm.models.FeatureListNet(module, out_indices=(1, 2))
    check(body, {name: mask for name, mask in expected.items() if not name.startswith(("fc", "layer3", "layer4"))})


def test_a_retrace_that_takes_a_weight_out_of_its_module_keeps_its_mask() -> None:
    module, expected = masked(Functional())
    traced = torch.fx.symbolic_trace(module)
    assert type(traced.get_submodule("project")) is nn.Module  # the Linear is gone
    check(traced, expected)
    check(copy.deepcopy(traced), expected)


def test_a_weight_in_another_module_takes_its_mask_along() -> None:
    module, expected = masked(nn.Linear(8, 8))
    other = nn.Sequential(nn.Linear(8, 8, bias=False))
    other[0].weight = module.weight
    check(other, {"0.weight": expected["weight"]})


@pytest.mark.parametrize("change", [lambda module: module, copy.deepcopy])
def test_a_tied_weight_is_masked_through_either_name(change: Build) -> None:
    module = Tied()
    mask = random_mask((8, 8), 16, seed=1, name="weight")
    attach_masks(module, MaskSet({"second.weight": mask}))
    wanted = torch.from_numpy(mask.to_bool())
    changed = change(module)
    check(changed, {"first.weight": wanted})  # the name that named_parameters gives it
    check(changed.second, {"weight": wanted})


def test_a_weight_under_another_name_keeps_its_mask() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    module, expected = masked(nn.Linear(8, 8))
    parametrize.register_parametrization(module, "weight", Twice())
    check(module, {"parametrizations.weight.original": expected["weight"]})
    module, expected = masked(nn.Linear(8, 8))
    prune.l1_unstructured(module, "weight", 0.1)
    check(module, {"weight_orig": expected["weight"]})


def test_a_weight_that_is_gone_is_not_passed_over() -> None:
    module, _ = masked(nn.Sequential(nn.Linear(8, 8)))
    parametrizations.weight_norm(module[0])  # two new parameters in its place
    with pytest.raises(ModelError, match="0 carries a mask for its weight, which is no parameter any more"):
        apply_masks(module)


def test_a_weight_of_another_shape_is_not_passed_over() -> None:
    module, _ = masked(nn.Sequential(nn.Linear(8, 8)))
    module[0].weight = nn.Parameter(torch.ones(1, 8))  # the mask would broadcast
    with pytest.raises(ModelError, match=r"0\.weight has shape \(1, 8\) and a mask of shape \(8, 8\)"):
        masks_of(module)


def test_masks_are_no_part_of_the_state() -> None:
    module, _ = masked(nets.TinyResNet())
    plain = nets.TinyResNet()
    masks_of(module)
    assert module.state_dict().keys() == plain.state_dict().keys()
    assert not any(vars(tensor) for tensor in module.state_dict().values())
    assert [name for name, _ in module.named_buffers()] == [name for name, _ in plain.named_buffers()]
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    saved = file.tell()
    file.seek(0)
    torch.save(plain.state_dict(), file)
    assert file.tell() == saved
    file.seek(0)
    plain.load_state_dict(torch.load(file, weights_only=True), strict=True)


def test_loading_a_state_dict_into_a_masked_model_leaves_the_masks() -> None:
    module, expected = masked(nets.TinyResNet())
    module.load_state_dict(nets.TinyResNet().state_dict())
    check(module, expected)


def test_attaching_replaces_what_was_there() -> None:
    module, _ = masked(nets.TinyResNet())
    mask = random_mask((10, 32), 7, seed=2, name="fc.weight")
    attach_masks(module, MaskSet({"fc.weight": mask}))
    check(module, {"fc.weight": torch.from_numpy(mask.to_bool())})
    attach_masks(module, MaskSet())
    assert masks_of(module) == {}


@pytest.mark.parametrize("name", ["nowhere.weight", "bn1.running_mean", "fc.bias"])
def test_a_mask_for_no_such_parameter_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="no such parameter"):
        attach_masks(nets.TinyResNet(), MaskSet({name: Mask.from_bool(torch.ones(16).bool().numpy())}))


def test_without_masks_is_the_same_model_and_leaves_its_argument_alone() -> None:
    module, expected = masked(nets.TinyResNet())
    module.conv1.requires_grad_(False)
    dense = without_masks(module)
    assert masks_of(dense) == {}
    before, after = module.state_dict(keep_vars=True), dense.state_dict(keep_vars=True)
    assert {name: tensor.data_ptr() for name, tensor in before.items()} == {
        name: tensor.data_ptr() for name, tensor in after.items()
    }
    assert [p.requires_grad for p in module.parameters()] == [p.requires_grad for p in dense.parameters()]
    check(module, expected)
    assert masks_of(dense) == masks_of(copy.deepcopy(dense)) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_masks_move_to_the_device_once() -> None:
    module, expected = masked(nets.TinyResNet())
    check(module.cuda(), expected)
    first, second = packed_masks_of(module), packed_masks_of(module)
    assert all(mask.bits.is_cuda and mask is second[name] for name, mask in first.items())
    check(copy.deepcopy(module).cpu(), expected)
