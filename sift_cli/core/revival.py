"""What weights begin with that a mask did not keep, once the mask is gone."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from sift_cli.core.seeds import generator
from sift_cli.errors import PlanError

#: Standard deviation of "normal" without a number: that of the initialisation of GPT-2.
STD = 0.02


@dataclass(frozen=True)
class Revival:
    """Values of the weights that come back.

    Attributes:
        std: Standard deviation of the normal distribution that they are drawn from; None leaves them 0.
        seed: Seed of the draw, which is another one for each tensor.
    """

    std: float | None = None
    seed: int = 0

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> Revival:
        """Read "zero", "normal" or "normal(0.01)".

        Raises:
            PlanError: It is neither, or its number is no standard deviation.
        """
        if text == "zero":
            return cls(None, seed)
        found = re.fullmatch(r"normal(?:\((.+)\))?", text)
        try:
            std = float(found[1] or STD) if found else 0.0
        except ValueError:
            std = 0.0
        if not 0 < std < math.inf:
            raise PlanError(f"weights cannot be revived by {text!r}", hint="write zero, normal or normal(0.02)")
        return cls(std, seed)

    def __str__(self) -> str:
        return "zero" if self.std is None else f"normal({self.std!r})"

    def about(self) -> dict[str, Any]:
        """What was asked for, as JSON."""
        return {"revive": str(self), **({} if self.std is None else {"seed": self.seed})}

    def fill(self, name: str, values: np.ndarray, kept: np.ndarray) -> None:
        """Give the weights of tensor ``name`` that were not ``kept`` their values, in place.

        Raises:
            PlanError: Its dtype cannot hold them.
        """
        if self.std is None or kept.all():
            return
        count = int(np.count_nonzero(~kept))
        with np.errstate(over="ignore"):
            drawn = generator(self.seed, name, "revive").standard_normal(count, np.float32) * np.float32(self.std)
            drawn = drawn.astype(values.dtype)
        if values.dtype.kind in "biu" or not np.isfinite(drawn).all():
            raise PlanError(
                f"{name!r} is {values.dtype} and cannot hold weights from {self}", hint="pass --revive zero"
            )
        values[~kept] = drawn


ZERO = Revival()
