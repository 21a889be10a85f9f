"""Values of what is new: all weights anew, or the old function kept."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator

from torch import nn

from sift_cli.core.plan import Edit, FillTensor, ResizeAxis
from sift_cli.errors import PlanError

#: Range of the BatchNorm shifts of channels that come new into a model whose function is kept. See
#: :func:`preserve_fills`.
NEW_SHIFT = (0.1, 0.5)


def scratch_fills(wide: nn.Module, edits: Iterable[Edit], sparse: Collection[str], seed: int) -> Iterator[FillTensor]:
    """Draw anew the parameters of every layer that is known, as the paper does: He's normal (fan out) for convolutions,
    PyTorch's uniform for linear layers, and the last norm of each residual branch at 0, so that each block starts as
    its shortcut.

    The standard deviation is that of the dense shape. A BatchNorm behind each convolution takes out the scale, which
    the mask changes.

    Raises:
        PlanError: A parameter belongs to a module whose initialisation is not known.
    """
    zeroed = set(_last_norms(wide))
    resized = {edit.tensor for edit in edits if isinstance(edit, ResizeAxis)}
    for path, child in wide.named_modules():
        own = {key: parameter for key, parameter in child._parameters.items() if parameter is not None}
        prefix = f"{path}." if path else ""
        match child:
            case nn.modules.conv._ConvNd() | nn.Linear():
                weight = own["weight"]
                fan_in = math.prod(weight.shape[1:])
                if isinstance(child, nn.Linear):
                    bound = 1 / math.sqrt(fan_in)
                    yield FillTensor(f"{prefix}weight", "uniform", -bound, bound, seed=seed)
                else:
                    fan_out = weight.shape[0] * math.prod(weight.shape[2:])
                    yield FillTensor(f"{prefix}weight", "normal", 0.0, math.sqrt(2 / fan_out), seed=seed)
                if "bias" in own and isinstance(child, nn.Linear):
                    yield FillTensor(f"{prefix}bias", "uniform", -bound, bound, seed=seed)
                elif "bias" in own:
                    yield FillTensor(f"{prefix}bias", "constant", 0.0)
            case nn.modules.batchnorm._NormBase() | nn.GroupNorm() | nn.LayerNorm():
                if "weight" in own:
                    yield FillTensor(f"{prefix}weight", "constant", 0.0 if path in zeroed else 1.0)
                if "bias" in own:
                    yield FillTensor(f"{prefix}bias", "constant", 0.0)
                yield from _running_statistics(child, prefix, whole=True)
            case _:
                for key in own:
                    if f"{prefix}{key}" in resized:
                        raise PlanError(
                            f"--init scratch does not know how {type(child).__name__} initialises {prefix}{key}",
                            hint="use --init preserve",
                        )


def preserve_fills(wide: nn.Module, edits: Iterable[Edit], sparse: Collection[str], seed: int) -> Iterator[FillTensor]:
    """Keep the function: the old weights are the leading block, and nothing flows from a new channel into an old one.

    Surgery has put 0 wherever a tensor grew. On top of that, new BatchNorm channels get scale 1, variance 1 and, like
    new biases, a small random positive shift. The shift is what breaks the symmetry: a new channel then has a nonzero
    activation of its own, so a connection *from* it has a nonzero gradient and can be grown, and from then on
    connections *to* it can. With a shift of 0 every gradient through the new channels would be 0 for ever. In layers
    that stay dense the new rows are drawn as for training from scratch, while the columns that would lead from new
    channels to old ones stay 0.
    """
    axes: dict[str, set[int]] = {}
    for edit in edits:
        if isinstance(edit, ResizeAxis):
            axes.setdefault(edit.tensor, set()).add(edit.axis)
    for path, child in wide.named_modules():
        prefix = f"{path}." if path else ""
        weight = f"{prefix}weight"
        if 0 not in axes.get(weight, ()):
            continue
        if isinstance(child, nn.modules.batchnorm._NormBase):
            yield FillTensor(weight, "constant", 1.0, grown_axis=0)
            if child._parameters.get("bias") is not None:
                yield FillTensor(f"{prefix}bias", "uniform", *NEW_SHIFT, grown_axis=0, seed=seed)
            yield from _running_statistics(child, prefix, whole=False)
        elif isinstance(child, nn.modules.conv._ConvNd | nn.Linear):
            if weight not in sparse:
                std = math.sqrt(2 / (child.weight.shape[0] * math.prod(child.weight.shape[2:])))
                yield FillTensor(weight, "normal", 0.0, std, grown_axis=0, seed=seed)
            if child.bias is not None:
                yield FillTensor(f"{prefix}bias", "uniform", *NEW_SHIFT, grown_axis=0, seed=seed)


def _running_statistics(norm: nn.Module, prefix: str, *, whole: bool) -> Iterator[FillTensor]:
    for key, value in (("running_mean", 0.0), ("running_var", 1.0)):
        if norm._buffers.get(key) is not None:
            yield FillTensor(f"{prefix}{key}", "constant", value, grown_axis=None if whole else 0)


def _last_norms(module: nn.Module) -> Iterator[str]:
    """The last norm of each residual branch: of the direct children of a block, which is a module with a shortcut."""
    for path, child in module.named_modules():
        children = dict(child.named_children())
        if children.keys() & {"downsample", "shortcut"} or "downsample" in child.__dict__:
            norms = [name for name, item in children.items() if isinstance(item, nn.modules.batchnorm._NormBase)]
            if norms:
                yield f"{path}.{norms[-1]}" if path else norms[-1]
