"""NaN in the place of every pruned weight, as Cerebras' releases up to 1.9 have it.

Training that diverged leaves NaN too. It leaves them everywhere: in vectors, which that software never prunes, in all
of a matrix, or beside infinities. A file with one of these is refused.
"""

from __future__ import annotations

import numpy as np

from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.sidebands import Masked
from sift_cli.errors import Malformed

IN_VALUES = True


def find(checkpoint: Checkpoint) -> dict[str, Masked]:
    pruned = {name: _pruned(checkpoint, name) for name, spec in checkpoint.tensors.items() if spec.is_floating_point}
    return {
        name: _weight(checkpoint, name, checkpoint.tensors[name].numel - count)
        for name, count in pruned.items()
        if count
    }


def _pruned(checkpoint: Checkpoint, name: str) -> int:
    """Number of weights that are pruned."""
    values = checkpoint.read(name)
    count = int(np.count_nonzero(np.isnan(values)))
    if not count:
        return 0
    if values.ndim < 2:
        why = "it is no matrix"
    elif count == values.size:
        why = "it has no other value"
    elif np.isinf(values).any():
        why = "it has infinities"
    else:
        return count
    raise Malformed(
        checkpoint.path, f"tensor {name!r}", f"{why}, so its NaN are no mask: the training diverged",
        hint="take an earlier checkpoint",
    )  # fmt: skip


def _weight(checkpoint: Checkpoint, name: str, kept: int) -> Masked:
    def read() -> tuple[np.ndarray, np.ndarray]:
        values = checkpoint.read(name)
        pruned = np.isnan(values)
        np.copyto(values, values.dtype.type(0), where=pruned)
        return values, ~pruned

    return Masked(name, None, kept, read)
