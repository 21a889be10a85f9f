"""``<name>_mask`` beside ``<name>``, as Cerebras' PyTorch has it since its release 2.2.

Vectors have no masks there. A vector with a ``_mask`` is part of its model: the biases of keys in DINOv3 have one.
"""

from __future__ import annotations

from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.sidebands import Masked, with_mask
from sift_cli.errors import Malformed

IN_VALUES = False
_SUFFIX = "_mask"


def find(checkpoint: Checkpoint) -> dict[str, Masked]:
    tensors, found = checkpoint.tensors, {}
    for mask in tensors:
        name = mask.removesuffix(_SUFFIX)
        if name == mask or f"{name}_orig" in tensors:
            continue
        if name in tensors and len(tensors[name].shape) > 1:
            found[name] = with_mask(checkpoint, name, mask)
        elif name not in tensors and name.endswith("weight"):  # any other name may be a buffer: attention_mask
            raise Malformed(checkpoint.path, f"tensor {mask!r}", f"it is a mask, and there is no {name!r}")
    return found
