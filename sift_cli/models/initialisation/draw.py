"""A distribution that the entries of a tensor are drawn from, and what arithmetic makes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

#: Standard deviations beyond which it does not matter that a normal distribution is cut off: .3 % of its mass.
FAR = 3.0
#: Where JAX and the initialisations of timm that follow it cut a normal distribution off, in standard deviations.
CUT = 2.0


@dataclass(frozen=True)
class Draw:
    """Independent draws.

    Attributes:
        distribution: "normal" (a = mean, b = standard deviation), "uniform" (from a to b) or "constant" (a).
        a, b: Its parameters.
        low, high: Where a normal distribution is cut off; ``b`` is the standard deviation that it has without.
    """

    distribution: Literal["normal", "uniform", "constant"]
    a: float
    b: float = 0.0
    low: float = -math.inf
    high: float = math.inf

    @property
    def cut(self) -> bool | None:
        """Whether it is a normal distribution cut off at :data:`CUT` standard deviations on both sides; None where it
        is cut off somewhere else that is nearer than :data:`FAR`."""
        if self.distribution != "normal" or not self.b:
            return False
        left, right = (self.a - self.low) / self.b, (self.high - self.a) / self.b
        if min(left, right) >= FAR:
            return False
        return True if max(abs(left - CUT), abs(right - CUT)) < 1e-4 else None

    def affine(self, scale: float, shift: float = 0.0) -> Draw:
        """The distribution of ``scale · x + shift``."""
        a = scale * self.a + shift
        if self.distribution == "constant":
            return replace(self, a=a)
        if self.distribution == "uniform":
            a, b = sorted((a, scale * self.b + shift))
            return replace(self, a=a, b=b)
        if not scale:
            return Draw("constant", shift)
        low, high = sorted((scale * self.low + shift, scale * self.high + shift))
        return Draw("normal", a, abs(scale) * self.b, low, high)

    def erfinv(self) -> Draw | None:
        """The inverse error function of uniform draws: a normal distribution of variance 1/2, cut off."""
        if self.distribution != "uniform" or not -1 <= self.a < self.b <= 1:
            return None
        return Draw("normal", 0.0, math.sqrt(0.5), _erfinv(self.a), _erfinv(self.b))

    def clamp(self, low: float | None, high: float | None) -> Draw | None:
        """Draws beyond ``low`` or ``high`` put there; None where that is so many of them that no name fits."""
        low, high = -math.inf if low is None else low, math.inf if high is None else high
        if self.distribution == "constant":
            return replace(self, a=min(max(self.a, low), high))
        # Clamping to where the draws end already, up to rounding, changes nothing.
        slack = 1e-4 * self.b
        begin, end = (self.a, self.b) if self.distribution == "uniform" else (self.low, self.high)
        if self.distribution == "normal":
            begin, end = max(begin, self.a - FAR * self.b), min(end, self.a + FAR * self.b)
        return self if low <= begin + slack and high >= end - slack else None


def _erfinv(x: float) -> float:
    return math.copysign(math.inf, x) if abs(x) >= 1 else NormalDist().inv_cdf((1 + x) / 2) * math.sqrt(0.5)
