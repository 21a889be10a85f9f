"""Values of what is new: all weights anew, or the old function kept."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from torch import nn

from sift_cli.core.plan import Architecture, Edit, FillTensor, ResizeAxis
from sift_cli.models.initialisation import Draw, initialisation
from sift_cli.transforms._preserve import Kept
from sift_cli.widths import Axis, output_axis

#: Range of the BatchNorm shifts of channels that come new into a model whose function is kept. See
#: :func:`preserve_fills`.
NEW_SHIFT = (0.1, 0.5)


def scratch_fills(
    module: nn.Module, architecture: Architecture, seed: int
) -> tuple[tuple[FillTensor, ...], tuple[str, ...]]:
    """Draw anew every parameter of ``module`` that ``architecture`` has, as that initialises itself, at the shapes that
    they have now; and the statistics of norms as before training.

    A fan is that of the dense shape. Masks leave less of a layer's input, by the root of its density.

    Returns:
        The fills, and notes on what the model's code did not tell.

    Raises:
        ModelError: The architecture does not build.
    """
    found = initialisation(architecture, module)
    fills = []
    for name, parts in found.parts.items():
        # The most common distribution everywhere, then the rows that differ from it.
        rows: Counter[Draw] = Counter()
        for part in parts:
            rows[part.draw] += part.stop - part.start
        ((common, _),) = rows.most_common(1)
        fills.append(_fill(name, common, seed))
        fills += [_fill(name, p.draw, seed, p.start, p.stop) for p in parts if p.draw != common]
    for path, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._NormBase):
            fills += _running_statistics(child, f"{path}." if path else "", whole=True)
    return tuple(fills), found.notes


def _fill(name: str, draw: Draw, seed: int, start: int = 0, stop: int | None = None) -> FillTensor:
    distribution = "trunc_normal" if draw.cut else draw.distribution
    return FillTensor(
        name, distribution, draw.a, draw.b, seed=0 if distribution == "constant" else seed, start=start, stop=stop
    )


def preserve_fills(
    wide: nn.Module, edits: Iterable[Edit], sparse: Collection[str], seed: int, kept: Kept
) -> Iterator[FillTensor]:
    """Keep the function: the old weights are in their places, and nothing flows from a new channel into an old one.

    Surgery has put 0 wherever a tensor grew. On top of that, new BatchNorm channels get scale 1, variance 1 and, like
    new biases, a small random positive shift. The shift is what breaks the symmetry: a new channel then has a nonzero
    activation of its own, so a connection *from* it has a nonzero gradient and can be grown, and from then on
    connections *to* it can. With a shift of 0 every gradient through the new channels would be 0 for ever. In layers
    that stay dense the new rows are drawn as for training from scratch, while the columns that would lead from new
    channels to old ones stay 0.

    Where new channels have to be 0 themselves, because a norm or a product of attention would see them, it is the other
    way around: dense layers that read them have random columns, so connections *to* such channels have a gradient.
    """
    axes: dict[str, set[int]] = {}
    for edit in edits:
        if isinstance(edit, ResizeAxis):
            axes.setdefault(edit.tensor, set()).add(edit.axis)
    for path, child in wide.named_modules():
        prefix = f"{path}." if path else ""
        weight = f"{prefix}weight"
        grown = axes.get(weight, set())
        still = Axis(f"{prefix}bias", 0) in kept.still
        if isinstance(child, nn.modules.batchnorm._NormBase) and 0 in grown:
            yield FillTensor(weight, "constant", 1.0, grown_axis=0)
            if child._parameters.get("bias") is not None and not still:
                yield FillTensor(f"{prefix}bias", "uniform", *NEW_SHIFT, grown_axis=0, seed=seed)
            yield from _running_statistics(child, prefix, whole=False)
        elif isinstance(child, nn.modules.conv._ConvNd | nn.Linear):
            out = output_axis(child)
            std = math.sqrt(2 / (child.weight.shape[out] * math.prod(child.weight.shape[2:])))
            if weight not in sparse and out in grown and Axis(weight, out) not in kept.still:
                yield FillTensor(weight, "normal", 0.0, std, grown_axis=out, seed=seed)
            if weight not in sparse and 1 - out in grown and Axis(weight, 1 - out) in kept.silent:
                yield FillTensor(weight, "normal", 0.0, std, grown_axis=1 - out, seed=seed)
            if child.bias is not None and out in grown and not still:
                yield FillTensor(f"{prefix}bias", "uniform", *NEW_SHIFT, grown_axis=0, seed=seed)
        elif weight in kept.norms and 0 in grown:
            yield FillTensor(weight, "constant", 1.0, grown_axis=0)


def _running_statistics(norm: nn.Module, prefix: str, *, whole: bool) -> Iterator[FillTensor]:
    for key, value in (("running_mean", 0.0), ("running_var", 1.0)):
        if norm._buffers.get(key) is not None:
            yield FillTensor(f"{prefix}{key}", "constant", value, grown_axis=None if whole else 0)
