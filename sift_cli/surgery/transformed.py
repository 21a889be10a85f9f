"""A model after its transform, with all that is known about it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sift_cli.core.certificate import Certificate
from sift_cli.core.masks import Mask, MaskSet
from sift_cli.core.plan import AttachMask, TransformPlan
from sift_cli.errors import ModelError
from sift_cli.models import LoadedModel
from sift_cli.models.calling import Inputs
from sift_cli.surgery.apply import apply
from sift_cli.surgery.packed import PackedMask

_OF_MODULE, _OF_PARAMETER = "_sift_masks", "_sift_mask"


@dataclass(frozen=True)
class TransformedModel:
    """A transformed module and everything that goes into its artifact.

    Attributes:
        module: The new model, in eval mode, its masked weights exactly 0, its masks attached (:func:`masks_of`).
        masks: Masks by weight name; empty for a model that was made dense again.
        plan: The plan it was made by.
        inputs: Example inputs, batch of one, by position or by keyword.
        provenance: Where the original came from; JSON values.
        certificate: Claims measured so far.
    """

    module: nn.Module
    masks: MaskSet
    plan: TransformPlan
    inputs: Inputs
    provenance: Mapping[str, Any] = field(default_factory=dict)
    certificate: Certificate = field(default_factory=Certificate)

    @property
    def nonzero(self) -> dict[str, int]:
        """Kept weights by name of the masked tensor, counted from the masks."""
        return {name: mask.nonzero for name, mask in self.masks.items()}


def transform(model: LoadedModel, plan: TransformPlan, given: Mapping[str, Mask] | None = None) -> TransformedModel:
    """Carry out ``plan`` on a copy of ``model``, with the masks ``given`` where the plan takes them from elsewhere.

    Raises:
        PlanError: The plan does not fit the model.
    """
    module, masks = apply(model.module, plan, given)
    attach_masks(module, masks, plan)
    return TransformedModel(module.eval(), masks, plan, model.inputs, model.provenance)


def attach_masks(module: nn.Module, masks: MaskSet, plan: TransformPlan | None = None) -> None:
    """Let the parameters of ``module`` carry ``masks``, and no others, outside its ``state_dict``: that stays what the
    plain architecture loads.

    Args:
        module: The module.
        masks: Masks by parameter name.
        plan: Where kept weights may lie; None lets them lie anywhere.

    Raises:
        ModelError: A mask is for a name that is no parameter, or for one of another shape.
    """
    for child in module.modules():
        child.__dict__.pop(_OF_MODULE, None)
    for one in module.parameters():
        one.__dict__.pop(_OF_PARAMETER, None)
    edits = {edit.tensor: edit for edit in (plan.edits if plan else ()) if isinstance(edit, AttachMask)}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    packed = {}
    for name, mask in masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            raise ModelError(f"there is a mask of shape {mask.shape} for {name!r}, which is no such parameter")
        edit = edits.get(name)
        packed[name] = PackedMask.of(mask) if edit is None else PackedMask.of(mask, edit.pattern, edit.output_axis)
    carry(module, packed)


def carry(module: nn.Module, masks: Mapping[str, PackedMask]) -> None:
    """Let the parameters of these names carry ``masks`` under each of their names, and leave all others as they are."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    carried = {id(parameters[name]): mask for name, mask in masks.items()}
    for child in module.modules():
        for key, parameter in child._parameters.items():
            if id(parameter) in carried:
                _remember(child, key, carried[id(parameter)])


def without_masks(module: nn.Module) -> nn.Module:
    """A copy that carries no masks. Its tensors share memory with those of ``module``, which keeps its masks."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in module.buffers()}
    shared |= {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in module.parameters()}
    result = copy.deepcopy(module, shared)
    attach_masks(result, MaskSet())
    return result


def masks_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Weight name → bool tensor of the weight's shape on its device, True where the weight is kept.

    Masks go where their weights go. ``module`` may be the model as it was loaded, a part of it, or anything that is
    built around such a part (a detector on its body, ``DataParallel``, ``torch.compile``); names are those of the
    parameters of ``module``. Empty for a dense model. The mask of a sharded weight is a ``DTensor`` like the weight.

    Raises:
        ModelError: The weight of a mask is gone, or has another shape now.
    """
    masks = {}
    for name, packed in packed_masks_of(module).items():
        masks[name] = packed.kept()
        if packed.whole is not None:
            from torch.distributed.tensor import DTensor

            like: Any = module.get_parameter(name)
            masks[name] = DTensor.from_local(
                masks[name], like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
            )
    return masks


def packed_masks_of(module: nn.Module) -> dict[str, PackedMask]:
    """:func:`masks_of` as the parameters carry them: what changes in one of these changes in the model.

    Raises:
        ModelError: The weight of a mask is gone, or has another shape now.
    """
    masks = {}
    for name, parameter in module.named_parameters():
        path, _, key = name.rpartition(".")
        owner = module.get_submodule(path)
        mask: PackedMask | None = getattr(parameter, _OF_PARAMETER, owner.__dict__.get(_OF_MODULE, {}).get(key))
        if mask is None:
            continue
        if mask.parameter_shape != parameter.shape:
            raise ModelError(
                f"{name} has shape {tuple(parameter.shape)} and a mask of shape {mask.parameter_shape}",
                hint="transform the model again in the new shape",
            )
        # Moved once, not at each step; and a mask on the meta device would be gone.
        masks[name] = mask if parameter.is_meta else mask.to(parameter.device)
        _remember(owner, key, masks[name])
    for path, child in module.named_modules():
        for key in child.__dict__.get(_OF_MODULE, {}).keys() - child._parameters.keys():
            if not any(hasattr(parameter, _OF_PARAMETER) for parameter in child.parameters()):
                raise ModelError(f"{path or 'the model'} carries a mask for its {key}, which is no parameter any more")
    return masks


def apply_masks(module: nn.Module) -> None:
    """Set every masked weight of ``module`` to 0 again, for instance after an optimizer's step.

    Raises:
        ModelError: It has no masks, so nothing would happen; or as :func:`masks_of`.
    """
    masks = packed_masks_of(module)
    if not masks:
        raise ModelError("the model has no masks", hint="load it with sift_cli.load from a file of sift transform")
    with torch.no_grad():
        for name, mask in masks.items():
            weight: Any = module.get_parameter(name)
            mask.clear_outside([weight if mask.whole is None else weight.to_local()])


def _remember(owner: nn.Module, key: str, mask: PackedMask) -> None:
    """Note the mask of ``owner``'s parameter ``key`` in two places, because each survives what the other does not.

    A parameter is a new object after ``deepcopy`` and ``load_state_dict(assign=True)``, and its owner remembers. An
    owner is a new object after a retrace by ``torch.fx``, as ``create_feature_extractor`` does one, which takes
    parameters out of modules that it has looked into (the attention of a Swin transformer); the parameter remembers.
    """
    owner.__dict__.setdefault(_OF_MODULE, {})[key] = mask
    setattr(owner._parameters[key], _OF_PARAMETER, mask)
