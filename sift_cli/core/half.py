"""Half precision as storage: weights in half the bytes, for arithmetic in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import ml_dtypes
import numpy as np

from sift_cli.core.tensors import DTYPES
from sift_cli.errors import ExportError

#: Types that weights can be stored in.
Storage = Literal["fp32", "fp16", "bf16"]
STORED: dict[str, np.dtype] = {"fp32": DTYPES["F32"], "fp16": DTYPES["F16"], "bf16": DTYPES["BF16"]}
#: Those of half the bytes.
HALVES: dict[str, np.dtype] = {name: STORED[name] for name in ("fp16", "bf16")}
#: Elements that are cast at once, in the cache.
_CHUNK = 2**18


def is_matrix(shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape is a matrix, a kernel or a table. Biases, norms and other vectors cost few bytes,
    and all numbers of a channel depend on them: they stay in float32."""
    return sum(extent > 1 for extent in shape) > 1


def widened(array: np.ndarray) -> np.ndarray:
    """``array`` in float32 where it is in half precision, exactly; any other as it is."""
    return array.astype(np.float32) if array.dtype in HALVES.values() else array


def stored_as(name: str, array: np.ndarray, dtype: Storage) -> np.ndarray:
    """``array`` in another type, each number the nearest one that there is, the even one of two.

    Args:
        name: Of the tensor, for the message.
        array: Its numbers; infinities and NaN stay what they are.
        dtype: The type.

    Raises:
        ExportError: A finite number would become infinite.
    """
    flat, result = np.ascontiguousarray(array).reshape(-1), np.empty(array.size, STORED[dtype])
    for start in range(0, flat.size, _CHUNK):
        some, cast = flat[start : start + _CHUNK], result[start : start + _CHUNK]
        with np.errstate(over="ignore"):
            cast[:] = some
        beyond = some[np.isinf(cast) & np.isfinite(some)]
        if beyond.size:
            raise ExportError(
                f"{name!r} has a weight of {beyond[0]:.6g}, and {dtype} ends at {ml_dtypes.finfo(cast.dtype).max:.6g}",
                hint="use bf16: --dtype bf16" if dtype == "fp16" else "leave --dtype out",
            )
    return result.reshape(array.shape)
