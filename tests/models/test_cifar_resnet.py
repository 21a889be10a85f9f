"""The paper's CIFAR ResNets against closed forms."""

import pytest
import torch
from torch import nn

from sift_cli.core.plan import Architecture
from sift_cli.models import build, example_inputs


def macs(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """MACs of convolutions and linear layers, from the shapes that a forward pass meets."""
    total = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        positions = output[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
        total += module.weight.numel() * positions

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(*inputs)
    return total


def closed_form(depths: tuple[int, ...], num_classes: int) -> int:
    total = 3 * 9 * 64 * 32**2
    inputs, size = 64, 32
    for stage, depth in enumerate(depths):
        outputs = 64 * 2**stage
        if stage:
            size //= 2
            total += inputs * outputs * size**2
        total += 9 * size**2 * (inputs * outputs + (2 * depth - 1) * outputs**2)
        inputs = outputs
    return total + 512 * num_classes


@pytest.mark.parametrize(("name", "depths"), [("cifar_resnet18", (2, 2, 2, 2)), ("cifar_resnet34", (3, 4, 6, 3))])
def test_macs(name: str, depths: tuple[int, ...]) -> None:
    architecture = Architecture("builtin", name)
    model = build(architecture, device="meta")
    assert macs(model, example_inputs(architecture, device="meta")) == closed_form(depths, 100)


def test_the_papers_number() -> None:
    architecture = Architecture("builtin", "cifar_resnet18")
    assert macs(build(architecture, device="meta"), example_inputs(architecture, device="meta")) == 555_468_800


def test_convolutions_are_kaiming_fan_out() -> None:
    model = build(Architecture("builtin", "cifar_resnet18"), seed=0)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
            error = 4 / (2 * module.weight.numel()) ** 0.5  # four standard errors of a standard deviation
            assert module.weight.std().item() == pytest.approx(expected, rel=error), name


def test_it_is_a_resnet_by_hand() -> None:
    """One block with a projection, written out with torch's functions on the block's own tensors."""
    model = build(Architecture("builtin", "cifar_resnet18", {"num_classes": 10}), seed=1)
    block = model.layer2[0]
    with torch.no_grad():
        for tensor in block.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5)
        x = torch.randn(2, 64, 8, 8, generator=torch.Generator().manual_seed(0))

        def norm(y: torch.Tensor, bn: nn.BatchNorm2d) -> torch.Tensor:
            scale = bn.weight / (bn.running_var + 1e-5).sqrt()
            return (y - bn.running_mean[:, None, None]) * scale[:, None, None] + bn.bias[:, None, None]

        y = norm(torch.conv2d(x, block.conv1.weight, stride=2, padding=1), block.bn1).relu()
        y = norm(torch.conv2d(y, block.conv2.weight, padding=1), block.bn2)
        skip = norm(torch.conv2d(x, block.shortcut[0].weight, stride=2), block.shortcut[1])
        torch.testing.assert_close(block(x), (y + skip).relu(), rtol=1e-5, atol=1e-5)


def test_every_block_names_its_shortcut() -> None:
    model = build(Architecture("builtin", "cifar_resnet34"), device="meta")
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]
    assert len(blocks) == 16
    assert sum(isinstance(block.shortcut, nn.Identity) for block in blocks) == 13
