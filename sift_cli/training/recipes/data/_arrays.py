"""Samples that are in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Augment = Callable[[Tensor, np.random.Generator], Tensor]


@dataclass(frozen=True)
class Arrays:
    """A split of arrays.

    Attributes:
        inputs: (N, …) float32, or uint8 to be normalised.
        targets: (N,) int64.
        mean, std: Subtracted from each channel (axis 1), and divided by.
        augment: From a batch (N, …) to another in its shape, before it is normalised.
    """

    inputs: Tensor
    targets: Tensor
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    augment: Augment | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: np.ndarray, random: np.random.Generator | None) -> tuple[Tensor, Tensor]:
        chosen = torch.from_numpy(indices)
        inputs = self.inputs[chosen]
        if self.augment is not None and random is not None:
            inputs = self.augment(inputs, random)
        if self.mean:
            shape = (1, -1, *(1,) * (inputs.dim() - 2))
            inputs = (inputs.float() - torch.tensor(self.mean).view(shape)) / torch.tensor(self.std).view(shape)
        return inputs.float(), self.targets[chosen]


def held_out(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers below ``count`` in two parts, in random order: what remains, and ⌊share · count⌋ for validation."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(count)
    held = int(share * count)
    return order[held:], order[:held]


def shifted_and_flipped(padding: int) -> Augment:
    """Images moved by up to ``padding`` pixels, 0 from outside, and half of them mirrored."""

    def augment(images: Tensor, random: np.random.Generator) -> Tensor:
        count, _, height, width = images.shape
        padded = torch.nn.functional.pad(images, (padding,) * 4)
        down, right = random.integers(0, 2 * padding + 1, (2, count))
        rows = torch.from_numpy(down[:, None] + np.arange(height))
        columns = torch.from_numpy(right[:, None] + np.arange(width))
        mirrored = torch.from_numpy(random.random(count) < 0.5)
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        sample = torch.arange(count)[:, None, None]
        # Advanced indices around a slice go first: (N, height, width, channels).
        return padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    return augment
