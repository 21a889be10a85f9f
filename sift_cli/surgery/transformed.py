"""A model after its transform, with all that is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sift_cli.core.certificate import Certificate
from sift_cli.core.masks import MaskSet
from sift_cli.core.plan import TransformPlan
from sift_cli.errors import ModelError
from sift_cli.models import LoadedModel
from sift_cli.surgery.apply import apply

_ATTRIBUTE = "_sift_masks"


@dataclass(frozen=True)
class TransformedModel:
    """A transformed module and everything that goes into its artifact.

    Attributes:
        module: The new model, in eval mode, its masked weights exactly 0, its masks attached (:func:`masks_of`).
        masks: Masks by weight name; empty for a model that was made dense again.
        plan: The plan it was made by.
        inputs: Example inputs, batch of one.
        provenance: Where the original came from; JSON values.
        certificate: Claims measured so far.
    """

    module: nn.Module
    masks: MaskSet
    plan: TransformPlan
    inputs: tuple[torch.Tensor, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    certificate: Certificate = field(default_factory=Certificate)

    @property
    def nonzero(self) -> dict[str, int]:
        """Kept weights by name of the masked tensor, counted from the masks."""
        return {name: mask.nonzero for name, mask in self.masks.items()}


def transform(model: LoadedModel, plan: TransformPlan) -> TransformedModel:
    """Carry out ``plan`` on a copy of ``model``.

    Raises:
        PlanError: The plan does not fit the model.
    """
    module, masks = apply(model.module, plan)
    attach_masks(module, masks)
    return TransformedModel(module.eval(), masks, plan, model.inputs, model.provenance)


def attach_masks(module: nn.Module, masks: MaskSet) -> None:
    """Let ``module`` carry its masks, outside its ``state_dict``: that stays what the plain architecture loads."""
    module.__dict__[_ATTRIBUTE] = {name: torch.from_numpy(mask.to_bool()) for name, mask in masks.items()}


def masks_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Weight name → bool tensor of the weight's shape, True where the weight is kept; empty for a dense model.

    The model may be wrapped (``DataParallel``, ``torch.compile``): names are those of the wrapper's parameters then.
    """
    for path, child in module.named_modules():
        if _ATTRIBUTE in child.__dict__:
            prefix = f"{path}." if path else ""
            return {prefix + name: mask for name, mask in child.__dict__[_ATTRIBUTE].items()}
    return {}


def apply_masks(module: nn.Module) -> None:
    """Set every masked weight of ``module`` to 0 again, for instance after an optimizer's step.

    Raises:
        ModelError: It has no masks, so nothing would happen.
    """
    parameters, masks = dict(module.named_parameters()), masks_of(module)
    if not masks:
        raise ModelError("the model has no masks", hint="load it with sift_cli.load from a file of sift transform")
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0.0)
