"""Spend a MAC budget on layers to the last whole weight, in integers.

A weight of a layer costs as many MACs as the layer has output positions. Layers get densities in given proportions,
all the same by default, and none more than 1; what the rounding of each layer to a whole number of weights leaves over
is handed out weight by weight, so that the total never exceeds the budget and falls short of it by less than the
cheapest weight. With every position 1 the budget is one of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from sift_cli.errors import Infeasible


@dataclass(frozen=True)
class Cost:
    """Weights of one layer, what each costs in MACs, and the layer's density relative to other layers."""

    weights: int
    positions: int
    share: Fraction = Fraction(1)


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
    density = _densities(budget, layers)
    nonzero = {name: max(1, int(cost.weights * density[name])) for name, cost in layers.items()}
    left = budget - sum(nonzero[name] * cost.positions for name, cost in layers.items())
    # One weight more for the layers that rounding cost the most, as long as the budget pays …
    for name in sorted(layers, key=lambda name: (nonzero[name] - layers[name].weights * density[name], name)):
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


def _densities(budget: int, layers: Mapping[str, Cost]) -> dict[str, Fraction]:
    """Densities d = min(1, ε · share) with Σ d · weights · positions = ``budget``, which is less than all layers cost.

    Layers that ε makes denser than dense become dense, and ε is found again for the others, until there are none: ε
    only grows, as such a layer gives back what it could not use, so none of them would have to be taken back.
    """
    full: set[str] = set()
    while True:
        rest = {name: cost for name, cost in layers.items() if name not in full}
        left = budget - sum(layers[name].weights * layers[name].positions for name in full)
        epsilon = Fraction(left) / sum(cost.weights * cost.positions * cost.share for cost in rest.values())
        over = {name for name, cost in rest.items() if epsilon * cost.share > 1}
        if not over:
            return {name: Fraction(1) if name in full else epsilon * cost.share for name, cost in layers.items()}
        full |= over
