"""Schedules of a configuration, against numbers worked out by hand and against a walk step by step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sift_cli.training.config.schedule_values import schedule_of, updates_of
from sift_cli.training.config.schedules import Every, Listed


def at_steps(value: object, *steps: int) -> list[float]:
    return [schedule_of(value, "it", Every(), first=1)(step) for step in steps]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.25, {0: 0.25, 1: 0.25, 10**6: 0.25}),
        ({"type": "constant", "value": 0.25}, {0: 0.25, 7: 0.25}),
        ({"type": "linear", "init": 0.25, "slope": 0.125}, {0: 0.25, 1: 0.375, 4: 0.75, 6: 1, 7: 1, 1000: 1}),
        ({"type": "linear", "init": 0.5, "slope": -0.25}, {1: 0.25, 2: 0, 3: 0}),
        # 1 − .75 e^(−t ln 2): what is left to 1 halves at each step.
        ({"type": "exp", "init": 0.25, "gamma": -math.log(2)}, {0: 0.25, 1: 0.625, 2: 0.8125, 3: 0.90625}),
        ({"type": "exp", "init": 0, "gamma": -math.log(4), "final": 0.5}, {0: 0, 1: 0.375, 2: 0.46875}),
        ({"type": "exp", "init": 0.5, "gamma": 2.0, "final": 0.25}, {1: 1, 10**6: 1}),
        ({"type": "power", "init": 0.75, "beta": 0.5}, {0: 0.75, 1: 0.375, 2: 0.1875}),
        ({"type": "power", "init": 0.25, "beta": 2}, {1: 0.5, 2: 1, 3: 1, 10**6: 1}),
        ({"type": "power", "init": 0, "beta": 2.5}, {10**6: 0}),
        # Down to the minimum after half a period, and up again: it is not held there.
        ({"type": "cosine", "init": 0.5, "half_period": 6}, {0: 0.5, 2: 0.375, 3: 0.25, 6: 0, 9: 0.25, 12: 0.5}),
        ({"type": "cosine", "init": 0.5, "half_period": 4, "minimum": 0.25}, {0: 0.5, 2: 0.375, 4: 0.25, 8: 0.5}),
        ({"type": "cosine", "init": 0.25, "half_period": 4, "minimum": 0.75}, {0: 0.25, 4: 0.75, 8: 0.25}),
        ({"type": "Cosine", "init": 0.5, "half_period": 0x10}, {16: 0}),
    ],
)  # fmt: skip
def test_formulas(value: object, expected: dict[int, float]) -> None:
    assert at_steps(value, *expected) == pytest.approx(list(expected.values()), abs=1e-15)


steps_of_updates = st.one_of(
    st.builds(
        lambda freq, start, more: {"freq": freq, "start": start, "stop": None if more is None else start + more},
        st.integers(1, 9), st.integers(0, 12), st.one_of(st.none(), st.integers(1, 30)),
    ),
    st.builds(lambda steps: {"steps": steps}, st.lists(st.integers(0, 40), min_size=1, max_size=8)),
)  # fmt: skip


def is_update(update: dict, step: int) -> bool:
    """As it is defined: in the list, or a multiple of freq from start on, in [start, stop)."""
    if "steps" in update:
        return step in update["steps"]
    inside = update["start"] <= step and (update["stop"] is None or step < update["stop"])
    return inside and (step - update["start"]) % update["freq"] == 0


@settings(deadline=None)
@given(steps_of_updates)
def test_steps_of_updates(update: dict) -> None:
    updates = updates_of(update, "update")
    found = [step in updates for step in range(60)]
    assert found == [is_update(update, step) for step in range(60)]
    assert [updates.before(step) for step in range(60)] == [sum(found[:step]) for step in range(60)]


def test_every_step_if_nothing_is_said() -> None:
    for nothing in (None, {}, {"freq": 1}, {"start": 0, "stop": None}):
        assert updates_of(nothing, "update") == Every(1, 0, None)
    assert updates_of({"steps": [3, 3, 1]}, "update") == Listed(frozenset({1, 3}))
    assert 2.0 not in Every(2)


@settings(deadline=None)
@given(steps_of_updates, st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_cycles_move_on_at_updates(update: dict, values: list[float]) -> None:
    """A pointer that walks along: masks made before the first step take the first value, each update the next one."""
    updates = updates_of(update, "update")
    sparsity = schedule_of(values, "sparsity", updates, first=0)
    dropped = schedule_of({"type": "cycling", "values": values}, "drop_fraction", updates, first=1)
    place = other = 0
    if is_update(update, 0):
        assert sparsity(0) == values[0]
        place = 1
    for step in range(1, 60):
        if is_update(update, step):
            assert sparsity(step) == values[place % len(values)]
            assert dropped(step) == values[other % len(values)]
            place, other = place + 1, other + 1
