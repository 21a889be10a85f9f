"""Choose which weights a mask keeps: an exact number of them, the same ones in every process."""

from __future__ import annotations

import math

import numpy as np

from sift_cli.core.masks import Mask
from sift_cli.core.seeds import generator


def random_keys(shape: tuple[int, ...], *, seed: int, name: str) -> np.ndarray:
    """64 raw bits for each position, of a counter-based generator seeded by ``name``.

    Raw bits and not numpy's ``choice``, because only the raw stream is promised to stay the same in later versions of
    numpy.
    """
    return generator(seed, name, "mask").bit_generator.random_raw(math.prod(shape)).reshape(shape)


def lowest(costs: np.ndarray, count: int) -> np.ndarray:
    """True at the ``count`` lowest of ``costs``, an array of any shape without NaN; of equal ones the first are taken.

    Raises:
        ValueError: There are not that many.
    """
    if not 0 <= count <= costs.size:
        raise ValueError(f"a mask of {costs.size} positions cannot keep {count}")
    if count in (0, costs.size):
        return np.full(costs.shape, count > 0)
    flat = costs.reshape(-1)
    threshold = np.partition(flat, count - 1)[count - 1]
    chosen = flat < threshold
    ties = np.flatnonzero(flat == threshold)
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen.reshape(costs.shape)


def block_mask(shape: tuple[int, ...], block: tuple[int, ...], parts: tuple[int, ...] | None = None) -> Mask:
    """A mask that keeps the leading block of a tensor: the weights that it had before it grew.

    Args:
        shape: Shape of the tensor.
        block: Shape of what is kept.
        parts: For each axis the number of equal parts whose leading parts are kept; 1 by default.
    """
    kept = np.ones(shape, np.bool_)
    for axis, (size, old, part) in enumerate(zip(shape, block, parts or (1,) * len(shape), strict=True)):
        along = np.arange(size) % (size // part) < old // part
        kept &= along.reshape([-1 if axis == other else 1 for other in range(len(shape))])
    return Mask.from_bool(kept, rule="block")


def partition_mask(shape: tuple[int, ...], nonzero: int, *, seed: int, offset: int) -> Mask:
    """A mask of ``nonzero`` positions from ``offset`` on in an order that ``seed`` alone gives.

    Masks of one seed and one shape whose ranges do not overlap are disjoint, and together they are a partition where
    their ranges are one.
    """
    keys = generator(seed, "", "partition").bit_generator.random_raw(math.prod(shape))
    kept = np.zeros(len(keys), np.bool_)
    kept[np.argsort(keys, kind="stable")[offset : offset + nonzero]] = True
    return Mask.from_bool(kept.reshape(shape), rule="partition", seed=seed)
