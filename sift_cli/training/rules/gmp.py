"""Gradual magnitude pruning: drop the smallest weights, more from update to update, and grow none.

Source: Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017. There
a weight that was dropped goes on being trained and can come back; here it is 0 and stays so, which costs no more than
the weights that are left.
"""

from __future__ import annotations

from sift_cli.training.rules._base import Layer, MaskUpdate
from sift_cli.training.schedules import Cubic, Schedule, Window

USES = frozenset({"weight"})


def update(layer: Layer) -> MaskUpdate:
    return layer.prune()


def ramp(initial: float, final: float, updates: Window) -> Schedule:
    """The sparsity of a layer: ``final`` is reached at the last update, exactly."""
    return Cubic(initial, final, updates.begin, updates.last)
