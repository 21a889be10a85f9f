"""What a training step costs under each way to train a sparse model.

One step on one sample is a forward and a backward pass, the latter twice the former: 3 f, where f is the forward pass,
f_S with kept weights only, f_D with every weight of the (wider) dense tensors. The methods differ in when they need
the dense gradient of the weights:

    dense        3 f_D
    static, SET  3 f_S                              masks fixed, or grown at random
    RigL         (3 f_S ΔT + 2 f_S + f_D) / (ΔT+1)  an average: while masks move, every ΔT-th step has a dense gradient
                 3 f_S                              after that
    SNFS         2 f_S + f_D                        a dense gradient in every step
    pruning      2 f̄ + f_D                          f̄ the forward pass at the average density on the way to f_S

Source: Evci et al., "Rigging the Lottery", appendix H, and the counting of its reproduction by Sundar and Dwaraknath.
So RigL on an iso-FLOP transform is not exactly iso-FLOP: with ΔT = 100 over 75 % of the steps it costs .25, .74 and
2.2 % more at s = .5, .75 and .9.

The unit in and out is FLOPs, 2 × MACs, of one sample. Optimiser steps and the drawing of masks are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

SCHEMA = "sift.training_flops/1"
#: Steps between two updates of the masks, and the share of a training in which there are any: RigL's, and the paper's.
INTERVAL, WINDOW = 100, Fraction(3, 4)


@dataclass(frozen=True)
class TrainingCost:
    """FLOPs of a training step on one sample.

    Attributes:
        method: "dense", "static", "set", "rigl", "snfs" or "pruning".
        updating: Average step while the masks move.
        after: Step after that.
        window: Share of the steps in which they move.
    """

    method: str
    updating: Fraction
    after: Fraction
    window: Fraction

    @property
    def average(self) -> Fraction:
        """Average step of a whole training."""
        return self.window * self.updating + (1 - self.window) * self.after


@dataclass(frozen=True)
class TrainingReport:
    """All methods on one model.

    Attributes:
        baseline: FLOPs of a training step of the dense model to compare with: the one before the transform.
        costs: One entry a method.
        interval: Steps between two updates of the masks.
        window: Share of the steps in which there are any.
    """

    baseline: int
    costs: tuple[TrainingCost, ...]
    interval: int
    window: Fraction

    def relative(self, cost: TrainingCost) -> Fraction:
        """A whole training by the method, as a multiple of one of the dense model with as many steps."""
        return cost.average / self.baseline

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "unit": "FLOPs (2 × MACs) of a training step on one sample",
            "dense_baseline": self.baseline,
            "interval": self.interval,
            "window": float(self.window),
            "methods": [
                {
                    "method": cost.method,
                    "step_while_updating": float(cost.updating),
                    "step_after": float(cost.after),
                    "step_average": float(cost.average),
                    "training_relative_to_dense": float(self.relative(cost)),
                }
                for cost in self.costs
            ],
        }


def training_flops(
    dense: int, sparse: int, *, original: int | None = None, interval: int = INTERVAL, window: Fraction = WINDOW
) -> TrainingReport:
    """Cost of a training step by method.

    Args:
        dense: f_D, FLOPs of a forward pass with every weight.
        sparse: f_S, FLOPs of one with kept weights only.
        original: FLOPs of a forward pass of the dense model to compare with; None for ``dense``.
        interval: ΔT, steps between two updates of the masks.
        window: Share of the steps in which there are updates, 0 to 1.

    Raises:
        ValueError: ``interval`` is less than 1, or ``window`` is outside [0, 1].
    """
    if interval < 1 or not 0 <= window <= 1:
        raise ValueError(f"an interval of {interval} steps in {window} of a training")
    rigl = Fraction(3 * sparse * interval + 2 * sparse + dense, interval + 1)
    # Gradual pruning (Zhu and Gupta): the sparsity is s (1 − (1 − t)³) on the way, ¾ s on average.
    pruning = 2 * (dense - Fraction(3, 4) * (dense - sparse)) + dense
    steps: dict[str, tuple[int | Fraction, int | Fraction]] = {
        "dense": (3 * dense, 3 * dense),
        "static": (3 * sparse, 3 * sparse),
        "set": (3 * sparse, 3 * sparse),
        "rigl": (rigl, 3 * sparse),
        "snfs": (2 * sparse + dense, 2 * sparse + dense),
        "pruning": (pruning, 2 * sparse + dense),
    }
    costs = tuple(TrainingCost(name, Fraction(a), Fraction(b), window) for name, (a, b) in steps.items())
    return TrainingReport(3 * (dense if original is None else original), costs, interval, window)
