"""Tensors that are strided views of ranges of bytes in a file: tied, overlapping, transposed and expanded ones too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from sift_cli.checkpoint import coordinates
from sift_cli.checkpoint._bytes import ByteFile, as_array
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPE_NAMES, TensorSpec
from sift_cli.errors import CheckpointError, Malformed

#: An expanded tensor (stride 0) may be this much larger than the file it comes from before it is taken for an attack.
_EXPANSION = 2**26


@dataclass(frozen=True)
class Strided:
    """One tensor: element type, shape, strides in elements, first byte in the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int

    @classmethod
    def placed(
        cls, dtype: np.dtype, shape: tuple[int, ...], strides: object, offset: int, start: int, nbytes: int
    ) -> Strided:
        """A tensor in the storage of ``nbytes`` bytes at ``start``, ``offset`` elements into it.

        Raises:
            ValueError: The strides do not fit the shape, or an element lies outside the storage.
        """
        if not isinstance(strides, tuple | list) or len(strides) != len(shape):
            raise ValueError("its strides do not fit its shape")
        if not all(type(step) is int and step >= 0 for step in strides) or type(offset) is not int or offset < 0:
            raise ValueError("its strides or its offset are not non-negative integers")
        tensor = cls(dtype, shape, tuple(strides), start + offset * dtype.itemsize)
        end = offset * dtype.itemsize + tensor.span
        if tensor.span and end > nbytes:
            raise ValueError(f"it reaches to byte {end} of a storage of {nbytes}")
        return tensor

    @property
    def span(self) -> int:
        """Bytes from its first element to after its last."""
        if 0 in self.shape:
            return 0
        last = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        return (last + 1) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def spec(self, name: str) -> TensorSpec:
        return TensorSpec(name, self.shape, DTYPE_NAMES[self.dtype], min(self.nbytes, self.span))

    def read(self, fetch: Fetch) -> np.ndarray:
        return fetch(self)

    def mask(self, fetch: Fetch) -> None:
        return None


#: Reads one range of a file as the array that it is.
Fetch = Callable[[Any], np.ndarray]
_T = TypeVar("_T")


class Stored(Protocol):
    """A tensor made of :class:`Strided` ones, as a rule of itself."""

    def spec(self, name: str) -> TensorSpec: ...

    def read(self, fetch: Fetch) -> np.ndarray: ...

    def mask(self, fetch: Fetch) -> Mask | None: ...


class StridedCheckpoint(Checkpoint):
    """A checkpoint whose tensors all are made of :class:`Strided` ones."""

    def __init__(
        self,
        file: ByteFile,
        format: str,
        tensors: Mapping[str, Stored],
        *,
        wrapper: str | None = None,
        ignored: tuple[str, ...] = (),
        masks_apart: Callable[[], Mapping[str, Stored]] = dict,
    ) -> None:
        self._file = file
        self._stored, self._masks_apart = dict(tensors), masks_apart
        self.path, self.format, self.metadata = file.path, format, {}
        self.wrapper, self.ignored = wrapper, ignored
        self.tensors = {name: tensor.spec(name) for name, tensor in tensors.items()}

    def _read(self, name: str) -> np.ndarray:
        return self._decoded(name, self._stored[name].read)

    def _mask(self, name: str) -> Mask | None:
        return self._decoded(name, self._stored[name].mask)

    def _decoded(self, name: str, decode: Callable[[Fetch], _T]) -> _T:
        spec, at = self.tensors[name], f"tensor {name!r}"
        try:
            if spec.nonzero is not None:
                coordinates.check_size(spec.dense_bytes, self._file.size)
            return decode(partial(self._fetch, at))
        except ValueError as error:
            if spec.format == "coo" and str(error) == coordinates.TWICE:
                raise CheckpointError(
                    f"{self.path}: {at} has an element twice, whose values PyTorch adds up",
                    hint="save tensor.coalesce()",
                ) from None
            raise Malformed(self.path, at, str(error)) from None

    def _fetch(self, at: str, tensor: Strided) -> np.ndarray:
        if tensor.nbytes > max(tensor.span, self._file.size + _EXPANSION):
            raise CheckpointError(
                f"{self.path}: {at} repeats {tensor.span} bytes to {tensor.nbytes}; store it contiguous"
            )
        flat = as_array(self._range(tensor, at), tensor.dtype, (-1,))
        if not flat.size:
            return np.empty(tensor.shape, tensor.dtype)
        steps = tuple(step * tensor.dtype.itemsize for step in tensor.strides)
        # Not as_strided: it goes through the array interface, which has no word for ml_dtypes' 8-bit floats.
        view: np.ndarray = np.ndarray(tensor.shape, tensor.dtype, flat, strides=steps)
        return flat.reshape(tensor.shape) if view.flags.c_contiguous else view.copy(order="C")

    def _range(self, tensor: Strided, at: str) -> np.ndarray:
        """Bytes from the first element of ``tensor`` to after its last."""
        return self._file.read(tensor.start, tensor.span, at)

    def masks_apart(self) -> Checkpoint | None:
        try:
            found = self._masks_apart()
        except ValueError as error:
            raise Malformed(self.path, "its masks", str(error)) from None
        return StridedCheckpoint(self._file, self.format, found) if found else None

    def close(self) -> None:
        self._file.close()
