"""Distributions: how dense layers are relative to each other.

A distribution is a module in this folder that offers ``share(shape)``: the density of a weight up to a factor that all
layers have in common. :func:`sift_cli.transforms._budget.spend` finds that factor from a budget of MACs, or of weights
where each is said to be used once.
"""

from __future__ import annotations

from fractions import Fraction

from sift_cli.errors import PlanError
from sift_cli.registry import discover, names


def share(distribution: str, shape: tuple[int, ...]) -> Fraction:
    """Density of a weight of ``shape`` (outputs, inputs, kernel…), up to a factor common to all layers.

    Raises:
        PlanError: There is no such distribution.
    """
    if distribution not in names(__name__):
        raise PlanError(
            f"there is no distribution {distribution[:40]!r}", hint=f"choose one of: {', '.join(names(__name__))}"
        )
    found: Fraction = discover(__name__)[distribution].share(shape)
    return found
