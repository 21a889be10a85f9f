"""What is inside a layer that is put in the place of another: its σ, and where its weights start."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from sift_cli import layers
from sift_cli.core.plan import FillTensor

#: Where a transformers configuration names its activation.
_IN_CONFIG = ("hidden_act", "activation_function", "hidden_activation", "activation", "feed_forward_proj")


def own_activation(module: nn.Module) -> str | None:
    """The activation that the model itself uses most, or None where that cannot be told: a function leaves no trace."""
    found = layers.activation_in(type(child).__name__ for child in module.modules())
    config: Any = getattr(module, "config", None)
    return found or layers.activation_in(str(getattr(config, key, "")).removeprefix("gated-") for key in _IN_CONFIG)


def part_fills(path: str, layer: nn.Module, seed: int) -> Iterator[FillTensor]:
    """Start values of all parameters and statistics of ``layer`` at ``path``, each by the shape of its own part: He's
    normal (fan out) for convolutions, PyTorch's uniform for linear layers."""
    for inside, part in layer.named_modules():
        prefix = f"{path}.{inside}."
        match part:
            case nn.modules.conv._ConvNd():
                fan_out = part.weight.shape[0] * math.prod(part.weight.shape[2:])
                yield FillTensor(f"{prefix}weight", "normal", 0.0, math.sqrt(2 / fan_out), seed=seed)
                if part.bias is not None:
                    yield FillTensor(f"{prefix}bias", "constant", 0.0)
            case nn.Linear():
                bound = 1 / math.sqrt(part.weight.shape[1])
                yield FillTensor(f"{prefix}weight", "uniform", -bound, bound, seed=seed)
                if part.bias is not None:
                    yield FillTensor(f"{prefix}bias", "uniform", -bound, bound, seed=seed)
            case nn.modules.batchnorm._BatchNorm():
                yield FillTensor(f"{prefix}weight", "constant", 1.0)
                yield FillTensor(f"{prefix}bias", "constant", 0.0)
                yield FillTensor(f"{prefix}running_mean", "constant", 0.0)
                yield FillTensor(f"{prefix}running_var", "constant", 1.0)
