"""From the values of a configuration to schedules."""

from __future__ import annotations

import dataclasses
from typing import Any

from sift_cli.errors import PlanError
from sift_cli.training.config.fields import below, choice, integer, mapping, number, wrong
from sift_cli.training.config.schedules import (
    Clamped,
    Cycling,
    Every,
    Exponential,
    Linear,
    Listed,
    Oscillating,
    Power,
    Updates,
)
from sift_cli.training.schedules import Constant, Schedule

_SCHEDULES: dict[str, type] = {
    "constant": Constant,
    "linear": Linear,
    "exp": Exponential,
    "power": Power,
    "cosine": Oscillating,
    "cycling": Cycling,
}


def schedule_of(value: Any, at: str, updates: Updates, *, first: int) -> Schedule:
    """A share by step: of a number, a list of numbers to cycle through, or a mapping with a type.

    Args:
        value: It.
        at: Its path of keys.
        updates: When a cycle moves on.
        first: The step whose update has the first value of a cycle, see :class:`Cycling`.

    Raises:
        PlanError: It is none of these, or a number in it is out of range.
    """
    if isinstance(value, list):
        return _cycling(value, at, updates, first)
    if not isinstance(value, dict):
        return Constant(number(value, at, least=0, most=1))
    if "type" not in value:
        raise PlanError(f"{at} has no 'type'", hint=f"it is one of {', '.join(_SCHEDULES)}")
    kind = choice(value["type"], below(at, "type"), list(_SCHEDULES))
    if kind == "cycling":
        values = mapping(value, at, ("type", "values"), needs=("type", "values"))["values"]
        return _cycling(values, below(at, "values"), updates, first)
    fields = dataclasses.fields(_SCHEDULES[kind])
    needs = [field.name for field in fields if field.default is dataclasses.MISSING]
    given = mapping(value, at, ("type", *(field.name for field in fields)), needs=("type", *needs))
    numbers = {key: _parameter(key, one, below(at, key)) for key, one in given.items() if key != "type"}
    schedule: Schedule = _SCHEDULES[kind](**numbers)
    return schedule if kind == "constant" else Clamped(schedule)


def _cycling(values: Any, at: str, updates: Updates, first: int) -> Schedule:
    if not isinstance(values, list) or not values:
        raise wrong(values, at, "a list of numbers, with at least one")
    return Cycling(
        tuple(number(one, f"{at}[{index}]", least=0, most=1) for index, one in enumerate(values)), updates, first
    )


def _parameter(key: str, value: Any, at: str) -> float:
    if key in ("slope", "gamma"):
        return number(value, at)
    if key == "beta":
        return number(value, at, least=0)
    if key == "half_period":
        return number(value, at, least=1)
    return number(value, at, least=0, most=1)


def updates_of(value: Any, at: str) -> Updates:
    """Steps of updates: of a mapping of freq, start and stop, or of steps; None is every step.

    Raises:
        PlanError: It is none of these.
    """
    if value is None:
        return Every()
    if isinstance(value, dict) and "steps" in value:
        steps = mapping(value, at, ("steps",))["steps"]
        path = below(at, "steps")
        if not isinstance(steps, list) or not steps:
            raise wrong(steps, path, "a list of steps, with at least one")
        return Listed(frozenset(integer(one, f"{path}[{index}]", least=0) for index, one in enumerate(steps)))
    mapping(value, at, ("freq", "start", "stop", "steps"))
    frequency, start, stop = value.get("freq"), value.get("start"), value.get("stop")
    begin = 0 if start is None else integer(start, below(at, "start"), least=0)
    return Every(
        1 if frequency is None else integer(frequency, below(at, "freq"), least=1),
        begin,
        None if stop is None else integer(stop, below(at, "stop"), least=begin + 1),
    )
