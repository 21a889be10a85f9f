"""Schedules as Cerebras' library has them, by the same formulas at the same steps.

Source: ``cerebras/pytorch/sparse/utils.py`` of cerebras-pytorch 2.x, ``HyperParameterSchedule`` and ``UpdateSchedule``.
Steps are those of the optimizer, counted from 1, and are not counted from the first update. Nothing is clamped here.
A mask that exists before the first step counts as made by an update at step 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from sift_cli.training.schedules import Schedule


class Updates(Protocol):
    """The steps after which masks move."""

    def __contains__(self, step: object) -> bool: ...

    def before(self, step: int) -> int:
        """How many of them are in 0 … ``step`` − 1."""
        ...


@dataclass(frozen=True)
class Every:
    """``start``, and each ``frequency`` steps from there on, before ``stop``; None is without end.

    >>> [step for step in range(20) if step in Every(5, start=3, stop=13)]
    [3, 8]
    """

    frequency: int = 1
    start: int = 0
    stop: int | None = None

    def __contains__(self, step: object) -> bool:
        return isinstance(step, int) and self.before(step + 1) > self.before(step)

    def before(self, step: int) -> int:
        end = step if self.stop is None else min(step, self.stop)
        return max(0, -((self.start - end) // self.frequency))


@dataclass(frozen=True)
class Listed:
    """These steps."""

    steps: frozenset[int]

    def __contains__(self, step: object) -> bool:
        return step in self.steps

    def before(self, step: int) -> int:
        return sum(one < step for one in self.steps)


@dataclass(frozen=True)
class Linear:
    """init + slope · t."""

    init: float
    slope: float

    def __call__(self, step: int) -> float:
        return self.init + self.slope * step


@dataclass(frozen=True)
class Exponential:
    """final + (init − final) · e^(gamma · t): from ``init`` towards ``final``, where ``gamma`` is negative."""

    init: float
    gamma: float
    final: float = 1.0

    def __call__(self, step: int) -> float:
        # Above e^700 there is no number any more, and whatever is clamped to [0, 1] has long been so.
        return self.final + (self.init - self.final) * math.exp(min(self.gamma * step, 700.0))


@dataclass(frozen=True)
class Power:
    """init · beta^t. Not the cubic of gradual pruning, which has no place in these files."""

    init: float
    beta: float

    def __call__(self, step: int) -> float:
        try:
            return self.init * self.beta**step
        except OverflowError:
            return math.inf if self.init else 0.0


@dataclass(frozen=True)
class Oscillating:
    """A cosine from ``init`` down to ``minimum`` at ``half_period``, up to ``init`` again at twice that, and so on."""

    init: float
    half_period: float
    minimum: float = 0.0

    def __call__(self, step: int) -> float:
        middle = (self.init + self.minimum) / 2
        return middle + (self.init - middle) * math.cos(math.pi * step / self.half_period)


@dataclass(frozen=True)
class Cycling:
    """One of ``values`` after the other, the next at each update, and the first after the last.

    Attributes:
        values: The values.
        updates: The updates.
        first: The first step whose update takes a value: 0 for a sparsity, which first masks have; 1 for a share of
            weights to drop, of which they need none.
    """

    values: tuple[float, ...]
    updates: Updates
    first: int

    def __call__(self, step: int) -> float:
        return self.values[(self.updates.before(step) - self.updates.before(self.first)) % len(self.values)]


@dataclass(frozen=True)
class Clamped:
    """``schedule``, held between 0 and 1."""

    schedule: Schedule

    def __call__(self, step: int) -> float:
        return min(max(self.schedule(step), 0.0), 1.0)
