"""The one view sift has of any file with tensors in it."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sift_cli.core.masks import Mask
from sift_cli.core.tensors import TensorSpec
from sift_cli.errors import MissingTensor

if TYPE_CHECKING:
    from torch import nn


class Checkpoint(ABC):
    """Named tensors of a file, read one at a time.

    Opening reads headers only. A tensor that is stored sparse appears once, under its own name and its dense shape.

    Attributes:
        path: The file.
        format: Name of the reader that opened it.
        tensors: Every tensor by name, in the file's order.
        metadata: The file's own key-value strings.
        wrapper: Where in the file the tensors were found ("state_dict", "model.ema"), or None for its top level.
        prefix: What a :func:`~sift_cli.checkpoint.prefixes.stripped` view has taken off every name.
        ignored: Entries of the file that are no tensors (an optimiser's state, an epoch, a traced constant).
        module: The live module, where a pickle was allowed to make one.
    """

    path: Path
    format: str
    tensors: Mapping[str, TensorSpec]
    metadata: Mapping[str, str]
    wrapper: str | None = None
    prefix: str = ""
    ignored: tuple[str, ...] = ()
    module: nn.Module | None = None

    @abstractmethod
    def _read(self, name: str) -> np.ndarray: ...

    def read(self, name: str) -> np.ndarray:
        """The tensor ``name``, dense, as a new numpy array (ml_dtypes for bfloat16 and float8).

        Raises:
            MissingTensor: There is none of that name.
            Malformed: Its bytes do not decode.
        """
        self._require(name)
        return self._read(name)

    def mask(self, name: str) -> Mask | None:
        """The stored mask of ``name``, or None where it is stored dense.

        Raises:
            MissingTensor: There is none of that name.
            Malformed: Its bytes do not decode.
        """
        self._require(name)
        return self._mask(name)

    def _mask(self, name: str) -> Mask | None:
        return None

    def masks_apart(self) -> Checkpoint | None:
        """Masks that the file keeps apart from the model, by the names of their weights, as a checkpoint of their own;
        None where it keeps none.

        Raises:
            Malformed: They are damaged, or have no names.
        """
        return None

    def file_of(self, name: str) -> Path:
        """The file with the tensor ``name``, one of several in a folder."""
        return self.path

    def files(self) -> Sequence[Path]:
        """All files that it is read from."""
        return [self.path]

    def _require(self, name: str) -> None:
        if name not in self.tensors:
            close = difflib.get_close_matches(name, self.tensors, n=1)
            raise MissingTensor(self.path, name, close[0] if close else None)

    def close(self) -> None:  # noqa: B027 - a checkpoint without an open file has nothing to do
        """Release the file."""

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
