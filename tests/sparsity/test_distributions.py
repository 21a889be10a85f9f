"""Densities against the published formulas, worked out here in floats and by another method than the code's."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sift_cli.errors import PlanError
from sift_cli.registry import names
from sift_cli.sparsity import distributions
from sift_cli.transforms._budget import Cost, spend

PACKAGE = "sift_cli.sparsity.distributions"


def test_shares_of_a_known_layer() -> None:
    shape = (64, 32, 3, 3)
    assert distributions.share("uniform", shape) == 1
    assert distributions.share("er", shape) == Fraction(96, 2048)
    assert distributions.share("erk", shape) == Fraction(102, 18432)
    # A linear layer has no kernel, so both say the same.
    assert distributions.share("er", (10, 32)) == distributions.share("erk", (10, 32)) == Fraction(42, 320)


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(PlanError, match="no distribution 'erdos'") as caught:
        distributions.share("erdos", (1, 1))
    assert caught.value.hint is not None
    assert all(name in caught.value.hint for name in names(PACKAGE))


layers = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.tuples(st.lists(st.integers(1, 12), min_size=2, max_size=4), st.integers(1, 400)),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("distribution", names(PACKAGE))
@given(layers, st.fractions(0, 1))
def test_the_budget_is_met_and_densities_are_in_proportion_or_dense(
    distribution: str, given_layers: dict[str, tuple[list[int], int]], part: Fraction
) -> None:
    shapes = {name: tuple(shape) for name, (shape, _) in given_layers.items()}
    costs = {}
    for name, (shape, positions) in given_layers.items():
        weights = 1
        for size in shape:
            weights *= size
        costs[name] = Cost(weights, positions, distributions.share(distribution, shapes[name]))
    total = sum(cost.weights * cost.positions for cost in costs.values())
    floor = sum(cost.positions for cost in costs.values())
    budget = floor + int((total - floor) * part)
    nonzero = spend(budget, costs, transform="wide")
    assert all(1 <= nonzero[name] <= cost.weights for name, cost in costs.items())
    left = budget - sum(nonzero[name] * cost.positions for name, cost in costs.items())
    room = [cost.positions for name, cost in costs.items() if nonzero[name] < cost.weights]
    assert 0 <= left < min(room, default=1)
    # ε by bisection on Σ min(1, ε · share) · weights · positions = budget, which grows with ε.
    low, high = 0.0, 1 / min(float(cost.share) for cost in costs.values())
    for _ in range(100):
        middle = (low + high) / 2
        spent = sum(min(1.0, middle * float(c.share)) * c.weights * c.positions for c in costs.values())
        low, high = (middle, high) if spent < budget else (low, middle)
    # Rounding to whole weights moves a layer by one, and what one weight of each costs can be handed out once more.
    for name, cost in costs.items():
        wanted = min(1.0, low * float(cost.share)) * cost.weights
        assert abs(nonzero[name] - wanted) <= 1 + floor / cost.positions


def test_a_budget_of_weights() -> None:
    # ER shares 2/4, 4/16 and 8/64 ... of squares n × n are 2/n, so n² weights keep 2εn: in proportion 2 : 4 : 8.
    costs = {str(n): Cost(n * n, 1, distributions.share("er", (n, n))) for n in (20, 40, 80)}
    assert spend(140, costs, transform="wide") == {"20": 20, "40": 40, "80": 80}


def test_what_would_be_denser_than_dense_is_dense_and_the_rest_share_again() -> None:
    # Shares 1, 1/10, 1/100 on 10, 100 and 1000 weights: ε of 60/30 = 2 makes the first 2. With it dense, 50 are left
    # for 20 equal parts: ε = 2.5, so 25 and 25 of the others.
    costs = {"a": Cost(10, 1, Fraction(1)), "b": Cost(100, 1, Fraction(1, 10)), "c": Cost(1000, 1, Fraction(1, 100))}
    assert spend(60, costs, transform="wide") == {"a": 10, "b": 25, "c": 25}


def test_positions_weigh() -> None:
    # The same shares, but a weight of b costs 3: ε (100 + 3 · 100) = 200 gives half of each.
    costs = {"a": Cost(100, 1), "b": Cost(100, 3)}
    assert spend(200, costs, transform="wide") == {"a": 50, "b": 50}
