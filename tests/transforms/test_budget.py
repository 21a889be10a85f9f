from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sift_cli.errors import Infeasible
from sift_cli.transforms._budget import Cost, spend

layers = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.builds(Cost, weights=st.integers(1, 5000), positions=st.integers(1, 4000)),
    min_size=1,
    max_size=8,
)


@given(layers, st.fractions(0, 1))
def test_never_over_and_short_by_less_than_the_cheapest_weight_with_room(costs: dict[str, Cost], share: object) -> None:
    total = sum(c.weights * c.positions for c in costs.values())
    floor = sum(c.positions for c in costs.values())
    budget = floor + int((total - floor) * share)  # type: ignore[operator]
    nonzero = spend(budget, costs, transform="wide")
    left = budget - sum(nonzero[name] * cost.positions for name, cost in costs.items())
    assert all(1 <= nonzero[name] <= cost.weights for name, cost in costs.items())
    room = [cost.positions for name, cost in costs.items() if nonzero[name] < cost.weights]
    assert 0 <= left < min(room, default=1)


def test_one_density_for_all_layers() -> None:
    # 30 % of 1000 and of 2000 weights at 7 MACs each: 300 and 600, nothing left over.
    costs = {"a": Cost(1000, 7), "b": Cost(2000, 7)}
    assert spend(6300, costs, transform="wide") == {"a": 300, "b": 600}


def test_what_rounding_leaves_goes_where_it_was_lost() -> None:
    # 100 MACs on 3 × 67 weights: 33⅓ each, rounded down 33, and the one that is left to the first by name.
    costs = {name: Cost(67, 1) for name in "abc"}
    assert spend(100, costs, transform="wide") == {"a": 34, "b": 33, "c": 33}


def test_a_budget_for_everything_masks_nothing() -> None:
    assert spend(10**9, {"a": Cost(10, 3)}, transform="wide") == {"a": 10}


def test_too_little_is_refused_with_the_numbers() -> None:
    with pytest.raises(Infeasible, match=r"at least 10 MACs.* 9 left"):
        spend(9, {"a": Cost(5, 7), "b": Cost(5, 3)}, transform="wide")
