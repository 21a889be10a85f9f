"""Which weights of a checkpoint exist, by the names that its tensors have there."""

from __future__ import annotations

import numpy as np

from sift_cli.checkpoint import Checkpoint, sidebands
from sift_cli.checkpoint.sidebands import Masked


def beside(checkpoint: Checkpoint) -> dict[str, Masked]:
    """Name of each tensor whose mask lies beside it (:mod:`sift_cli.checkpoint.sidebands`); none in a file that stores
    tensors sparse.

    Raises:
        Malformed: A mask is none.
    """
    if any(spec.nonzero is not None for spec in checkpoint.tensors.values()):
        return {}
    return {one.values: one for found in sidebands.find(checkpoint).values() for one in found.values()}


def count_kept(checkpoint: Checkpoint) -> tuple[int, int]:
    """Weights, and those of them that are kept: by the mask a tensor is stored with or has beside it, or else by being
    nonzero.

    Weights are the elements of floating-point tensors with two or more axes that are no masks: matrices, filters and
    embeddings, also those that are meant to be dense. Biases and the parameters of norms are none.

    Raises:
        Malformed: A mask is none, or bytes do not decode.
    """
    masked = beside(checkpoint)
    masks = {one.mask for one in masked.values()}
    weights = kept = 0
    for name, spec in checkpoint.tensors.items():
        if not spec.is_floating_point or len(spec.shape) < 2 or name in masks:
            continue
        weights += spec.numel
        if spec.nonzero is not None:
            kept += spec.nonzero
        elif name in masked:
            kept += masked[name].kept
        else:
            kept += int(np.count_nonzero(checkpoint.read(name)))
    return weights, kept
