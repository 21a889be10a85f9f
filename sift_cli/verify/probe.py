"""How much of a model its outputs show, and a copy of it that shows everything.

In a model that was drawn anew, norms that have seen no data let signals die out, and many an architecture starts its
residual branches or its head at 0: its outputs would be the same whatever half of its layers computed, and a comparison
of outputs could not fail on them.
"""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import nn

from sift_cli.models.calling import Inputs, call, primary, random_like

#: A layer is hidden if all of its weights together move the output by less than this part of its largest value.
VISIBLE = 1e-2


def hidden_layers(module: nn.Module, inputs: Inputs, weights: Collection[str]) -> list[str]:
    """Those of ``weights`` that the outputs for ``inputs`` hardly depend on, by first order: Σ |gradient · weight|."""
    module = copy.deepcopy(module).requires_grad_(True)  # frozen layers show as much as others
    output = torch.cat([tensor.flatten() for tensor in primary(call(module, inputs))])
    signs = torch.randint(0, 2, output.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    parameters = [module.get_parameter(name) for name in weights]
    gradients = torch.autograd.grad((output * signs).sum(), parameters, allow_unused=True)
    scale = float(output.detach().abs().max())
    return [
        name
        for name, weight, gradient in zip(weights, parameters, gradients, strict=True)
        if gradient is None or float((gradient * weight.detach()).abs().sum()) < VISIBLE * scale
    ]


def needless(module: nn.Module, inputs: Inputs, weights: Collection[str]) -> set[str]:
    """Those of ``weights`` that no output a user means depends on, as a pooler behind the hidden states: an exported
    graph does not have them."""
    module = copy.deepcopy(module).requires_grad_(True)
    total = torch.stack([tensor.sum() for tensor in primary(call(module, inputs))]).sum()
    parameters = [module.get_parameter(name) for name in weights]
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return {name for name, gradient in zip(weights, gradients, strict=True) if gradient is None}


def lively(module: nn.Module, inputs: Inputs) -> nn.Module:
    """A copy whose norms have random scales and shifts, BatchNorms also a random batch's statistics; weights stay."""
    result = copy.deepcopy(module)
    random = torch.Generator().manual_seed(2)
    norms = [child for child in result.modules() if isinstance(child, nn.modules.batchnorm._BatchNorm)]
    others = [child for child in result.modules() if _is_other_norm(child)]
    with torch.no_grad():
        for child in others:
            for name, parameter in child.named_parameters(recurse=False):
                if name == "bias":
                    parameter.normal_(0.0, 0.3, generator=random)
                else:
                    parameter.uniform_(0.5, 1.5, generator=random)
        for norm in norms:
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5, generator=random)
                norm.bias.normal_(0.0, 0.3, generator=random)
            norm.momentum = 1.0  # the running statistics become those of the batch
        for norm in norms:
            norm.train()
        call(result, random_like(inputs, 4, seed=3))
    return result.eval()


def _is_other_norm(module: nn.Module) -> bool:
    """Whether it is a LayerNorm, GroupNorm or RMSNorm, torch's or one by that name of a library's own."""
    own = list(module.parameters(recurse=False))
    named = type(module).__name__.endswith("Norm") and not list(module.children())
    return named and bool(own) and all(p.dim() == 1 for p in own)
