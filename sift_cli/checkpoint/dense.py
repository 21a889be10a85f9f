"""A checkpoint of masked weights as the dense one that it becomes without its masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.sidebands import find
from sift_cli.core.revival import Revival
from sift_cli.errors import ModelError


class DenseView(Checkpoint):
    """A view of ``inner`` without masks: every weight under the name and with the shape that a dense model has for it.

    Attributes:
        inner: The checkpoint itself.
        masked: The weights that have a mask in it.
        sidebands: What kinds of masks these are.
        revival: What the weights begin with that the masks did not keep.

    Raises:
        ModelError: Nothing in ``inner`` has a mask.
        Malformed: A mask is not one.
    """

    def __init__(self, inner: Checkpoint, revival: Revival) -> None:
        self.path, self.format, self.metadata = inner.path, inner.format, inner.metadata
        self.wrapper, self.ignored, self.module = inner.wrapper, inner.ignored, inner.module
        self.inner, self.revival = inner, revival
        found = find(inner)
        if not found:
            raise ModelError(
                f"{inner.path} is dense: it has no masks, and no NaN in the place of weights",
                hint="fine-tune it as it is",
            )
        self.sidebands = tuple(found)
        self.masked = {name: weight for weights in found.values() for name, weight in weights.items()}
        masks = {weight.mask for weight in self.masked.values()}
        names = {weight.values: name for name, weight in self.masked.items()}
        self._stored = {names.get(stored, stored): stored for stored in inner.tensors if stored not in masks}
        self.tensors = {name: replace(inner.tensors[stored], name=name) for name, stored in self._stored.items()}

    def _read(self, name: str) -> np.ndarray:
        if name not in self.masked:
            return self.inner.read(self._stored[name])
        values, kept = self.masked[name].read()
        self.revival.fill(name, values, kept)
        return values

    def file_of(self, name: str) -> Path:
        return self.inner.file_of(self._stored[name])

    def files(self) -> Sequence[Path]:
        return self.inner.files()

    def about(self) -> dict[str, Any]:
        """What it was, as JSON: the sparsity of each weight that had a mask, and the kinds of masks."""
        was = {name: 1 - weight.kept / self.tensors[name].numel for name, weight in self.masked.items()}
        return {"was_sparse": was, "sidebands": list(self.sidebands), **self.revival.about()}
