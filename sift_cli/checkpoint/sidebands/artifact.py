"""sift's own sparse tensors, and the masks beside the weights of a folder that sift has written."""

from __future__ import annotations

import numpy as np

from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.sidebands import Masked

IN_VALUES = False


def find(checkpoint: Checkpoint) -> dict[str, Masked]:
    found = {name: spec.nonzero for name, spec in checkpoint.tensors.items()}
    return {name: _weight(checkpoint, name, kept) for name, kept in found.items() if kept is not None}


def _weight(checkpoint: Checkpoint, name: str, kept: int) -> Masked:
    def read() -> tuple[np.ndarray, np.ndarray]:
        mask = checkpoint.mask(name)
        assert mask is not None
        return checkpoint.read(name), mask.to_bool()

    return Masked(name, None, kept, read)
