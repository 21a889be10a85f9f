"""Spend a MAC budget on layers to the last whole weight, in integers.

A weight of a layer costs as many MACs as the layer has output positions. All sparse layers get one density; what the
rounding of each layer to a whole number of weights leaves over is handed out weight by weight, so that the total never
exceeds the budget and falls short of it by less than the cheapest weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from sift_cli.errors import Infeasible


@dataclass(frozen=True)
class Cost:
    """Weights of one layer, and what each costs in MACs."""

    weights: int
    positions: int


def spend(budget: int, layers: Mapping[str, Cost], *, transform: str) -> dict[str, int]:
    """Nonzeros for each layer.

    Args:
        budget: MACs to spend on ``layers``.
        layers: Layer name → its size and cost.
        transform: Name of the transform, for the error.

    Returns:
        Layer name → nonzeros n with ``0 ≤ budget − Σ n · positions < min(positions)``, the minimum over layers that
        have room for a weight more; all weights where the budget pays for all of them.

    Raises:
        Infeasible: The budget does not pay for one weight in each layer.
    """
    total = sum(cost.weights * cost.positions for cost in layers.values())
    if budget >= total:
        return {name: cost.weights for name, cost in layers.items()}
    floor = sum(cost.positions for cost in layers.values())
    if budget < floor:
        raise Infeasible(
            transform,
            "the model",
            f"at least {floor:,} MACs for its sparse layers",
            f"{budget:,} left by the layers that stay dense",
            hint="lower --sparsity, let more layers be sparse, or use --match layer",
        )
    density = Fraction(budget, total)
    nonzero = {name: max(1, cost.weights * density.numerator // density.denominator) for name, cost in layers.items()}
    left = budget - sum(nonzero[name] * cost.positions for name, cost in layers.items())
    # One weight more for the layers that rounding cost the most, as long as the budget pays …
    for name in sorted(layers, key=lambda name: (nonzero[name] - layers[name].weights * density, name)):
        if 0 <= layers[name].positions <= left and nonzero[name] < layers[name].weights:
            nonzero[name] += 1
            left -= layers[name].positions
    # … and the rest, smaller than one weight of every layer, goes to the cheapest that has room. Where rounding up to
    # one weight overspent, the dearest layers give back first.
    by_cost = sorted(layers, key=lambda name: (layers[name].positions, name))
    for name in reversed(by_cost):
        if left < 0:
            back = min(nonzero[name] - 1, -(left // layers[name].positions))
            nonzero[name] -= back
            left += back * layers[name].positions
    for name in by_cost:
        more = min(left // layers[name].positions, layers[name].weights - nonzero[name])
        nonzero[name] += more
        left -= more * layers[name].positions
    return nonzero
