"""The body of a sparse classifier in a detector and in a segmenter, fine-tuned with its masks kept.

    python examples/backbones.py

Takes half a minute on two CPU cores. Weights start at random and the scenes are drawn, so nothing is downloaded: what
it shows is the way from `sift transform` into somebody else's model, and that the weights a mask took away stay away.
"""
# ruff: noqa: E402

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sift_cli
from sift_cli.compat import import_torchvision

import_torchvision("this example")  # as `import torchvision`, and also where its compiled half does not load

from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.segmentation.fcn import FCN, FCNHead
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork

SIZE = 64
CLASSES = 3
CHANNELS = 64


@dataclass(frozen=True)
class Scenes:
    """Rectangles on noise; the class of a rectangle is its color.

    Attributes:
        images: (N, 3, SIZE, SIZE), float32.
        targets: What RetinaNet takes: for each image its "boxes" (n, 4) as x1, y1, x2, y2 and its "labels" (n,).
        masks: (N, SIZE, SIZE), int64: 0 is the background, c + 1 the class c.
    """

    images: Tensor
    targets: list[dict[str, Tensor]]
    masks: Tensor


def scenes(count: int, seed: int) -> Scenes:
    """Draw ``count`` images with one to three rectangles of 12 to 40 pixels a side."""
    random = torch.Generator().manual_seed(seed)
    images = 0.1 * torch.randn(count, 3, SIZE, SIZE, generator=random)
    masks = torch.zeros(count, SIZE, SIZE, dtype=torch.int64)
    targets = []
    for image, mask in zip(images, masks, strict=True):
        number = int(torch.randint(1, 4, (1,), generator=random))
        labels = torch.randint(CLASSES, (number,), generator=random)
        sides = torch.randint(12, 41, (number, 2), generator=random)
        corners = (torch.rand(number, 2, generator=random) * (SIZE - sides)).long()
        boxes = torch.cat([corners, corners + sides], 1)
        for (left, top, right, bottom), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            image[:, top:bottom, left:right] = torch.eye(CLASSES)[label].view(3, 1, 1)
            mask[top:bottom, left:right] = label + 1
        targets.append({"boxes": boxes.float(), "labels": labels})
    return Scenes(images, targets, masks)


def widths(body: nn.Module) -> list[int]:
    """Channels of each feature map, measured: `inplanes` of torchvision and `feature_info` of timm name the widths that
    the code was written with."""
    with torch.no_grad():
        return [features.shape[1] for features in body.eval()(torch.zeros(1, 3, SIZE, SIZE)).values()]


def pyramid(body: nn.Module) -> nn.Sequential:
    """``body``, which returns feature maps by name, and an FPN that brings them all to CHANNELS channels."""
    fpn = FeaturePyramidNetwork(widths(body), CHANNELS)
    return nn.Sequential(OrderedDict(body=body, fpn=fpn))


def detector(model: nn.Module) -> RetinaNet:
    """A RetinaNet on the stages of ``model`` with strides 8, 16 and 32."""
    backbone = pyramid(IntermediateLayerGetter(model, {"layer2": "p3", "layer3": "p4", "layer4": "p5"}))
    backbone.out_channels = CHANNELS  # type: ignore[assignment]  # where RetinaNet looks for it
    anchors = AnchorGenerator(sizes=((12, 16), (24, 32), (48, 64)), aspect_ratios=((0.5, 1.0, 2.0),) * 3)
    # Without norms, the head's four layers at 0.01 hardly pass a gradient, and twenty steps show nothing.
    norm = partial(nn.GroupNorm, 8)
    head = RetinaNetHead(CHANNELS, anchors.num_anchors_per_location()[0], CLASSES, norm_layer=norm)
    return RetinaNet(backbone, CLASSES, SIZE, SIZE, anchor_generator=anchors, head=head)


def segmenter(model: nn.Module) -> FCN:
    """An FCN on all stages of ``model``, fused at stride 4. The body is retraced by torch.fx here."""
    stages = {"layer1": "out", "layer2": "p3", "layer3": "p4", "layer4": "p5"}
    return FCN(pyramid(create_feature_extractor(model, stages)), FCNHead(CHANNELS, CLASSES + 1))


def detection_loss(model: nn.Module, batch: Scenes) -> Tensor:
    return sum(model(list(batch.images), batch.targets).values(), torch.zeros(()))


def segmentation_loss(model: nn.Module, batch: Scenes) -> Tensor:
    return F.cross_entropy(model(batch.images)["out"], batch.masks)


Loss = Callable[[nn.Module, Scenes], Tensor]


def fine_tune(model: nn.Module, loss: Loss, *, steps: int, batch: int, rate: float = 1e-3) -> None:
    """Train all of ``model``, its masked weights kept at 0."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    model.train()
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, scenes(batch, seed=step + 1)).backward()
        optimizer.step()
        sift_cli.apply_masks(model)  # gradients do not know of masks: the step has moved those weights too


def held_out(model: nn.Module, loss: Loss) -> float:
    """The loss on 16 scenes that training does not see. In train mode, where RetinaNet computes one."""
    with torch.no_grad():
        return float(loss(model.train(), scenes(16, seed=0)))


def stray(model: nn.Module) -> tuple[int, int]:
    """Weights that a mask took away: how many of them are not exactly 0, and how many there are."""
    taken = [model.get_parameter(name)[~mask] for name, mask in sift_cli.masks(model).items()]
    return sum(int(weights.count_nonzero()) for weights in taken), sum(weights.numel() for weights in taken)


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "resnet18-wide50.safetensors"
        sift_cli.transform("torchvision:resnet18", artifact, sparsity="0.5", input_shape=(1, 3, SIZE, SIZE))
        models = {
            "detector": (detector(sift_cli.load(artifact)), detection_loss),
            "segmenter": (segmenter(sift_cli.load(artifact)), segmentation_loss),
        }
    print("|           | body widths         | loss before | after | masked weights | of them not 0 |")
    print("|-----------|---------------------|-------------|-------|----------------|---------------|")
    for name, (model, loss) in models.items():
        before = held_out(model, loss)
        fine_tune(model, loss, steps=20, batch=8)
        after = held_out(model, loss)
        nonzero, masked = stray(model)
        channels = ", ".join(map(str, widths(model.backbone.body)))
        print(f"| {name:9} | {channels:19} | {before:11.3f} | {after:5.3f} | {masked:14,} | {nonzero:13} |")


if __name__ == "__main__":
    main()
