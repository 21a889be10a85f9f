"""The two tasks of :mod:`iso_flop`: data in memory, a dense model that is too small for them, and how it is trained.

The numbers of the optimizer were chosen for the dense model alone (``iso_flop.py --search``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sift_cli.core.plan import Architecture
from sift_cli.training.recipes.data import digits, mnist1d


class Samples(NamedTuple):
    """Inputs (N, ...) float32 and classes (N,) int64."""

    inputs: Tensor
    targets: Tensor


class Splits(NamedTuple):
    train: Samples
    validation: Samples
    test: Samples


@dataclass(frozen=True)
class Task:
    """
    Attributes:
        data: Makes the three splits, always the same ones.
        architecture: The dense model.
        steps: Of the optimizer.
        batch: Samples a step.
        rate: Learning rate of SGD with Nesterov momentum .9, down to 0 along a cosine.
        decay: Weight decay, of weights with more than one axis.
        frequency: ΔT, steps from one update of the masks to the next.
        augment: What becomes of a training batch, by random numbers.
    """

    data: Callable[[], Splits]
    architecture: Architecture
    steps: int
    batch: int
    rate: float
    decay: float
    frequency: int
    augment: Callable[[Tensor, np.random.Generator], Tensor]


def noisy(signals: Tensor, random: np.random.Generator) -> Tensor:
    """Signals (N, 1, L) with white noise of .4 of their standard deviation."""
    return signals + 0.4 * _normal(tuple(signals.shape), random)


def signals() -> Splits:
    """MNIST-1D with noise: of the published signals 4000 to train on, which get other noise in every step, and 1000 to
    choose the learning rate by; and 5000 more of the same generator to report on, for less noise than with 1000."""
    published, others = (mnist1d.open(mnist1d.Options(5000, seed)) for seed in (42, 43))
    random = np.random.Generator(np.random.Philox(0))
    held = [_samples(published.validation), _samples(others.train), _samples(others.validation)]
    validation, *test = [Samples(noisy(one.inputs, random), one.targets) for one in held]
    return Splits(_samples(published.train), validation, Samples(*map(torch.cat, zip(*test, strict=True))))


def _normal(shape: tuple[int, ...], random: np.random.Generator) -> Tensor:
    return torch.from_numpy(random.standard_normal(shape)).float()


def _samples(split: Any) -> Samples:
    return Samples(split.inputs, split.targets)


def moved(images: Tensor, random: np.random.Generator) -> Tensor:
    """Images (N, C, H, W) turned by up to 30°, scaled and shifted by up to a fifth of their size, with white noise
    of half their standard deviation."""
    count = len(images)
    angle, scale, down, right = (
        torch.from_numpy(random.uniform(-bound, bound, count)).float() for bound in (np.pi / 6, 0.2, 0.4, 0.4)
    )
    cosine, sine = torch.cos(angle) * (1 + scale), torch.sin(angle) * (1 + scale)
    transforms = torch.stack([cosine, -sine, right, sine, cosine, down], 1).view(count, 2, 3)
    grid = F.affine_grid(transforms, list(images.shape), align_corners=False)
    turned = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return turned + 0.5 * _normal((count, 1, *images.shape[2:]), random)


def moved_digits() -> Splits:
    """scikit-learn's digits at 16 × 16: 1000 to train on, which are moved anew in every step, and 297 and 500 others,
    each moved in four ways."""
    opened = digits.open(digits.Options(size=16, channels=3, validation=797 / 1797, seed=0))
    train, held = opened.train, opened.validation
    random = np.random.Generator(np.random.Philox(0))

    def four(part: slice) -> Samples:
        inputs = held.inputs[part].repeat(4, 1, 1, 1)
        return Samples(moved(inputs, random), held.targets[part].repeat(4))

    return Splits(Samples(train.inputs, train.targets), four(slice(297)), four(slice(297, None)))


TASKS = {
    "mnist1d": Task(
        data=signals,
        architecture=Architecture("builtin", "mnist1d_cnn", {"num_classes": 10, "width": 12}),
        steps=500, batch=128, rate=0.8, decay=5e-4, frequency=20, augment=noisy,
    ),
    "digits": Task(
        data=moved_digits,
        architecture=Architecture(
            "builtin", "cifar_resnet18", {"num_classes": 10, "width": 4, "zero_init_residual": True}
        ),
        steps=300, batch=32, rate=0.2, decay=5e-4, frequency=20, augment=moved,
    ),
}  # fmt: skip
