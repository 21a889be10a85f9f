"""The learning rate, as a multiple of the optimizer's own.

A schedule is a function of how much of the training is done, so there is no state of it to save. What it counts is in
the unit of the training's length, epochs or steps. All have a ``warmup``, in which the rate rises in equal steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from sift_cli.errors import PlanError
from sift_cli.training.recipes.keys import Named, read


class Shape(Protocol):
    """A schedule without its warmup."""

    @property
    def warmup(self) -> float:
        """Length of the warmup."""

    def at(self, done: float, total: float) -> float:
        """The multiple when ``done`` of ``total`` is done, the warmup included in both."""


@dataclass(frozen=True)
class Constant:
    warmup: float = 0.0

    def at(self, done: float, total: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 to ``final``, from the end of the warmup on."""

    warmup: float = 0.0
    final: float = 0.0

    def at(self, done: float, total: float) -> float:
        progress = (done - self.warmup) / (total - self.warmup)
        return self.final + (1 - self.final) / 2 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Linear:
    """A straight line from 1 to ``final``, from the end of the warmup on."""

    warmup: float = 0.0
    final: float = 0.0

    def at(self, done: float, total: float) -> float:
        return 1 - (1 - self.final) * (done - self.warmup) / (total - self.warmup)


@dataclass(frozen=True)
class Steps:
    """Multiplied by ``factor`` at each of ``points``."""

    points: tuple[float, ...]
    factor: float = 0.1
    warmup: float = 0.0

    def at(self, done: float, total: float) -> float:
        return self.factor ** sum(point <= done for point in self.points)


_SHAPES: dict[str, type] = {"constant": Constant, "cosine": Cosine, "linear": Linear, "steps": Steps}


@dataclass(frozen=True)
class Rate:
    """The multiple by step.

    Attributes:
        shape: The schedule.
        unit: Steps in one of what the schedule counts.
        steps: Steps of the training.
    """

    shape: Shape
    unit: int
    steps: int

    def __call__(self, step: int) -> float:
        """For the step that follows on ``step`` others."""
        warmup = self.shape.warmup * self.unit
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return self.shape.at(step / self.unit, self.steps / self.unit)


def rate(section: Named, *, unit: int, steps: int) -> Rate:
    """The schedule that a recipe asks for.

    Raises:
        PlanError: There is none by that name, or it does not fit into the training.
    """
    if section.name not in _SHAPES:
        raise PlanError(f"there is no schedule {section.name!r:.40}", hint=f"choose one of: {', '.join(_SHAPES)}")
    shape: Shape = read(_SHAPES[section.name], section.arguments, "schedule")
    if not 0 <= shape.warmup * unit < steps:
        raise PlanError(f"schedule.warmup is {shape.warmup:g}, and the training {steps / unit:g}")
    return Rate(shape, unit, steps)
