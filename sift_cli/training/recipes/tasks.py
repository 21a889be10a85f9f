"""What is minimised, and what is reported of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sift_cli.errors import ModelError
from sift_cli.models.calling import primary

Task = Literal["classification", "language"]


def loss(output: Any, targets: Tensor, classes: int, *, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy, and sums to report.

    Args:
        output: What the model returned; its logits are (N, classes or more) or (N, length, classes or more).
        targets: (N,) or (N, length) int64.
        classes: Classes that there are.
        smoothing: Share of a target that goes to all classes alike.

    Returns:
        The loss, a 0-d tensor; and (3,) float64: the summed loss, how many are right, how many there are.

    Raises:
        ModelError: The output is no logits of these classes.
    """
    found = primary(output)
    logits = found[0] if found else torch.empty(0)
    if logits.shape[:-1] != targets.shape or logits.shape[-1] < classes:
        raise ModelError(
            f"the model returns {'×'.join(map(str, logits.shape)) or 'no tensor'}, and not "
            f"{'×'.join(map(str, (*targets.shape, classes)))} logits, one for each of {classes} classes",
            hint="name the number of classes among the model's arguments: num_classes, or vocab_size",
        )
    logits, targets = logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1)
    mean = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    right = (logits.argmax(1) == targets).sum()
    sums = torch.stack([mean.detach().double() * len(targets), right.double(), right.new_tensor(len(targets)).double()])
    return mean, sums


@dataclass(frozen=True)
class Measured:
    """Means over some samples (tokens, for language).

    Attributes:
        task: What they are of.
        loss: Cross-entropy, in nats.
        accuracy: Share of targets that are the likeliest class.
    """

    task: Task
    loss: float
    accuracy: float

    @classmethod
    def of(cls, task: Task, sums: Tensor) -> Measured:
        """From what :func:`loss` returned, added up."""
        total, right, count = sums.tolist()
        return cls(task, total / count, right / count)

    @property
    def perplexity(self) -> float:
        """e to the loss."""
        return math.exp(min(self.loss, 700.0))

    @property
    def reported(self) -> tuple[str, float]:
        """What one speaks of for this task, with its name."""
        return ("accuracy", self.accuracy) if self.task == "classification" else ("perplexity", self.perplexity)

    @property
    def score(self) -> float:
        """Higher is better."""
        return self.accuracy if self.task == "classification" else -self.loss
