"""Choose which weights a mask keeps: an exact number of them, the same ones in every process."""

from __future__ import annotations

import math

import numpy as np

from sift_cli.core.masks import Mask
from sift_cli.core.seeds import generator


def random_mask(shape: tuple[int, ...], nonzero: int, *, seed: int, name: str) -> Mask:
    """A mask of exactly ``nonzero`` positions drawn uniformly without replacement.

    Each position gets 64 raw bits of a counter-based generator seeded by ``name``, and the smallest keys win. Raw
    bits and not numpy's ``choice``, because only the raw stream is promised to stay the same in later versions of
    numpy; and an exact count, because a coin per weight (as in the official code) misses the FLOP budget by chance.
    """
    size = math.prod(shape)
    if not 0 <= nonzero <= size:
        raise ValueError(f"a mask of {size} positions cannot keep {nonzero}")
    if nonzero in (0, size):
        kept = np.full(size, nonzero > 0)
    else:
        keys = generator(seed, name, "mask").bit_generator.random_raw(size)
        threshold = np.partition(keys, nonzero - 1)[nonzero - 1]
        kept = keys < threshold
        ties = np.flatnonzero(keys == threshold)  # equal keys happen once in 2**64 / size draws: first come, first kept
        kept[ties[: nonzero - int(kept.sum())]] = True
    return Mask.from_bool(kept.reshape(shape), rule="random", seed=seed)


def block_mask(shape: tuple[int, ...], block: tuple[int, ...]) -> Mask:
    """A mask that keeps the leading block of a tensor: the weights that it had before it grew."""
    kept = np.zeros(shape, np.bool_)
    kept[tuple(slice(0, size) for size in block)] = True
    return Mask.from_bool(kept, rule="block")
