"""Masks are drawn from as many weights as the paper's table 1 says of this transform: computed from the numbers of the
plan, and counted in the masks that were read back."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sift_cli import layers
from sift_cli.core.cardinality import TABLE, log2_masks
from sift_cli.core.certificate import Claim, claim
from sift_cli.core.plan import ResizeAxis, TransformPlan
from sift_cli.models import LoadedModel
from sift_cli.verify.evidence import Evidence


def measure(evidence: Evidence) -> Iterator[Claim]:
    plan, masks = evidence.written.plan, evidence.artifact.masks
    formula = dict(_by_formula(plan, evidence.original))
    counted = dict.fromkeys(formula, 0)
    for name, mask in masks.items():
        owner = plan.place_of(name) or name
        counted[owner] = counted.get(owner, 0) + mask.numel
    bits = sum(log2_masks(mask.numel, mask.nonzero) for mask in masks.values())
    total = sum(formula.values())
    yield claim(
        "search_space",
        counted == formula,
        before=sum(layer.numel_before for layer in plan.layers if layer.weight in formula or layer.name in formula),
        after=sum(counted.values()),
        bound=f"{total:,} weights to choose from, layer by layer as table 1 has it; 2^{bits:.0f} masks keep as many",
        counter="bitmask",
    )


def _by_formula(plan: TransformPlan, original: LoadedModel) -> Iterator[tuple[str, int]]:
    """Path of a layer that was replaced, or name of a weight that has a mask itself → its cardinality."""
    sizes = {(edit.tensor, edit.axis): edit.new for edit in plan.edits if isinstance(edit, ResizeAxis)}
    for owner in dict.fromkeys(plan.place_of(name) or name for name in plan.masked):
        if owner in plan.replaced:
            replaced = plan.replaced[owner]
            inputs, outputs = layers.sizes_of(original.module.get_submodule(owner))[:2]
            yield owner, TABLE[replaced.layer](replaced.arguments, inputs, outputs)
        else:
            shape = original.module.get_parameter(owner).shape
            yield owner, math.prod(sizes.get((owner, axis), size) for axis, size in enumerate(shape))
