"""A line in a training loop: ``sparsify`` makes masks where there are none, and sees to it that they hold and move."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sift_cli.errors import PlanError
from sift_cli.surgery import carry, packed_masks_of
from sift_cli.training import rules
from sift_cli.training.masking import Asked, all_or_nothing, draw
from sift_cli.training.names import plain_name
from sift_cli.training.schedules import Cosine, Schedule, Window
from sift_cli.training.sparsifier import Sparsifier


def sparsify(
    model: nn.Module,
    optimizer: Optimizer,
    rule: str = "rigl",
    *,
    total_steps: int | None = None,
    frequency: int = 100,
    drop_fraction: float | Schedule = 0.3,
    begin: int = 0,
    stop: float = 0.75,
    sparsity: str | float | Fraction | None = None,
    distribution: str = "uniform",
    pattern: str = "unstructured",
    mask: str = "random",
    only: str | Sequence[str] = (),
    keep: str | Sequence[str] = (),
    seed: int = 0,
    process_group: Any = None,
) -> Sparsifier:
    """Train ``model`` sparsely from here on. Nothing else in the loop changes.

    Call it when model and optimizer are as they will be used, wrapped, sharded and on their device, and before states
    are loaded into them.

    Args:
        model: A model with masks, from :func:`sift_cli.load`; or any model, with ``sparsity``.
        optimizer: Its optimizer.
        rule: "static" (masks stay), "set" (random growth), "rigl" (growth by gradient), "gmp" (gradual pruning).
        total_steps: Steps of the optimizer in the whole training; "static" needs none.
        frequency: ΔT, steps from one update of the masks to the next.
        drop_fraction: α, share of the kept weights that an update exchanges: from this down to 0 along a cosine; or
            any function of the step.
        begin, stop: Masks move after step ``begin`` and before ``stop · total_steps``.
        sparsity: Make masks of this sparsity; for "gmp" what pruning ends with, and all weights are kept at first.
        distribution: "uniform", "er" or "erk": how dense layers are relative to each other.
        pattern: "unstructured", "2:4", "2:8T", "block4x4": where kept weights may lie.
        mask: "random", or "topk" for the largest weights.
        only, keep: Globs over layers: only these become sparse; these stay dense. By default convolutions and linear
            layers become sparse, except the first and the last layer, depthwise convolutions, layers that share their
            weight with an embedding, and frozen weights.
        seed: Seed of masks and of random growth.
        process_group: The processes that train this model; None for all.

    Returns:
        The :class:`Sparsifier`, for its masks, its state and its log.

    Raises:
        PlanError: A number is out of range, or the options contradict each other.
        Infeasible: The layers cannot be that sparse.
        ModelError: The model has no masks and no ``sparsity`` is given, or both; or the optimizer does not train it.
    """
    plugin = rules.find(rule)
    updates = _window(plugin.USES, rule, total_steps, frequency, begin, stop)
    if not callable(drop_fraction):
        if not 0 <= drop_fraction <= 1:
            raise PlanError(
                f"drop_fraction {drop_fraction} is not a share", hint="pass a number from 0 to 1, such as 0.3"
            )
        drop_fraction = Cosine(drop_fraction, updates.begin, updates.end)
    ramp: Callable[[float, float, Window], Schedule] | None = getattr(plugin, "ramp", None)
    masks = packed_masks_of(model)
    schedules = {}
    with all_or_nothing(model):
        if sparsity is not None:
            asked = Asked(sparsity, distribution, pattern, mask, _globs(only), _globs(keep), seed)
            drawn = draw(model, asked, masks, gradual=ramp is not None)
            if ramp is not None:
                for name, start in drawn.items():
                    schedules[plain_name(model, name)] = ramp(1 - start.density, 1 - start.final, updates)
            carry(model, {name: start.mask for name, start in drawn.items()})
        elif ramp is not None:
            raise PlanError(f"{rule} prunes down to a sparsity and needs to know which", hint="pass sparsity=0.9")
        elif (distribution, pattern, mask, tuple(only), tuple(keep)) != ("uniform", "unstructured", "random", (), ()):
            raise PlanError(
                "distribution, pattern, mask, only and keep say how masks are made, and none are made without a "
                "sparsity",
                hint="pass sparsity=0.9, or leave them out: masks that are there keep the pattern they were made with",
            )
        return Sparsifier(
            model, optimizer, rule, updates=updates, drop_fraction=drop_fraction, sparsity=schedules, seed=seed,
            process_group=process_group,
        )  # fmt: skip


def _globs(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _window(uses: frozenset[str], rule: str, total: int | None, frequency: int, begin: int, stop: float) -> Window:
    if not uses:
        return Window(0, 0, 1)
    if total is None:
        raise PlanError(
            f"{rule} has to know how long the training is",
            hint="pass total_steps=, the number of times that optimizer.step() will be called",
        )
    if frequency < 1 or not 0 < stop <= 1 or not 0 <= begin < total:
        raise PlanError(
            f"masks cannot move every {frequency} steps from step {begin} to {stop} of {total} steps",
            hint="frequency is at least 1, begin less than total_steps, and stop a share of it, up to 1",
        )
    window = Window(begin, math.ceil(Fraction(str(stop)) * total), frequency)
    if not len(window):
        raise PlanError(
            f"there is no step for an update: none is a multiple of {frequency} between {begin} and {window.end}",
            hint="pass a lower frequency=",
        )
    return window
