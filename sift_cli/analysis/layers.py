"""The sparse layers of a checkpoint, read one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from sift_cli.checkpoint import Checkpoint, sidebands
from sift_cli.errors import ModelError

#: A matrix without a mask is a sparse layer from this share of zeros on. Fewer are there by chance: rounding to half
#: precision makes one weight in a million 0, and a padding token has a row of zeros in its embedding.
LEAST_SPARSITY = 0.01


class SparseLayers:
    """Weight matrices of a checkpoint, by the names that a dense model has for them.

    The mask of a weight is the one it is stored with, or what lies beside it in a file where none is
    (:mod:`sift_cli.checkpoint.sidebands`), or else where the weight is not 0.

    Args:
        checkpoint: Where they are read from.

    Attributes:
        shapes: Shape of every floating-point tensor of two or more axes that is no mask.

    Raises:
        Malformed: A mask beside a weight is none.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        specs = checkpoint.tensors
        stored = [name for name, spec in specs.items() if spec.nonzero is not None]
        found = {} if stored else sidebands.find(checkpoint)
        self._beside = {name: weight for weights in found.values() for name, weight in weights.items()}
        masks = {weight.mask for weight in self._beside.values()}
        names = {weight.values: name for name, weight in self._beside.items()}
        self.shapes = {
            names.get(name, name): spec.shape
            for name, spec in specs.items()
            if spec.is_floating_point and len(spec.shape) > 1 and spec.numel and name not in masks
        }
        self._masked = {*stored, *self._beside}

    def names(self) -> Iterator[str]:
        """The sparse layers: those with a mask, and those with enough zeros."""
        for layer, shape in self.shapes.items():
            if layer in self._masked or self._zeros(layer) >= LEAST_SPARSITY * math.prod(shape):
                yield layer

    def _zeros(self, layer: str) -> int:
        return math.prod(self.shapes[layer]) - int(np.count_nonzero(self.checkpoint.read(layer)))

    def read(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Mask as bools and weights in float64, both in the tensor's shape; a weight that is not kept is 0.

        Raises:
            ModelError: A weight is infinite or NaN.
        """
        if layer in self._beside:
            values, kept = self._beside[layer].read()
        else:
            values, mask = self.checkpoint.read(layer), self.checkpoint.mask(layer)
            kept = values != 0 if mask is None else mask.to_bool()
        weights = values.astype(np.float64)
        if not np.isfinite(weights).all():
            raise ModelError(f"{layer!r} in {self.checkpoint.path} has weights that are infinite or NaN")
        return kept, weights
