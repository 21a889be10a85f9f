"""examples/backbones.py on a network of one block a stage, with fewer steps."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import programs
import pytest
import torch
from torch import nn

import sift_cli
from sift_cli.checkpoint import open_checkpoint
from sift_cli.compat import import_torchvision

EXAMPLE = Path(__file__).parents[2] / "examples" / "backbones.py"
#: ResNet's widths times √2, on a grid of 64: what the paper's ResNet-18 has at 50 %.
WIDTHS = [90, 180, 360, 720]


def resnet10() -> nn.Module:
    resnet = import_torchvision().models.resnet
    model: nn.Module = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)
    return model


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    with programs.script(EXAMPLE) as module:
        yield module


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbones") / "resnet10.safetensors"
    sys.modules.setdefault("resnet10_of_this_test", sys.modules[__name__])
    sift_cli.transform("resnet10_of_this_test:resnet10", path, sparsity="0.5", input_shape=(1, 3, 64, 64))
    return path


@pytest.fixture
def model(artifact: Path) -> nn.Module:
    return sift_cli.load(artifact, arch="resnet10_of_this_test:resnet10")


def test_scenes_agree_with_their_boxes(example: ModuleType) -> None:
    drawn = example.scenes(20, seed=3)
    again = example.scenes(20, seed=3)
    assert torch.equal(drawn.images, again.images)
    for image, target, mask in zip(drawn.images, drawn.targets, drawn.masks, strict=True):
        inside = torch.zeros_like(mask, dtype=torch.bool)
        for left, top, right, bottom in target["boxes"].int().tolist():
            assert 0 <= left < right <= example.SIZE
            assert 0 <= top < bottom <= example.SIZE
            inside[top:bottom, left:right] = True
        assert torch.equal(mask > 0, inside)
        left, top, right, bottom = target["boxes"][-1].int().tolist()  # drawn last, so nothing covers it
        label = int(target["labels"][-1])
        assert (mask[top:bottom, left:right] == label + 1).all()
        assert image[:, top:bottom, left:right].mean((1, 2)).tolist() == torch.eye(example.CLASSES)[label].tolist()


@pytest.mark.parametrize(
    ("build", "loss", "seen", "fall"),
    [("detector", "detection_loss", 1, 0.15), ("segmenter", "segmentation_loss", 0, 0.25)],
)
def test_a_body_is_fine_tuned_with_its_masks(
    example: ModuleType, artifact: Path, model: nn.Module, build: str, loss: str, seen: int, fall: float
) -> None:
    torch.manual_seed(0)
    whole = getattr(example, build)(model)
    assert example.widths(whole.backbone.body) == WIDTHS[seen:]
    assert [block[0].in_channels for block in whole.backbone.fpn.inner_blocks] == WIDTHS[seen:]
    with open_checkpoint(artifact) as file:
        stored = {f"backbone.body.{name}": mask for name in file.tensors if (mask := file.mask(name)) is not None}
    masks = sift_cli.masks(whole)
    assert masks.keys() == stored.keys()
    assert len(masks) == 11  # two 3×3 a stage and three shortcuts
    assert all(torch.equal(mask, torch.from_numpy(stored[name].to_bool())) for name, mask in masks.items())

    before = copy.deepcopy(whole.state_dict())
    start = example.held_out(whole, getattr(example, loss))
    example.fine_tune(whole, getattr(example, loss), steps=8, batch=4)
    assert example.held_out(whole, getattr(example, loss)) < (1 - fall) * start

    assert example.stray(whole) == (0, sum(mask.numel - mask.nonzero for mask in stored.values()))
    for name, parameter in whole.backbone.body.named_parameters(prefix="backbone.body"):
        moved = parameter.detach() != before[name]
        mask = masks.get(name, torch.ones_like(moved))
        assert not parameter[~mask].any()
        assert moved[mask].float().mean() > 0.9, name


def test_without_the_example_s_line_masked_weights_move(example: ModuleType, model: nn.Module) -> None:
    whole = example.detector(model).train()
    optimizer = torch.optim.SGD(whole.parameters(), 0.1)
    example.detection_loss(whole, example.scenes(2, seed=1)).backward()
    optimizer.step()
    nonzero, masked = example.stray(whole)
    assert 0 < nonzero <= masked
    sift_cli.apply_masks(whole)
    assert example.stray(whole) == (0, masked)


def test_a_saved_detector_comes_back_with_its_masks(
    example: ModuleType, artifact: Path, model: nn.Module, tmp_path: Path
) -> None:
    whole = example.detector(model)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(1.0)
    sift_cli.apply_masks(whole)
    torch.save(whole.state_dict(), tmp_path / "detector.pt")
    fresh = example.detector(sift_cli.load(artifact, arch="resnet10_of_this_test:resnet10"))
    fresh.load_state_dict(torch.load(tmp_path / "detector.pt", weights_only=True), strict=True)
    assert torch.equal(fresh.backbone.fpn.inner_blocks[0][0].weight, whole.backbone.fpn.inner_blocks[0][0].weight)
    assert sift_cli.masks(fresh).keys() == sift_cli.masks(whole).keys()
    assert example.stray(fresh)[0] == 0
