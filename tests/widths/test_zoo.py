"""A fast part of ``benchmarks/coverage.py``: models whose every width must exactly double at 75 %.

The oracle is the architecture itself: what faces the input, the output or a number of heads keeps its size, and
every other axis of every parameter is twice as long.
"""

from __future__ import annotations

from fractions import Fraction

import pytest

from sift_cli import models
from sift_cli.models.calling import map_inputs
from sift_cli.transforms import TransformOptions
from sift_cli.transforms._widen import widen
from sift_cli.widths import Face, LayerRole, output_axis

#: One for each mechanism: fused attention, a width in a tuple, shuffled and split channels, squeeze and excite, gates.
ZOO = (
    "torchvision:shufflenet_v2_x1_0", "torchvision:regnet_y_400mf",
    "timm:convnext_atto", "timm:vit_tiny_patch16_224", "timm:efficientvit_b0", "timm:fasternet_t0",
)  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
def test_every_width_doubles(name: str) -> None:
    model = models.load(name, weights=False)
    inputs = map_inputs(lambda tensor: tensor.to("meta"), model.inputs)
    widened = widen(model.module, inputs, Fraction(4), TransformOptions(Fraction(3, 4)))
    kept = {axis for group in widened.graph.groups if not group.scales for axis in group.axes}
    faces = {g.face for g in widened.graph.groups if g.axes and not g.scales}
    assert faces <= {Face.INPUT, Face.OUTPUT, Face.HEADS, Face.FREE}
    new = dict(widened.module.named_parameters())
    scaled = {(axis.tensor, axis.axis) for group in widened.graph.groups if group.scales for axis in group.axes}
    for parameter, old in model.module.named_parameters():
        for axis, (before, after) in enumerate(zip(old.shape, new[parameter].shape, strict=True)):
            assert after == (2 * before if (parameter, axis) in scaled else before), (parameter, axis)
    for path, layer in model.module.named_modules():
        role = widened.graph.roles.get(f"{path}.weight")
        if role in (None, LayerRole.EMBEDDING):
            continue
        out = output_axis(layer)
        outputs, grown = layer.weight.shape[out], new[f"{path}.weight"].shape[out]
        if role is LayerRole.LAST:
            assert grown == outputs, path
        elif outputs > 1 and not any((axis.tensor, axis.axis) == (f"{path}.weight", out) for axis in kept):
            assert grown == 2 * outputs, path
