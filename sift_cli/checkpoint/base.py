"""The one view sift has of any file with tensors in it."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sift_cli.core.masks import Mask
from sift_cli.core.tensors import TensorSpec
from sift_cli.errors import MissingTensor


class Checkpoint(ABC):
    """Named tensors of a file, read one at a time.

    Opening reads headers only. A tensor that is stored sparse appears once, under its own name and its dense shape.

    Attributes:
        path: The file.
        format: Name of the reader that opened it.
        tensors: Every tensor by name, in the file's order.
        metadata: The file's own key-value strings.
    """

    path: Path
    format: str
    tensors: Mapping[str, TensorSpec]
    metadata: Mapping[str, str]

    @abstractmethod
    def _read(self, name: str) -> np.ndarray: ...

    def read(self, name: str) -> np.ndarray:
        """The tensor ``name``, dense, as a numpy array (ml_dtypes for bfloat16 and float8).

        Raises:
            MissingTensor: There is none of that name.
            Malformed: Its bytes do not decode.
        """
        if name not in self.tensors:
            close = difflib.get_close_matches(name, self.tensors, n=1)
            raise MissingTensor(self.path, name, close[0] if close else None)
        return self._read(name)

    def mask(self, name: str) -> Mask | None:
        """The stored mask of ``name``, or None where it is stored dense."""
        return None

    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
