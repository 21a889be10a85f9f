"""Keep the function of a model that is widened: what has to be made up for, and what cannot be.

The old weights stay where they were in each part of an axis that grows on its own, and what is new is 0 where it would
be seen. Three things then follow from a width all the same:

* Attention divides by the root of the size of a head; so may anything else. The parameter before takes the ratio.
* A mean over n' > n channels of which the new ones are 0 is n/n' of the old one. RMSNorm divides by the root of a mean
  of squares, so with γ·√(n/n') and ε·n/n' it computes what it did. LayerNorm and GroupNorm subtract a mean as well:
  with μ the mean over the old channels and σ² their variance, the new ones are μ·n/n' and (σ² + μ²(1 − n/n'))·n/n'. The
  same γ and ε are exact for μ = 0, and no other ones are for all inputs, so these are an approximation. It gets better
  where the means of what is added up in front of the norm are taken out, which LayerNorm does not see. In GPT-2 that is
  everything but the embedding, which is the head's weight too; in a ViT everything, and the error is one of rounding.
* What a constructor computes from widths in other ways, as the rotations of rotary positions, is another function.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sift_cli.core.plan import Edit, FillTensor, ResizeAxis, SetAttribute
from sift_cli.errors import PlanError
from sift_cli.models.calling import Inputs
from sift_cli.models.precise import InDouble
from sift_cli.surgery.growth import Growth
from sift_cli.widths import (
    Axis,
    LayerRole,
    Rescaled,
    Unscalable,
    WidthGraph,
    centrable,
    combined,
    output_axis,
    rescaled,
)

#: How close two outputs of a norm in double precision are if they are the same function.
_EQUAL = 1e-10
_HINT = "use --init scratch"


@dataclass(frozen=True)
class Kept:
    """What keeps the function, beside old values in their places.

    Attributes:
        scales: Rows of parameters to multiply.
        centred: Parameters to take the mean over channels from.
        attributes: Numbers that norms have.
        inexact: Norms after which the function is only nearly the same.
        still: Axes whose new channels have to be exactly 0.
        silent: Those of them whose new channels are 0 for every input, so that what reads them may be anything.
        norms: Scales of norms whose input is silent.
    """

    scales: tuple[Rescaled, ...] = ()
    centred: tuple[Axis, ...] = ()
    attributes: tuple[SetAttribute, ...] = ()
    inexact: tuple[str, ...] = ()
    still: frozenset[Axis] = frozenset()
    silent: frozenset[Axis] = frozenset()
    norms: frozenset[str] = frozenset()

    @property
    def fills(self) -> Iterator[FillTensor]:
        for axis in self.centred:
            yield FillTensor(axis.tensor, "center", axis=axis.axis)
        for one in self.scales:
            yield FillTensor(one.tensor, "scale", one.factor, start=one.start, stop=one.stop, axis=one.axis)


def check_layout(graph: WidthGraph, sizes: Mapping[int, int]) -> None:
    """Refuse models whose old values have no places of their own among the new ones.

    Raises:
        PlanError: It is one.
    """
    grouped = [name for name, role in graph.roles.items() if role is LayerRole.GROUPED]
    if grouped:
        raise PlanError(f"--init preserve does not cover grouped convolutions, and {grouped[0]} is one", hint=_HINT)
    for relation in graph.relations:
        members = [index for index in relation if index >= 0]
        whole = max(members, key=lambda index: graph.groups[index].size)
        others = [index for index in members if index != whole]
        sides = {(graph.groups[index].size, sizes.get(index, 0), relation[index] > 0) for index in others}
        if len(members) < len(relation) or (len(others) > 1 and len(sides) > 1):
            raise PlanError(
                "--init preserve does not cover models that concatenate or split channels in unequal parts"
                f"{_where(graph, members)}", hint=_HINT,
            )  # fmt: skip
    for index, group in enumerate(graph.groups):
        if group.scales and group.axes and (group.parts is None or sizes[index] % group.parts):
            parts = "an order of its own" if group.parts is None else f"{group.parts} parts"
            raise PlanError(
                f"--init preserve finds no places for old channels in {group.axes[0].tensor}, whose axis "
                f"{group.axes[0].axis} the model takes apart in {parts}",
                hint=_HINT,
            )


def _where(graph: WidthGraph, members: Sequence[int]) -> str:
    tensor = next((axis.tensor for index in members for axis in graph.groups[index].axes), None)
    return f", as at {tensor}" if tensor else ""


def keep(
    module: nn.Module, wide: nn.Module, inputs: Inputs, graph: WidthGraph, edits: Sequence[Edit], *, approximate: bool
) -> Kept:
    """What keeps the function of ``module`` in ``wide``, both on the meta device.

    Args:
        module: The model.
        wide: The same one after ``edits``.
        inputs: Example inputs of both.
        graph: The widths of ``module``.
        edits: What was resized.
        approximate: Accept norms that are not exact.

    Raises:
        PlanError: Nothing does.
    """
    growths = _growths(module, edits)
    _check_buffers(module, wide)
    changes, inexact = _norms(module, wide, growths)
    if inexact and not approximate:
        raise PlanError(
            f"--init preserve is not exact with {inexact[0]}, which takes its statistics over new channels too",
            hint="pass --allow-approximate, which measures the error, or use --init scratch",
        )
    try:
        scaling = rescaled(module, wide, inputs)
    except Unscalable as why:
        raise PlanError(f"--init preserve cannot keep the function: {why}", hint=_HINT) from None
    scales = [*scaling.rescaled]
    attributes: list[SetAttribute] = []
    for path, ratio in changes.items():
        child = module.get_submodule(path)
        for name in _gains(child):
            size = wide.get_parameter(f"{path}.{name}").shape[0]
            scales.append(Rescaled(f"{path}.{name}", 0, 0, size, math.sqrt(ratio)))
        attributes += _epsilons(path, child, ratio)
    normed = {f"{path}.{name}" for path in changes for name, _ in module.get_submodule(path).named_parameters()}
    still = _related(graph, normed)
    scored = set(scaling.attended)
    for path, child in module.named_modules():
        if graph.attention.get(f"{path}.weight", frozenset()) & {"q", "k"}:
            scored |= {Axis(f"{path}.weight", output_axis(child)), Axis(f"{path}.bias", 0)}
    return Kept(
        tuple(combined(scales)),
        tuple(axis for axis in centrable(module, inputs) if axis.tensor in growths) if inexact else (),
        tuple(attributes),
        tuple(inexact),
        frozenset(still | scored),
        frozenset() if inexact else frozenset(still),
        frozenset() if inexact else frozenset(normed),
    )


def _growths(module: nn.Module, edits: Iterable[Edit]) -> dict[str, Growth]:
    by_tensor: dict[str, list[ResizeAxis]] = {}
    for edit in edits:
        if isinstance(edit, ResizeAxis):
            by_tensor.setdefault(edit.tensor, []).append(edit)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: Growth.of(name, tensors[name].shape, axes) for name, axes in by_tensor.items()}


def _check_buffers(module: nn.Module, wide: nn.Module) -> None:
    """Tables that the constructor makes from a width, and that no file keeps."""
    stored, new = module.state_dict(), dict(wide.named_buffers())
    for name, buffer in module.named_buffers():
        if name not in stored and new[name].shape != buffer.shape:
            raise PlanError(
                f"--init preserve cannot keep {name}, which the model computes from the size of a head "
                "(rotary positions turn by other angles in a wider head)",
                hint=_HINT,
            )


def _norms(module: nn.Module, wide: nn.Module, growths: Mapping[str, Growth]) -> tuple[dict[str, float], list[str]]:
    """Norms that see new channels: path → n/n', and the paths of those for which that is not enough."""
    changes: dict[str, float] = {}
    inexact: list[str] = []
    modules = dict(wide.named_modules())
    for path, child in module.named_modules():
        own = list(child.named_parameters(recurse=False))
        known = isinstance(child, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm)
        if known and not own and _shape_of(child) != _shape_of(modules[path]):
            raise PlanError(f"--init preserve cannot correct {path}, a norm without a scale of its own", hint=_HINT)
        if isinstance(child, nn.modules.batchnorm._NormBase) or not own or list(child.children()):
            continue
        growth = growths.get(f"{path}.{own[0][0]}")
        if growth is None or any(parameter.dim() != 1 for _, parameter in own):
            if growth is not None and known:
                inexact.append(path)
            continue
        ratio = growth.old[0] / growth.new[0]
        if _same(child, modules[path], growth, path, 1.0) is not False:
            continue
        changes[path] = ratio
        if not _same(child, modules[path], growth, path, ratio):
            inexact.append(path)
    return changes, inexact


def _shape_of(norm: nn.Module) -> object:
    return getattr(norm, "normalized_shape", getattr(norm, "num_channels", None))


def _same(old: nn.Module, new: nn.Module, growth: Growth, path: str, ratio: float) -> bool | None:
    """Whether ``new``, a norm corrected by ``ratio``, computes on inputs whose new channels are 0 what ``old`` does.

    Tried on random numbers; None where it runs on no input of a usual shape.
    """
    random = torch.Generator().manual_seed(0)
    first, second = (copy.deepcopy(one).to_empty(device="cpu").double().eval() for one in (old, new))
    with torch.no_grad(), InDouble():
        for name, parameter in first.named_parameters():
            parameter.uniform_(0.5, 1.5, generator=random)
            second.get_parameter(name).copy_(growth.place(parameter))
        for name in _gains(second):
            second.get_parameter(name).mul_(math.sqrt(ratio))
        for edit in _epsilons(path, old, ratio):
            setattr(second, edit.attribute, edit.new)
        places = growth.place(torch.ones(growth.old)).nonzero().squeeze(1)
        for shape, axis in (((2,), 1), ((2, 3), -1), ((2, 3, 3), 1), ((2, 3, 3), -1)):
            size = [*shape[:1], growth.old[0], *shape[1:]] if axis == 1 else [*shape, growth.old[0]]
            x = torch.rand(size, generator=random, dtype=torch.float64) * 0.2 - 0.05  # its mean is not 0
            try:
                expected = first(x)
                found = second(_padded(x, axis, places, growth.new[0])).index_select(axis, places)
            except (RuntimeError, TypeError, ValueError, IndexError):
                continue
            return bool((found - expected).abs().max() <= _EQUAL * expected.abs().max())
    return None


def _padded(x: Tensor, axis: int, places: Tensor, size: int) -> Tensor:
    shape = list(x.shape)
    shape[axis] = size
    return torch.zeros(shape, dtype=x.dtype).index_copy(axis, places, x)


def _gains(norm: nn.Module) -> list[str]:
    """Names of the parameters of a norm that multiply."""
    return [name for name, _ in norm.named_parameters(recurse=False) if not name.endswith(("bias", "beta"))]


def _epsilons(path: str, norm: nn.Module, ratio: float) -> Iterator[SetAttribute]:
    """``eps`` of a norm, whatever it is called. Where it is None, it is the rounding error of the data type."""
    for name, value in norm.__dict__.items():
        if "eps" in name and not name.startswith("_") and type(value) is float and ratio != 1:
            yield SetAttribute(path, name, value, value * ratio)


def _related(graph: WidthGraph, tensors: Iterable[str]) -> set[Axis]:
    """Every axis whose width is that of one of ``tensors``, or follows from it."""
    names = set(tensors)
    found = {index for index, group in enumerate(graph.groups) if any(axis.tensor in names for axis in group.axes)}
    while True:
        more = {index for relation in graph.relations if not found.isdisjoint(relation) for index in relation}
        if more <= found:
            return {axis for index in found if index >= 0 for axis in graph.groups[index].axes}
        found |= more
