"""MNIST-1D: signals of 40 numbers in ten classes, made on the spot (Greydanus and Kobak, 2024, section 2)."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch

from sift_cli.errors import MissingExtra, PlanError
from sift_cli.training.recipes.data import Data
from sift_cli.training.recipes.data._arrays import Arrays


@dataclass(frozen=True)
class Options:
    """Attributes:
    samples: How many to make, one fifth of them for validation.
    seed: Seed of the signals and of which ones are for validation. The published set has 42.
    """

    samples: int = 5000
    seed: int = 42


def open(options: Options) -> Data:
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError:
        raise MissingExtra("mnist1d", "train", "the MNIST-1D data") from None
    if options.samples < 20 or not 0 <= options.seed < 2**32:
        raise PlanError("data.samples is at least 20, and data.seed from 0 to below 2**32")
    settings = get_dataset_args()
    settings.num_samples, settings.seed = options.samples, options.seed
    # It seeds the global generators.
    before = random.getstate(), np.random.get_state()
    try:
        made = make_dataset(settings)
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
    splits = [
        Arrays(torch.from_numpy(made[f"x{part}"]).float().unsqueeze(1), torch.from_numpy(made[f"y{part}"]).long())
        for part in ("", "_test")
    ]
    return Data("classification", 10, (1, made["x"].shape[1]), *splits)
