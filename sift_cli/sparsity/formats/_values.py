"""The part that all formats have: the kept elements of a tensor, one after another."""

from __future__ import annotations

import numpy as np

from sift_cli.sparsity.formats import VALUES, SparseParts


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
