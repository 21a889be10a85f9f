"""ONNX's ``sparse_initializer``: values, and indices that are row-major positions or one coordinate an axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sift_cli.checkpoint import coordinates
from sift_cli.checkpoint._bytes import checked_shape
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPES, TensorSpec

if TYPE_CHECKING:
    from onnx import SparseTensorProto, TensorProto

#: The standard asks for 64 bits; onnxruntime writes and reads the others too.
_INTEGERS = ("I8", "I16", "I32", "I64")

Decode = Callable[["TensorProto"], np.ndarray]


@dataclass(frozen=True)
class SparseInitializer:
    """One of them.

    Attributes:
        spec: What it says of itself.
        values: ``[count]``.
        indices: ``[count]``, or ``[count, axes]``.
    """

    spec: TensorSpec
    values: TensorProto
    indices: TensorProto

    @classmethod
    def checked(cls, proto: SparseTensorProto, spec_of: Callable[[TensorProto], TensorSpec]) -> SparseInitializer:
        """A sparse initializer whose parts have shapes that fit each other.

        Args:
            spec_of: What a tensor of the model says of itself.

        Raises:
            ValueError: They do not.
        """
        values, indices = spec_of(proto.values), spec_of(proto.indices)
        shape = checked_shape(list(proto.dims), DTYPES[values.dtype].itemsize)
        if indices.dtype not in _INTEGERS:
            raise ValueError(f"its indices are {indices.dtype} and no signed integers")
        if len(values.shape) != 1 or indices.shape not in (values.shape, (*values.shape, len(shape))):
            raise ValueError(
                f"its values {list(values.shape)} and indices {list(indices.shape)} are not of {list(shape)}"
            )
        stored = values.stored_bytes + indices.stored_bytes
        spec = TensorSpec(values.name, shape, values.dtype, stored, "coo", values.numel)
        if values.numel > spec.numel:
            raise ValueError(f"it has {values.numel} values for {spec.numel} elements")
        return cls(spec, proto.values, proto.indices)

    def read(self, decode: Decode) -> np.ndarray:
        return coordinates.dense(decode(self.values), [self._positions(decode)], self.spec.shape)

    def mask(self, decode: Decode) -> Mask:
        return coordinates.mask([self._positions(decode)], self.spec.shape)

    def _positions(self, decode: Decode) -> np.ndarray:
        indices = decode(self.indices)
        coordinates.check_size(self.spec.dense_bytes, self.spec.stored_bytes)
        if indices.ndim == 1:
            return coordinates.linear(indices[None], (self.spec.numel,))
        return coordinates.linear(indices.T, self.spec.shape)
