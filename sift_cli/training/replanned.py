"""A model whose masks were made in training, and not by its transform."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from sift_cli.core.masks import Mask
from sift_cli.core.plan import AttachMask, TransformPlan
from sift_cli.surgery import TransformedModel, packed_masks_of
from sift_cli.training.names import plain_name, unwrapped


def replanned(model: TransformedModel, trained: nn.Module) -> TransformedModel:
    """``model``, a dense one, with a plan that has the masks which ``trained`` carries; itself where there are none.

    Such a plan promises the MACs of these masks, and not those of the dense model.
    """
    module = unwrapped(trained)
    packed = {plain_name(module, name): mask for name, mask in packed_masks_of(module).items()}
    if not packed or model.masks:
        return model
    edits = []
    for name, mask in packed.items():
        made = Mask(mask.shape, mask.bits.cpu().numpy(), "file")
        edits.append(
            AttachMask(
                name, made.nonzero, "file", pattern=mask.pattern, output_axis=mask.output_axis, digest=made.digest
            )
        )
    kept = {edit.tensor: edit.nonzero for edit in edits}
    return replace(model, plan=_with(model.plan, tuple(edits), kept))


def _with(plan: TransformPlan, masks: tuple[AttachMask, ...], kept: dict[str, int]) -> TransformPlan:
    layers = tuple(
        replace(layer, role="sparse" if layer.weight in kept else layer.role,
                nonzero_after=kept.get(layer.weight, layer.numel_after))
        for layer in plan.layers
    )  # fmt: skip
    patterned = ["pattern"] if any(mask.pattern != "unstructured" for mask in masks) else []
    return replace(
        plan,
        edits=(*(edit for edit in plan.edits if not isinstance(edit, AttachMask)), *masks),
        layers=layers,
        promises=("planned_macs", "mask_cardinality", "io_shapes", "roundtrip", *patterned),
        notes=("its masks were made in training",),
    )
