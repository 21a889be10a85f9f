"""Whole models: every activation and residual that can be fused is, and the file computes what torch does."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import tinyhf
import torch
from masks import random_mask
from torch import nn

from sift_cli import models, runtime
from sift_cli.core.masks import Mask
from sift_cli.export.layer_plans import by_estimate
from sift_cli.export.onnx import to_onnx
from sift_cli.models.calling import Inputs, call, primary


class Inverted(nn.Module):
    """MobileNetV2's block: ReLU6 twice, then a sum without an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.grow, self.shrink = nn.Conv2d(8, 24, 1, bias=False), nn.Conv2d(24, 8, 1, bias=False)
        self.mix = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (24, 24, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.relu6(self.norms[0](self.grow(x)))
        y = nn.functional.relu6(self.norms[1](self.mix(y)))
        return x + self.norms[2](self.shrink(y))


class Darknet(nn.Module):
    """A LeakyReLU, a SiLU, and a sum behind an activation, where no operator has one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + nn.functional.silu(self.second(nn.functional.leaky_relu(self.first(x), 0.1)))


def masked(module: nn.Module) -> dict[str, Mask]:
    """Masks for all linear layers and convolutions but depthwise ones and those of an image."""
    masks = {}
    for name, child in module.named_modules():
        conv = isinstance(child, nn.Conv2d) and child.groups == 1 and child.in_channels > 3
        if conv or isinstance(child, nn.Linear) or type(child).__name__ == "Conv1D":
            weight = child.get_parameter("weight")
            mask = random_mask(tuple(weight.shape), weight.numel() // 4, seed=0, name=name)
            with torch.no_grad():
                weight.masked_fill_(torch.from_numpy(~mask.to_bool()), 0.0)
            masks[f"{name}.weight"] = mask
    return masks


def exported(module: nn.Module, inputs: Inputs, opset: int = 20) -> onnx.ModelProto:
    """The graph, once it is known to compute what ``module`` does, with and without the library."""
    proto = to_onnx(module.eval(), inputs, masked(module), {}, opset=opset, any_length=True, decide=by_estimate(0, {}))
    with torch.no_grad():
        (wanted, *_) = primary(call(module, inputs))
    for library in (False, True):
        opened = runtime.session(proto.SerializeToString(), library=library)
        tensors = inputs.values() if isinstance(inputs, dict) else inputs
        feed = {item.name: tensor.numpy() for item, tensor in zip(opened.get_inputs(), tensors, strict=True)}
        got = opened.run(None, feed)[0]
        assert np.abs(got - wanted.numpy()).max() <= 1e-5 * np.abs(wanted.numpy()).max()
    return proto


def sparse(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type.removeprefix("Sparse") for node in proto.graph.node if node.domain == "sift")


def others(proto: onnx.ModelProto, *names: str) -> list[int]:
    found = Counter(node.op_type for node in proto.graph.node if not node.domain)
    return [found[name] for name in names]


def image(*shape: int) -> Inputs:
    return (torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32)),)


def test_resnet() -> None:
    proto = exported(models.load("nets:tiny_resnet", input_shape=(1, 3, 8, 8)).module, image(2, 3, 8, 8))
    # In the block with a convolution in its shortcut one of the two has nothing behind it but the sum of the other.
    assert sparse(proto) == {"ConvRelu": 2, "ConvAddRelu": 2, "Conv": 1, "Linear": 1}
    assert others(proto, "Relu", "Add", "BatchNormalization") == [1, 0, 0]  # that of the stem


def test_mobilenet() -> None:
    proto = exported(Inverted(), image(2, 8, 6, 6))
    assert sparse(proto) == {"ConvClip": 1, "ConvAdd": 1}
    assert others(proto, "Clip", "Add", "BatchNormalization") == [1, 0, 0]


def test_darknet() -> None:
    proto = exported(Darknet(), image(2, 8, 6, 6))
    assert sparse(proto) == {"ConvLeakyRelu": 1, "ConvSilu": 1}
    assert others(proto, "LeakyRelu", "Sigmoid", "Mul", "Add") == [0, 0, 0, 1]


#: With one layer: an attention of four projections, the last with a residual, two in the MLP, the last again, a head.
TRANSFORMERS = {
    "bert": ({"num_hidden_layers": 1}, {"Linear": 4, "LinearAdd": 2, "LinearGelu": 2}),  # two in the head
    "gpt2": ({"n_layer": 1, "use_cache": False}, {"Linear": 2, "LinearAdd": 2, "LinearGeluTanh": 1}),  # three in one
    "llama": (
        {"num_hidden_layers": 1, "use_cache": False},
        {"Linear": 5, "LinearAdd": 2, "LinearSilu": 1},  # a gate in the MLP
    ),
    "vit": ({"num_hidden_layers": 1}, {"Linear": 4, "LinearAdd": 2, "LinearGelu": 1}),
}


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_transformers(kind: str) -> None:
    smaller, operators = TRANSFORMERS[kind]
    ids = torch.from_numpy(np.random.default_rng(0).integers(1, 100, (2, 7)))
    inputs = {"pixel_values": image(2, 3, 32, 32)[0]} if kind == "vit" else {"input_ids": ids}
    proto = exported(tinyhf.make(kind, **smaller), inputs, opset=18 if kind == "bert" else 20)
    assert sparse(proto) == operators
    assert others(proto, "Gelu", "Erf", "Tanh", "Sigmoid") == [0] * 4


def test_torchvisions_transformer() -> None:
    """Its attention has the batch second, and a transpose between the last projection and the residual."""
    from sift_cli.compat import import_torchvision

    torch.manual_seed(0)
    proto = exported(import_torchvision().models.VisionTransformer(32, 8, 1, 2, 32, 64), image(2, 3, 32, 32))
    assert sparse(proto) == {"LinearAdd": 2, "LinearGelu": 1, "Linear": 1}
