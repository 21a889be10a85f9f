"""How files say which weights exist, beside the values of the weights: one file a way, found by the tensors alone.

Every module here offers :class:`Sideband`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from sift_cli.checkpoint.base import Checkpoint
from sift_cli.errors import Malformed
from sift_cli.registry import discover

_SIDEBANDS = "sift_cli.checkpoint.sidebands"
#: Elements of a mask that are looked at at once.
_CHUNK = 2**20


@dataclass(frozen=True)
class Masked:
    """A weight with a mask, as it is in a file.

    Attributes:
        values: Name of the tensor that has its values.
        mask: Name of the tensor that is its mask and that a dense model does not have; None where the values tell.
        kept: Number of weights that the mask keeps.
        read: Reads the weight as a new array, 0 where the mask does not keep it, and the mask as bools of its shape.
    """

    values: str
    mask: str | None
    kept: int
    read: Callable[[], tuple[np.ndarray, np.ndarray]]


class Sideband(Protocol):
    #: Whether the values of the weights are the mask too. Such a sideband is looked for where there is no other.
    IN_VALUES: bool

    @staticmethod
    def find(checkpoint: Checkpoint) -> dict[str, Masked]:
        """The weights that have a mask of this kind, by the names that a dense model has for them.

        Every mask is read and checked, one at a time.

        Raises:
            Malformed: A mask is without its weight, does not fit it, or has other values than masks have.
        """


def find(checkpoint: Checkpoint, *, in_values: bool = True) -> dict[str, dict[str, Masked]]:
    """Name of the sideband → its weights, for all that ``checkpoint`` has; empty for a dense one.

    Args:
        checkpoint: What to look at.
        in_values: Look for masks that only values tell, where there are no others; that reads every weight.

    Raises:
        Malformed: See :meth:`Sideband.find`.
    """
    kinds = {name: cast(Sideband, module) for name, module in discover(_SIDEBANDS).items()}
    for values in (False, True) if in_values else (False,):
        found = {
            name: weights
            for name, kind in kinds.items()
            if kind.IN_VALUES is values and (weights := kind.find(checkpoint))
        }
        if found:
            return found
    return {}


def as_bools(checkpoint: Checkpoint, mask: str, at: str | None = None) -> np.ndarray:
    """The tensor ``mask`` as bools; ``at`` is what an error calls it.

    Raises:
        Malformed: It has a value other than 0 and 1.
    """
    values = checkpoint.read(mask)
    if values.dtype == np.bool_:
        return values
    kept, flat = np.empty(values.shape, np.bool_), values.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        some = flat[start : start + _CHUNK]
        ones = np.equal(some, 1, out=kept.reshape(-1)[start : start + some.size])
        if np.count_nonzero(some) != np.count_nonzero(ones):
            raise Malformed(checkpoint.path, at or f"tensor {mask!r}", "it is a mask and has values other than 0 and 1")
    return kept


def with_mask(checkpoint: Checkpoint, values: str, mask: str, *, apart: Checkpoint | None = None) -> Masked:
    """The weight that is the product of two tensors, zeros with their signs as a multiplication leaves them.

    Args:
        checkpoint: What has the weight.
        values, mask: Names of the weight and of its mask.
        apart: What has the mask, where that is none of the model's tensors.

    Raises:
        Malformed: The mask has another shape or other values than masks have.
    """
    masks, at = (checkpoint, f"tensor {mask!r}") if apart is None else (apart, f"the mask of {values!r}")
    weight, shape = checkpoint.tensors[values], masks.tensors[mask].shape
    if shape != weight.shape:
        raise Malformed(checkpoint.path, at, f"it is {list(shape)} and {values!r} is {list(weight.shape)}")

    def read() -> tuple[np.ndarray, np.ndarray]:
        kept = as_bools(masks, mask, at)  # before the weight, which would take its memory beside a mask of floats
        array = checkpoint.read(values)
        if weight.is_floating_point:
            np.copysign(array.dtype.type(0), array, out=array, where=~kept)
        else:
            np.copyto(array, array.dtype.type(0), where=~kept)
        return array, kept

    return Masked(values, mask if apart is None else None, int(np.count_nonzero(as_bools(masks, mask, at))), read)
