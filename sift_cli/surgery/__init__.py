"""Carries out a plan. The only place in sift where a module's tensors change, and always on a copy."""

from sift_cli.surgery.apply import apply, apply_edits
from sift_cli.surgery.configured import prove_attributes, prove_config
from sift_cli.surgery.packed import PackedMask
from sift_cli.surgery.transformed import (
    TransformedModel,
    apply_masks,
    attach_masks,
    carry,
    masks_of,
    packed_masks_of,
    transform,
    without_masks,
)

__all__ = [
    "PackedMask",
    "TransformedModel",
    "apply",
    "apply_edits",
    "apply_masks",
    "attach_masks",
    "carry",
    "masks_of",
    "packed_masks_of",
    "prove_attributes",
    "prove_config",
    "transform",
    "without_masks",
]
