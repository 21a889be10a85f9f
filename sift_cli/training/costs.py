"""FLOPs of a training, counted step by step as it goes.

A step on one batch is a forward and a backward pass, the latter twice the former; see :mod:`sift_cli.flops.training`.
Of the backward pass one half is the gradient of the weights. Only of that, and only in a step that ends with an update
by the gradient, a dense one is computed: 2 f_S + f_D instead of 3 f_S.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from sift_cli.errors import ModelError
from sift_cli.flops import count_module
from sift_cli.models.calling import Inputs
from sift_cli.surgery import packed_masks_of
from sift_cli.training.distributed import is_sharded
from sift_cli.training.names import plain_name, unwrapped
from sift_cli.transforms._layers import used_weights

SCHEMA = "sift.training_spent/1"


@dataclass
class Spent:
    """Weights that took part in the steps so far, each counted once a step.

    Attributes:
        kept: In forward and backward passes.
        outside: In gradients of weights that were not kept.
    """

    kept: int = 0
    outside: int = 0

    def step(self, kept: int, gradient: int) -> None:
        """Count a step with ``kept`` weights and the gradient of ``gradient`` weights."""
        self.kept += kept
        self.outside += gradient - kept


@dataclass(frozen=True)
class TrainingFlops:
    """FLOPs (2 × MACs) of the training so far. Optimizer steps and the moving of masks are not counted.

    Attributes:
        steps: Steps of the optimizer.
        dense: The same steps of the dense model to compare with.
        sparse: Forward and backward passes with kept weights only.
        gradients: What the dense gradients cost on top of that.
    """

    steps: int
    dense: int
    sparse: int
    gradients: int

    @property
    def total(self) -> int:
        return self.sparse + self.gradients

    @property
    def relative(self) -> float:
        """``total`` as a multiple of ``dense``; 0 before the first step."""
        return self.total / self.dense if self.dense else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "unit": "FLOPs (2 × MACs), one batch a step",
            "steps": self.steps,
            "dense": self.dense,
            "sparse": self.sparse,
            "dense_gradients": self.gradients,
            "total": self.total,
            "relative_to_dense": self.relative,
        }


def training_flops(
    model: nn.Module, inputs: Inputs, spent: Mapping[str, Spent], steps: int, *, original: int | None = None
) -> TrainingFlops:
    """FLOPs of ``steps`` steps of ``model`` on ``inputs``.

    Args:
        model: The model; masks that ``spent`` does not have count as fixed.
        inputs: One batch.
        spent: By plain name.
        steps: Steps of the optimizer.
        original: FLOPs of a forward pass of the dense model to compare with; None for ``model`` without masks.

    Raises:
        ModelError, UnsupportedOp: It cannot be counted.
    """
    module = unwrapped(model)
    if any(is_sharded(parameter) for parameter in module.parameters()):
        raise ModelError(
            "a sharded model cannot be counted",
            hint="pass model=, the same model before it was sharded; on the meta device it takes no memory",
        )
    report = count_module(module, inputs, counter="dispatch", nonzero={})
    masks = packed_masks_of(module)
    macs, gradients = report.dense * steps, 0
    for name, use in used_weights(module, report).items():
        found = spent.get(plain_name(module, name))
        if found is None and name in masks:
            found = Spent(int(masks[name].kept().count_nonzero()) * steps)
        if found is not None:
            macs -= use.positions * (module.get_parameter(name).numel() * steps - found.kept)
            gradients += use.positions * found.outside
    baseline = 2 * report.dense if original is None else original
    return TrainingFlops(steps, 3 * baseline * steps, 3 * 2 * macs, 2 * gradients)
