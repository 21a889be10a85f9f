"""Two models as functions: their outputs in double precision on the same random inputs."""

from __future__ import annotations

import copy

import torch
from torch import nn

from sift_cli.models import LoadedModel
from sift_cli.models.calling import call, primary, random_like
from sift_cli.models.precise import InDouble

BATCH = 2


def doubled(module: nn.Module) -> nn.Module:
    """A copy in double precision, in eval mode."""
    return copy.deepcopy(module).double().eval()


def largest_difference(original: LoadedModel, other: nn.Module) -> float:
    """The largest difference of any output, as a part of the largest output of the original."""
    before, after = _outputs(original, original.module), _outputs(original, other)
    scale = max(float(tensor.abs().max()) for tensor in before) or 1.0  # outputs of 0, as a zero head has them
    return max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True)) / scale


def relative_error(original: LoadedModel, other: nn.Module) -> float:
    """‖y − y'‖ / ‖y‖ over all outputs; 0 where both are 0."""
    before, after = _outputs(original, original.module), _outputs(original, other)
    lost = sum(float((a - b).square().sum()) for a, b in zip(after, before, strict=True))
    whole = sum(float(b.square().sum()) for b in before)
    return (lost / whole) ** 0.5 if lost else 0.0


def _outputs(original: LoadedModel, module: nn.Module) -> tuple[torch.Tensor, ...]:
    inputs = random_like(original.inputs, BATCH, seed=1, dtype=torch.float64)
    with torch.no_grad(), InDouble():
        return primary(call(doubled(module), inputs))
