"""Masks in the state of an optimizer of masks: Sparse-IFT's code, and Cerebras' PyTorch 2.0 and 2.1.

The weights may have any values where a mask is 0: Cerebras' are multiplied at the next forward pass.
"""

from __future__ import annotations

from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.sidebands import Masked, with_mask
from sift_cli.errors import Malformed

IN_VALUES = False
#: What DistributedDataParallel puts in front of names; masks and weights may be named within it or without it.
_REPLICA = "module."


def find(checkpoint: Checkpoint) -> dict[str, Masked]:
    masks = checkpoint.masks_apart()
    if masks is None:
        return {}
    names = {name.removeprefix(_REPLICA): name for name in checkpoint.tensors}
    found = {}
    for mask in masks.tensors:
        name = names.get(mask.removeprefix(_REPLICA))
        if name is None:
            raise Malformed(checkpoint.path, f"the mask of {mask!r}", "there is no such weight")
        found[name] = with_mask(checkpoint, name, mask, apart=masks)
    return found
