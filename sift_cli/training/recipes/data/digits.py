"""scikit-learn's digits: 1,797 images of 8 × 8 in ten classes, in the package (Alpaydin and Kaynak, 1998)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from sift_cli.errors import MissingExtra, PlanError
from sift_cli.training.recipes.data import Data
from sift_cli.training.recipes.data._arrays import Arrays, held_out


@dataclass(frozen=True)
class Options:
    """Attributes:
    size: Side of the images, interpolated bilinearly from 8.
    channels: Each the same grey.
    validation: Share of the images for validation.
    seed: Which ones those are.
    """

    size: int = 8
    channels: int = 1
    validation: float = 0.2
    seed: int = 0


def open(options: Options) -> Data:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtra("scikit-learn", "train", "the digits") from None
    if not (1 <= options.size <= 512 and 1 <= options.channels <= 16 and 0 < options.validation < 1):
        raise PlanError("data.size is from 1 to 512, data.channels from 1 to 16, data.validation between 0 and 1")
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16  # they are from 0 to 16
    images = F.interpolate(images, size=options.size, mode="bilinear", align_corners=False)
    images = ((images - images.mean()) / images.std()).expand(-1, options.channels, -1, -1).contiguous()
    targets = torch.from_numpy(labels).long()
    splits = (
        Arrays(images[chosen], targets[chosen])
        for chosen in map(torch.from_numpy, held_out(len(images), options.validation, options.seed))
    )
    return Data("classification", 10, (options.channels, options.size, options.size), *splits)
