"""The engine that applies edits: to a real model, or to the same model on the meta device for a dry run."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from sift_cli.core.masks import Mask, MaskSet
from sift_cli.core.plan import AttachMask, Edit, FillTensor, ResizeAxis, SetAttribute, TransformPlan
from sift_cli.core.seeds import generator
from sift_cli.errors import PlanError
from sift_cli.sparsity.draw import block_mask, random_mask


def apply(module: nn.Module, plan: TransformPlan) -> tuple[nn.Module, MaskSet]:
    """Carry out ``plan`` on a copy of ``module``.

    Returns:
        The transformed copy, its masked weights exactly 0, and its masks. On the meta device the masks are not drawn.

    Raises:
        PlanError: The plan does not fit the module: a tensor is missing or has another shape than the plan says.
    """
    return apply_edits(module, plan.edits)


def apply_edits(module: nn.Module, edits: Iterable[Edit]) -> tuple[nn.Module, MaskSet]:
    """Carry out ``edits`` in order on a copy of ``module``; see :func:`apply`."""
    edits = tuple(edits)
    result = copy.deepcopy(module)
    old_shapes = _resize(result, [edit for edit in edits if isinstance(edit, ResizeAxis)])
    masks: dict[str, Mask] = {}
    for edit in edits:
        match edit:
            case SetAttribute():
                _set_attribute(result, edit)
            case FillTensor():
                tensor = _tensor(result, edit.tensor)
                if not tensor.is_meta:
                    _fill(tensor, edit, old_shapes.get(edit.tensor, tuple(tensor.shape)))
            case AttachMask():
                tensor = _tensor(result, edit.tensor)
                if not tensor.is_meta:
                    mask = _mask(edit, tuple(tensor.shape), old_shapes.get(edit.tensor, tuple(tensor.shape)))
                    with torch.no_grad():
                        # Selected, not multiplied: 0 × NaN is NaN and 0 × −1 is −0.
                        tensor.masked_fill_(torch.from_numpy(~mask.to_bool()), 0.0)
                    masks[edit.tensor] = mask
    return result, MaskSet(masks)


def _tensor(module: nn.Module, name: str) -> torch.Tensor:
    path, _, key = name.rpartition(".")
    try:
        holder = module.get_submodule(path)
    except AttributeError:
        holder = None
    tensor = None if holder is None else holder._parameters.get(key, holder._buffers.get(key))
    if tensor is None:
        raise PlanError(f"the plan names a tensor {name!r} that the model does not have")
    return tensor


def _resize(module: nn.Module, edits: list[ResizeAxis]) -> dict[str, tuple[int, ...]]:
    """Grow tensors; a tensor that is tied to others grows once and stays tied. Returns the old shapes."""
    by_tensor: dict[str, list[ResizeAxis]] = defaultdict(list)
    for edit in edits:
        by_tensor[edit.tensor].append(edit)
    grown: dict[int, torch.Tensor] = {}
    old_shapes: dict[str, tuple[int, ...]] = {}
    for name, axes in by_tensor.items():
        old = _tensor(module, name)
        shape = list(old.shape)
        for edit in axes:
            if not 0 <= edit.axis < len(shape) or shape[edit.axis] != edit.old or edit.new < edit.old:
                raise PlanError(
                    f"the plan grows axis {edit.axis} of {name!r} from {edit.old} to {edit.new}, "
                    f"but its shape is {tuple(old.shape)}"
                )
            shape[edit.axis] = edit.new
        try:
            new = torch.zeros(shape, dtype=old.dtype, device=old.device)
        except RuntimeError:
            raise PlanError(f"the plan makes {name!r} {shape}, for which there is not the memory") from None
        new[tuple(slice(0, size) for size in old.shape)] = old.detach()
        grown[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
        old_shapes[name] = tuple(old.shape)
    for child in module.modules():
        for holder in (child._parameters, child._buffers):
            for key, tensor in holder.items():
                if id(tensor) in grown:
                    holder[key] = grown[id(tensor)]  # type: ignore[assignment]
    return old_shapes


def _set_attribute(module: nn.Module, edit: SetAttribute) -> None:
    try:
        holder = module.get_submodule(edit.module)
    except AttributeError:
        raise PlanError(f"the plan names a module {edit.module!r} that the model does not have") from None
    if getattr(holder, edit.attribute, None) != edit.old:
        raise PlanError(
            f"the plan changes {edit.module}.{edit.attribute} from {edit.old} to {edit.new}, "
            f"but it is {getattr(holder, edit.attribute, None)!r}"
        )
    setattr(holder, edit.attribute, edit.new)


def _fill(tensor: torch.Tensor, edit: FillTensor, old_shape: tuple[int, ...]) -> None:
    region: torch.Tensor = tensor.detach()
    if edit.grown_axis is not None:
        if edit.grown_axis >= region.dim():
            raise PlanError(f"the plan fills axis {edit.grown_axis} of {edit.tensor!r}, whose shape is {old_shape}")
        start = old_shape[edit.grown_axis]
        if edit.distribution == "repeat":
            _repeat(region, edit, start)
            return
        region = region.narrow(edit.grown_axis, start, tensor.shape[edit.grown_axis] - start)
    shape = tuple(region.shape)
    random = generator(edit.seed, edit.tensor, "fill")
    match edit.distribution:
        case "normal":
            values = random.standard_normal(shape, dtype=np.float32) * np.float32(edit.b) + np.float32(edit.a)
        case "uniform":
            values = random.random(shape, dtype=np.float32) * np.float32(edit.b - edit.a) + np.float32(edit.a)
        case "constant":
            values = np.full(shape, edit.a, np.float32)
        case other:
            raise PlanError(f"the plan fills {edit.tensor!r} from an unknown distribution {other!r}")
    region.copy_(torch.from_numpy(values))


def _repeat(tensor: torch.Tensor, edit: FillTensor, start: int) -> None:
    axis = edit.grown_axis or 0
    old, first = tensor.narrow(axis, 0, start), tensor.narrow(axis, 0, 1)
    if not torch.equal(old, first.expand_as(old)):
        raise PlanError(
            f"cannot widen the buffer {edit.tensor}: how its values follow from its size is not known",
            hint="choose a variant of the model without it",
        )
    tensor.copy_(first.expand_as(tensor).clone())


def _mask(edit: AttachMask, shape: tuple[int, ...], old_shape: tuple[int, ...]) -> Mask:
    if edit.rule == "random":
        if not 0 <= edit.nonzero <= np.prod(shape, dtype=object):
            raise PlanError(f"the plan keeps {edit.nonzero} weights of {edit.tensor!r}, whose shape is {shape}")
        return random_mask(shape, edit.nonzero, seed=edit.seed, name=edit.tensor)
    if edit.rule != "block":
        raise PlanError(f"the plan masks {edit.tensor!r} by an unknown rule {edit.rule!r}")
    mask = block_mask(shape, old_shape)
    if mask.nonzero != edit.nonzero:
        raise PlanError(f"the plan keeps {edit.nonzero} weights of {edit.tensor!r}, but its block has {mask.nonzero}")
    return mask
