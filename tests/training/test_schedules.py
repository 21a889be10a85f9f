"""Schedules against the formulas of the papers, and the edges of the window."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sift_cli.training.schedules import Constant, Cosine, Cubic, Window


def test_the_window_is_open_at_both_ends() -> None:
    window = Window(begin=20, end=60, frequency=10)
    assert [step for step in range(200) if step in window] == [30, 40, 50]
    assert (len(window), window.last) == (3, 50)
    assert [step for step in range(100) if step in Window(0, 61, 10)] == [10, 20, 30, 40, 50, 60]
    assert 30.0 not in window


@given(begin=st.integers(0, 50), length=st.integers(0, 60), frequency=st.integers(1, 20))
def test_the_window_counts_itself(begin: int, length: int, frequency: int) -> None:
    window = Window(begin, begin + length, frequency)
    steps = [step for step in range(200) if step in window]
    assert len(window) == len(steps)
    assert window.last == (steps[-1] if steps else begin)


@pytest.mark.parametrize(("step", "share"), [(0, 1), (10, 1), (40, 1 / 2), (30, 3 / 4), (50, 1 / 4), (70, 0), (999, 0)])
def test_cosine(step: int, share: float) -> None:
    """½ (1 + cos π p) is 1, ¾, ½, ¼, 0 at p = 0, ⅓, ½, ⅔, 1."""
    assert Cosine(0.3, 10, 70)(step) == pytest.approx(0.3 * share, abs=1e-15)


def test_cosine_is_the_paper_s() -> None:
    for step in range(1, 75):
        assert Cosine(0.3, 0, 75)(step) == pytest.approx(0.3 / 2 * (1 + math.cos(step * math.pi / 75)), rel=1e-12)


@pytest.mark.parametrize(("step", "sparsity"), [(0, 0), (100, 0), (150, 0.7), (200, 0.8), (10**6, 0.8)])
def test_cubic(step: int, sparsity: float) -> None:
    """Half way 7/8 of the way are done: 0.8 · (1 − ⅛)."""
    assert Cubic(0.0, 0.8, 100, 200)(step) == pytest.approx(sparsity, abs=1e-15)


def test_constant() -> None:
    assert {Constant(0.25)(step) for step in range(10)} == {0.25}
