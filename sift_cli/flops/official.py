"""The convention of the profiler that the authors of Sparse-IFT released, for comparison with their budgets.

It hooks modules, counts multiplications and additions apart, and takes batch normalisation at its cost in training:

    convolution     numel(w) · positions multiplications, (numel(w) − 1) · positions additions, one more an output for
                    a bias
    linear          in · out multiplications a row, (in − 1) · out additions, one more an output for a bias
    batch norm      on n elements of c channels: 3 n multiplications, 2 (n − c) + 2 n additions, c square roots;
                    without an affine part n multiplications and n additions less
    max pooling     one comparison less than its window, an output
    average pooling one addition less than its window and one multiplication, an output

Activations and residual additions count nothing: the released models write them as functions, which no hook sees, and
their budgets are numbers without them. With masks, multiplications and additions of a layer scale with its density,
rounded down.

The released profiler on the released models gives 1,115,226,800 (CIFAR ResNet-18), 3,647,128,359 (ResNet-18) and
7,355,270,501 (ResNet-34).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from sift_cli.core.counts import FlopReport
from sift_cli.errors import UnsupportedOp
from sift_cli.flops.shadow import first_line, inference, shadow, shadow_inputs
from sift_cli.flops.uses import Use, Weights, first_names, named_tensors, report
from sift_cli.models.calling import Inputs, call

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_WINDOWS = {
    kind: axes
    for axes, kinds in enumerate(
        ((nn.MaxPool1d, nn.AvgPool1d), (nn.MaxPool2d, nn.AvgPool2d), (nn.MaxPool3d, nn.AvgPool3d)), start=1
    )
    for kind in kinds
}
_FREE = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def count_official(module: nn.Module, inputs: Inputs, nonzero: Mapping[str, int] | None = None) -> FlopReport:
    """Count one forward pass in the authors' unit.

    Args:
        module: A module built of the layers above; others are listed as uncounted, functions are not seen at all.
        inputs: Inputs by position or keyword, on any device.
        nonzero: Kept weights by state_dict name, as for ``count_module``; ``{}`` counts every weight.

    Returns:
        A report whose ``total`` is multiplications + additions + comparisons + square roots with kept weights only, and
        whose layers are the MACs of the same convolutions and linear layers.

    Raises:
        ModelError: The module cannot be copied, or ``nonzero`` does not fit it.
        UnsupportedOp: The module does not run on ``inputs``.
    """
    weights = Weights(module, nonzero)
    copy = shadow(module, "meta")
    profile = _Profile(copy, weights)
    try:
        with inference():
            call(copy, shadow_inputs(inputs, "meta"))
    except (RuntimeError, TypeError, ValueError) as error:
        why = f"it does not run on these inputs ({first_line(error)})"
        raise UnsupportedOp("forward", type(module).__name__, why) from error
    counted = report(profile.uses, profile.uncounted, weights, "official")
    return replace(counted, convention="official", total=profile.total)


class _Profile:
    """Hooks on a shadow that add up what its modules cost."""

    def __init__(self, module: nn.Module, weights: Weights) -> None:
        self.total = 0
        self.uses: list[Use] = []
        self.uncounted: Counter[str] = Counter()
        self._weights = weights
        self._first = first_names(named_tensors(module))
        for name, child in module.named_modules():
            child.register_forward_hook(
                lambda child, args, kwargs, output, name=name: self._add(
                    name, child, next(iter((*args, *kwargs.values())), None), output
                ),
                with_kwargs=True,
            )

    def _add(self, name: str, module: Any, x: Any, y: Any) -> None:
        kind = type(module)
        if kind in _CONVOLUTIONS:
            self._add_product("conv", name, module, y, positions=y.numel() // y.shape[1], outputs=1)
        elif kind is nn.Linear:
            self._add_product("matmul", name, module, y, positions=x.numel() // x.shape[-1], outputs=y.shape[-1])
        elif kind in _NORMS:
            n, channels = x.numel(), x.shape[1]
            self.total += 3 * n + 2 * (n - channels) + channels + (2 * n if module.affine else 0)
        elif kind in _WINDOWS:
            self.total += y.numel() * (_window(module.kernel_size, _WINDOWS[kind]) - ("Max" in kind.__name__))
        elif kind in _ADAPTIVE:
            self.total += y.numel() * (x.numel() // y.numel())
        elif kind not in _FREE and (not list(module.children()) or list(module.parameters(recurse=False))):
            self.uncounted[kind.__name__] += 1

    def _add_product(self, op: str, name: str, module: Any, y: Tensor, *, positions: int, outputs: int) -> None:
        """``outputs``: sums that a pass over the weight makes; each needs one addition less than multiplications."""
        weight, numel = self._first.get(id(module.weight)), module.weight.numel()
        kept = numel if weight is None else self._weights.kept(weight)
        multiplications, additions = positions * numel, positions * (numel - outputs)
        self.uses.append(Use(name, op, multiplications, weight, numel))
        self.total += multiplications * kept // numel + additions * kept // numel
        self.total += y.numel() if module.bias is not None else 0


def _window(size: int | tuple[int, ...], axes: int) -> int:
    return math.prod(size) if isinstance(size, tuple) else size**axes
