"""Numbers that depend on the step: how much of a mask is exchanged, how sparse a layer is, and when masks move.

A schedule is anything that maps a step to a number. Steps are those of the optimizer, counted from 1; a step that was
skipped, as by a gradient scaler, is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Constant:
    """The same at every step."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class Cosine:
    """From ``initial`` at ``begin`` down to 0 at ``end`` along half a cosine, and 0 after that.

    Source: Evci et al., "Rigging the Lottery", section 3: f(t) = α/2 · (1 + cos(π t / T_end)).
    """

    initial: float
    begin: int
    end: int

    def __call__(self, step: int) -> float:
        return self.initial / 2 * (1 + math.cos(math.pi * _progress(step, self.begin, self.end)))


@dataclass(frozen=True)
class Cubic:
    """From ``initial`` at ``begin`` to ``final`` at ``end``, fast at first, and ``final`` after that.

    Source: Zhu and Gupta, "To prune, or not to prune", 2017: s_t = s_f + (s_i − s_f) (1 − (t − t₀) / (nΔt))³.
    """

    initial: float
    final: float
    begin: int
    end: int

    def __call__(self, step: int) -> float:
        return self.final + (self.initial - self.final) * (1 - _progress(step, self.begin, self.end)) ** 3


def _progress(step: int, begin: int, end: int) -> float:
    """0 up to ``begin``, 1 from ``end`` on."""
    return 0.0 if step <= begin else 1.0 if step >= end else (step - begin) / (end - begin)


@dataclass(frozen=True)
class Window:
    """The steps after which masks move: multiples of ``frequency`` with ``begin`` < step < ``end``.

    >>> [step for step in range(1, 40) if step in Window(begin=0, end=30, frequency=10)]
    [10, 20]
    """

    begin: int
    end: int
    frequency: int

    def __contains__(self, step: object) -> bool:
        return isinstance(step, int) and self.begin < step < self.end and step % self.frequency == 0

    def __len__(self) -> int:
        return max(0, (self.end - 1) // self.frequency - self.begin // self.frequency)

    @property
    def last(self) -> int:
        """The last of them; ``begin`` where there is none."""
        return (self.end - 1) // self.frequency * self.frequency if len(self) else self.begin
