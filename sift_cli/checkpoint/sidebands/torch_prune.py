"""``<name>_orig`` and ``<name>_mask``, as ``torch.nn.utils.prune`` leaves them until ``prune.remove``."""

from __future__ import annotations

from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.sidebands import Masked, with_mask
from sift_cli.errors import Malformed

IN_VALUES = False
_SUFFIX = "_orig"


def find(checkpoint: Checkpoint) -> dict[str, Masked]:
    tensors, found = checkpoint.tensors, {}
    for values in tensors:
        name = values.removesuffix(_SUFFIX)
        mask = f"{name}_mask"
        if name == values or (name in tensors and mask not in tensors):
            continue
        if name in tensors:
            raise Malformed(checkpoint.path, f"tensor {values!r}", f"{name!r} is there too, and they are one weight")
        if mask in tensors:
            found[name] = with_mask(checkpoint, values, mask)
        elif f"{name}_u" not in tensors:  # spectral normalisation has a weight_orig too
            raise Malformed(checkpoint.path, f"tensor {values!r}", f"it is a pruned weight, and there is no {mask!r}")
    return found
