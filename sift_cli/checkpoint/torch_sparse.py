"""Sparse tensors of PyTorch and scipy: an index and values, each a dense array."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sift_cli.checkpoint import coordinates
from sift_cli.checkpoint._bytes import checked_shape
from sift_cli.checkpoint.strided import Fetch
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPE_NAMES, TensorSpec

#: PyTorch's layouts of compressed rows (False) or columns (True), of single elements or of blocks.
_COMPRESSED = {"csr": False, "csc": True, "bsr": False, "bsc": True}
_BLOCKS = ("bsr", "bsc")
_INTEGERS = (np.dtype(np.int32), np.dtype(np.int64))
#: Values whose positions are worked out at once.
_CHUNK = 2**17


class Part(Protocol):
    """An array before it is read, or one that is there."""

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class TorchSparse:
    """One sparse tensor.

    Attributes:
        layout: "coo", "csr", "csc", "bsr" or "bsc".
        shape: Its dense shape.
        indices: Of "coo" one tensor ``[sparse axes, count]``; else where each row (or column, or row of blocks) begins
            among the entries, and the column (or row) of each entry.
        values: ``[count]``, with an extent more for each dense axis of "coo", or with the two of a block.
    """

    layout: str
    shape: tuple[int, ...]
    indices: tuple[Part, ...]
    values: Part

    @classmethod
    def checked(cls, layout: str, size: object, indices: tuple[Part, ...], values: Part) -> TorchSparse:
        """A tensor whose parts have shapes that fit each other.

        Raises:
            ValueError: They do not, or it has the batches or dense axes of a layout that sift reads without them.
        """
        shape = checked_shape(size, values.dtype.itemsize)
        tensor = cls(layout, shape, indices, values)
        if len(indices) != (1 if layout == "coo" else 2):
            raise ValueError(f"it has {len(indices)} indices, and {layout[:40]!r} has another number")
        if any(index.dtype not in _INTEGERS for index in indices):
            raise ValueError("its indices are not 32-bit or 64-bit integers")
        if layout == "coo":
            fits = tensor._fits_coo()
        elif layout in _COMPRESSED:
            if len(shape) != 2:
                raise ValueError(f"it is {layout} of {len(shape)} axes, and sift reads those of two")
            fits = tensor._fits_compressed()
        else:
            raise ValueError(f"its layout {layout[:40]!r} is none that sift knows")
        if not fits or math.prod(values.shape) > math.prod(shape):
            shapes = ", ".join(str(list(part.shape)) for part in (*indices, values))
            raise ValueError(f"its parts {shapes} are none of {layout} {list(shape)}")
        return tensor

    def read(self, fetch: Fetch) -> np.ndarray:
        return coordinates.dense(fetch(self.values), self._positions(fetch), self.shape)

    def mask(self, fetch: Fetch) -> Mask:
        return coordinates.mask(self._positions(fetch), self.shape)

    def spec(self, name: str) -> TensorSpec:
        stored = sum(part.nbytes for part in (*self.indices, self.values))
        kept = math.prod(self.values.shape)
        return TensorSpec(name, self.shape, DTYPE_NAMES[self.values.dtype], stored, self.layout, kept)

    def _positions(self, fetch: Fetch) -> Iterator[np.ndarray]:
        """Row-major positions of its values, some at a time: all of them may take eight times what the tensor does.

        Raises:
            ValueError: The indices contradict the shape.
        """
        indices = [fetch(index) for index in self.indices]
        if self.layout == "coo":
            axes, count = self.indices[0].shape
            inner = math.prod(self.shape[axes:])
            for some in _slices(count, inner):
                entries = coordinates.linear(indices[0][:, some], self.shape[:axes])
                yield (entries[:, None] * inner + np.arange(inner)).reshape(-1)
            return
        starts, plain = indices
        if starts[0] != 0 or starts[-1] != plain.size or (starts[1:] < starts[:-1]).any():
            raise ValueError("its rows or columns do not begin one after another")
        rows, columns = self._block
        inside = np.arange(rows)[:, None] * self.shape[1] + np.arange(columns)
        for some in _slices(plain.size, rows * columns):
            along = np.searchsorted(starts, np.arange(some.start, some.stop), side="right") - 1
            pair = np.stack([along, plain[some]])
            row, column = pair = pair[::-1] if _COMPRESSED[self.layout] else pair
            coordinates.check(pair, (self.shape[0] // rows, self.shape[1] // columns))
            corner = (row * rows * self.shape[1] + column * columns)[:, None, None]
            yield (corner + inside).reshape(-1)

    @property
    def _block(self) -> tuple[int, int]:
        return self.values.shape[1:] if self.layout in _BLOCKS else (1, 1)  # type: ignore[return-value]

    def _fits_coo(self) -> bool:
        (index,) = self.indices
        if len(index.shape) != 2 or index.shape[0] > len(self.shape):
            return False
        axes, count = index.shape
        return self.values.shape == (count, *self.shape[axes:])

    def _fits_compressed(self) -> bool:
        starts, plain = self.indices
        blocks = len(self.values.shape) == 3 and 0 not in self.values.shape[1:]
        if blocks != (self.layout in _BLOCKS) or (not blocks and len(self.values.shape) != 1):
            return False
        if any(extent % step for extent, step in zip(self.shape, self._block, strict=True)):
            return False
        along = _COMPRESSED[self.layout]
        return starts.shape == (self.shape[along] // self._block[along] + 1,) and plain.shape == self.values.shape[:1]


def _slices(count: int, each: int) -> Iterator[slice]:
    """``count`` entries of ``each`` values, in turn."""
    step = max(_CHUNK // max(each, 1), 1)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
