"""What a dense layer is to the layers that replace it: a product with a matrix of D_in = c_in·k_h·k_w rows and
D_out = c_out columns, whose parts have the same geometry.

Known are ``nn.Linear``, transformers' ``Conv1D`` (a linear layer whose weight is stored as (inputs, outputs)), and
``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Conv3d`` without groups, with any stride, padding, padding mode and dilation. A
subclass counts as its base only where it computes what its base computes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_CONVOLUTIONS: dict[int, type[nn.modules.conv._ConvNd]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class FeatureNorm(nn.BatchNorm1d):
    """BatchNorm over the last axis, (…, F) → (…, F), every other axis being samples: what follows a linear layer."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.reshape(-1, input.shape[-1])).reshape(input.shape)


def refusal(module: nn.Module) -> str | None:
    """Why ``module`` cannot be replaced, in words that follow "it"; None where it can."""
    if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and not is_transposed(module):
        return f"is a {type(module).__name__}"
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.transposed:
            return "is a transposed convolution"
        if module.in_channels == module.groups:
            return "is depthwise"
        if module.groups > 1:
            return "has groups"
        known = _CONVOLUTIONS[len(module.kernel_size)]
        same = type(module).forward is known.forward and type(module)._conv_forward is known._conv_forward
    else:
        same = is_transposed(module) or type(module).forward is nn.Linear.forward
    if not same:
        return f"is a {type(module).__name__}, which computes its output in its own way"
    if "weight" not in module._parameters or module._forward_hooks or module._forward_pre_hooks:
        return "computes its weight or has hooks"
    return None


def is_transposed(module: nn.Module) -> bool:
    """Whether ``module`` is transformers' ``Conv1D``, which is not imported for the question."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and module._parameters["weight"] is not None


def weight_of(module: nn.Module) -> Tensor:
    """The weight as (D_out, …): (outputs, inputs) or (c_out, c_in, k_h, k_w)."""
    weight: Tensor = module.get_parameter("weight").detach()
    return weight.t() if is_transposed(module) else weight


def bias_of(module: nn.Module) -> Tensor | None:
    """The bias, (D_out,), or None."""
    bias = module._parameters.get("bias")
    return None if bias is None else bias.detach()


def sizes_of(module: nn.Module) -> tuple[int, int]:
    """(D_in, D_out)."""
    weight = weight_of(module)
    return weight[0].numel(), weight.shape[0]


def like(module: nn.Module, outputs: int, *, bias: bool) -> nn.Module:
    """The product of ``module`` with another number of outputs, on the meta device."""
    weight = module.get_parameter("weight")
    with torch.device("meta"):
        if not isinstance(module, nn.modules.conv._ConvNd):
            return nn.Linear(sizes_of(module)[0], outputs, bias, dtype=weight.dtype)
        make = _CONVOLUTIONS[len(module.kernel_size)]
        return make(
            module.in_channels, outputs, module.kernel_size, module.stride, module.padding, module.dilation,
            bias=bias, padding_mode=module.padding_mode, dtype=weight.dtype,
        )  # type: ignore[call-arg]  # fmt: skip


def pointwise(module: nn.Module, inputs: int, *, bias: bool) -> nn.Module:
    """A product on each position alone, from ``inputs`` features to the outputs of ``module``, on the meta device."""
    weight, outputs = module.get_parameter("weight"), sizes_of(module)[1]
    with torch.device("meta"):
        if not isinstance(module, nn.modules.conv._ConvNd):
            return nn.Linear(inputs, outputs, bias, dtype=weight.dtype)
        return _CONVOLUTIONS[len(module.kernel_size)](inputs, outputs, 1, bias=bias, dtype=weight.dtype)  # type: ignore[call-arg, arg-type]


def norm(module: nn.Module, features: int) -> nn.Module:
    """A BatchNorm for ``features`` outputs of a layer like ``module``, on the meta device."""
    dtype = module.get_parameter("weight").dtype
    with torch.device("meta"):
        if isinstance(module, nn.modules.conv._ConvNd):
            return _NORMS[len(module.kernel_size)](features, dtype=dtype)
        return FeatureNorm(features, dtype=dtype)
