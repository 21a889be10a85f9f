from __future__ import annotations

from decimal import Decimal, getcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sift_cli.errors import Infeasible
from sift_cli.widths import Axis, Face, WidthGraph, WidthGroup, solve_widths
from sift_cli.widths.graph import CONSTANT
from sift_cli.widths.solve import floor_times_sqrt, nearest_multiple


def graph(sizes: list[int], *relations: dict[int, int]) -> WidthGraph:
    groups = tuple(WidthGroup(size, True, Face.HIDDEN, (Axis(f"w{i}", 0),), ()) for i, size in enumerate(sizes))
    return WidthGraph(groups, relations, {})


@pytest.mark.parametrize(("sparsity", "width"), [("1/2", 90), ("3/4", 128), ("9/10", 202)])
def test_the_papers_widths(sparsity: str, width: int) -> None:
    # int(64 * sqrt(1 / (1 - s))), and every stage an exact multiple of it.
    solved = solve_widths(graph([64, 128, 256, 512]), 1 / (1 - Fraction(sparsity)))
    assert solved == {0: width, 1: 2 * width, 2: 4 * width, 3: 8 * width}


def test_a_multiple_rounds_each_width_to_the_nearest() -> None:
    # k = 3.16227766: 202.39 → 200, 404.77 → 408, 809.54 → 808, 1619.09 → 1616.
    assert solve_widths(graph([64, 128, 256, 512]), Fraction(10), multiple=8) == {0: 200, 1: 408, 2: 808, 3: 1616}


def test_small_divisors_are_rounded_one_by_one() -> None:
    # gcd 8: a single ratio would be 25/8. 24 → 75.89, 32 → 101.19, equal sizes alike.
    assert solve_widths(graph([24, 32, 24]), Fraction(10)) == {0: 75, 1: 101, 2: 75}


def test_a_sum_follows_its_terms() -> None:
    # 40 = 8 + 32, no common divisor of 16: 8 → 25, 32 → 101, and the concatenation is their sum, not int(126.49).
    assert solve_widths(graph([8, 32, 40], {2: 1, 0: -1, 1: -1}), Fraction(10)) == {0: 25, 1: 101, 2: 126}


def test_groups_stay_a_divisor() -> None:
    # size = 32 · width per group.
    solved = solve_widths(graph([96, 3], {0: 1, 1: -32}), Fraction(10))
    assert solved[0] == 32 * solved[1] == 32 * 9


def test_a_width_that_others_are_fractions_of_is_a_multiple() -> None:
    """2a = 3b: b has to be even. 2 · √3 is 3.46, so it is 4, and a is 6."""
    assert solve_widths(graph([3, 2], {0: 2, 1: -3}), Fraction(3)) == {0: 6, 1: 4}


def test_what_stays_is_added_to_what_scales() -> None:
    """focalnet's a = 2b + 4: b = 96 · √2 is 135, so a is 274."""
    assert solve_widths(graph([196, 96], {0: 1, 1: -2, CONSTANT: -4}), Fraction(2)) == {0: 274, 1: 135}


def test_relations_without_an_integer_solution_are_refused() -> None:
    with pytest.raises(Infeasible, match="whole number of channels"):
        solve_widths(graph([3, 4], {0: 3, 1: -2, CONSTANT: -1}), Fraction(3))


@given(st.integers(1, 10**6), st.fractions(1, 1000, max_denominator=1000))
def test_floor_times_sqrt_is_exact(size: int, squared: Fraction) -> None:
    root = floor_times_sqrt(size, squared)
    assert root * root <= size * size * squared < (root + 1) ** 2


@given(st.integers(1, 10**5), st.fractions(1, 100, max_denominator=100), st.integers(1, 64))
def test_nearest_multiple_is_the_nearest(size: int, squared: Fraction, multiple: int) -> None:
    getcontext().prec = 60
    exact = Decimal(size) * (Decimal(squared.numerator) / Decimal(squared.denominator)).sqrt()
    found = nearest_multiple(size, squared, multiple)
    assert found % multiple == 0
    assert abs(Decimal(found) - exact) <= Decimal(multiple) / 2
