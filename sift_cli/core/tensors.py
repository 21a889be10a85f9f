"""What is known of a tensor before a byte of it is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np

#: safetensors' dtype names (the field's most common spelling) to numpy's, with ml_dtypes for what numpy lacks.
DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
    "C128": np.dtype(np.complex128),
}
DTYPE_NAMES: dict[np.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


def as_bits(array: np.ndarray) -> np.ndarray:
    """A contiguous array as unsigned integers of the same size, of which numpy is several times faster at counting and
    moving bfloat16 and float8; complex128, for which there are none, as it is."""
    return array.view(f"u{array.itemsize}") if array.itemsize <= 8 else array


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's name, shape and element type.

    Attributes:
        name: Its name in the checkpoint.
        shape: Its logical (decoded) shape.
        dtype: Its element type, spelled as in safetensors ("F32", "BF16", …).
        stored_bytes: Bytes it occupies in the file, which for a sparse encoding is less than ``dense_bytes``.
        format: "dense", or the name of the sparse format it is stored in.
        nonzero: Number of weights kept by the mask of a sparse encoding; None for a dense tensor.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored_bytes: int
    format: str = "dense"
    nonzero: int | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def dense_bytes(self) -> int:
        return self.numel * DTYPES[self.dtype].itemsize

    @property
    def is_floating_point(self) -> bool:
        return self.dtype.startswith(("F", "BF"))
