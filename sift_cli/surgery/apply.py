"""The engine that applies edits: to a real model, or to the same model on the meta device for a dry run."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from sift_cli.core.masks import Mask, MaskSet
from sift_cli.core.plan import (
    AttachMask,
    Edit,
    FillTensor,
    ReplaceLayer,
    ResizeAxis,
    SetAttribute,
    SetConfig,
    TransformPlan,
)
from sift_cli.core.seeds import generator
from sift_cli.errors import PlanError
from sift_cli.sparsity.draw import partition_mask
from sift_cli.sparsity.patterns import Gemm, Pattern, parse
from sift_cli.surgery.configured import rebuilt
from sift_cli.surgery.growth import Growth
from sift_cli.surgery.replace import Replaced


def apply(module: nn.Module, plan: TransformPlan, given: Mapping[str, Mask] | None = None) -> tuple[nn.Module, MaskSet]:
    """Carry out ``plan`` on a copy of ``module``.

    Args:
        module: The model the plan is for.
        plan: What to do.
        given: Masks that the plan does not say how to make, by tensor name.

    Returns:
        The transformed copy, its masked weights exactly 0, and its masks. On the meta device the masks are not drawn.

    Raises:
        PlanError: The plan does not fit the module: a tensor is missing or has another shape than the plan says.
    """
    return apply_edits(module, plan.edits, given)


def apply_edits(
    module: nn.Module, edits: Iterable[Edit], given: Mapping[str, Mask] | None = None
) -> tuple[nn.Module, MaskSet]:
    """Carry out ``edits`` in order on a copy of ``module``; see :func:`apply`."""
    edits = tuple(edits)
    result = copy.deepcopy(module)
    growths = _resize(result, [edit for edit in edits if isinstance(edit, ResizeAxis)])
    masks: dict[str, Mask] = {}
    replaced = Replaced(result)
    for edit in edits:
        match edit:
            case SetAttribute():
                _set_attribute(result, edit)
            case SetConfig():
                result = rebuilt(result, edit)
                replaced = Replaced(result)
            case ReplaceLayer():
                replaced.replace(edit)
            case FillTensor():
                tensor = _tensor(result, edit.tensor)
                if edit.distribution in Replaced.DISTRIBUTIONS and not tensor.is_meta:
                    replaced.fill(tensor, edit)
                elif not tensor.is_meta:
                    _fill(tensor, edit, growths.get(edit.tensor) or Growth.none(edit.tensor, tensor.shape))
            case AttachMask():
                tensor = _tensor(result, edit.tensor)
                if not tensor.is_meta:
                    if edit.rule == "file":
                        mask = _given(edit, tensor, given or {})
                    else:
                        mask = _mask(edit, tensor, growths.get(edit.tensor) or Growth.none(edit.tensor, tensor.shape))
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


def _resize(module: nn.Module, edits: list[ResizeAxis]) -> dict[str, Growth]:
    """Grow tensors; a tensor that is tied to others grows once and stays tied. Returns how each grew."""
    by_tensor: dict[str, list[ResizeAxis]] = defaultdict(list)
    for edit in edits:
        by_tensor[edit.tensor].append(edit)
    grown: dict[int, torch.Tensor] = {}
    growths: dict[str, Growth] = {}
    for name, axes in by_tensor.items():
        old = _tensor(module, name)
        growths[name] = Growth.of(name, old.shape, axes)
        new = growths[name].place(old)
        grown[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    for child in module.modules():
        for holder in (child._parameters, child._buffers):
            for key, tensor in holder.items():
                if id(tensor) in grown:
                    holder[key] = grown[id(tensor)]  # type: ignore[assignment]
        if isinstance(child, nn.RNNBase):  # keeps its parameters a second time, in a list
            child._flat_weights = [getattr(child, name) for name in child._flat_weights_names]
    return growths


def _set_attribute(module: nn.Module, edit: SetAttribute) -> None:
    *path, name = edit.attribute.split(".")
    try:
        holder: Any = module.get_submodule(edit.module)
        for step in path:
            holder = getattr(holder, step)
    except AttributeError:
        raise PlanError(f"the plan names a module {edit.module!r} that the model does not have") from None
    held: Any = getattr(holder, name, None)
    found = held
    if edit.element is not None:
        found = held[edit.element] if isinstance(held, tuple | list) and edit.element < len(held) else None
    # A checkpoint's config may say 1 where a plan says 1.0, but never True.
    if found != edit.old or type(found) not in (int, float):
        raise PlanError(
            f"the plan changes {edit.module}.{edit.attribute} from {edit.old} to {edit.new}, but it is {found!r}"
        )
    if edit.element is not None:
        changed = list(held)
        changed[edit.element] = edit.new
        setattr(holder, name, type(held)(changed))
    else:
        setattr(holder, name, edit.new)


def _fill(tensor: torch.Tensor, edit: FillTensor, growth: Growth) -> None:
    region: torch.Tensor = tensor.detach()
    axis = edit.axis if edit.grown_axis is None else edit.grown_axis
    if axis >= max(region.dim(), 1):
        raise PlanError(f"the plan fills axis {axis} of {edit.tensor!r}, whose shape is {growth.old}")
    if edit.grown_axis is not None:
        if edit.distribution == "repeat":
            _repeat(region, edit, growth)
            return
        region = growth.grown(region, edit.grown_axis)
    elif edit.stop is not None:
        if edit.stop > (region.shape or (0,))[axis]:
            raise PlanError(f"the plan fills rows up to {edit.stop} of {edit.tensor!r}, whose shape is {growth.old}")
        region = region.narrow(axis, edit.start, edit.stop - edit.start)
    if edit.distribution == "center":
        centred = region.double()
        centred -= centred.sum(axis, keepdim=True) / growth.old[axis]
        growth.grown(centred, axis).zero_()
        region.copy_(centred)
        return
    if edit.distribution == "scale":
        region.copy_(region.double() * edit.a)  # in float32 the factor would be rounded, too
        return
    shape = tuple(region.shape)
    random = generator(edit.seed, edit.tensor, f"fill from {edit.start}" if edit.start else "fill")
    match edit.distribution:
        case "normal":
            values = random.standard_normal(shape, dtype=np.float32) * np.float32(edit.b) + np.float32(edit.a)
        case "trunc_normal":
            values = random.standard_normal(shape, dtype=np.float32)
            while (off := np.abs(values) > 2).any():
                values[off] = random.standard_normal(int(off.sum()), dtype=np.float32)
            values = values * np.float32(edit.b) + np.float32(edit.a)
        case "uniform":
            values = random.random(shape, dtype=np.float32) * np.float32(edit.b - edit.a) + np.float32(edit.a)
        case "constant":
            values = np.full(shape, edit.a, np.float32)
        case other:
            raise PlanError(f"the plan fills {edit.tensor!r} from an unknown distribution {other!r}")
    region.copy_(torch.from_numpy(values))


def _repeat(tensor: torch.Tensor, edit: FillTensor, growth: Growth) -> None:
    axis = edit.grown_axis or 0
    first, old = tensor.narrow(axis, 0, 1).clone(), tensor.clone()
    growth.grown(old, axis).copy_(growth.grown(first.expand_as(old), axis))
    if not torch.equal(old, first.expand_as(old)):
        raise PlanError(
            f"cannot widen the buffer {edit.tensor}: how its values follow from its size is not known",
            hint="choose a variant of the model without it",
        )
    tensor.copy_(old)


def _mask(edit: AttachMask, tensor: torch.Tensor, growth: Growth) -> Mask:
    shape = tuple(tensor.shape)
    if not 0 <= edit.nonzero <= tensor.numel() - edit.offset:
        raise PlanError(f"the plan keeps {edit.nonzero} weights of {edit.tensor!r}, whose shape is {shape}")
    if edit.rule in ("random", "topk"):
        pattern, gemm = _pattern(edit, tensor)
        if edit.rule == "random":
            return pattern.draw(gemm, edit.nonzero, seed=edit.seed, name=edit.tensor)
        # numpy has no bfloat16, and magnitudes keep their order in a wider type.
        values = tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()
        return pattern.select(gemm, values.numpy(), edit.nonzero)
    if edit.rule == "partition":
        return partition_mask(shape, edit.nonzero, seed=edit.seed, offset=edit.offset)
    if edit.rule != "block":
        raise PlanError(f"the plan masks {edit.tensor!r} by an unknown rule {edit.rule!r}")
    mask = growth.mask()
    if mask.nonzero != edit.nonzero:
        raise PlanError(f"the plan keeps {edit.nonzero} weights of {edit.tensor!r}, but its block has {mask.nonzero}")
    return mask


def _pattern(edit: AttachMask, tensor: torch.Tensor) -> tuple[Pattern, Gemm]:
    shape = tuple(tensor.shape)
    if edit.output_axis >= len(shape):
        raise PlanError(f"the plan counts outputs along axis {edit.output_axis} of {edit.tensor!r}, which is {shape}")
    pattern, gemm = parse(edit.pattern), Gemm(shape, edit.output_axis)
    if edit.nonzero not in pattern.feasible(gemm):
        raise PlanError(
            f"the plan keeps {edit.nonzero} weights of {edit.tensor!r}, whose shape is {shape}, "
            f"and {pattern.name} does not allow that"
        )
    return pattern, gemm


def _given(edit: AttachMask, tensor: torch.Tensor, given: Mapping[str, Mask]) -> Mask:
    mask = given.get(edit.tensor)
    if mask is None:
        raise PlanError(f"the plan takes the mask of {edit.tensor!r} from a file", hint="pass --mask FILE")
    if mask.shape != tuple(tensor.shape):
        raise PlanError(f"the mask of {edit.tensor!r} has shape {mask.shape}, and the weight {tuple(tensor.shape)}")
    if mask.nonzero != edit.nonzero or mask.digest != edit.digest:
        raise PlanError(
            f"the mask of {edit.tensor!r} is not the one that was planned with",
            hint="pass the file that the plan was decided with, or decide a new plan",
        )
    pattern, gemm = _pattern(edit, tensor)
    if broken := pattern.violations(gemm, mask.to_bool()):
        raise PlanError(f"the mask of {edit.tensor!r} is not {pattern.name}: it breaks the pattern in {broken} places")
    return replace(mask, rule="file", seed=None)
